#!/usr/bin/env python3
"""Writes the names of the flags that other servers define, read from their own argument definitions.

Usage: foreign_flags.py OUT_FOLDER SOURCE...

A SOURCE is a wheel of vllm or sglang (as `pip download --no-deps` leaves it), the source archive of llama-cpp-python
(which holds llama.cpp's common/arg.cpp), or a folder NAME-VERSION with a copy of the file that defines them:
common/common.cpp of ik_llama.cpp, server/args.py of ktransformers, server_args.py of tokenspeed. Each leaves OUT_FOLDER/NAME-VERSION.txt: a line a
flag, its name and what follows it: 0 nothing, 1 a value, 2 two values, ? a value or nothing, + one or more values,
bool (nothing, and a twin that begins with no-), json (a value whose members can be given as --name.member). Nothing
of them is imported or run. tests/e2e/test_flags.py says which of the names `quern serve` does not know.
SPDX-License-Identifier: Apache-2.0
"""
import ast
import pathlib
import re
import sys
import tarfile
import zipfile


def text_of(node):
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def keyword(call, name):
    return next((k.value for k in call.keywords if k.arg == name), None)


def is_json(annotation):
    return bool(re.search(r"\bdict\b|Dict\[|Config\b(?!Format)", annotation))


def arity_of_type(annotation):
    """From the text of an annotation to what follows the flag, as vLLM derives it."""
    annotation = re.sub(r"Annotated\[([^,]+),.*\]", r"\1", annotation)
    plain = re.sub(r"\b(Optional|Union)\b|None|[|\[\]\s]", " ", annotation)
    if re.search(r"\bbool\b", plain) and not re.search(r"\bstr\b", plain):
        return "bool"
    if is_json(annotation):
        return "json"
    if re.search(r"\b(list|List|tuple|set|Sequence)\[", annotation):
        return "+"
    return "1"


def arity_of_call(call, field=None):
    """add_argument(...) -> what follows the flag; field: the arity that its type gave, or None."""
    action = keyword(call, "action")
    what = text_of(action) or (action.attr if isinstance(action, ast.Attribute) else action.id if isinstance(action, ast.Name) else "")
    if what in ("store_true", "store_false", "store_const", "count", "help", "version") or "StoreTrue" in what or "StoreConst" in what:
        return "1" if keyword(call, "choices") is not None else "0"
    if "BooleanOptional" in what:
        return "bool"
    nargs = keyword(call, "nargs")
    if nargs is not None and not (isinstance(nargs, ast.Constant) and nargs.value is None):
        return {"+": "+", "*": "+", "?": "?"}.get(text_of(nargs), "1")
    parser = keyword(call, "type")
    if parser is not None and field is None:
        return "json" if "json" in ast.unparse(parser).lower() else "1"
    return field or "1"


