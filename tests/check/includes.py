#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Check the direction of includes: base <- memory <- devices <- {virtio, vcpu} <- vmm <- cli.

  includes.py ROOT         check ROOT/src and ROOT/include
  includes.py --self-test  check that every rule catches its violation
"""
import re
import sys
import tempfile
from pathlib import Path

# Which layers a layer may include; each may include itself.
ALLOWED = {
    "base": set(),
    "memory": {"base"},
    "devices": {"base", "memory"},
    "virtio": {"base", "memory", "devices"},
    "vcpu": {"base", "memory", "devices"},
    "shadowpt-sim": {"base", "memory"},
    "vmm": {"base", "memory", "devices", "virtio", "vcpu"},
    "cli": set(),
}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)


def layer_of(path):
    """The layer of a path relative to src/, or None."""
    parts = Path(path).parts
    if parts[:2] == ("vmm", "cli"):
        return "cli"
    return parts[0] if len(parts) > 1 and parts[0] in ALLOWED else None


def check_include(name, layer, quote, target, src):
    """The complaint about one include, or None."""
    if target in ("linux/kvm.h", "asm/kvm.h", "asm/kvm_para.h"):
        if layer != "vcpu" and name != "vmm/kvm/kvm.c":
            return f"<{target}> belongs to vcpu/ and vmm/kvm/kvm.c only"
        return None
    if quote == "<":
        if target.startswith("umbra/") and target != "umbra/umbra.h":
            return "the public header is <umbra/umbra.h> alone"
        return None
    if not (src / target).is_file():
        return "quoted includes are paths from src/, and this file is not there"
    other = layer_of(target)
    if other is None:
        return "it is in no layer"
    if layer == "cli" and other == "shadowpt-sim" and Path(name).name.startswith("mmu"):
        return None
    if other != layer and other not in ALLOWED[layer]:
        return f"{layer} must not include {other}"
    return None


def check(root):
    """All complaints about the tree, and the number of includes seen."""
    src, complaints, seen = root / "src", [], 0
    files = sorted(p for pattern in ("*.c", "*.h", "*.S") for p in src.rglob(pattern))
    for path in files:
        name = path.relative_to(src).as_posix()
        layer = layer_of(name)
        if layer is None:
            complaints.append(f"src/{name}: the file is in no known layer")
            continue
        text = path.read_text(errors="replace")
        for match in INCLUDE.finditer(text):
            seen += 1
            complaint = check_include(name, layer, match[1], match[2], src)
            if complaint:
                line = text.count("\n", 0, match.start(2)) + 1
                complaints.append(f'src/{name}:{line}: "{match[2]}": {complaint}')
    for path in sorted((root / "include").rglob("*.h")):
        for match in INCLUDE.finditer(path.read_text()):
            seen += 1
            if match[1] == '"' or "/" in match[2]:
                complaints.append(f"{path}: the public header includes {match[2]}")
    return complaints, seen


def self_test():
    """Each rule must fire on a tree that breaks it, and none on one that keeps them."""
    good = {
        "src/base/a.h": "", "src/memory/m.h": '#include "base/a.h"',
        "src/devices/d.h": '#include "memory/m.h"', "src/virtio/v.h": '#include "devices/d.h"',
        "src/vcpu/c.h": '#include <linux/kvm.h>\n#include "devices/d.h"',
        "src/vmm/vm/vm.h": '#include "vcpu/c.h"\n#include "virtio/v.h"',
        "src/vmm/kvm/kvm.c": "#include <linux/kvm.h>", "src/vmm/cli/x.h": "",
        "src/shadowpt-sim/s.h": '#include "memory/m.h"',
        "src/vmm/cli/mmu/run.c": '#include "shadowpt-sim/s.h"\n#include "vmm/cli/x.h"',
        "src/vmm/cli/main.c": "#include <umbra/umbra.h>",
        "include/umbra/umbra.h": "#include <stdint.h>",
    }
    bad = [
        ("src/base/b.c", '#include "memory/m.h"'), ("src/memory/n.c", '#include "devices/d.h"'),
        ("src/devices/e.c", '#include "virtio/v.h"'), ("src/virtio/w.c", '#include "vcpu/c.h"'),
        ("src/vcpu/r.c", '# include  "virtio/v.h"'), ("src/vcpu/s.c", '#include "vmm/vm/vm.h"'),
        ("src/vmm/t.c", '#include "vmm/cli/x.h"'), ("src/vmm/u.c", "#include <linux/kvm.h>"),
        ("src/memory/k.c", "#include <linux/kvm.h>"), ("src/vmm/cli/y.c", '#include "base/a.h"'),
        ("src/vmm/cli/run.c", '#include "shadowpt-sim/s.h"'),
        ("src/shadowpt-sim/z.c", '#include "devices/d.h"'), ("src/base/q.c", '#include "a.h"'),
        ("src/extra/q.c", ""), ("include/umbra/umbra.h", '#include "base/a.h"'),
    ]
    failures = 0
    for extra in [None] + bad:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for name, text in (good | (dict([extra]) if extra else {})).items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text + "\n")
            complaints, _ = check(root)
            if len(complaints) != (1 if extra else 0):
                print(f"self-test: {extra}: {complaints}")
                failures += 1
    return failures


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if sys.argv[1] == "--self-test":
        sys.exit(1 if self_test() else 0)
    complaints, seen = check(Path(sys.argv[1]))
    for complaint in complaints:
        print(complaint)
    print(f"{seen} includes, {len(complaints)} against the layering")
    sys.exit(1 if complaints or not seen else 0)


main()
