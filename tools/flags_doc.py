#!/usr/bin/env python3
"""Writes the tables of other servers' flags into docs/operating.md, from `quern serve --help-foreign`.

Usage: flags_doc.py [--check]; --check only says whether the page is as it would be written (exit 1: it is not).
SPDX-License-Identifier: Apache-2.0
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "operating.md"
BEGIN, END = "<!-- flags: begin (tools/flags_doc.py) -->\n", "<!-- flags: end -->\n"
HEADS = {"mapped": "Mapped", "accepted: there is nothing to do": "Accepted with a line", "refused": "Refused"}
MOST = 12  # names of a row; --help-foreign has all


def read_help():
    """[(section, what becomes of them, the values they are accepted with or "", [names])]"""
    text = subprocess.run([ROOT / "build" / "quern", "serve", "--help-foreign"], capture_output=True, text=True, check=True).stdout
    rows, section = [], None
    for line in text.splitlines():
        if line in HEADS:
            section = line
        elif line.startswith("    "):
            rows[-1][3].append(line.split()[0].split("[")[0])
        elif line.startswith("  (accepted with "):
            rows[-1][2] = line.strip()[len("(accepted with "):-1]
        elif line.startswith("  ") and section:
            rows.append([section, line.strip(), "", []])
    return rows


def make():
    rows, out = read_help(), []
    for section, head in HEADS.items():
        is_refused = section == "refused"
        out += [f"### {head}", "", "| Flags | What becomes of them |" + (" Accepted with |" if is_refused else ""),
                "| --- | --- |" + (" --- |" if is_refused else "")]
        for _, what, fine, names in (r for r in rows if r[0] == section):
            shown = ", ".join(f"`{n}`" for n in names[:MOST])
            more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
            cell = re.sub(r"(--[a-z][a-z-]+)", r"`\1`", what)
            out.append(f"| {shown}{more} | {cell} |" + (f" {fine.replace(',', ', ')} |" if is_refused else ""))
        out.append("")
    return "\n".join(out)


def main():
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    new = before + BEGIN + "\n" + make() + "\n" + END + rest.split(END)[1]
    if "--check" not in sys.argv:
        PAGE.write_text(new)
    elif new != text:
        sys.exit("docs/operating.md: the tables of flags are old: run tools/flags_doc.py")


if __name__ == "__main__":
    main()
