/* SPDX-License-Identifier: MIT */
/* Completing instructions: operand addresses, segment checks, guest memory. */
#include <errno.h>

#include "base/util.h"
#include "vcpu/x86_64/insn/internal.h"

#define PAGE_SIZE UINT64_C(4096)

#define CR4_LA57 UINT64_C(0x1000)

static bool is_canonical(const struct insn_cpu *cpu, uint64_t address)
{
    unsigned shift = cpu->cr4 & CR4_LA57 ? 7 : 16;

    return (uint64_t)((int64_t)(address << shift) >> shift) == address;
}

/* Limit and type of a segment outside 64-bit mode (SDM volume 3, 5.3 and 5.5). */
static bool segment_allows(const struct insn_run *run, const struct insn_segment *segment,
                           uint64_t offset, size_t size, enum insn_access access)
{
    uint64_t last = offset + size - 1;
    bool code = segment->type & 8;

    if (insn_protected(run->cpu)) {
        if (segment->unusable)
            return false;
        if (access == INSN_WRITE && (code || !(segment->type & 2)))
            return false;
        if (access == INSN_READ && code && !(segment->type & 2))
            return false;
    }
    if (!code && (segment->type & 4)) /* expands down */
        return offset > segment->limit && last <= (segment->db ? 0xffffffff : 0xffff);
    return last <= segment->limit;
}

/* Base, limit and canonical checks of @size bytes at @offset in segment @index. */
static int linear_address(struct insn_run *run, unsigned index, uint64_t offset,
                          size_t size, enum insn_access access, uint64_t *address)
{
    const struct insn_segment *segment = &run->cpu->segment[index];
    enum insn_vector vector = index == INSN_SS ? VECTOR_SS : VECTOR_GP;

    if (run->bits == 64) {
        *address = offset + (index == INSN_FS || index == INSN_GS ? segment->base : 0);
        if (!is_canonical(run->cpu, *address) ||
            !is_canonical(run->cpu, *address + size - 1))
            return insn_fault_code(run, vector, 0);
        if (*address + size - 1 < *address)
            return INSN_GIVE_UP; /* wraps around: no kernel does that */
        return INSN_CONTINUE;
    }
    if (!segment_allows(run, segment, offset, size, access))
        return insn_fault_code(run, vector, 0);
    *address = (uint32_t)(segment->base + offset);
    if (*address + size > UINT64_C(0x100000000))
        return INSN_GIVE_UP;
    return INSN_CONTINUE;
}

uint64_t insn_offset(const struct insn_run *run, const ZydisDecodedOperand *op)
{
    uint64_t offset = op->mem.disp.has_displacement ? (uint64_t)op->mem.disp.value : 0;

    if (op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP)
        offset += run->cpu->rip + run->insn.length;
    else if (op->mem.base != ZYDIS_REGISTER_NONE)
        offset += insn_gpr_read(run, op->mem.base);
    if (op->mem.index != ZYDIS_REGISTER_NONE)
        offset += insn_gpr_read(run, op->mem.index) * op->mem.scale;
    if (run->insn.address_width == 32)
        return (uint32_t)offset;
    return run->insn.address_width == 16 ? (uint16_t)offset : offset;
}

int insn_address(struct insn_run *run, const ZydisDecodedOperand *op, size_t size,
                 enum insn_access access, uint64_t *address)
{
    int index = ZydisRegisterGetId(op->mem.segment);

    if (ZydisRegisterGetClass(op->mem.segment) != ZYDIS_REGCLASS_SEGMENT || index < 0 ||
        index >= INSN_SEGMENT_COUNT || !size)
        return INSN_GIVE_UP;
    return linear_address(run, (unsigned)index, insn_offset(run, op), size, access,
                          address);
}

int insn_access_result(struct insn_run *run, int error, const struct insn_fault *fault)
{
    if (!error)
        return INSN_CONTINUE;
    if (error != -EFAULT)
        return INSN_GIVE_UP;
    insn_fault_code(run, fault->vector, fault->error_code);
    run->outcome->has_payload = fault->vector == VECTOR_PF;
    run->outcome->payload = fault->address;
    return INSN_FAULTED;
}

int insn_read(struct insn_run *run, uint64_t address, void *buffer, size_t size)
{
    struct insn_fault fault = { 0 };
    int error = run->ops->read(run->context, address, buffer, size, INSN_READ, &fault);

    return insn_access_result(run, error, &fault);
}

int insn_write(struct insn_run *run, uint64_t address, const void *buffer, size_t size)
{
    struct insn_fault fault = { 0 };
    int error = run->ops->write(run->context, address, buffer, size, &fault);

    return insn_access_result(run, error, &fault);
}

int insn_fetch(struct insn_run *run, size_t count, size_t *length)
{
    const struct insn_segment *cs = &run->cpu->segment[INSN_CS];
    struct insn_fault fault = { 0 };
    uint64_t address = run->cpu->rip + count;
    size_t size = sizeof(run->bytes) - count;
    int error;

    if (run->bits != 64)
        address = (uint32_t)(cs->base + address);
    /* Only the rest of this page: the instruction may well end before the next one. */
    if (size > PAGE_SIZE - address % PAGE_SIZE)
        size = PAGE_SIZE - address % PAGE_SIZE;
    error = run->ops->read(run->context, address, run->bytes + count, size, INSN_FETCH,
                           &fault);
    if (!error)
        *length = count + size;
    return insn_access_result(run, error, &fault);
}
