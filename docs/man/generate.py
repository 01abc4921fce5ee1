#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Make the manual pages from their templates and what the launcher knows.

  generate.py UMBRA          write umbra.1 and umbra.json.5
  generate.py --check UMBRA  fail when they are not up to date
"""
import json
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def ask(umbra, *arguments):
    return subprocess.run([umbra, *arguments], check=True, text=True,
                          stdout=subprocess.PIPE).stdout


def escape(text):
    """Text as roff shows it: no hyphenation of options, no accidental requests."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.M)


def sentence(text):
    first = text.split()[0]
    return escape((text if first != first.lower() else text[0].upper() + text[1:]) + ".")


def options(keys):
    lines = []
    for key in keys:
        if key["option"] is None:
            continue
        value = ("[=%s]" if key["switch"] else " %s") % key["value"]
        lines += [".TP", f'.BI \\-\\-{escape(key["option"])} "{escape(value)}"',
                  sentence(key["help"])]
    return "\n".join(lines)


def value_of(schema):
    """How the value is written in JSON, from its schema."""
    kinds = schema.get("anyOf", [schema])
    names = []
    for kind in kinds:
        if "enum" in kind:
            names.append(" or ".join(f'"{name}"' for name in kind["enum"]))
        elif kind["type"] == "array":
            inner = "objects" if kind["items"].get("type") == "object" else "strings"
            names.append(f'list of {inner}, at most {kind["maxItems"]}')
        elif kind["type"] in ("integer", "number"):
            noun = "whole number" if kind["type"] == "integer" else "number"
            names.append(f'{noun} from {kind["minimum"]} to {kind["maximum"]}')
        else:
            names.append({"boolean": "true or false"}.get(kind["type"], kind["type"]))
    return ", or ".join(names)


def properties(schema):
    for kind in schema.get("anyOf", [schema]):
        kind = kind.get("items", kind)
        if "properties" in kind:
            return kind
    return {"properties": {}, "required": []}


def keys_section(keys, schema):
    lines = []
    for key in keys:
        parent = schema if key["parent"] is None else properties(
            schema["properties"][key["parent"]])
        kind = parent["properties"][key["name"]]
        required = "; required" if key["name"] in parent["required"] else ""
        lines += [".TP" if key["parent"] is None else ".RS\n.TP",
                  f'\\fB{escape(key["name"])}\\fR ({escape(value_of(kind))}{required})',
                  sentence(key["help"])]
        if key["parent"] is not None:
            lines.append(".RE")
    return "\n".join(lines)


def status_section(text):
    rows = text.split("Exit status:\n")[1].splitlines()
    return "\n".join(f".TP\n.B {escape(row.split(None, 1)[0])}\n"
                     f"{escape(row.split(None, 1)[1])}" for row in rows if row.strip())


def pages(umbra):
    keys = json.loads(ask(umbra, "schema", "--keys"))
    schema = json.loads(ask(umbra, "schema"))
    example = (HERE.parent.parent / "configs" / "web.json").read_text(encoding="utf-8")
    fill = {"VERSION": ask(umbra, "--version").split()[1],
            "OPTIONS": options(keys),
            "KEYS": keys_section(keys, schema),
            "STATUS": status_section(ask(umbra, "--help")),
            "EXAMPLE": escape(example.rstrip())}
    for name in ("umbra.1", "umbra.json.5"):
        template = (HERE / f"{name}.in").read_text(encoding="utf-8")
        yield HERE / name, re.sub(r"@([A-Z]+)@", lambda m: fill[m.group(1)], template)


def main():
    check = sys.argv[1] == "--check"
    stale = []
    for path, text in pages(sys.argv[-1]):
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
    if stale:
        sys.exit(f"{', '.join(stale)}: out of date: run docs/man/generate.py UMBRA")


main()
