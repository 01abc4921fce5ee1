#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A balloon on this host's KVM, led over the control socket, its effect measured on the host:
what is lent and what is reported free leaves the VM's process; what comes back does so when
it is touched. balloon.py UMBRA BALLOON-GUEST CONFIG"""
import atexit
import json
import os
import subprocess
import sys
import tempfile
import time

umbra, guest, config = sys.argv[1:4]
os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp()
MIB = 1 << 20
PAGE = 4096
POOL = 32 * MIB


def check(what, truth):
    if not truth:
        sys.exit(f"FAIL: {what}")
    print(f"ok: {what}", flush=True)


class VM:
    def __init__(self, name, *options):
        self.name = name
        self.process = subprocess.Popen(
            [umbra, "run", config, "--name", name, "--kernel", guest, "--timeout", "100s", *options],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        atexit.register(self.process.kill)

    def expect(self, text):
        """Read the guest's output up to a line that has @text."""
        seen = ""
        for line in self.process.stdout:
            seen += line
            if text in line:
                return line
        sys.exit(f"FAIL: the guest did not say '{text}':\n{seen}")

    def ctl(self, method, *words):
        done = subprocess.run([umbra, "ctl", self.name, method, *words], capture_output=True,
                              text=True)
        if done.returncode != 0:
            sys.exit(f"FAIL: {method} {words}: {done.stderr}")
        return json.loads(done.stdout)

    def refused(self, method, *words):
        return subprocess.run([umbra, "ctl", self.name, method, *words], capture_output=True,
                              text=True).stderr

    def host_memory(self):
        """RSS of the process, and what the memfds of its guest hold (0: private memory)."""
        pid = self.process.pid
        with open(f"/proc/{pid}/status") as status:
            lines = dict(line.split(":", 1) for line in status)
        resident = sum(int(lines[key].split()[0]) << 10 for key in ("RssAnon", "RssShmem"))
        held = 0
        for fd in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{fd}"
            try:
                if os.readlink(path).startswith("/memfd:umbra-guest"):
                    held += os.stat(path).st_blocks * 512
            except OSError:
                pass
        return resident, held

    def balloon(self, target, pages):
        self.ctl("balloon.set", f"target={target}")
        self.expect(f"balloon {pages} pages")


def near(what, got, wanted, slack=MIB):
    check(f"{what}: {got / MIB:.1f} MiB, {wanted / MIB:.1f} expected", abs(got - wanted) <= slack)


def play(name, private, *options):
    vm = VM(name, *options)
    vm.expect(f"filled {POOL // PAGE} pages")
    full, held = vm.host_memory()
    check(f"{name}: the pool is there ({full / MIB:.1f} MiB)", full >= POOL)
    check("in a memfd, or not", (held == 0) == private)

    def compare(what, less):
        now, now_held = vm.host_memory()
        near(f"{name}: {what}, RSS", full - now, less)
        if not private:
            near(f"{name}: {what}, memfd", held - now_held, less)
        near(f"{name}: {what}, as umbra says", vm.ctl("balloon.stats")["resident"],
             now_held if not private else now, 4 * MIB)

    vm.balloon("24M", 24 * MIB // PAGE)
    compare("24 MiB lent", 24 * MIB)
    stats = vm.ctl("balloon.stats")
    check("target and actual", stats["target"] == stats["actual"] == 24 * MIB)
    check("released", stats["released"] == 24 * MIB)
    check("the driver is there", stats["driver_ready"])
    # The guest's own numbers follow within a few questions.
    for _ in range(200):
        numbers = vm.ctl("balloon.stats")["guest"]
        if numbers.get("free") == POOL - 24 * MIB:
            break
        time.sleep(0.02)
    check("the guest's free memory", numbers["free"] == POOL - 24 * MIB)
    check("the guest's memory", numbers["total"] >= POOL)
    vm.balloon(8 * MIB, 8 * MIB // PAGE)
    compare("8 MiB lent, the rest not touched yet", 24 * MIB)
    vm.balloon(0, 0)
    compare("all back and written", 0)
    vm.ctl("balloon.set", f"target={2 * PAGE}")
    vm.expect("reported")
    compare("all reported free", POOL)
    check("reported", vm.ctl("balloon.stats")["reported"] == POOL)
    check("more than there is", "more than the guest's memory" in
          vm.refused("balloon.set", "target=1G"))
    check("no size", "must be given as a size" in vm.refused("balloon.set", "target=much"))
    check("no such disk", "no virtio device" in vm.refused("disk.resize", "disk=disk0"))
    check("not a disk", "is not a disk" in vm.refused("disk.resize", "disk=balloon"))
    check("not a network", "is not a network" in
          vm.refused("net.set_link", "net=balloon", "up=true"))
    vm.ctl("pause")
    vm.ctl("balloon.set", f"target={PAGE}")
    check("targets may change in a pause", vm.ctl("balloon.stats")["target"] == PAGE)
    vm.ctl("resume")
    vm.process.stdout.read()
    check(f"{name}: the guest is content", vm.process.wait() == 1)


play("pci-split", False, "--hugepages", "off")
play("mmio-packed", False, "--append", "packed event", "--virtio-transport", "mmio",
     "--hugepages", "off")
play("pci-split in huge pages", True)
play("pci-packed", True, "--append", "packed indirect", "--mergeable")
play("mmio-split", True, "--append", "indirect event", "--virtio-transport", "mmio", "--mergeable",
     "--cpus", "2")
