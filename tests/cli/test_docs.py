#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The documents agree with the program: manual pages, exit statuses."""
import json
import os
import re
import shutil
import subprocess
import unittest

from launcher import SOURCE, UMBRA, main, run


def read(*path):
    with open(os.path.join(SOURCE, *path), encoding="utf-8") as text:
        return text.read()


class Docs(unittest.TestCase):
    def test_manual_is_current(self):
        result = subprocess.run(["python3", os.path.join(SOURCE, "docs/man/generate.py"),
                                 "--check", UMBRA], text=True, stderr=subprocess.PIPE)
        self.assertEqual((result.returncode, result.stderr), (0, ""))

    def test_manual_has_everything(self):
        keys = json.loads(run("schema", "--keys").stdout)
        options, file_format = read("docs/man/umbra.1"), read("docs/man/umbra.json.5")
        for key in keys:
            name = key["name"].replace("-", "\\-")
            self.assertIn(f'\\fB{name}\\fR', file_format)
            if key["option"]:
                self.assertIn("\\-\\-" + key["option"].replace("-", "\\-"), options)
        for command in re.findall(r"^  ([a-z]+) ", run("--help").stdout, re.M):
            if command != "mmu":  # it has a page of its own
                self.assertIn(f".B umbra {command}", options)
        for option in re.findall(r"^  --([a-z-]+)", run("run", "--help").stdout, re.M):
            self.assertIn("\\-\\-" + option.replace("-", "\\-"), options + "\\-\\-help")

    def test_library_manual_has_every_function(self):
        functions = set(re.findall(r"^UMBRA_API [^;]*?\b(umbra_\w+)\(",
                                   read("include/umbra/umbra.h"), re.M))
        named = set(re.findall(r"^\.BR (umbra_\w+) \(\)", read("docs/man/libumbra.3"), re.M))
        self.assertGreater(len(functions), 40)
        self.assertEqual(functions, named)

    @unittest.skipUnless(shutil.which("man"), "needs man")
    def test_manual_formats(self):
        for page in ("umbra.1", "libumbra.3", "umbra.json.5"):
            result = subprocess.run(
                ["man", "--warnings", "-l", os.path.join(SOURCE, "docs/man", page)],
                text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env={**os.environ, "MANPAGER": "cat", "MANROFFSEQ": "", "MANWIDTH": "90"})
            self.assertEqual((result.returncode, result.stderr), (0, ""), page)

    def test_exit_statuses(self):
        rows = dict(re.findall(r"^\| (\S+) \| (.*?) \|$", read("docs/exit-status.md"), re.M))
        shown = dict(re.findall(r"^  (\S+) +(.*)$",
                                run("--help").stdout.split("Exit status:\n")[1], re.M))
        self.assertGreaterEqual(len(shown), 13)
        for status, meaning in shown.items():
            self.assertIn(status, rows)
            self.assertTrue(rows[status].replace("`", "").startswith(meaning.split(",")[0]),
                            status)


main()
