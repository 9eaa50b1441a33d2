"""Claude Code itself, ten turns with its tool search, against quern-fake.

The program is bundled in the wheel of claude-agent-sdk, which is large: `tools/setup.sh claude` installs it into .venv-claude; else this is
skipped. Thirty tools of an MCP server are deferred: the model searches for one, its definition stands where it was found, it is called with
typed arguments, and nothing before it is read again.
SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import pathlib
import subprocess
import sys

import pytest

from conftest import ROOT, Server

FOUND = sorted(ROOT.glob(".venv-claude/lib/python*/site-packages/claude_agent_sdk/_bundled/claude"))
CLAUDE = os.environ.get("QUERN_CLAUDE") or (str(FOUND[0]) if FOUND else "")
pytestmark = pytest.mark.skipif(not CLAUDE, reason="Claude Code is not here (tools/setup.sh claude)")
BOX = pathlib.Path(__file__).parent / "claude_box.py"


def search(tool):
    return (f"[[say:</think>\n\n<tool_call>\n<function=ToolSearch>\n<parameter=query>\nselect:mcp__box__{tool}\n</parameter>\n"
            "<parameter=max_results>\n1\n</parameter>\n</function>\n</tool_call>:yas]]")


def call(tool, x):
    return f"[[say:</think>\n\n<tool_call>\n<function=mcp__box__{tool}>\n<parameter=x>\n{x}\n</parameter>\n</function>\n</tool_call>:yas]]"


TURNS = ["Look. " + search("tool03"), "Again. " + call("tool03", 5), "Another. " + search("tool11"), "Both known. " + call("tool03", 7),
         "And the new one. " + call("tool11", 8), "[[say:</think>Just words.:yas]] Talk.", "A third. " + search("tool29"),
         "Use it. " + call("tool29", 1), "An old one. " + call("tool11", 2), "[[say:</think>Good bye.:yas]] End."]
RESULTS = ["3", "5", "11", "7", "8", None, "29", "1", "2", None]


def common(a, b):
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


def test_ten_turns(model, tmp_path):
    traces, home, work = (tmp_path / n for n in ("traces", "home", "work"))
    for folder in (traces, home, work):
        folder.mkdir()
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": {"box": {"command": sys.executable, "args": [str(BOX)]}}}))
    server = Server("quern-fake", model, "--trace", str(traces), FAKE_CONTEXT=262144)
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": "k", "ENABLE_TOOL_SEARCH": "true",
           "DISABLE_TELEMETRY": "1", "DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
    program = subprocess.Popen(
        [CLAUDE, "-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose", "--mcp-config", str(tmp_path / "mcp.json"),
         "--strict-mcp-config", "--allowedTools", "mcp__box,ToolSearch"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=work, env=env)
    try:
        for turn, want in zip(TURNS, RESULTS):
            program.stdin.write(json.dumps({"type": "user", "message": {"role": "user", "content": turn}}) + "\n")
            program.stdin.flush()
            seen = []
            for line in program.stdout:
                seen.append(json.loads(line))
                if seen[-1]["type"] == "result":
                    break
            assert seen and seen[-1]["type"] == "result" and not seen[-1]["is_error"], seen[-3:]
            if want:  # a number, not a text that looks like one
                assert f"got int {want} " in json.dumps(seen), (turn, seen[-3:])
                assert seen[-1]["result"] == f"Number {want} is there."
        program.stdin.close()
        assert program.wait(20) == 0
    finally:
        program.kill()
        server.stop()
    requests = [json.loads(f.read_text()) for f in sorted(traces.iterdir(), key=lambda f: f.stat().st_mtime_ns)]
    requests = [r["choices"][0] for r in requests if r.get("choices")]
    assert len(requests) >= 17
    before, cached, reusable = [], 0, 0
    for r in requests:
        best = max((common(r["prompt_ids"], ids) for ids in before), default=0)
        reusable += best
        cached += r["cached"]
        if before:
            # what was read is not read again: tools that were found later stand behind it
            assert best >= 0.95 * min(len(before[-1]), len(r["prompt_ids"])) or len(r["prompt_ids"]) < len(before[-1]) // 2
        before.append(r["prompt_ids"] + r["sampled_ids"])
    assert cached >= 0.95 * reusable > 0, (cached, reusable)
