#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Check who includes whom: a room is a folder of src/, and includes go down only.

  includes.py ROOT         check ROOT/src and ROOT/include
  includes.py --self-test  check that every rule catches its violation
"""
import re
import sys
import tempfile
from pathlib import Path

# A room, the headers that others may include ("-": none), and the rooms right below it. It
# may include what is in these and, through them, all that is further below.
ROOMS = """
base                 error event_fd library log state suggest text thread util |
loop                 loop io_ring               | base
memory               guest_mem                  | base
backend/chardev      char_end char_end_open     | loop
backend/disk         disk                       | loop
backend/net          net offload                | base
devices              bus device faults irq      | loop memory
devices/pci          pci                        | devices
devices/board        acpi_pm debug_exit debugcon i8042 ioapic pvpanic reset_port rtc uart16550 | devices backend/chardev
virtio/virtqueue     virtqueue                  | memory
virtio               registry virtio stats watch | virtio/virtqueue devices backend/chardev
virtio/transport     transport                  | virtio devices/pci
virtio/vhost         device kernel relay remote user | virtio
virtio/balloon       -                          | virtio
virtio/blk           -                          | virtio/vhost backend/disk
virtio/console       -                          | virtio
virtio/fs            -                          | virtio/vhost
virtio/net           -                          | virtio/vhost backend/net
virtio/rng           -                          | virtio
virtio/vsock         -                          | virtio
vcpu                 debug dirty exit_stats kvm_stats probe report vcpu | devices
vcpu/x86_64/insn     insn                       | memory
vcpu/x86_64          cpu_model look state       | vcpu vcpu/x86_64/insn
shadowpt-sim         image memory paging pool slots walker walk_core | memory
shadowpt-sim/nested  entry nested               | shadowpt-sim
shadowpt-sim/shadow  shadow space               | shadowpt-sim
shadowpt-sim/tlb     tlb                        | shadowpt-sim
shadowpt-sim/sim     cost report sim            | shadowpt-sim/nested shadowpt-sim/shadow shadowpt-sim/tlb
shadowpt-sim/trace   generate ptlog replay trace | shadowpt-sim/sim
vmm/guest            demo_image                 | base
vmm/board            board memory_map           | memory
vmm/config           config keys value          | vmm/board devices
vmm/boot             adapt boot elf image loader | vmm/board vcpu
vmm/kvm              kvm                        | vmm/board vcpu
vmm/machine          console faults machine     | vmm/boot vmm/config vmm/guest vmm/kvm vcpu/x86_64 devices/board virtio/transport backend/disk backend/net
vmm/vm               callback vm                | vmm/machine
vmm/symbols          file modules orc symbols   | vmm/vm
vmm/debug            debug gdb inspect report   | vmm/symbols
vmm/control          control                    | vmm/debug
vmm/api              -                          | vmm/control
vmm/cli              cli client exit_status options term |
vmm/cli/mmu          mmu                        | vmm/cli shadowpt-sim/trace
vmm/cli/test         -                          | vmm/cli
"""
KVM = ("linux/kvm.h", "asm/kvm.h", "asm/kvm_para.h")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)


def read_rooms(text):
    """{room: (its public headers, all rooms that it may include)} in the table's order."""
    rooms = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        names, _, below = line.partition("|")
        room, *headers = names.replace(" -", "").split()
        reach = set(below.split())
        for other in below.split():
            reach |= rooms[other][1]  # KeyError: the table itself does not go downwards
        rooms[room] = ({f"{room}/{name}.h" for name in headers}, reach)
    return rooms


def check_include(name, quote, target, src, rooms):
    """The complaint about one include, or None."""
    room = str(Path(name).parent)
    if target in KVM:
        if not room.startswith("vcpu") and name != "vmm/kvm/kvm.c":
            return f"<{target}> belongs to vcpu/ and vmm/kvm/kvm.c only"
        return None
    if quote == "<":
        if target.startswith("umbra/") and target != "umbra/umbra.h":
            return "the public header is <umbra/umbra.h> alone"
        return None
    if not (src / target).is_file():
        return "quoted includes are paths from src/, and this file is not there"
    other = str(Path(target).parent)
    if other == room:
        return None
    if other not in rooms[room][1]:
        return f"{room} must not include {other}"
    if target not in rooms[other][0]:
        return f"it is {other}'s own (no public header of that room)"
    return None