def classes(tree):
    """{class: {field: annotation}} of a module."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            found[node.name] = ({f.target.id: ast.unparse(f.annotation) for f in node.body
                                 if isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name)},
                                [ast.unparse(b) for b in node.bases])
    return found


def of_vllm(files):
    flags, types = {}, {}
    for path, text in files.items():
        if "/config" in path or path.endswith("config.py") or path.endswith("arg_utils.py"):
            types.update(classes(ast.parse(text)))
    for path in [p for p in files if re.search(r"engine/arg_utils\.py$|cli_args\.py$|entrypoints/cli/serve\.py$|entrypoints/utils\.py$", p)]:
        tree = ast.parse(files[path])
        local = {n: c for n, c in classes(tree).items() if "FrontendArgs" in n}
        for name, (fields, _) in local.items():
            for field, annotation in fields.items():
                arity = "1" if field in ("allowed_origins", "allowed_methods", "allowed_headers") else arity_of_type(annotation)
                flags["--" + field.replace("_", "-")] = arity
        owner = {}  # variable -> class whose fields it describes
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "get_kwargs":
                owner[ast.unparse(node.targets[0])] = ast.unparse(node.value.args[0])
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"):
                continue
            names = [text_of(a) for a in node.args if text_of(a) and text_of(a).startswith("-")]
            field = None
            for k in node.keywords:
                if k.arg is None:  # **model_kwargs["max_model_len"]
                    m = re.search(r"(\w+)\[['\"](\w+)['\"]\]", ast.unparse(k.value))
                    if m and m.group(1) in owner:
                        annotation = types.get(owner[m.group(1)], ({}, []))[0].get(m.group(2), "")
                        field = arity_of_type(annotation) if annotation else "1"
                        if is_json(annotation) and field == "1":
                            field = "json"
            for name in names:
                flags[name] = arity_of_call(node, field)
    return {k: v for k, v in flags.items() if k not in ("--help", "-h")}


def of_sglang(files):
    flags = {}
    for path, text in files.items():
        if not re.search(r"srt/(server_args\.py|arg_groups/)", path):
            continue
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
                for name in [text_of(a) for a in node.args if text_of(a) and text_of(a).startswith("-")]:
                    flags[name] = arity_of_call(node)
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.annotation, ast.Subscript)
                    and ast.unparse(node.annotation.value) == "A" and isinstance(node.target, ast.Name)):
                continue
            inner, *more = node.annotation.slice.elts
            arg = next((m for m in more if isinstance(m, ast.Call) and ast.unparse(m.func) == "Arg"), None)
            annotation = ast.unparse(inner)
            if arg is None and not any(text_of(m) or isinstance(m, (ast.JoinedStr, ast.BinOp)) for m in more):
                continue
            names, arity = ["--" + node.target.id.replace("_", "-")], None
            if arg is not None:
                if isinstance(keyword(arg, "no_cli"), ast.Constant):
                    continue
                if text_of(keyword(arg, "cli_name")):
                    names = [text_of(keyword(arg, "cli_name"))]
                if isinstance(keyword(arg, "aliases"), ast.List):
                    names += [text_of(a) for a in keyword(arg, "aliases").elts]
                if keyword(arg, "action") is not None:
                    arity = arity_of_call(arg)
                    if "Deprecated" in ast.unparse(keyword(arg, "action")) and arity == "1" and annotation == "bool":
                        arity = "0"
                elif keyword(arg, "type_parser") is not None:
                    arity = "json" if "json" in ast.unparse(keyword(arg, "type_parser")) else "1"
                elif text_of(keyword(arg, "nargs")):
                    arity = {"+": "+", "*": "+", "?": "?"}[text_of(keyword(arg, "nargs"))]
            if arity is None:
                arity = {"bool": "0", "json": "1"}.get(arity_of_type(annotation), arity_of_type(annotation))
            for name in names:
                flags[name] = arity
    return {k: v for k, v in flags.items() if k and k not in ("--help", "-h")}


def of_llama(text):
    """common_arg({"-x", "--long"}, ["no-forms"], "VALUE", ...) of llama.cpp; the server's and the common ones."""
    flags = {}
    text = re.sub(r"^\s*//.*$", "", text, flags=re.M)
    for block in re.split(r"\badd_opt\(common_arg\(", text)[1:]:
        block = block.split("\n    add_opt", 1)[0]
        used = re.search(r"\.set_examples\(\{([^}]*)\}", block)
        if used and not re.search(r"LLAMA_EXAMPLE_(SERVER|COMMON|DOWNLOAD)\b", used.group(1)):
            continue
        names = re.match(r"\s*\{([^{}]*)\},\s*(?:\{([^{}]*)\},)?", block)
        handler = re.search(r"\[[^\]]*\]\s*\(\s*common_params\s*&\s*\w*\s*(?:,([^)]*))?\)", block)
        values = (handler.group(1) or "") if handler else ""
        arity = "0" if not values or "bool " in values else str(values.count(",") + 1)
        if arity == "1" and re.search(r'"\[?(on|off)\|(on|off)\|?', block):
            arity = "?"
        for name in re.findall(r'"(-[^"]+)"', names.group(1) + "," + (names.group(2) or "")):
            flags[name] = arity
    return flags


def of_ik_llama(text):
    """A chain of `if (arg == "-x" || arg == "--long") { ... }`; CHECK_ARG takes the value."""
    flags = {}
    parts = re.split(r"\n    (?=(?:else )?if \([^)]*arg == \")", text)
    for part in parts:
        head = re.match(r"(?:else )?if \(((?:[^{]|\n)*?)\)\s*\{", part)
        if not head:
            continue
        names = re.findall(r'arg == "(-[^"]+)"', head.group(1))
        body = part[head.end():]
        arity = "1" if re.search(r"CHECK_ARG|argv\[\+\+i\]", body.split("\n    }")[0]) else "0"
        for name in names:
            flags[name] = arity
    return flags


def of_argparse(text):
    flags = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            for name in [text_of(a) for a in node.args if text_of(a) and text_of(a).startswith("-")]:
                flags[name] = arity_of_call(node)
    return flags


def read(path):
    """(NAME-VERSION, flags)"""
    if path.is_dir():
        text = "".join(p.read_text() for p in sorted(path.rglob("*")) if p.is_file())
        return path.name, of_ik_llama(text) if path.name.startswith("ik_llama") else of_argparse(text)
    if path.suffix == ".whl":
        name, version = path.name.split("-")[:2]
        is_vllm = name == "vllm"
        with zipfile.ZipFile(path) as z:
            wanted = re.compile(r"^vllm/(engine/arg_utils|config|entrypoints/|utils/|config/)|^sglang/srt/(server_args|arg_groups)")
            files = {n: z.read(n).decode() for n in z.namelist() if n.endswith(".py") and wanted.search(n)}
        return f"{name.replace(chr(95), chr(45))}-{version}", of_vllm(files) if is_vllm else of_sglang(files)
    with tarfile.open(path) as t:
        member = next(m for m in t if m.name.endswith("vendor/llama.cpp/common/arg.cpp"))
        text = t.extractfile(member).read().decode()
    version = re.search(r"llama_cpp_python-([\d.]+)\.tar", path.name).group(1)
    return f"llama.cpp-of-llama-cpp-python-{version}", of_llama(text)


def main():
    out = pathlib.Path(sys.argv[1])
    for source in sys.argv[2:]:
        name, flags = read(pathlib.Path(source))
        lines = "".join(f"{n} {a}\n" for n, a in sorted(flags.items()))
        (out / f"{name}.txt").write_text(f"# Names of {name}, and what follows each (tools/foreign_flags.py)\n{lines}")
        print(f"{name}: {len(flags)}")


if __name__ == "__main__":
    main()
