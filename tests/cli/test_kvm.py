#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The launcher with a running guest: ends, signals, and the terminal put back."""
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

import launcher
from launcher import Terminal, main, run

# Flat guests of a few bytes, the same in every processor mode.
HALT = b"\xf4\xeb\xfd"                                  # hlt; jmp back to it
EXIT_5 = b"\xb0\x05\xe6\xf4" + HALT                     # write 5 to the debug-exit port
READY = b"\xb0\x21\x66\xba\xf8\x03\xee" + HALT          # "!" to COM1 (32- and 64-bit)


class Guests(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def flat(self, code):
        path = os.path.join(self.folder, "guest.bin")
        with open(path, "wb") as out:
            out.write(code)
        return ["--kernel", path, "--kernel-format", "flat", "--kernel-load", "0x100000",
                "--kernel-entry", "0x100000", "--memory", "16M"]

    def test_poweroff(self):
        result = run("demo")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("Ring 3", result.stdout)
        self.assertIn("powered off", result.stderr)
        self.assertEqual(run("demo", "--quiet").stderr, "")

    def test_debug_exit(self):
        result = run("run", *self.flat(EXIT_5))
        self.assertEqual(result.returncode, 11, result.stderr)
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)

    def test_deadline(self):
        result = run("run", "--timeout", "200ms", *self.flat(HALT))
        self.assertEqual(result.returncode, 124, result.stderr)

    def test_bad_kernel(self):
        path = os.path.join(self.folder, "text")
        with open(path, "w", encoding="utf-8") as out:
            out.write("this is not a kernel\n" * 100)
        self.assertEqual(run("run", "--kernel", path).returncode, 65)

    def test_stats(self):
        stats = os.path.join(self.folder, "stats.json")
        self.assertEqual(run("run", "--stats", stats, *self.flat(EXIT_5)).returncode, 11)
        with open(stats, encoding="utf-8") as text:
            self.assertIsInstance(json.load(text), dict)

    def start(self, *arguments, **more):
        """A guest that has printed "!" and rests."""
        child = subprocess.Popen([launcher.UMBRA, "run", *arguments, *self.flat(READY)],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
        self.assertEqual(child.stdout.read(1), b"!")
        return child

    def test_signals(self):
        """Without a power button to press the guest is stopped at once."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            child = self.start(stdin=subprocess.DEVNULL)
            child.send_signal(number)
            _, errors = child.communicate(timeout=launcher.PATIENCE)
            self.assertEqual(child.returncode, 128 + number, errors)
            self.assertIn(b"stopped by", errors)

    def test_reader_gone(self):
        """Output that nobody reads any more ends the run."""
        path = self.flat(b"\x66\xba\xf8\x03\xb0\x21\xee\xeb\xfd")  # "!" for ever
        child = subprocess.Popen([launcher.UMBRA, "run", *path], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(child.stdout.read(1), b"!")
        child.stdout.close()
        child.wait(launcher.PATIENCE)
        self.assertEqual(child.returncode, 128 + signal.SIGPIPE)
        child.stderr.close()

    def test_slow_reader(self):
        """A full pipe does not keep SIGTERM from stopping the guest."""
        path = self.flat(b"\x66\xba\xf8\x03\xb0\x21\xee\xeb\xfd")
        reader, writer = os.pipe()
        child = subprocess.Popen([launcher.UMBRA, "run", *path], stdin=subprocess.DEVNULL,
                                 stdout=writer, stderr=subprocess.PIPE)
        os.close(writer)
        self.assertEqual(os.read(reader, 1), b"!")
        time.sleep(0.5)
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=launcher.PATIENCE)
        self.assertEqual(child.returncode, 128 + signal.SIGTERM)
        os.close(reader)

    def test_late_reader(self):
        """More output than fits anywhere on the way, read late: all of it arrives."""
        count = 150000
        code = (b"\xb9" + count.to_bytes(4, "little") +    # mov ecx, count
                b"\x66\xba\xf8\x03\xb0\x21\xee\xe2\xfd" + EXIT_5)  # loop: out
        child = subprocess.Popen([launcher.UMBRA, "run", *self.flat(code)],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE)
        time.sleep(1)
        output, errors = child.communicate(timeout=launcher.PATIENCE)
        self.assertEqual(child.returncode, 11, errors)
        self.assertEqual(output, b"!" * count)

    # ---- The terminal ----------------------------------------------------------------------

    def terminal(self, *arguments):
        terminal = Terminal("run", *arguments, *self.flat(READY))
        pid = terminal.launcher_pid()
        terminal.read_until(b"!")
        terminal.wait_raw()
        return terminal, pid

    def assert_ends(self, terminal, status):
        self.assertEqual(terminal.finish(), (status, True))

    def test_terminal_signals(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            terminal, pid = self.terminal()
            os.kill(pid, number)
            self.assert_ends(terminal, 128 + number)

    def test_terminal_closed(self):
        """A closed window ends the run, also under a shell that ignores SIGHUP: no one else
        gets it then."""
        terminal, launcher_pid = self.terminal()
        os.close(terminal.master)
        end = time.monotonic() + launcher.PATIENCE
        while os.waitpid(terminal.pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > end:
                os.kill(launcher_pid, signal.SIGKILL)
                self.fail("it goes on without its terminal")
            time.sleep(0.05)

    def test_terminal_ctrl_c(self):
        terminal, _ = self.terminal()
        terminal.write(b"\x03")
        self.assert_ends(terminal, 130)

    def test_terminal_escape(self):
        terminal, _ = self.terminal("--ctrl-c", "guest")
        terminal.write(b"\x03\x01h")
        terminal.read_until(b"Ctrl-A x")
        terminal.write(b"\x01p")
        terminal.read_until(b"power button")
        terminal.write(b"\x01x")
        self.assert_ends(terminal, 130)

    def test_terminal_killed(self):
        """Even kill -9 leaves a usable terminal."""
        for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT):
            terminal, pid = self.terminal()
            os.kill(pid, number)
            self.assert_ends(terminal, -number)

    def test_terminal_suspend(self):
        terminal, pid = self.terminal()
        os.kill(pid, signal.SIGTSTP)
        terminal.wait_cooked()
        os.kill(pid, signal.SIGCONT)
        terminal.wait_raw()
        os.kill(pid, signal.SIGTERM)
        self.assert_ends(terminal, 128 + signal.SIGTERM)

    def test_terminal_stuck(self):
        """Keys, commands and signals while the terminal takes no more output."""
        terminal = Terminal("run", *self.flat(b"\x66\xba\xf8\x03\xb0\x21\xee\xeb\xfd"))
        pid = terminal.launcher_pid()
        terminal.read_until(b"!")
        terminal.wait_raw()
        time.sleep(4)  # "!" for ever: all is full on the way
        os.kill(pid, signal.SIGTSTP)
        terminal.wait_cooked()
        os.kill(pid, signal.SIGCONT)
        terminal.wait_raw()
        terminal.write(b"abc\x01s")
        time.sleep(0.2)  # they are read
        terminal.read_until(b"by_reason")
        os.kill(pid, signal.SIGTERM)
        self.assert_ends(terminal, 128 + signal.SIGTERM)

    @unittest.skipUnless("UMBRA_GUESTS" in os.environ, "no micro guests here")
    def test_terminal_virtio(self):
        """A virtio console at the terminal: its output, what is typed, Ctrl-A, its size."""
        guest = ["--kernel", os.path.join(os.environ["UMBRA_GUESTS"], "virtio_console.elf"),
                 "--append", "lines=2 sizes=2 echo=1", "--memory", "64M"]
        for serial in ([], ["--serial", "none"]):
            terminal = Terminal("run", *guest, "--console", "hvc0,end=stdio", *serial,
                                size=(132, 43))
            terminal.wait_raw()
            terminal.read_until(b"hvc0 line 1")
            terminal.read_until(b"size 132 43")
            terminal.resize(99, 50)
            terminal.read_until(b"size 99 50")
            terminal.read_until(b"ready")
            terminal.write(b"some \x01awords\n")
            text = terminal.read_until(b"read <some \x01words>")
            self.assertEqual(b"port 0 is hvc0" in text, not serial)
            self.assert_ends(terminal, 1)  # the debug-exit port
        terminal = Terminal("run", *guest, "--console", "hvc0,end=stdio", "--serial", "none")
        terminal.wait_raw()
        terminal.read_until(b"hvc0 line 1")
        terminal.write(b"\x01x")
        self.assert_ends(terminal, 130)

    @unittest.skipUnless("UMBRA_GUESTS" in os.environ, "no micro guests here")
    def test_virtio_pipe(self):
        """Without a terminal: stdin and stdout are the virtio console."""
        result = subprocess.run(
            [launcher.UMBRA, "run", "--kernel",
             os.path.join(os.environ["UMBRA_GUESTS"], "virtio_console.elf"), "--append",
             "lines=1 echo=1", "--memory", "64M", "--console", "main,end=stdio",
             "--serial", "none", "--quiet"], input=b"typed\n", stdout=subprocess.PIPE,
            timeout=launcher.PATIENCE)
        self.assertEqual(result.stdout, b"main line 0\nready\nread <typed>\n")


main()
