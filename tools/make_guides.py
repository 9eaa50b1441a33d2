#!/usr/bin/env python3
"""Man pages and shell completions, made from what the commands say of themselves.

    make_guides.py BINARY OUT      writes OUT/man1/*.1, OUT/quern.bash, OUT/_quern, OUT/quern.fish

Every command prints its usage, a description and one option a line; nothing is written twice.
SPDX-License-Identifier: Apache-2.0"""
import pathlib
import re
import subprocess
import sys

OPTION = re.compile(r"^ {2}(?:-(?P<letter>\w), | {4})--(?P<name>[\w-]+)(?: (?P<arg>\S+))?(?: {2,}(?P<help>.*))?$")


def ask(binary, *args):
    r = subprocess.run([binary, *args, "--help"], capture_output=True, text=True)
    if r.returncode:
        sys.exit(f"{' '.join([str(binary), *args])} --help failed: {r.stderr}")
    return r.stdout


class Command:
    """One command: usage lines, description, options, the rest of its help."""

    def __init__(self, words, text):
        self.words, self.options, self.sections = words, [], []
        head, _, rest = text.partition("\n\n")
        self.usage = head.removeprefix("usage: ")
        name, lines = None, []
        for line in rest.splitlines() + ["end:"]:
            if re.fullmatch(r"[a-z][\w ]*:", line):
                if name == "options":
                    self.read_options(lines)
                else:
                    self.sections.append((name, "\n".join(lines).strip("\n")))
                name, lines = line[:-1], []
            else:
                lines.append(line)
        self.about = self.sections.pop(0)[1] if self.sections and self.sections[0][0] is None else ""

    def read_options(self, lines):
        for line in lines:
            m = OPTION.match(line)
            if m:
                self.options.append(dict(m.groupdict(), help=m["help"] or ""))
            elif line.strip() and self.options:
                self.options[-1]["help"] += " " + line.strip()


def commands(binary):
    top = ask(binary)
    rows = re.findall(r"^ {2}(\w+) +(.*)$", top.partition("commands:")[2], re.M)
    found = []
    for name, about in rows:
        text = ask(binary, name)
        found.append((name, about, Command([name], text)))
        if " PART " in text.splitlines()[0]:
            for part, what in re.findall(r"^ {2}(\w+) {2,}(\S.*)$", text.partition("example:")[0], re.M):
                found.append((f"{name} {part}", what, Command([name, part], ask(binary, name, part))))
    return found


def roff(text):
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + x if x.startswith((".", "'")) else x for x in text.splitlines())


def man_page(title, about, command, version, others):
    out = [f'.TH {title.upper().replace("-", chr(92) + "-")} 1 "" "quern {version}" "User Commands"', ".SH NAME",
           f"{roff(title)} \\- {roff(about)}", ".SH SYNOPSIS", ".nf", roff(command.usage), ".fi"]
    if command.about:
        out += [".SH DESCRIPTION", roff(command.about)]
    if command.options:
        out.append(".SH OPTIONS")
    for o in command.options:
        letter = f"\\fB\\-{o['letter']}\\fR, " if o["letter"] else ""
        arg = f" \\fI{roff(o['arg'])}\\fR" if o["arg"] else ""
        out += [".TP", f"{letter}\\fB\\-\\-{roff(o['name'])}\\fR{arg}", roff(o["help"]) or "\\&"]
    for name, text in command.sections:
        if name and text.strip():
            out += [f".SH {name.upper()}", ".nf", roff(text), ".fi"]
    also = ", ".join(f"\\fB{roff(x)}\\fR(1)" for x in others if x != title)
    if also:
        out += [".SH SEE ALSO", also]
    return "\n".join(out) + "\n"


def bash(found):
    tops = [n for n, _, _ in found if " " not in n]
    cases = "\n".join(f'    "{name}") words="{" ".join("--" + o["name"] for o in c.options)} --help" ;;' for name, _, c in found)
    parts = {t: [n.split()[1] for n, _, _ in found if n.startswith(t + " ")] for t in tops}
    subs = "\n".join(f'    {t}) parts="{" ".join(p)}" ;;' for t, p in parts.items() if p)
    return f"""# bash completion of quern, made by tools/make_guides.py
_quern() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} command=${{COMP_WORDS[1]:-}} words="" parts=""
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W "{' '.join(tops)} help" -- "$cur"))
    return
  fi
  case $command in
{subs or '    *) ;;'}
  esac
  if [[ -n $parts ]]; then
    if ((COMP_CWORD == 2)); then
      COMPREPLY=($(compgen -W "$parts" -- "$cur"))
      return
    fi
    command="$command ${{COMP_WORDS[2]}}"
  fi
  case $command in
{cases}
  esac
  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
  else
    COMPREPLY=($(compgen -f -- "$cur"))
  fi
}}
complete -o filenames -F _quern quern
"""


def quote(text):
    return text.replace("'", "'\\''").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")


def zsh(found):
    tops = [(n, a) for n, a, _ in found if " " not in n]
    rows = "\n".join(f"    '{n}:{quote(a)}'" for n, a in tops)
    cases = []
    for name, _, c in found:
        args = " \\\n        ".join(f"'--{o['name']}[{quote(o['help'])[:60]}]{':' + quote(o['arg']) + ':_files' if o['arg'] else ''}'"
                                   for o in c.options)
        if " " not in name:
            cases.append(f"    {name}) _arguments \\\n        {args + ' ' if args else ''}'*:file:_files' ;;")
    body = "\n".join(cases)
    return f"""#compdef quern
# zsh completion of quern, made by tools/make_guides.py
_quern() {{
  local -a commands
  commands=(
{rows}
  )
  if ((CURRENT == 2)); then
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  ((CURRENT--))
  case $command in
{body}
  esac
}}
_quern "$@"
"""


def fish(found):
    out = ["# fish completion of quern, made by tools/make_guides.py"]
    for name, about, c in found:
        if " " not in name:
            out.append(f"complete -c quern -n __fish_use_subcommand -a {name} -d '{about.replace(chr(39), '')}'")
        for o in c.options:
            letter = f" -s {o['letter']}" if o["letter"] else ""
            wants = " -r" if o["arg"] else ""
            out.append(f"complete -c quern -n '__fish_seen_subcommand_from {name.split()[0]}' -l {o['name']}{letter}{wants}"
                       f" -d '{o['help'].replace(chr(39), '')[:70]}'")
    return "\n".join(out) + "\n"


def main():
    binary, out = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
    found = commands(binary)
    version = subprocess.run([binary, "version"], capture_output=True, text=True).stdout.split()[1]
    (out / "man1").mkdir(parents=True, exist_ok=True)
    titles = ["quern"] + ["quern-" + n.replace(" ", "-") for n, _, _ in found]
    top = Command([], ask(binary))
    (out / "man1/quern.1").write_text(man_page("quern", "server for the Qwen3.5 family of language models", top, version, titles))
    for name, about, c in found:
        title = "quern-" + name.replace(" ", "-")
        (out / f"man1/{title}.1").write_text(man_page(title, about, c, version, ["quern"]))
    (out / "quern.bash").write_text(bash(found))
    (out / "_quern").write_text(zsh(found))
    (out / "quern.fish").write_text(fish(found))


if __name__ == "__main__":
    main()
