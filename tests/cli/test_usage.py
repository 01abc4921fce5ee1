#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The launcher's command line: messages and exit statuses that need no KVM."""
import glob
import json
import os
import re
import shutil
import tempfile
import unittest

import launcher
from launcher import SOURCE, main, run


class Usage(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def path(self, name, text=""):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as out:
            out.write(text)
        return path

    def assert_fails(self, status, message, *arguments, **more):
        """Exit @status, with exactly one line on stderr that holds @message."""
        result = run(*arguments, **more)
        self.assertEqual(result.returncode, status, result.stderr)
        self.assertIn(message, result.stderr)
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)

    def test_help(self):
        for arguments in (["--help"], ["run", "--help"], ["demo", "--help"],
                          ["check", "--help"], ["doctor", "--help"], ["schema", "--help"],
                          ["acpi", "--help"], ["dtb", "--help"]):
            result = run(*arguments)
            self.assertEqual(result.returncode, 0)
            self.assertIn("Usage: umbra", result.stdout)
            self.assertIn("triple fault", result.stdout)
        self.assertRegex(run("--version").stdout, r"^umbra \d+\.\d+\.\d+\n$")

    def test_usage_64(self):
        self.assert_fails(64, "a command is missing")
        self.assert_fails(64, "did you mean 'run'?", "rum")
        self.assert_fails(64, "did you mean --memory?", "run", "--memroy", "1G")
        self.assert_fails(64, "did you mean --no-files?", "check", "--no-file")
        self.assert_fails(64, "expected a size", "run", "--memory", "12Q")
        self.assert_fails(64, "--memory needs a value", "run", "--memory")
        self.assert_fails(64, "--dry-run takes no value", "run", "--dry-run=1")
        self.assert_fails(64, "no kernel is given", "run")
        self.assert_fails(64, "what is 'b.json' for", "run", "a.json", "b.json")
        self.assert_fails(64, "unknown option -x", "run", "-x")
        self.assert_fails(64, "name the configuration", "check")
        self.assert_fails(64, "expected SECONDS", "run", "--grace", "x")
        self.assert_fails(64, "did you mean \"readonly\"?", "run", "--disk", "a,readonyl")

    def test_config_65(self):
        bad = self.path("bad.json", '{"memroy": 1,\n "cpus": 999}')
        result = run("check", bad)
        self.assertEqual(result.returncode, 65)
        self.assertEqual(result.stderr.splitlines(), [
            f'umbra check: {bad}:1:2: $.memroy: unknown key "memroy"; did you mean "memory"?',
            f"umbra check: {bad}:2:10: $.cpus: out of range: expected a whole number from 1 "
            "to 255, got 999"])
        self.assertEqual(run("run", bad).returncode, 65)
        self.assert_fails(65, "no kernel is given", "run", self.path("empty.json", "{}"))
        self.assert_fails(65, "not valid JSON", "run", self.path("cut.json", '{"cpus": '))
        self.assert_fails(65, "is a folder", "run", "--kernel", self.folder)

    def test_missing_66(self):
        self.assert_fails(66, "cannot open config", "run", "/nowhere/x.json")
        self.assert_fails(66, "there is no kernel '/nowhere/k'", "run", "--kernel",
                          "/nowhere/k")
        kernel = self.path("k")
        self.assert_fails(66, "there is no disk", "run", "--kernel", kernel, "--disk",
                          "/nowhere/d")
        named = self.path("named.json", '{\n  "kernel": "absent"\n}')
        self.assert_fails(66, f"{named}:2:13: $.kernel: there is no kernel", "check", named)

    def test_no_kvm_69(self):
        for device in ("/nowhere/kvm", "/dev/null"):
            self.assert_fails(69, device, "demo", "--kvm", device)
            result = run("doctor", "--kvm", device, "--json")
            self.assertEqual(result.returncode, 69)
            self.assertEqual(json.loads(result.stdout)["kvm"], "absent")

    @unittest.skipUnless(os.geteuid() == 0, "only root can become somebody without rights")
    def test_permission_77(self):
        os.chmod(self.folder, 0o755)
        device = self.path("kvm")
        os.chmod(device, 0)
        # The build folder may be closed to others.
        umbra = shutil.copy(launcher.UMBRA, self.folder)
        os.chmod(umbra, 0o755)
        launcher.UMBRA, saved = umbra, launcher.UMBRA
        try:
            self.assert_fails(77, "no permission", "demo", "--kvm", device, user=65534)
            result = run("doctor", "--kvm", device, user=65534)
            self.assertEqual(result.returncode, 77)
            kernel = self.path("secret")
            os.chmod(kernel, 0)
            self.assert_fails(77, "no permission to read kernel", "run", "--kernel", kernel,
                              user=65534)
        finally:
            launcher.UMBRA = saved

    def test_dry_run(self):
        result = run("run", os.path.join(SOURCE, "configs/web.json"), "--memory", "2G",
                     "--no-rng", "--disk", "/more.img,readonly", "--append", "quiet",
                     "--dry-run")
        self.assertEqual(result.returncode, 0, result.stderr)
        config = json.loads(result.stdout)
        self.assertEqual(config["memory"], "2G")
        self.assertEqual(config["append"], "quiet")
        self.assertIs(config["rng"], False)
        self.assertEqual(len(config["disks"]), 2)
        self.assertEqual(config["disks"][0]["path"],
                         os.path.join(SOURCE, "configs/root.img"))
        self.assertEqual(config["name"], "web")
        # It reads back as it is.
        again = self.path("again.json", result.stdout)
        self.assertEqual(run("run", again, "--dry-run").stdout, result.stdout)

    def test_device_options(self):
        result = run("run", "--kernel", "k", "--disk",
                     "path=root.img,readonly,cache=direct", "--disk",
                     "path=b.img,overlay=discard", "--net", "user,forward=tcp:2222:22",
                     "--net", "tap=tap0", "--rng", "rate=64K", "--balloon",
                     "deflate-on-oom,target=64M", "--vsock",
                     "cid=3,path=v.sock", "--share", "path=/src,tag=src",
                     "--virtio-transport", "mmio", "--dry-run")
        self.assertEqual(result.returncode, 0, result.stderr)
        config = json.loads(result.stdout)
        self.assertEqual(config["virtio_transport"], "mmio")
        self.assertEqual(config["vsock"], {"cid": 3, "path": "v.sock"})
        self.assertEqual(config["rng"], {"rate": "64K"})
        self.assertEqual(config["balloon"], {"target": "64M", "deflate_on_oom": True,
                                             "reporting": False, "stats": "0s"})
        # A word that cannot be its value is the config file.
        for words in (["--rng", "x.json"], ["--balloon", "reporting"], ["--rng", "a=b"]):
            self.assertIn("cannot open config", run("run", *words, "--dry-run").stderr)
        self.assertEqual(config["net"][1]["tap"], "tap0")

    def test_examples(self):
        examples = [path for path in glob.glob(os.path.join(SOURCE, "configs/*.json"))
                    if not path.endswith("schema.json")]
        self.assertGreaterEqual(len(examples), 7)
        for path in examples:
            result = run("check", "--no-files", path)
            self.assertEqual((result.returncode, result.stderr), (0, ""), path)
        # With the files there, a plain check is content too.
        shutil.copy(os.path.join(SOURCE, "configs/linux.json"), self.folder)
        self.path("vmlinuz")
        self.path("initrd.img")
        self.assertEqual(run("check", os.path.join(self.folder, "linux.json")).returncode, 0)

    def test_schema(self):
        with open(os.path.join(SOURCE, "configs/schema.json"), encoding="utf-8") as stored:
            self.assertEqual(run("schema").stdout, stored.read())

    def test_tables(self):
        """ACPI and the device tree of a board, without KVM and without its files."""
        config = os.path.join(SOURCE, "configs/microvm.json")
        table = os.path.join(self.folder, "apic.aml")
        result = run("acpi", "--table", "APIC", "--out", table, "--cpus", "3", config)
        self.assertEqual(result.returncode, 0, result.stderr)
        with open(table, "rb") as text:
            apic = text.read()
        self.assertEqual(apic[:4], b"APIC")
        self.assertEqual(int.from_bytes(apic[4:8], "little"), len(apic))
        self.assertEqual(sum(apic) & 0xff, 0)
        self.assertEqual(run("acpi", "--out", self.folder, config).returncode, 0)
        self.assertTrue(os.path.exists(os.path.join(self.folder, "dsdt.aml")))
        tree = os.path.join(self.folder, "board.dtb")
        self.assertEqual(run("dtb", "--out", tree, config).returncode, 0)
        with open(tree, "rb") as text:
            self.assertEqual(text.read(4), b"\xd0\x0d\xfe\xed")
        self.assert_fails(64, "there is no ACPI table 'XYZ'", "acpi", "--table", "XYZ")
        # Describing a board opens nothing: no log file comes to be.
        log = os.path.join(self.folder, "log")
        result = run("acpi", "--serial", f"file:{log}", "--disk", "/nowhere/d", "--out",
                     self.folder)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertFalse(os.path.exists(log))

    def test_doctor_lines(self):
        """Every line that is not good names a remedy or needs none; JSON and table agree."""
        report = json.loads(run("doctor", "--json", "--kvm", "/nowhere").stdout)
        table = run("doctor", "--kvm", "/nowhere").stdout
        self.assertGreaterEqual(len(report["checks"]), 8)
        for check in report["checks"]:
            self.assertIn(check["name"], table)
            self.assertIn(check["status"], ("good", "note", "bad"))
            if check["status"] == "bad":
                self.assertIn("remedy", check)
            if "remedy" in check:
                self.assertRegex(table, re.escape("-> " + check["remedy"]))


main()
