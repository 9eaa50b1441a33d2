"""What is installed and deployed: man pages, completions, unit, manifests, dashboard. Whatever has a tool of its own that
is here is held against it.
SPDX-License-Identifier: Apache-2.0"""
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess

import pytest
import yaml

from conftest import BUILD, Server

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    env = {**os.environ, "DESTDIR": str(root), "PREFIX": "/usr", "BINARY": str(BUILD / "quern")}
    r = subprocess.run([ROOT / "tools/install.sh"], env=env, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    return root / "usr"


def commands():
    text = subprocess.run([BUILD / "quern", "--help"], capture_output=True, text=True).stdout
    return re.findall(r"^ {2}(\w+) +\S", text.partition("commands:")[2], re.M)


def test_every_command_has_a_page_with_its_options(installed):
    pages = {p.stem for p in (installed / "share/man/man1").iterdir()}
    assert {"quern-" + c for c in commands()} | {"quern", "quern-eval-kld"} <= pages
    serve = (installed / "share/man/man1/quern-serve.1").read_text()
    for option in ("host", "api\\-key\\-file", "disk\\-tier", "mtp"):
        assert f"\\fB\\-\\-{option}\\fR" in serve
    assert (installed / "bin/quern").stat().st_mode & 0o111
    assert (installed / "share/quern/models/mini/config.json").exists()


@pytest.mark.skipif(not shutil.which("man"), reason="man is not here")
def test_pages_are_clean(installed):
    for page in (installed / "share/man/man1").iterdir():
        r = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page], capture_output=True, text=True,
                           env={**os.environ, "MANROFFSEQ": "", "MANWIDTH": "80"})
        assert r.returncode == 0 and not r.stderr, (page.name, r.stderr)


def complete(installed, *words):
    script = f"""source {installed}/share/bash-completion/completions/quern
COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _quern; printf '%s\\n' "${{COMPREPLY[@]}}" """
    if words[-1] == "''":
        script = script.replace("COMP_WORDS=(", "COMP_WORDS=(")
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split()


def test_bash_completes_commands_parts_and_options(installed):
    assert "serve" in complete(installed, "quern", "se") and "see" in complete(installed, "quern", "se")
    assert complete(installed, "quern", "eval", "kl") == ["kld"]
    assert "--reference" in complete(installed, "quern", "eval", "kld", "--re")
    assert "--api-key-file" in complete(installed, "quern", "serve", "models/mini", "--api")
    for shell, name in (("zsh", "share/zsh/site-functions/_quern"), ("fish", "share/fish/vendor_completions.d/quern.fish")):
        text = (installed / name).read_text()
        assert all(c in text for c in commands())
        if shutil.which(shell):
            assert subprocess.run([shell, "-n", installed / name]).returncode == 0


def test_unit(installed):
    unit = (installed / "lib/systemd/system/quern.service").read_text()
    assert "@PREFIX@" not in unit and "Type=notify" in unit and "DynamicUser=yes" in unit
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not here")
    for target in ("network-online", "multi-user", "sysinit", "basic", "shutdown"):
        (installed / f"lib/systemd/system/{target}.target").write_text("[Unit]\nDescription=of the test\n")
    r = subprocess.run(["systemd-analyze", "verify", "--man=no", f"--root={installed.parent}", "quern.service"],
                       capture_output=True, text=True)
    own = [line for line in r.stderr.splitlines() if "quern" in line]
    assert not own, r.stderr


def test_readiness_is_told_to_the_service_manager(tmp_path, model):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(str(path))
        s.settimeout(20)
        server = Server("quern-fake", model, NOTIFY_SOCKET=path)
        assert s.recv(200).startswith(b"READY=1")
        assert server.get("/ready")[0] == 200
        server.stop()
        assert s.recv(200) == b"STOPPING=1"


def manifests():
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for doc in yaml.safe_load_all(path.read_text()):
            yield path.name, doc


def test_manifests():
    kinds = {doc["kind"]: doc for _, doc in manifests()}
    assert set(kinds) == {"Kustomization", "Namespace", "Deployment", "Service", "PodDisruptionBudget", "ServiceMonitor"}
    for name in kinds["Kustomization"]["resources"]:
        assert (DEPLOY / "kubernetes" / name).exists()
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    one = pod["containers"][0]
    assert {m["name"] for m in one["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert one["securityContext"]["readOnlyRootFilesystem"] and pod["securityContext"]["runAsNonRoot"]
    probes = {one[p]["httpGet"]["path"] for p in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert probes == {"/ready", "/health"}
    compose = yaml.safe_load((DEPLOY / "docker/compose.yaml").read_text())
    assert compose["services"]["quern"]["read_only"]
    # every option that is passed is one that serve has
    known = subprocess.run([BUILD / "quern", "serve", "--help"], capture_output=True, text=True).stdout
    for word in one["args"] + compose["services"]["quern"]["command"]:
        assert not word.startswith("--") or word in known, word


def test_dashboard_shows_metrics_that_exist(model):
    board = json.loads((DEPLOY / "grafana/quern.json").read_text())
    server = Server("quern-fake", model)
    text = server.get("/metrics")[1]
    server.stop()
    names = set(re.findall(r"^# TYPE (\S+)", text, re.M))
    used = set()
    for panel in board["panels"]:
        for target in panel["targets"]:
            used |= set(re.findall(r"\bquern_\w+", target["expr"]))
    assert len(board["panels"]) >= 10
    assert {re.sub(r"_bucket$", "", n) for n in used} <= names


@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not here")
def test_nginx_reads_its_snippet(tmp_path):
    text = (DEPLOY / "proxy/nginx.conf").read_text().replace("443 ssl", "8443")
    text = re.sub(r"\s*ssl_certificate\S*.*", "", text)
    conf = tmp_path / "nginx.conf"
    conf.write_text(f"pid {tmp_path}/pid;\nerror_log {tmp_path}/log;\nevents {{}}\nhttp {{\naccess_log off;\n{text}\n}}\n")
    r = subprocess.run(["nginx", "-t", "-c", conf], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
