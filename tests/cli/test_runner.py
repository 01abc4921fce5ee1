#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""umbra test: what is run, what counts as a pass, TAP, junit, exit statuses."""
import os
import re
import shutil
import sys
import tempfile
import unittest
import xml.etree.ElementTree as tree

from launcher import main, run

GUESTS = os.environ["UMBRA_GUESTS"]
if not os.access("/dev/kvm", os.R_OK | os.W_OK):
    print("skipped: no access to /dev/kvm")
    sys.exit(77)


def guest(name):
    return os.path.join(GUESTS, name + ".elf")


class Runner(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def put(self, name, source=None):
        path = os.path.join(self.folder, name)
        if source is None:
            with open(path, "w", encoding="utf-8") as out:
                out.write("this is no image\n" * 100)
        else:
            shutil.copy(guest(source), path)
        return path

    def lines(self, *arguments, status):
        """The TAP lines of results; the plan has to agree with them."""
        result = run("test", *arguments)
        self.assertEqual(result.returncode, status, result.stdout + result.stderr)
        lines = re.findall(r"^((?:not )?ok .*)$", result.stdout, re.M)
        self.assertIn(f"1..{len(lines)}\n", result.stdout)
        return lines, result.stdout

    def test_folder(self):
        self.put("b.flat", "echo")
        self.put("b.elf", "exit")  # what b.flat was made of: not run
        self.put("a.elf", "nothing")
        self.put("notes.elf")
        self.put("README")
        lines, _ = self.lines(self.folder, status=0)
        self.assertEqual(lines, ["ok 1 - a", "ok 2 - b"])

    def test_failures(self):
        junit = os.path.join(self.folder, "junit.xml")
        lines, out = self.lines(guest("ends"), guest("echo"), guest("exit"), "--append",
                                "hang", "--timeout=1s", "--jobs", "3", "--junit", junit,
                                status=1)
        self.assertEqual(lines, ["not ok 1 - ends", "ok 2 - echo", "not ok 3 - exit"])
        self.assertIn("#   the guest still ran after 1.000 s\n#   ending by hang\n", out)
        self.assertIn("# 1 passed, 2 failed, 0 failed as expected, 0 skipped\n", out)
        suite = tree.parse(junit).getroot()
        self.assertEqual((suite.get("tests"), suite.get("failures")), ("3", "2"))
        self.assertEqual([case.find("failure") is not None for case in suite],
                         [True, False, True])
        self.assertIn("still ran", suite[0].find("failure").get("message"))
        self.assertIn("arg 0 <hang>", suite[1].find("system-out").text)

    def test_poweroff_is_no_pass(self):
        lines, _ = self.lines(guest("ends"), "--append", "poweroff", status=1)
        self.assertEqual(lines, ["not ok 1 - ends"])

    def test_skip(self):
        lines, out = self.lines(guest("exit"), "--append", "value=77", status=0)
        self.assertRegex(lines[0], "^ok 1 - exit # SKIP ")
        self.assertIn("1 skipped", out)

    def test_expected_failures(self):
        arguments = [guest("exit"), guest("echo"), "--append", "value=3"]
        lines, _ = self.lines(*arguments, "--expect-fail", "exi?", status=0)
        self.assertRegex(lines[0], "^not ok 1 - exit # TODO ")
        lines, out = self.lines(*arguments, "--expect-fail", "e*", status=1)
        self.assertEqual(lines[1], "not ok 2 - echo")
        self.assertIn("passed, although", out)
        # An image that cannot even be started is no failure to be expected.
        lines, _ = self.lines(self.put("text"), "--expect-fail", "text", status=1)
        self.assertEqual(lines, ["not ok 1 - text"])

    def test_options_hold_for_every_image(self):
        lines, _ = self.lines(guest("smp"), guest("msr"), "--append", "cpus=2", "--cpus",
                              "2", status=0)
        self.assertEqual(lines, ["ok 1 - smp", "ok 2 - msr"])
        _, out = self.lines(guest("memory"), "--append", "ram=65536 high=0", "--memory",
                            "64M", status=0)
        self.assertIn("1 passed", out)

    def test_usage(self):
        self.assertEqual(run("test").returncode, 64)
        self.assertEqual(run("test", self.folder).returncode, 64)
        self.assertEqual(run("test", self.folder + "/none.elf").returncode, 66)
        self.assertEqual(run("test", guest("echo"), "--jobs", "0").returncode, 64)
        result = run("test", guest("echo"), "--expect-fail", "ehco")
        self.assertEqual(result.returncode, 64)
        self.assertIn("ehco", result.stderr)

    def test_no_kvm(self):
        result = run("test", guest("echo"), guest("exit"), "--kvm", "/nonexistent/kvm")
        self.assertEqual(result.returncode, 69, result.stderr)
        self.assertIn("Bail out!", result.stdout)


main()
