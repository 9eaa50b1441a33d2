#!/usr/bin/env python3
"""Checks that the pages can be followed: links lead to files and headings, names of source files exist.

Usage: check_docs.py [ROOT]; exits 1 and lists what leads nowhere. Looks at README.md, CONTRIBUTING.md, docs/ and bench/.
Source files are named as `src/engine/seq.c`, or, in docs/where.md and docs/glossary.md, also without their folder.
SPDX-License-Identifier: Apache-2.0
"""
import pathlib
import re
import sys

LOOSE = ("where.md", "glossary.md")


def heads(path):
    return {re.sub(r"[^a-z0-9 _-]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", path.read_text(), re.M)}


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    wrong = []
    names = {p.name for folder in ("src", "tests", "tools") for p in (root / folder).rglob("*") if p.is_file()}
    pages = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md")), *sorted((root / "bench").glob("*.md"))]
    for page in pages:
        text = re.sub(r"^    .*$|```.*?```", "", page.read_text(), flags=re.M | re.S)
        where = page.relative_to(root)
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", text):
            if target.startswith(("http:", "https:")):
                continue
            path = (page.parent / target).resolve() if target else page
            if not path.exists():
                wrong.append(f"{where}: {target} is not there")
            elif anchor and path.suffix == ".md" and anchor not in heads(path):
                wrong.append(f"{where}: {target}#{anchor}: no such heading")
        for name in re.findall(r"`((?:src|tests|tools|docs|bench|cmake)/[\w./-]+)`", text):
            if not (root / name).exists() and not list(root.glob(name + "*")):
                wrong.append(f"{where}: {name} is not there")
        if page.name in LOOSE:
            for name in re.findall(r"`([\w-]+\.[ch])`", text):
                if name not in names:
                    wrong.append(f"{where}: there is no {name}")
    print("\n".join(wrong) if wrong else "docs: ok")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
