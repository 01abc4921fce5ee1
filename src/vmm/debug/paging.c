/* SPDX-License-Identifier: MIT */
/* How a VM translates addresses, for who looks at its page tables from outside. */
#include <cpuid.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "vcpu/x86_64/cpu_model.h"
#include "vcpu/x86_64/state.h"
#include "vmm/debug/inspect.h"
#include "vmm/vm/vm.h"

#define CR4_SMAP (UINT64_C(1) << 21)
#define CR4_PKE  (UINT64_C(1) << 22)

enum { PAGE_BYTES = 4096, XSAVE_LEAF = 0xd, XSAVE_PKRU = 9, XSAVE_BV_OFFSET = 512 };

int umbra_memory_range_at(struct umbra_vm *vm, size_t index,
                          struct umbra_memory_range *range)
{
    struct umbra_memory_range full = { .size = range->size };
    const struct guest_region *regions;
    size_t count;

    regions = guest_mem_regions(vm->machine.mem, &count);
    if (callback_foreign(vm, "umbra_memory_range_at", NULL) != 0) {
        return -EPERM;
    }
    if (index >= count) {
        return -ENOENT;
    }
    full.gpa = regions[index].base;
    full.length = regions[index].size;
    full.readonly = regions[index].kind == GUEST_REGION_ROM;
    memcpy(range, &full, range->size < sizeof(full) ? range->size : sizeof(full));
    return 0;
}

int umbra_memory_find(struct umbra_vm *vm, unsigned offset, const void *bytes,
                      size_t length, uint64_t *gpas, size_t max, size_t *count,
                      struct umbra_error *error)
{
    const struct guest_region *regions;
    size_t region_count;

    *count = 0;
    if (callback_foreign(vm, "umbra_memory_find", error) != 0) {
        return -EPERM;
    }
    if (length == 0 || length > PAGE_BYTES || offset > PAGE_BYTES - length) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                         "umbra_memory_find: %zu bytes at offset %u are not in a page",
                         length, offset);
    }
    regions = guest_mem_regions(vm->machine.mem, &region_count);
    for (size_t i = 0; i < region_count; i++) {
        uint64_t at = 0, end = 0;

        while (regions[i].kind == GUEST_REGION_RAM &&
               guest_region_data(&regions[i], at, &at, &end)) {
            for (at = align_down(at, PAGE_BYTES); at < end; at += PAGE_BYTES) {
                if (memcmp(regions[i].host + at + offset, bytes, length) != 0) {
                    continue;
                }
                if (*count < max) {
                    gpas[*count] = regions[i].base + at;
                }
                ++*count;
            }
        }
    }
    return 0;
}

/* PKRU out of an XSAVE area in the standard format. */
static uint32_t paging_pkru(const struct vcpu_state *state)
{
    const uint8_t *area = (const uint8_t *)state->xsave.region;
    unsigned size = 0, offset = 0, ecx, edx;

    if (!__get_cpuid_count(XSAVE_LEAF, XSAVE_PKRU, &size, &offset, &ecx, &edx) ||
        size < sizeof(uint32_t) || offset > sizeof(state->xsave.region) - size ||
        !(load_le64(area + XSAVE_BV_OFFSET) & 1u << XSAVE_PKRU)) {
        return 0;
    }
    return load_le32(area + offset);
}

static void paging_fill(const struct cpu_model *model, const struct vcpu_state *state,
                        struct umbra_paging *paging)
{
    const struct kvm_sregs *sregs = &state->sregs;
    uint32_t vendor = cpu_model_register(model, 0, 0, 1);

    paging->cr0 = sregs->cr0;
    paging->cr3 = sregs->cr3;
    paging->cr4 = sregs->cr4;
    paging->efer = sregs->efer;
    paging->rflags = state->regs.rflags;
    paging->cpl = sregs->ss.dpl;
    paging->pkru = sregs->cr4 & CR4_PKE ? paging_pkru(state) : 0;
    paging->physical_bits = (uint8_t)cpu_model_physical_bits(model);
    paging->gbpages = cpu_model_register(model, 0x80000001, 0, 3) >> 26 & 1;
    /* "Auth" of AuthenticAMD, "Hygo" of HygonGenuine. */
    paging->amd = vendor == 0x68747541 || vendor == 0x6f677948;
}

int inspect_paging(struct umbra_vm *vm, struct vcpu *vcpu, struct umbra_paging *paging,
                   struct umbra_error *error)
{
    struct vcpu_state *state = calloc(1, sizeof(*state));
    int ret;

    if (state == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "cannot read registers");
    }
    ret = vcpu_state_get(vcpu, VCPU_STATE_REGS | VCPU_STATE_SREGS | VCPU_STATE_XSAVE,
                         state, error);
    if (ret == 0) {
        paging_fill(vm->machine.model, state, paging);
    }
    free(state);
    return ret;
}

int umbra_paging_get(struct umbra_vm *vm, unsigned index, struct umbra_paging *paging,
                     struct umbra_error *error)
{
    struct umbra_paging full = { .size = paging->size };
    struct vcpu *vcpu;
    int ret = inspect_begin(vm, index, "umbra_paging_get", &vcpu, error);

    if (ret < 0) {
        return ret;
    }
    ret = inspect_paging(vm, vcpu, &full, error);
    inspect_end(vm);
    if (ret == 0) {
        memcpy(paging, &full, paging->size < sizeof(full) ? paging->size : sizeof(full));
    }
    return ret;
}

/* Registers under which the walk is to be made, if they are not those of the vCPU. */
static bool paging_prepare(const struct vcpu_state *state, uint64_t cr3,
                           struct vcpu_state *changed)
{
    *changed = *state;
    changed->sregs.cr4 &= ~CR4_SMAP;
    if (cr3 != UMBRA_CR3_CURRENT) {
        changed->sregs.cr3 = cr3;
    }
    return changed->sregs.cr3 != state->sregs.cr3 ||
           changed->sregs.cr4 != state->sregs.cr4;
}

static int paging_translate(struct vcpu *vcpu, uint64_t cr3, const uint64_t *gva,
                            uint64_t *gpas, size_t count, struct umbra_error *error)
{
    struct vcpu_state *state = calloc(2, sizeof(*state));
    bool changed = false;
    int ret, back = 0;

    if (state == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "umbra_translate_list");
    }
    ret = vcpu_state_get(vcpu, VCPU_STATE_SREGS, &state[0], error);
    if (ret == 0 && paging_prepare(&state[0], cr3, &state[1])) {
        changed = true;
        ret = vcpu_state_set(vcpu, VCPU_STATE_SREGS, &state[1], error);
    }
    for (size_t i = 0; ret == 0 && i < count; i++) {
        uint64_t address;

        gpas[i] = vcpu_translate(vcpu, gva[i], &address) ? address : UINT64_MAX;
    }
    if (changed) {
        back = vcpu_state_set(vcpu, VCPU_STATE_SREGS, &state[0], ret == 0 ? error : NULL);
    }
    free(state);
    return ret < 0 ? ret : back;
}

int umbra_translate_list(struct umbra_vm *vm, unsigned index, uint64_t cr3,
                         const uint64_t *gva, uint64_t *gpas, size_t count,
                         struct umbra_error *error)
{
    struct vcpu *vcpu;
    int ret = inspect_begin(vm, index, "umbra_translate_list", &vcpu, error);

    if (ret < 0) {
        return ret;
    }
    ret = paging_translate(vcpu, cr3, gva, gpas, count, error);
    inspect_end(vm);
    return ret;
}
