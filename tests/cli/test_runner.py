#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""umbra test: what is run, what counts as a pass, TAP, junit, exit statuses."""
import os
import re
import shutil
import tempfile
import unittest
import xml.etree.ElementTree as tree

from launcher import main, run

GUESTS = os.environ["UMBRA_GUESTS"]

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

    def test_arguments_of_an_image(self):
        lines, _ = self.lines(guest("exit") + " value=0", guest("exit") + " value=3",
                              guest("exit"), "--append", "value=0", status=1)
        self.assertEqual(lines, ["ok 1 - exit", "not ok 2 - exit", "ok 3 - exit"])
        self.assertEqual(run("test", guest("none") + " value=0").returncode, 66)

    def list(self, text):
        for name in ("exit", "smp", "echo", "memory", "ends"):
            shutil.copy(guest(name), os.path.join(self.folder, name + ".flat"))
        path = os.path.join(self.folder, "unittests.cfg")
        with open(path, "w", encoding="utf-8") as out:
            out.write(text)
        return path

    def test_unittests_cfg(self):
        path = self.list("""
# a comment
[pass]
file = exit.flat
extra_params = -append value=0

[fail]
file = exit.flat
extra_params = -cpu max -append "value=3 more"

[words]
file = echo.flat
extra_params = -append 'one "two three"'
[processors]
file = smp.flat
smp = 2
extra_params = -append cpus=2 -machine kernel_irqchip=split
[expression]
file = smp.flat
smp = $(($MAX_SMP > 1 ? 2 : 1))
extra_params = -append cpus=%d
[size]
file = memory.flat
extra_params = -m 64 -append 'ram=65536 high=0'
[lines]
file = exit.flat
test_args = \"\"\"value=0
    second\"\"\"
groups = slow others
[deadline]
file = ends.flat
extra_params = -append hang
timeout = 1
[other-arch]
file = exit.flat
arch = i386
[other-accel]
file = exit.flat
accel = tcg
[by-hand]
file = exit.flat
extra_params = -append value=0
groups = nodefault
[device]
file = exit.flat
extra_params = -device pci-testdev
[absent]
file = absent.flat
[unmet]
file = exit.flat
check = /proc/sys/kernel/ostype=Plan9
[met]
file = exit.flat
extra_params = -append value=0
check = /proc/sys/kernel/ostype=Linux
""" % min(2, os.cpu_count()))
        lines, out = self.lines(self.folder, status=1)
        self.assertEqual(
            [re.sub(r"/.*/", "", line) for line in lines],
            ["ok 1 - pass", "not ok 2 - fail", "ok 3 - words", "ok 4 - processors",
             "ok 5 - expression", "ok 6 - size", "ok 7 - lines", "not ok 8 - deadline",
             "ok 9 - other-arch # SKIP it is for arch i386",
             "ok 10 - other-accel # SKIP it is for accel tcg",
             "ok 11 - by-hand # SKIP it is in group nodefault: ask for it by --group",
             "ok 12 - device # SKIP it asks for QEMU's -device pci-testdev",
             "ok 13 - absent # SKIP there is no absent.flat",
             "ok 14 - unmet # SKIP ostype is not Plan9 here", "ok 15 - met"])
        self.assertIn("#   the guest still ran after 1.000 s\n", out)
        self.assertIn("# 7 passed, 2 failed, 0 failed as expected, 6 skipped\n", out)
        lines, _ = self.lines("--group", "nodefault", path, status=0)
        self.assertEqual(lines, ["ok 1 - by-hand"])
        lines, _ = self.lines("--group", "others", path, status=0)
        self.assertEqual(lines, ["ok 1 - lines"])
        self.assertEqual(run("test", "--group", "nobody", path).returncode, 64)

    def test_cpu_features_of_a_list(self):
        path = self.list("""
[unknown]
file = exit.flat
extra_params = -cpu max,+there-is-none -append value=0
[masked]
file = exit.flat
extra_params = -cpu host,-avx512f,umip=off -append value=0
[value]
file = exit.flat
extra_params = -cpu host,family=6 -append value=0
""")
        lines, _ = self.lines(path, status=0)
        self.assertRegex(lines[0], "^ok 1 - unknown # SKIP .*there_is_none")
        self.assertEqual(lines[1], "ok 2 - masked")
        self.assertEqual(lines[2], "ok 3 - value # SKIP it asks for -cpu family=6")

    def test_malformed_lists(self):
        for text, line in (("file = x\n", 1), ("[a]\nfile\n", 2), ("\n[a\n", 2),
                           ("[a]\nx = \"\"\"never\nends\n", 4)):
            result = run("test", self.list(text))
            self.assertEqual(result.returncode, 65, result.stderr)
            self.assertIn("unittests.cfg:%d:" % line, result.stderr)

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
