"""tools/skips.py: every skip is found with its reason, and one that is not listed fails. SPDX-License-Identifier: Apache-2.0"""
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

CTEST = """<testsuite><testcase name="unit_a" status="run"><system-out>[ RUN      ] test_x
skipped: no device here
[  SKIPPED ] test_x
</system-out></testcase>
<testcase name="unit_b" status="run"><system-out>[ RUN      ] test_y
[  SKIPPED ] test_y
[  SKIPPED ] 1 test(s), listed below:
</system-out></testcase>
<testcase name="unit_c" status="notrun"><skipped message="SKIP_RETURN_CODE=77"/></testcase>
<testcase name="unit_d" status="run"><system-out>fine</system-out></testcase></testsuite>"""
PYTEST = """<testsuites><testsuite><testcase classname="tests.e2e.test_z" name="test_one"><skipped type="pytest.skip"
message="no browser">x.py:3: no browser</skipped></testcase><testcase classname="" name="tests.e2e.test_w"><skipped
type="pytest.skip" message="collection skipped">('x.py', 4, "Skipped: could not import 'openai'")</skipped></testcase>
<testcase classname="tests.e2e.test_z" name="test_two"/></testsuite></testsuites>"""


def run(folder, allowed):
    for name in ("build", "tests"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "build" / "ctest.xml").write_text(CTEST)
    (folder / "build" / "pytest.xml").write_text(PYTEST)
    (folder / "tests" / "skips.txt").write_text(allowed)
    return subprocess.run([sys.executable, ROOT / "tools" / "skips.py", "--strict", folder], capture_output=True, text=True)


def test_skips(tmp_path):
    r = run(tmp_path, "unit_a | no device*\n")
    assert r.returncode == 1 and "skipped: 5" in r.stdout, r.stdout
    lines = {line.split()[0]: line for line in r.stdout.splitlines() if line.startswith("  ")}
    assert set(lines) == {"unit_a", "unit_b", "unit_c", "tests.e2e.test_z::test_one", "tests.e2e.test_w"}
    assert "not in" not in lines["unit_a"] and all("not in tests/skips.txt" in lines[k] for k in lines if k != "unit_a")
    assert "no browser" in lines["tests.e2e.test_z::test_one"] and "could not import" in lines["tests.e2e.test_w"]
    r = run(tmp_path, "unit_* | *\ntests.e2e.* | *\n")
    assert r.returncode == 0 and "not in" not in r.stdout, r.stdout
    (tmp_path / "build" / "pytest.xml").unlink()
    r = subprocess.run([sys.executable, ROOT / "tools" / "skips.py", "--strict", tmp_path], capture_output=True, text=True)
    assert r.returncode == 1 and "run make test" in r.stdout
