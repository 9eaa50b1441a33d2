"""All attacks at once, for a few seconds: tests/soak/attack.py runs them for as long as wanted, with the ratio that counts.

SPDX-License-Identifier: Apache-2.0
"""
import subprocess
import sys
import pathlib


def test_honest_streams_beside_all_attacks():
    """None fails, memory stays inside the plan; a machine that runs other tests, too, has its say in the gaps."""
    script = pathlib.Path(__file__).with_name("attack.py")
    done = subprocess.run([sys.executable, script, "--seconds", "9", "--ratio", "4"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
