#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The control socket of a running VM: methods, notifications, and clients that mean harm.
control.py UMBRA ENDS-GUEST"""
import atexit
import base64
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time

umbra, guest = sys.argv[1:3]
runtime = tempfile.mkdtemp()
os.environ["XDG_RUNTIME_DIR"] = runtime
path = runtime + "/umbra/t.sock"
vm = subprocess.Popen([umbra, "run", "--name", "t", "--kernel", guest, "--append", "hang",
                       "--memory", "64M", "--cpus", "2", "--timeout", "120s"],
                      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


atexit.register(vm.kill)


def check(what, truth):
    if not truth:
        sys.exit(f"FAIL: {what}")
    print(f"ok: {what}")


class Client:
    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.settimeout(60)
        self.file = self.socket.makefile("rb")

    def line(self, text):
        self.socket.sendall(text + b"\n")

    def message(self):
        return json.loads(self.file.readline())

    def call(self, method, **params):
        self.line(json.dumps({"jsonrpc": "2.0", "id": 7, "method": method,
                              "params": params}).encode())
        while True:
            reply = self.message()
            if reply.get("id") == 7:
                return reply


def code(reply):
    return reply.get("error", {}).get("code")


deadline = time.time() + 60
while not os.path.exists(path) and time.time() < deadline:
    time.sleep(0.02)
check("the socket is private", os.stat(path).st_mode & 0o777 == 0o600)
client = Client()
check("status", client.call("status")["result"]["cpus"] == 2)
methods = {m["name"]: m for m in client.call("rpc.discover")["result"]["methods"]}
check("discover lists its methods", {"status", "stop", "console.attach"} <= set(methods))

# Console: the backlog and new output come as notifications.
client.line(b'{"jsonrpc":"2.0","id":1,"method":"console.attach","params":{"backlog":65536}}')
seen = b""
while b"ready" not in seen:
    reply = client.message()
    if reply.get("method") == "console.output":
        seen += base64.b64decode(reply["params"]["data"])
check("console output arrives", b"ending by hang" in seen)
check("console input", client.call("console.send", data=base64.b64encode(b"x").decode())
      ["result"] == {})
check("console input is checked", code(client.call("console.send", data="%%")) == -32000)
check("a console by name", client.call("console.send", name="com1", data="eA==")
      .get("result") == {})
check("no console of that name", "did you mean" in client.call(
    "console.send", name="com11", data="eA==")["error"]["message"])

# Memory and registers; registers only while paused.
check("registers need a pause", code(client.call("registers")) == -32000)
check("pause", client.call("pause")["result"] == {})
check("registers", client.call("registers", vcpu=1)["result"]["rip"].startswith("0x"))
check("no such vCPU", code(client.call("registers", vcpu=9)) == -32000)
memory = client.call("memory.read", address=0x100000, length=16)["result"]["data"]
check("memory", len(base64.b64decode(memory)) == 16)
client.call("memory.write", address=0x3000000, data=base64.b64encode(b"written").decode())
check("memory.write", base64.b64decode(client.call("memory.read", address=0x3000000, length=7)
                                       ["result"]["data"]) == b"written")
check("memory.write outside", code(client.call("memory.write", address=1 << 50, data="AAAA"))
      == -32000)
symbol = client.call("symbol", symbol="guest_main")["result"]
check("a symbol", symbol["type"] == "T" and symbol["length"] > 0)
check("the symbol at an address", client.call("symbol", address=hex(int(symbol["address"], 16) + 2))
      ["result"]["offset"] == 2)
check("no such symbol", code(client.call("symbol", symbol="nothing")) == -32000)
check("one place", code(client.call("symbol", symbol="a", address="1")) == -32000 and
      code(client.call("memory.read", length=4)) == -32000)
check("memory by symbol", client.call("memory.read", symbol="guest_main", length=16)["result"] ==
      client.call("memory.read", address=int(symbol["address"], 16), length=16)["result"])
report = client.call("report")["result"]["text"]
check("report", "state    paused" in report and "\nvCPU 1\n" in report and "| ready" in report)
check("memory outside", code(client.call("memory.read", address=1 << 50, length=16)) == -32000)

# Page tables: the map of memory, how vCPUs translate, and KVM's translations.
ranges = client.call("memory.map")["result"]["ranges"]
check("memory map", ranges[0]["address"] == 0 and sum(r["length"] for r in ranges) >= 32 << 20)
paging = client.call("paging", vcpu=0)["result"]
check("paging", int(paging["cr0"], 16) >> 31 == 1 and 36 <= paging["physical_bits"] <= 52)


def translate(addresses, **more):
    packed = base64.b64encode(struct.pack(f"<{len(addresses)}Q", *addresses)).decode()
    reply = client.call("translate", addresses=packed, **more)
    if "result" not in reply:
        return reply["error"]["code"]
    return list(struct.unpack(f"<{len(addresses)}Q", base64.b64decode(reply["result"]["data"])))


NOWHERE = (1 << 64) - 1
check("translate", translate([0x100123, 1 << 40, 0x200000]) == [0x100123, NOWHERE, 0x200000])
check("translate by CR3", translate([0x100123], cr3=paging["cr3"]) == [0x100123])
check("CR3 is as before", client.call("paging", vcpu=0)["result"] == paging)
check("translate: no number", translate([0], cr3="x") == -32000)
check("translate: no addresses", code(client.call("translate", addresses="AAAA")) == -32000)
root = base64.b64decode(client.call("memory.read", address=int(paging["cr3"], 16), length=8)
                        ["result"]["data"])
found = client.call("memory.find", offset=0, data=base64.b64encode(root).decode())["result"]
check("find", struct.pack("<Q", int(paging["cr3"], 16)) in
      [base64.b64decode(found["pages"])[i:i + 8] for i in range(0, 8 * found["count"], 8)])
check("find: outside a page", code(client.call(
    "memory.find", offset=4090, data=base64.b64encode(root).decode())) == -32000)
check("resume", client.call("resume")["result"] == {})
check("paging needs a pause", code(client.call("paging")) == -32000)
check("translate needs a pause", translate([0]) == -32000)
check("stats", len(client.call("stats")["result"]["vcpus"]) == 2)

# Wrong calls.
check("unknown method", code(client.call("nonsense")) == -32601)
check("unknown parameter", code(client.call("status", x=1)) == -32602)
check("wrong type", code(client.call("memory.read", address="x", length=1)) == -32602)
for text, expected in ((b"{", -32700), (b"[]", -32600), (b"1", -32700), (b"\xff\xfe", -32700),
                       (b'{"jsonrpc":"2.0"}', -32600), (b'{"id":[],"method":"status"}', -32600),
                       (b'{"jsonrpc":"2.0","id":1,"method":"status","params":[]}', -32600),
                       (b"[" * 60000, -32700), (b'{"a":1,"a":2}', -32700)):
    client.line(text)
    check(f"malformed {text[:30]!r}", code(client.message()) == expected)

# A line without end, a client that never reads, too many clients, one that vanishes.
endless = Client()
try:
    for _ in range(64):
        endless.socket.sendall(b"x" * 65536)
    ended = endless.file.read() != b"never"
except OSError:
    ended = True
check("an endless line ends its client", ended)
slow = Client()
slow.socket.settimeout(0.05)
try:
    for _ in range(20000):
        slow.line(b'{"jsonrpc":"2.0","id":1,"method":"rpc.discover"}')
except OSError:
    pass
check("a client that does not read hurts nobody", client.call("status")["result"]["pid"] > 0)
slow.socket.shutdown(socket.SHUT_RDWR)
crowd = []
for _ in range(40):
    try:
        crowd.append(Client())
    except OSError:
        break
check("a crowd hurts nobody", client.call("status")["result"]["state"] == "running")
for one in crowd:
    one.socket.shutdown(socket.SHUT_RDWR)


def room_again():
    """The server needs a moment to notice that the crowd has left."""
    end = time.time() + 60
    while time.time() < end:
        try:
            return Client().call("status")["result"]["state"] == "running"
        except (OSError, ValueError):
            time.sleep(0.02)
    return False


check("there is room again", room_again())

check("umbra ls", " running " in subprocess.run([umbra, "ls"], capture_output=True,
                                                text=True).stdout)
stat = subprocess.run([umbra, "stat", "t"], capture_output=True, text=True).stdout
if "KVM, ALL VCPUS" in stat:  # it has binary statistics here
    check("umbra stat shows what KVM counts", "insn_emulation" in stat or "exits " in stat)
check("umbra stat", "IO" in subprocess.run([umbra, "stat", "t"], capture_output=True,
                                           text=True).stdout)
check("umbra report", "page walk of rip" in subprocess.run([umbra, "report", "t"],
                                                           capture_output=True, text=True).stdout)
top = subprocess.run([umbra, "top", "1"], capture_output=True, text=True).stdout
check("umbra top", "1 running VM" in top)
taken = re.search(r"(\d+) of +64 MiB", top)
check("umbra top shows the memory", taken and 0 < int(taken[1]) < 64)
console = subprocess.run([umbra, "console", "t"], stdin=subprocess.DEVNULL,
                         capture_output=True, text=True)
check("umbra console", console.returncode == 0)
second = subprocess.run([umbra, "run", "--name", "t", "--kernel", guest, "--memory", "64M"],
                        stdin=subprocess.DEVNULL, capture_output=True, text=True)
check("a second VM of the name is refused", second.returncode == 64 and
      "another VM of this name" in second.stderr)
check("umbra stop --now", subprocess.run([umbra, "stop", "--now", "t"]).returncode == 0)
out, err = vm.communicate(timeout=60)
check("the reason is told", b"stopped by the control socket" in err)
check("the exit status is that of a stop", vm.returncode == 143)
check("the socket is gone", not os.path.exists(path))
check("umbra ctl without a VM", subprocess.run([umbra, "ctl", "t", "status"],
                                               capture_output=True).returncode == 66)