def check(root, rooms):
    """All complaints about the tree, and the number of includes seen."""
    src, complaints, seen = root / "src", [], 0
    files = sorted(p for pattern in ("*.c", "*.h", "*.S") for p in src.rglob(pattern))
    for path in files:
        name = path.relative_to(src).as_posix()
        if str(Path(name).parent) not in rooms:
            complaints.append(f"src/{name}: the file is in no known room")
            continue
        text = path.read_text(errors="replace")
        for match in INCLUDE.finditer(text):
            seen += 1
            complaint = check_include(name, match[1], match[2], src, rooms)
            if complaint:
                line = text.count("\n", 0, match.start(2)) + 1
                complaints.append(f'src/{name}:{line}: "{match[2]}": {complaint}')
    for path in sorted((root / "include").rglob("*.h")):
        for match in INCLUDE.finditer(path.read_text()):
            seen += 1
            if match[1] == '"' or "/" in match[2]:
                complaints.append(f"{path}: the public header includes {match[2]}")
    return complaints, seen


def stale(root, rooms):
    """Rows of the table that say more than there is."""
    for room, (headers, _) in rooms.items():
        for header in sorted(headers):
            if not (root / "src" / header).is_file():
                yield f"the table has {header}, which is not there"
        if not (root / "src" / room).is_dir():
            yield f"the table has {room}, which is not there"


def self_test():
    """Each rule must fire on a tree that breaks it, and none on one that keeps them."""
    rooms = read_rooms("""
        base           a         |
        devices        d         | base
        virtio         v         | devices
        virtio/blk     -         | virtio
        vcpu           c         | devices
        vmm/kvm        kvm       | vcpu
        vmm/vm         vm        | vmm/kvm virtio
        vmm/cli        x         |""")
    good = {
        "src/base/a.h": "", "src/devices/d.h": '#include "base/a.h"',
        "src/devices/inner.h": "", "src/virtio/v.h": '#include "devices/d.h"',
        "src/virtio/blk/blk.c": '#include "virtio/v.h"\n#include "base/a.h"',
        "src/vcpu/c.h": '#include <linux/kvm.h>\n#include "devices/d.h"',
        "src/vmm/kvm/kvm.h": "", "src/vmm/kvm/kvm.c": "#include <linux/kvm.h>",
        "src/vmm/vm/vm.h": '#include "vcpu/c.h"\n#include "virtio/v.h"',
        "src/vmm/cli/x.h": "", "src/vmm/cli/main.c": "#include <umbra/umbra.h>",
        "include/umbra/umbra.h": "#include <stdint.h>",
    }
    bad = [
        ("src/base/b.c", '#include "devices/d.h"'), ("src/devices/e.c", '#include "virtio/v.h"'),
        ("src/virtio/w.c", '#include "vcpu/c.h"'), ("src/vcpu/r.c", '# include  "virtio/v.h"'),
        ("src/vmm/vm/t.c", '#include "vmm/cli/x.h"'), ("src/vmm/vm/u.c", "#include <linux/kvm.h>"),
        ("src/vmm/kvm/s.c", '#include "vmm/vm/vm.h"'), ("src/vmm/cli/y.c", '#include "base/a.h"'),
        ("src/virtio/z.c", '#include "devices/inner.h"'), ("src/base/q.c", '#include "a.h"'),
        ("src/extra/q.c", ""), ("include/umbra/umbra.h", '#include "base/a.h"'),
    ]
    failures = 0
    for extra in [None] + bad:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for name, text in (good | (dict([extra]) if extra else {})).items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text + "\n")
            complaints, _ = check(root, rooms)
            if len(complaints) != (1 if extra else 0) or list(stale(root, rooms)):
                print(f"self-test: {extra}: {complaints}")
                failures += 1
    return failures


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if sys.argv[1] == "--self-test":
        sys.exit(1 if self_test() else 0)
    rooms = read_rooms(ROOMS)
    complaints, seen = check(Path(sys.argv[1]), rooms)
    complaints += stale(Path(sys.argv[1]), rooms)
    for complaint in complaints:
        print(complaint)
    print(f"{seen} includes, {len(complaints)} complaints")
    sys.exit(1 if complaints or not seen else 0)


main()
