#!/usr/bin/env python3
"""Checks the include direction between the folders of src/ (docs/architecture.md has the table).

Usage: check_includes.py [ROOT]; exits 1 and lists the arrows that point the wrong way.
SPDX-License-Identifier: Apache-2.0
"""
import pathlib
import re
import sys

# folder -> folders or single headers it may include (its own folder is always allowed)
ALLOWED = {
    "base": [],
    "model": ["base"],
    "text": ["base"],
    "media": ["base"],
    "dist": ["base"],
    "backend": ["base", "model/format.h", "model/config.h"],
    "engine": ["base", "model", "backend", "dist", "text/grammar.h", "text/mask.h"],
    "server": ["base", "text", "media", "engine", "model/config.h"],
    "cli": ["base", "model", "text", "media", "backend", "dist", "engine", "server"],
}


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".") / "src"
    wrong = []
    for path in sorted(root.rglob("*")):
        if path.suffix not in (".c", ".h", ".cu", ".cuh"):
            continue
        folder = path.relative_to(root).parts[0]
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if not match:
                continue
            target = match.group(1)
            if not (root / target).exists() and (path.parent / target).exists():
                target = str((path.parent / target).resolve().relative_to(root.resolve()))
            top = target.split("/")[0]
            if top != folder and top not in ALLOWED[folder] and target not in ALLOWED[folder]:
                wrong.append(f"src/{path.relative_to(root)}:{number}: {folder} may not include {target}")
    print("\n".join(wrong) if wrong else "include directions: ok")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
