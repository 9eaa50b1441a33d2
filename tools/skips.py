#!/usr/bin/env python3
"""What the last `make test` skipped, and why.

Reads build/ctest.xml and build/pytest.xml, prints a table. A C test says `skipped: why` on a line of its own (also
when it leaves out only a part), or ends with status 77; pytest has its own way. tests/skips.txt lists the skips that
are allowed. Usage: skips.py [--strict] [ROOT]; --strict exits 1 when a skip is not listed there.
SPDX-License-Identifier: Apache-2.0
"""
import fnmatch
import pathlib
import re
import sys
import xml.etree.ElementTree as ET


def from_ctest(path):
    for case in ET.parse(path).getroot().iter("testcase"):
        name, text = case.get("name"), "".join(e.text or "" for e in case.iter("system-out"))
        whys = re.findall(r"^(?:\[\s*\w+\s*\]\s*)?skipped: (.+)$", text, re.M)
        if not whys:
            whys = [f"no reason given ({n})" for n in re.findall(r"^\[\s*SKIPPED\s*\] (?!\d+ test)(\w+)", text, re.M)]
        if not whys and (case.get("status") in ("notrun", "disabled") or case.find("skipped") is not None):
            message = case.find("skipped")
            whys = [message.get("message", "not run") if message is not None else "not run"]
        for why in dict.fromkeys(whys):
            yield name, why.strip()


def from_pytest(path):
    for case in ET.parse(path).getroot().iter("testcase"):
        skip = case.find("skipped")
        if skip is None or skip.get("type") == "pytest.xfail":
            continue
        name = f"{case.get('classname')}::{case.get('name')}" if case.get("classname") else case.get("name")
        why = skip.get("message") or "no reason given"
        where = re.search(r"Skipped: (.*)", skip.text or "")
        yield name, (where.group(1) if why == "collection skipped" and where else why).strip("'() ")


def read_allowed(path):
    """[(glob of the test, glob of the reason)] of lines `TEST | REASON`."""
    rows = []
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            test, why = line.split(" | ", 1)
            rows.append((test.strip(), why.strip()))
    return rows


def main():
    strict = "--strict" in sys.argv
    rest = [a for a in sys.argv[1:] if a != "--strict"]
    root = pathlib.Path(rest[0] if rest else pathlib.Path(__file__).resolve().parent.parent)
    found, missing = [], []
    for name, read in (("ctest.xml", from_ctest), ("pytest.xml", from_pytest)):
        path = root / "build" / name
        if path.exists():
            found += read(path)
        else:
            missing.append(str(path))
    allowed = read_allowed(root / "tests" / "skips.txt")
    is_listed = [any(fnmatch.fnmatchcase(t, a) and fnmatch.fnmatchcase(w, b) for a, b in allowed) for t, w in found]
    print(f"\nskipped: {len(found)}")
    width = max([len(t) for t, _ in found], default=0)
    for (test, why), listed in sorted(zip(found, is_listed)):
        print(f"  {test:<{width}}  {why}{'' if listed else '   <- not in tests/skips.txt'}")
    for path in missing:
        print(f"  {path} is not there: run make test")
    if strict and (missing or not all(is_listed)):
        print("skips: what is skipped must be listed in tests/skips.txt, with the reason as it is printed")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
