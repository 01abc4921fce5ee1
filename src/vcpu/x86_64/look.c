/* SPDX-License-Identifier: MIT */
/* A vCPU's linear memory, read through its page tables and leaving no trace in them. */
#include "vcpu/x86_64/look.h"

#include <errno.h>
#include <sys/ioctl.h>

#include "memory/guest_mem.h"
#include "vcpu/x86_64/walk.h"

enum { LOOK_PAGE = 4096 };

int vcpu_look_begin(struct vcpu *vcpu, struct vcpu_look *look)
{
    struct kvm_sregs sregs;

    memset(look, 0, sizeof(*look));
    look->mem = vcpu->set->options.mem;
    if (ioctl(vcpu->fd, KVM_GET_REGS, &look->regs) < 0 ||
        ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) < 0) {
        return -errno;
    }
    look->cpu.cr0 = sregs.cr0;
    look->cpu.cr3 = sregs.cr3;
    look->cpu.cr4 = sregs.cr4;
    look->cpu.efer = sregs.efer;
    if (sregs.efer & 0x400 && sregs.cs.l) { /* EFER.LMA */
        look->bits = 64;
    } else {
        look->bits = sregs.cs.db ? 32 : 16;
        look->code = sregs.cs.base;
        look->stack = sregs.ss.base;
    }
    return 0;
}

bool vcpu_look_read(const struct vcpu_look *look, uint64_t address, void *buffer,
                    size_t size)
{
    uint8_t *to = buffer;

    while (size > 0) {
        size_t part = LOOK_PAGE - address % LOOK_PAGE;
        struct walk_path path;

        part = part < size ? part : size;
        walk_look(look->mem, &look->cpu, address, &path);
        if (!path.mapped || guest_mem_read(look->mem, path.physical, to, part) < 0) {
            return false;
        }
        to += part;
        address += part;
        size -= part;
    }
    return true;
}

bool vcpu_look_executable(const struct vcpu_look *look, uint64_t address)
{
    struct walk_path path;

    walk_look(look->mem, &look->cpu, address, &path);
    return path.mapped && path.executable &&
           guest_mem_const_ptr(look->mem, path.physical, 1) != NULL;
}
