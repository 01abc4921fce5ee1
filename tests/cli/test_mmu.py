#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""umbra mmu: its verbs, what they print and refuse."""
import json
import os
import re
import shutil
import struct
import subprocess
import tempfile
import unittest
import zlib
import xml.etree.ElementTree

from launcher import SOURCE, main, run


class Mmu(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def path(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as out:
            out.write(text)
        return path

    def ok(self, *arguments, **more):
        result = run("mmu", *arguments, **more)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def test_help(self):
        for verb in ([], ["walk"], ["explain"], ["run"], ["generate"], ["crossover"],
                     ["costs"], ["inspect"], ["record"]):
            self.assertIn("Usage: umbra mmu", self.ok(*verb, "--help"))

    def test_walk(self):
        rows = {(w["levels"], w["guest_pages"], w["nested_pages"]): w
                for w in json.loads(self.ok("walk", "--json"))["walks"]}
        self.assertEqual(rows[4, "4K", "4K"]["agile"], [4, 8, 12, 16, 24])
        self.assertEqual(rows[5, "4K", "4K"]["agile"], [5, 10, 15, 20, 25, 35])
        for row in rows.values():
            self.assertGreaterEqual(row["agile"][0], row["native"])  # the host's pages
            self.assertEqual(row["agile"][-1], row["nested"])
        walks = {key: row["nested"] for key, row in rows.items()}
        self.assertEqual([walks[4, "4K", "4K"], walks[5, "4K", "4K"], walks[4, "4K", "2M"],
                          walks[4, "2M", "2M"], walks[4, "1G", "1G"]], [24, 35, 19, 15, 8])

    def test_explain(self):
        text = self.ok("explain", "0x7f1234567abc")
        self.assertIn(" 24. ", text)
        self.assertNotIn(" 25. ", text)
        self.assertIn("not canonical", self.ok("explain", "0x800000000000"))

    def test_explain_trace(self):
        trace = self.path("trace", self.ok("generate", "churn", "--size", "1M",
                                           "--accesses", "5000"))
        text = self.ok("explain", "0x100000003000", "--trace", trace)
        self.assertIn(" 24. ", text)
        self.assertIn("after 24 references, a page of 4 KiB", text)
        text = self.ok("explain", "0x5000", "--trace", trace)
        self.assertIn("A page fault with error code 0x4", text)
        missing = run("mmu", "explain", "0x5000", "--trace", "/does/not/exist")
        self.assertEqual(missing.returncode, 66)

    def test_run(self):
        names = ["native", "nested", "shadow-wp", "shadow-unsync", "shadow-vtlb",
                 "shadow-agile"]
        options = ["--size", "1M", "--accesses", "5000"]
        report = json.loads(self.ok("run", "--generate", "churn", "--json", *options))
        self.assertEqual([c["name"] for c in report["configurations"]], names)
        trace = self.path("trace", self.ok("generate", "churn", *options))
        again = json.loads(self.ok("run", "--trace", trace, "--json"))
        self.assertEqual(report, again)
        one = json.loads(self.ok("run", "--trace", trace, "--policy", "wp", "--json"))
        self.assertEqual(one["configurations"], [report["configurations"][2]])
        rows = self.ok("run", "--trace", trace, "--csv").splitlines()
        self.assertEqual([row.split(",")[0] for row in rows], ["configuration"] + names)

    def test_trace(self):
        trace = self.path("trace", "==1== x\nI  04001000,3\n L 1ffefff000,8\n M 5ffc,8\n")
        report = json.loads(self.ok("run", "--trace", trace, "--policy", "native", "--json"))
        self.assertEqual(report["configurations"][0]["guest_faults"], 4)

    def test_real_program(self):
        """A shell that forks, traced by lackey, with its calls from strace of the same run."""
        calls = os.path.join(self.folder, "calls")
        command = ["strace", "-f", "-e", "trace=mmap,munmap,mprotect,fork,vfork,clone,clone3,"
                   "exit_group", "-o", calls, "valgrind", "--tool=lackey", "--trace-mem=yes",
                   "--log-file=" + os.path.join(self.folder, "T.%p"),
                   "sh", "-c", "(exit 0); (exit 0); echo done"]
        try:
            result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                    timeout=250, check=False)
        except FileNotFoundError as missing:
            self.skipTest(missing)
        if b"done" not in result.stdout:
            self.skipTest("strace of valgrind: " + result.stderr.decode()[-200:])
        with open(calls, encoding="utf-8") as lines:
            first = next(lines).split()[0]
        run_it = run("mmu", "run", "--json", "--strace", calls, "--trace",
                     os.path.join(self.folder, "T." + first))
        self.assertEqual(run_it.returncode, 0, run_it.stderr)
        self.assertGreater(int(re.search(r"\((\d+) system calls\)", run_it.stderr)[1]), 20)
        rows = {c["name"]: c for c in json.loads(run_it.stdout)["configurations"]}
        self.assertGreater(rows["native"]["accesses"], 100000)
        for name in ("guest_faults", "table_stores", "cr3_loads", "invlpgs"):
            self.assertEqual({row[name] for row in rows.values()}, {rows["native"][name]})
        self.assertGreaterEqual(rows["native"]["cr3_loads"], 2)  # the forks
        self.assertGreater(rows["native"]["table_stores"], rows["native"]["guest_faults"])
        self.assertLess(rows["shadow-unsync"]["vm_exits"], rows["shadow-wp"]["vm_exits"])
        self.assertEqual(rows["shadow-vtlb"]["exit_table_write"], 0)

    def test_costs(self):
        costs = self.ok("costs")
        self.assertIn("cycles.exit", costs)
        path = self.path("costs", costs.replace("= 1200", "= 4321"))
        self.assertIn("4321", self.ok("costs", "--costs", path))
        bad = run("mmu", "costs", "--costs", self.path("bad", "cycles.exit = x\n"))
        self.assertEqual(bad.returncode, 65)
        self.assertIn("bad:1:", bad.stderr)

    def test_costs_measured(self):
        costs = self.ok("costs", "--measure")
        measured = dict(re.findall(r"^(\S+) += (\d+) +# measured", costs, re.M))
        self.assertGreater(int(measured["cycles.line.l1"]), 0)
        self.assertIn("cycles.memory", measured)
        again = self.ok("costs", "--costs", self.path("measured", costs))
        self.assertIn("= %s " % measured["cycles.memory"], again)

    def test_crossover(self):
        svg = os.path.join(self.folder, "curve.svg")
        curve = json.loads(self.ok("crossover", "--json", "--size", "16M", "--accesses",
                                   "20000", "--quiet", "--svg", svg))
        updates = [point["updates_per_miss"] for point in curve["points"]]
        self.assertEqual(updates, sorted(updates))
        self.assertGreater(curve["points"][-1]["shadow-wp"], curve["points"][-1]["nested"])
        self.assertTrue(xml.etree.ElementTree.parse(svg).getroot().tag.endswith("svg"))

    def test_log(self):
        logs = os.path.join(SOURCE, "tests", "fuzz", "corpus", "fuzz_ptlog")
        with open(os.path.join(logs, "plain0"), "rb") as source:
            log = source.read()[1:]
        path = os.path.join(self.folder, "log")
        with open(path, "wb") as out:
            out.write(log)
        names = ["native", "nested", "shadow-wp", "shadow-unsync", "shadow-vtlb",
                 "shadow-agile"]
        report = json.loads(self.ok("run", "--log", path, "--json"))
        self.assertEqual([c["name"] for c in report["configurations"]], names)
        for configuration in report["configurations"]:
            self.assertEqual(configuration["table_stores"], 3)
            self.assertEqual(configuration["invlpgs"], 2)
        self.assertEqual((report["log"]["stops"], report["log"]["invlpgs"]), (2, 2))
        self.assertEqual(report["kvm_statistics"], {})
        self.assertIn("2 stops", self.ok("run", "--log", path, "--policy", "wp"))
        for name, status in ((b"pf_fixed", 0), (b'a"b', 65)):
            stat = struct.pack("<48sQ", name, 17)
            head = struct.pack("<III", 4, len(stat), len(stat))
            chunk = head + struct.pack("<I", zlib.crc32(head + stat)) + stat
            with open(path, "wb") as out:
                out.write(log[:-20] + chunk + log[-20:])  # in front of the end
            result = run("mmu", "run", "--log", path, "--json", "--policy", "agile")
            self.assertEqual(result.returncode, status, result.stderr)
            if status == 0:
                self.assertEqual(json.loads(result.stdout)["kvm_statistics"],
                                 {"pf_fixed": {"kvm": 17, "shadow-agile": 2}})
        for size in (0, 8, 20, len(log) // 2, len(log) - 1):
            with open(path, "wb") as out:
                out.write(log[:size])
            self.assertEqual(run("mmu", "run", "--log", path).returncode, 65, size)
        self.assertEqual(run("mmu", "run", "--log", "/does/not/exist").returncode, 66)

    def test_usage(self):
        for arguments in ([], ["wlak"], ["run"], ["run", "--generate", "x"],
                          ["run", "--trace", "a", "--generate", "fork"],
                          ["run", "--trace", "a", "--log", "b"], ["record"],
                          ["record", "x", "--output", "y"],
                          ["run", "--generate", "fork", "--policy", "x"],
                          ["run", "--generate", "fork", "--size", "1"],
                          ["explain"], ["explain", "x"], ["generate"]):
            self.assertEqual(run("mmu", *arguments).returncode, 64, arguments)
        self.assertEqual(run("mmu", "run", "--trace", "/does/not/exist").returncode, 66)


main()
