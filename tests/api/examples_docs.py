#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The examples print what docs/embedding.md shows: every "$ command" of a console block is
run and its output compared.  examples_docs.py UMBRA EXAMPLES GUESTS EMBEDDING.md"""
import os
import re
import subprocess
import sys

umbra, examples, guests, page = sys.argv[1:]
path = os.pathsep.join([examples, os.path.dirname(umbra), os.environ["PATH"]])
with open(page, encoding="utf-8") as text:
    shown = re.findall(r"^```console\n\$ (.*)\n((?:.*\n)*?)```$", text.read(), re.M)
wrong = len(shown) < 5
for command, expected in shown:
    result = subprocess.run(command, shell=True, cwd=guests, text=True, timeout=90,
                            env={**os.environ, "PATH": path}, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    # COM1 ends its lines in CR LF; some are in the tail that the programs print.
    got = result.stdout.replace("\r", "")
    print("%s: %s" % ("PASS" if got == expected else "FAIL", command))
    if got != expected:
        wrong = True
        print(got)
sys.exit(wrong)
