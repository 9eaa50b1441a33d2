#!/usr/bin/env python3
"""Draws columns of a CSV of `quern bench --csv` as SVG: one line for each value of --by. Needs nothing beyond Python.

    bench/plot.py FILE.csv OUT.svg --x streams --y tok_s --by context [--bench matrix] [--where mtp=auto] [--log]

SPDX-License-Identifier: Apache-2.0
"""
import argparse
import csv
import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 860, 480, 80, 40, 190, 60
COLOURS = ["#2a6f97", "#d1495b", "#5a8f3d", "#8f5ab3", "#c77d1e", "#3aa6a0", "#6b6b6b", "#b5446e"]


def ticks(low, high):
    step = 10 ** math.floor(math.log10((high - low) / 4 or 1))
    step *= next(f for f in (1, 2, 5, 10) if (high - low) / (step * f) <= 6)
    return [t * step for t in range(math.ceil(low / step), math.floor(high / step) + 1)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv")
    parser.add_argument("svg")
    parser.add_argument("--x", required=True)
    parser.add_argument("--y", required=True, nargs="+", help="one column, or several as lines of their own")
    parser.add_argument("--by", help="a line for each value of this column")
    parser.add_argument("--bench", help="only rows of this table")
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE")
    parser.add_argument("--log", action="store_true", help="logarithmic x axis, base 2")
    args = parser.parse_args()
    wanted = dict(w.split("=", 1) for w in args.where)
    if args.bench:
        wanted["bench"] = args.bench
    lines = {}
    with open(args.csv, newline="", encoding="utf-8") as f:
        for row in csv.DictReader(f):
            if any(row.get(k) != v for k, v in wanted.items()):
                continue
            for y in args.y:
                if row.get(args.x) and row.get(y):
                    name = " ".join(filter(None, [f"{args.by} {row[args.by]}" if args.by else "", y if len(args.y) > 1 else ""]))
                    lines.setdefault(name or y, []).append((float(row[args.x]), float(row[y])))
    if not lines:
        parser.error(f"{args.csv}: no row has {args.x} and {', '.join(args.y)} where {wanted}")
    place = (lambda x: math.log2(max(x, 0.5))) if args.log else (lambda x: x)
    xs = sorted({x for points in lines.values() for x, _ in points})
    x0, x1, y1 = place(xs[0]), place(xs[-1]), max(y for points in lines.values() for _, y in points) * 1.05 or 1
    to_x = lambda x: LEFT + (place(x) - x0) / ((x1 - x0) or 1) * (WIDTH - LEFT - RIGHT)
    to_y = lambda y: HEIGHT - BOTTOM - y / y1 * (HEIGHT - TOP - BOTTOM)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<text x="{LEFT}" y="22" font-size="14">{escape(", ".join(args.y))} over {escape(args.x)}'
           f'{escape(" (" + ", ".join(f"{k} {v}" for k, v in wanted.items()) + ")" if wanted else "")}</text>']
    for t in ticks(0, y1):
        out.append(f'<path d="M{LEFT} {to_y(t):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 8}" y="{to_y(t) + 4:.1f}" text-anchor="end">{t:g}</text>')
    for x in xs if args.log or len(xs) <= 12 else ticks(xs[0], xs[-1]):
        out.append(f'<text x="{to_x(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{x:g}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 16}" text-anchor="middle">{escape(args.x)}</text>')
    for i, (name, points) in enumerate(lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        points = sorted(points)
        path = "L".join(f"{to_x(x):.1f} {to_y(y):.1f}" for x, y in points)
        out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" r="3" fill="{colour}"/>' for x, y in points]
        out.append(f'<text x="{WIDTH - RIGHT + 12}" y="{TOP + 18 * i + 10}" fill="{colour}">{escape(name)}</text>')
    out.append("</svg>\n")
    with open(args.svg, "w", encoding="utf-8") as f:
        f.write("\n".join(out))


if __name__ == "__main__":
    main()
