# SPDX-License-Identifier: MIT
"""Running the launcher in tests: plainly, and on a terminal of its own."""
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import unittest

UMBRA, SOURCE = sys.argv[1], sys.argv[2]
PATIENCE = 60  # seconds; only a hang lasts as long


def run(*arguments, cwd=None, stdin=subprocess.DEVNULL, user=None):
    """Run to the end; a CompletedProcess with text output."""
    return subprocess.run([UMBRA, *arguments], cwd=cwd, stdin=stdin, user=user, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=PATIENCE)


class Terminal:
    """The launcher as the foreground job of a shell on a pseudo-terminal."""

    def __init__(self, *arguments, size=None):
        self.output = b""
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            if size:
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
            # A parent that outlives the launcher, as a shell does: it keeps the terminal.
            child = os.fork()
            if child == 0:
                os.setpgid(0, 0)
                signal.signal(signal.SIGTTOU, signal.SIG_IGN)
                os.tcsetpgrp(0, os.getpid())
                signal.signal(signal.SIGTTOU, signal.SIG_DFL)
                os.execv(UMBRA, [UMBRA, *arguments])
            os.write(1, b"<pid %d>" % child)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            _, status = os.waitpid(child, 0)
            time.sleep(0.3)  # whoever restores the terminal has done it
            mode = termios.tcgetattr(0)
            os.write(1, b"<status %d lflag %d iflag %d>" % (status, mode[3], mode[0]))
            os._exit(0)
        mode = termios.tcgetattr(self.master)
        self.lflag, self.iflag = mode[3], mode[0]

    def read_until(self, text):
        """Read until @text has come; everything read so far."""
        end = time.monotonic() + PATIENCE
        while text not in self.output:
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise AssertionError(f"no {text!r} in {self.output!r}")
            try:
                chunk = os.read(self.master, 4096)
            except OSError:
                chunk = b""
            if not chunk:
                raise AssertionError(f"the terminal ended without {text!r}: {self.output!r}")
            self.output += chunk
        return self.output

    def resize(self, columns, rows):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def write(self, text):
        os.write(self.master, text)

    def is_raw(self):
        return not termios.tcgetattr(self.master)[3] & termios.ICANON

    def wait_raw(self):
        end = time.monotonic() + PATIENCE
        while not self.is_raw():
            if time.monotonic() > end:
                raise AssertionError("the terminal did not become raw")
            time.sleep(0.01)

    def wait_cooked(self):
        end = time.monotonic() + PATIENCE
        while self.is_raw():
            if time.monotonic() > end:
                raise AssertionError("the terminal stays raw")
            time.sleep(0.01)

    def launcher_pid(self):
        return int(self.read_until(b">").split(b"<pid ")[1].split(b">")[0])

    def finish(self):
        """(exit status or -signal, the terminal is as it was)."""
        text = self.read_until(b" iflag ")
        while not text.rstrip().endswith(b">"):
            text += os.read(self.master, 4096)
        words = text.split(b"<status ")[1].split(b">")[0].split()
        os.waitpid(self.pid, 0)
        os.close(self.master)
        status = os.waitstatus_to_exitcode(int(words[0]))
        return status, int(words[2]) == self.lflag and int(words[4]) == self.iflag


def main():
    unittest.main(argv=[sys.argv[0]], verbosity=2)
