#!/usr/bin/env python3
"""Draws the CSV of compare.py as SVG: a panel for each test, a bar for each engine and format, tokens a second; a mark at
what the measured read bandwidth allows a decode. Needs nothing beyond Python.

    bench/compare_plot.py FILE.csv OUT.svg

SPDX-License-Identifier: Apache-2.0
"""
import csv
import sys
from xml.sax.saxutils import escape

LABEL, PANEL, GAP, BAR, TOP = 330, 210, 30, 15, 60
COLOURS = {"quern": "#2a6f97", "llama.cpp": "#c77d1e", "ik_llama.cpp": "#5a8f3d"}


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    tests = sorted({(r["test"], int(r["tokens"]) if r["test"] == "prefill" else int(r["context"])) for r in rows}, reverse=True)
    sides = list(dict.fromkeys((r["model"], r["format"], r["engine"], r["weights"], r["options"]) for r in rows))
    place, y, last = {}, TOP, None
    for side in sides:
        y += 12 if last not in (None, side[:2]) else 0
        place[side], last = y, side[:2]
        y += BAR
    width = LABEL + len(tests) * (PANEL + GAP)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y + 20}" font-family="sans-serif" font-size="11">',
           f'<rect width="{width}" height="{y + 20}" fill="white"/>',
           f'<text x="10" y="20" font-size="14">Tokens a second; red: what the read bandwidth allows. {escape(rows[0]["machine"])}, '
           f'{rows[0]["threads"]} threads</text>']
    for side, at in place.items():
        out.append(f'<text x="{LABEL - 8}" y="{at + 11}" text-anchor="end">{escape(" ".join(filter(None, side)))}</text>')
    for i, (test, n) in enumerate(tests):
        x = LABEL + i * (PANEL + GAP)
        mine = [r for r in rows if r["test"] == test and int(r["tokens"] if test == "prefill" else r["context"]) == n]
        most = max(max(float(r["tok_s"]), float(r["limit_tok_s"] or 0)) for r in mine)
        out.append(f'<text x="{x}" y="{TOP - 12}" font-size="13">{test} {"of" if test == "prefill" else "at"} {n}</text>')
        for r in mine:
            at = place[r["model"], r["format"], r["engine"], r["weights"], r["options"]]
            w = float(r["tok_s"]) / most * (PANEL - 40)
            out.append(f'<rect x="{x}" y="{at + 1}" width="{w:.1f}" height="{BAR - 3}" '
                       f'fill="{COLOURS.get(r["engine"], "#6b6b6b")}"/><text x="{x + w + 4:.1f}" y="{at + 11}">'
                       f'{float(r["tok_s"]):.4g}</text>')
            if r["limit_tok_s"]:
                to = x + float(r["limit_tok_s"]) / most * (PANEL - 40)
                out.append(f'<path d="M{to:.1f} {at}v{BAR - 1}" stroke="#d1495b" stroke-width="2"/>')
    out.append("</svg>\n")
    with open(sys.argv[2], "w", encoding="utf-8") as f:
        f.write("\n".join(out))


if __name__ == "__main__":
    main()
