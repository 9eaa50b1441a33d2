#!/usr/bin/env python3
"""Checks includes in src/: between folders only the arrows of the table in docs/architecture.md ("Who may include
whom", which is read from there), and between the files of one folder no circles.

A file counts with its header (a.c, a.h and a_impl.h are one). Usage: check_includes.py [ROOT]; exits 1 and lists what
is wrong. SPDX-License-Identifier: Apache-2.0
"""
import collections
import pathlib
import re
import sys

PAGE = "docs/architecture.md"
# Circles that are still there, by folder; nothing may be added.
KNOWN = {
    "model": [{"hint", "checkpoint", "roles"}],
    "text": [{"tokenizer", "bpe"}],
}


def read_table(root):
    """{folder: what it may include, folders or single headers}; "all" allows everything."""
    text = (root / PAGE).read_text()
    section = text.split("## Who may include whom", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| ([a-z, ]+) \| ([^|]+) \|", section, re.M)
    allowed = {}
    for names, may in rows:
        for name in names.split(", "):
            if name != "Folder":
                allowed[name.strip()] = [word.strip(" `") for word in may.split(",")]
    if len(allowed) < 8:
        sys.exit(f"check_includes: no table of folders in {PAGE}")
    return allowed


def includes(path):
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if match:
            yield number, match.group(1)


def noun(path):
    return re.sub(r"_impl$", "", path.stem)


def circles(edges):
    """Groups of files that include each other, directly or not (Tarjan)."""
    order, low, stack, found = {}, {}, [], []

    def visit(v):
        order[v] = low[v] = len(order)
        stack.append(v)
        for w in sorted(edges.get(v, ())):
            if w not in order:
                visit(w)
            if w in stack:
                low[v] = min(low[v], low[w])
        if low[v] == order[v]:
            group = set()
            while v not in group:
                group.add(stack.pop())
            if len(group) > 1:
                found.append(group)

    for v in sorted(edges):
        if v not in order:
            visit(v)
    return found


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    allowed, src, wrong = read_table(root), root / "src", []
    edges = collections.defaultdict(lambda: collections.defaultdict(set))
    for path in sorted(src.rglob("*")):
        if path.suffix not in (".c", ".h", ".cu", ".cuh"):
            continue
        folder = path.relative_to(src).parts[0]
        if folder not in allowed:
            wrong.append(f"src/{folder}: not in the table of {PAGE}")
            continue
        for number, target in includes(path):
            if not (src / target).exists() and (path.parent / target).exists():
                target = str((path.parent / target).resolve().relative_to(src.resolve()))
            top, may = target.split("/")[0], allowed[folder]
            if top != folder and top not in may and target not in may and "all" not in may:
                wrong.append(f"src/{path.relative_to(src)}:{number}: {folder} may not include {target}")
            if (src / target).parent == path.parent and noun(src / target) != noun(path):
                edges[str(path.parent.relative_to(src))][noun(path)].add(noun(src / target))
    for folder, graph in sorted(edges.items()):
        for group in circles(graph):
            if not any(group <= known for known in KNOWN.get(folder, [])):
                wrong.append(f"src/{folder}: a circle of includes: {', '.join(sorted(group))}")
    print("\n".join(wrong) if wrong else "include directions: ok")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
