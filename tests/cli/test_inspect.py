#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""umbra mmu inspect: guests of its own, running VMs, cores; KVM agrees with the walker."""
import json
import os
import shutil
import struct
import subprocess
import tempfile
import unittest

from launcher import UMBRA, main, run

GUEST = ["--kernel", os.path.join(os.environ["UMBRA_GUESTS"], "ends.elf"), "--append", "hang",
         "--memory", "64M"]


class Inspect(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def report(self, *arguments):
        result = run("mmu", "inspect", "--json", *arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def judge(self, report):
        space = report["spaces"][0]
        self.assertEqual(space["origin"], "loaded")
        self.assertEqual(space["pages"]["all"], space["pages"]["4K"] + space["pages"]["2M"])
        self.assertEqual(space["bytes"], sum(r["length"] for r in space["ranges"]))
        self.assertEqual(space["bytes"], 4 << 30)  # all that this guest maps, one to one
        self.assertTrue(all(r["gpa"] == r["address"] for r in space["ranges"]))
        self.assertEqual(space["tables"]["4"], 1)
        self.assertEqual(space["write_execute"], space["pages"]["all"])
        self.assertEqual(space["kvm_translate"]["different"], 0)
        shadow = space["shadow"]
        self.assertEqual(shadow["bytes"], 4096 * sum(shadow["pages"].values()))
        self.assertGreater(shadow["leaves"]["2M"], 20)
        return space

    def test_own_guest(self):
        space = self.judge(self.report(*GUEST, "--until", "ready"))
        self.assertEqual(space["kvm_translate"]["pages"], space["pages"]["all"])
        self.assertEqual(space["kvm_translate"]["holes"], 1)
        text = run("mmu", "inspect", *GUEST, "--until", "ready")
        self.assertIn("u rwx", text.stdout)
        self.assertIn("W+X", text.stdout)
        self.assertIn("ready", text.stderr)  # the guest's console

    def test_before_paging(self):
        text = run("mmu", "inspect", *GUEST).stdout
        self.assertIn("paging is off", text)

    def test_running_vm_and_core(self):
        name, core = f"inspect-{os.getpid()}", os.path.join(self.folder, "core")
        vm = subprocess.Popen([UMBRA, "run", *GUEST, "--cpus", "2", "--name", name],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL)
        try:
            while b"ready" not in vm.stdout.readline():
                self.assertIsNone(vm.poll())
            report = self.report(name, "--sample", "3", "--cr3", "0x100000000000")
            self.judge({"spaces": report["spaces"][1:]})
            self.assertEqual(report["spaces"][0]["origin"], "named")
            self.assertEqual(report["spaces"][0]["unbacked"], 1)
            self.assertEqual(report["cpus"], 2)
            status = json.loads(run("ctl", name, "status").stdout)
            self.assertEqual(status["state"], "running")
            run("ctl", name, "pause")  # who paused it goes on deciding
            self.assertEqual(self.report(name, "--check", "7")["spaces"][0]
                             ["kvm_translate"]["pages"], 293)
            self.assertEqual(json.loads(run("ctl", name, "status").stdout)["state"], "paused")
            # KVM's walks set accessed flags; nothing of it is left.
            accessed = [self.report(name)["spaces"][0]["accessed"] for _ in range(2)]
            self.assertEqual(accessed, [report["spaces"][1]["accessed"]] * 2)
            self.assertLess(accessed[0], 100)
            self.assertEqual(run("core", name, core).returncode, 0)
        finally:
            run("stop", "--now", name)
            vm.wait(30)
            vm.stdout.close()
        space = self.judge(self.report("--core", core))
        self.assertEqual(space["kvm_translate"]["pages"], 0)  # a core has no KVM to ask
        self.damaged(core)

    def damaged(self, core):
        """Cut and changed cores are refused or read, never more."""
        with open(core, "rb") as source:
            head = bytearray(source.read(65536))
        for size in (0, 10, 64, 100, 500, 5000):
            path = os.path.join(self.folder, "cut")
            with open(path, "wb") as out:
                out.write(head[:size])
            self.assertEqual(run("mmu", "inspect", "--core", path).returncode, 65, size)
        shutil.copyfile(core, path)
        for offset, value in ((32, b"\xff" * 8), (56, b"\xff\xff"), (64 + 8, b"\xff" * 8),
                              (64 + 32, b"\xff" * 8), (64 + 56 + 24, struct.pack("<Q", 12345))):
            with open(path, "r+b") as out:
                out.seek(offset)
                out.write(value)
            status = run("mmu", "inspect", "--core", path, "--summary").returncode
            self.assertIn(status, (0, 65), offset)
            with open(path, "r+b") as out:
                out.write(head[:4096])

    def test_record(self):
        log = os.path.join(self.folder, "log")
        result = run("mmu", "record", *GUEST, "--every", "20", "--until", "ready",
                     "--output", log)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("stops over", result.stderr)
        report = run("mmu", "run", "--log", log, "--json")
        self.assertEqual(report.returncode, 0, report.stderr)
        stores = {c["table_stores"] for c in json.loads(report.stdout)["configurations"]}
        self.assertEqual(len(stores), 1)
        self.assertGreaterEqual(min(stores), 2048)  # all that this guest maps, 2 MiB each
        report = self.report(*GUEST, "--until", "ready", "--log", log)
        self.assertEqual(len(report["spaces"]), 1)  # the same root, loaded again
        self.judge(report)
        # To the guest's end.
        result = run("mmu", "record", "--kernel", os.path.join(os.environ["UMBRA_GUESTS"],
                     "exit.elf"), "--append", "value=7", "--output", log)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("the run ended", result.stderr)
        self.assertEqual(run("mmu", "run", "--log", log).returncode, 0)

    def test_usage(self):
        for arguments in ([], ["a", "b"], ["a", "--core", "b"], ["a", "--check", "x"],
                          [*GUEST, "--host-pages", "3K"]):
            self.assertEqual(run("mmu", "inspect", *arguments).returncode, 64, arguments)
        self.assertEqual(run("mmu", "inspect", "no-such-vm").returncode, 66)
        self.assertEqual(run("mmu", "inspect", "--core", "/does/not/exist").returncode, 66)
        late = run("mmu", "inspect", *GUEST, "--until", "never said", "--after", "300")
        self.assertNotEqual(late.returncode, 0)
        self.assertIn("never said", late.stderr)


main()
