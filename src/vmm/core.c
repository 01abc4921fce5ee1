/* SPDX-License-Identifier: MIT */
/*
 * An ELF core of a guest: registers of every vCPU as NT_PRSTATUS notes, RAM as PT_LOAD
 * segments by guest-physical address. Virtual addresses are those of Linux's direct map and
 * kernel image where the guest maps the latter, otherwise the physical ones, so that gdb
 * finds memory and crash(8) finds its way. Untouched memory becomes holes in the file.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/procfs.h>
#include <unistd.h>

#include "base/error.h"
#include "vcpu/x86_64/state.h"
#include "vmm/inspect.h"
#include "vmm/vm.h"

/* Linux's layout (Documentation/x86/x86_64/mm.rst, 4-level paging, without KASLR). */
#define LINUX_DIRECT_MAP   UINT64_C(0xffff888000000000)
#define LINUX_KERNEL_MAP   UINT64_C(0xffffffff80000000)
#define LINUX_KERNEL_TEXT  UINT64_C(0xffffffff81000000)
#define LINUX_KERNEL_LIMIT (UINT64_C(512) << 20)

enum {
    CORE_CHUNK = 1 << 20,
    CORE_MAX_SEGMENTS = 16,
    NOTE_NAME_SIZE = 8,
    NOTE_PAGING = 1,
};

struct core_note {
    Elf64_Nhdr header;
    char name[NOTE_NAME_SIZE]; /* "CORE" */
    struct elf_prstatus status;
    /* And what NT_PRSTATUS has no room for (docs/control.md). */
    Elf64_Nhdr paging_header;
    char paging_name[NOTE_NAME_SIZE]; /* "UMBRA" */
    struct core_paging {
        uint32_t version, vcpu;
        uint64_t cr0, cr3, cr4, efer, rflags;
        uint32_t pkru;
        uint8_t physical_bits, gbpages, amd, cpl;
    } paging;
} __attribute__((packed));

struct core {
    struct umbra_vm *vm;
    int fd;
    Elf64_Phdr segments[CORE_MAX_SEGMENTS];
    const struct guest_region *regions[CORE_MAX_SEGMENTS];
    unsigned count;
    size_t notes_size;
};

static int core_write(int fd, const void *bytes, size_t length, off_t at)
{
    const char *from = bytes;

    while (length > 0) {
        ssize_t n = pwrite(fd, from, length, at);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -errno : -EIO;
        }
        from += n;
        at += n;
        length -= (size_t)n;
    }
    return 0;
}

static int core_note_paging(struct umbra_vm *vm, struct vcpu *vcpu,
                            struct core_note *note)
{
    struct umbra_paging paging = { .size = sizeof(paging) };
    int ret = inspect_paging(vm, vcpu, &paging, NULL);

    note->paging_header.n_namesz = sizeof("UMBRA");
    note->paging_header.n_descsz = sizeof(note->paging);
    note->paging_header.n_type = NOTE_PAGING;
    strcpy(note->paging_name, "UMBRA");
    note->paging = (struct core_paging){
        .version = 1,
        .vcpu = vcpu->index,
        .cr0 = paging.cr0,
        .cr3 = paging.cr3,
        .cr4 = paging.cr4,
        .efer = paging.efer,
        .rflags = paging.rflags,
        .pkru = paging.pkru,
        .physical_bits = paging.physical_bits,
        .gbpages = paging.gbpages,
        .amd = paging.amd,
        .cpl = paging.cpl,
    };
    return ret;
}

/* One vCPU's registers in the order of struct user_regs_struct. */
static int core_note(struct umbra_vm *vm, struct vcpu *vcpu, struct core_note *note)
{
    struct vcpu_state *state = calloc(1, sizeof(*state));
    struct user_regs_struct regs = { 0 };
    int ret = state == NULL
                  ? -ENOMEM
                  : vcpu_state_get(vcpu, VCPU_STATE_REGS | VCPU_STATE_SREGS, state, NULL);

    if (ret == 0) {
        const struct kvm_regs *r = &state->regs;
        const struct kvm_sregs *s = &state->sregs;

        regs = (struct user_regs_struct){
            .r15 = r->r15,
            .r14 = r->r14,
            .r13 = r->r13,
            .r12 = r->r12,
            .rbp = r->rbp,
            .rbx = r->rbx,
            .r11 = r->r11,
            .r10 = r->r10,
            .r9 = r->r9,
            .r8 = r->r8,
            .rax = r->rax,
            .rcx = r->rcx,
            .rdx = r->rdx,
            .rsi = r->rsi,
            .rdi = r->rdi,
            .orig_rax = UINT64_MAX,
            .rip = r->rip,
            .cs = s->cs.selector,
            .eflags = r->rflags,
            .rsp = r->rsp,
            .ss = s->ss.selector,
            .fs_base = s->fs.base,
            .gs_base = s->gs.base,
            .ds = s->ds.selector,
            .es = s->es.selector,
            .fs = s->fs.selector,
            .gs = s->gs.selector,
        };
        memset(note, 0, sizeof(*note));
        note->header.n_namesz = sizeof("CORE");
        note->header.n_descsz = sizeof(note->status);
        note->header.n_type = NT_PRSTATUS;
        strcpy(note->name, "CORE");
        note->status.pr_pid = (pid_t)vcpu->index + 1;
        memcpy(&note->status.pr_reg, &regs, sizeof(regs));
        ret = core_note_paging(vm, vcpu, note);
    }
    free(state);
    return ret;
}

/* Lay the segments out behind the headers and notes. */
static void core_plan(struct core *core)
{
    const struct guest_region *regions;
    uint64_t offset, text = 0;
    bool linux_map;
    size_t count;

    linux_map =
        vcpu_translate(&core->vm->machine.vcpus->vcpus[0], LINUX_KERNEL_TEXT, &text);
    regions = guest_mem_regions(core->vm->machine.mem, &count);
    core->notes_size = core->vm->config->cpus * sizeof(struct core_note);
    offset = align_up(sizeof(Elf64_Ehdr) + CORE_MAX_SEGMENTS * sizeof(Elf64_Phdr) +
                          core->notes_size,
                      4096);
    for (size_t i = 0; i < count && core->count + 2 < CORE_MAX_SEGMENTS; i++) {
        Elf64_Phdr *segment = &core->segments[core->count];
        uint64_t base = regions[i].base, end = base + regions[i].size;

        *segment = (Elf64_Phdr){
            .p_type = PT_LOAD,
            .p_flags = PF_R | PF_W | PF_X,
            .p_offset = offset,
            .p_vaddr = linux_map ? LINUX_DIRECT_MAP + base : base,
            .p_paddr = base,
            .p_filesz = regions[i].size,
            .p_memsz = regions[i].size,
            .p_align = 4096,
        };
        core->regions[core->count++] = &regions[i];
        if (linux_map && base < LINUX_KERNEL_LIMIT) {
            /* The same bytes again, where the kernel image is mapped. */
            uint64_t size = (end < LINUX_KERNEL_LIMIT ? end : LINUX_KERNEL_LIMIT) - base;

            core->segments[core->count] = *segment;
            core->segments[core->count].p_vaddr =
                LINUX_KERNEL_TEXT + base - (text & ~UINT64_C(0xfff));
            core->segments[core->count].p_filesz = size;
            core->segments[core->count].p_memsz = size;
            core->regions[core->count++] = NULL;
        }
        offset += regions[i].size;
    }
}

static int core_write_headers(struct core *core)
{
    const uint64_t notes_at = sizeof(Elf64_Ehdr) + (core->count + 1) * sizeof(Elf64_Phdr);
    const Elf64_Phdr notes = { .p_type = PT_NOTE,
                               .p_offset = notes_at,
                               .p_filesz = core->notes_size,
                               .p_align = 4 };
    const Elf64_Ehdr header = {
        .e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB,
                     EV_CURRENT },
        .e_type = ET_CORE,
        .e_machine = EM_X86_64,
        .e_version = EV_CURRENT,
        .e_phoff = sizeof(Elf64_Ehdr),
        .e_ehsize = sizeof(Elf64_Ehdr),
        .e_phentsize = sizeof(Elf64_Phdr),
        .e_phnum = (Elf64_Half)(core->count + 1),
    };
    int ret = core_write(core->fd, &header, sizeof(header), 0);

    if (ret == 0) {
        ret = core_write(core->fd, &notes, sizeof(notes), sizeof(header));
    }
    if (ret == 0) {
        ret = core_write(core->fd, core->segments, core->count * sizeof(Elf64_Phdr),
                         sizeof(header) + sizeof(notes));
    }
    for (unsigned i = 0; ret == 0 && i < core->vm->config->cpus; i++) {
        struct core_note note;

        ret = core_note(core->vm, &core->vm->machine.vcpus->vcpus[i], &note);
        if (ret == 0) {
            ret = core_write(core->fd, &note, sizeof(note),
                             (off_t)(notes_at + i * sizeof(note)));
        }
    }
    return ret;
}

static bool core_is_zero(const uint8_t *bytes, size_t length)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

static int core_write_region(struct core *core, unsigned index)
{
    const struct guest_region *region = core->regions[index];
    uint64_t at = 0, end;
    int ret = 0;

    while (ret == 0 && guest_region_data(region, at, &at, &end)) {
        while (ret == 0 && at < end) {
            size_t part = end - at < CORE_CHUNK ? end - at : CORE_CHUNK;

            if (!core_is_zero(region->host + at, part)) {
                ret = core_write(core->fd, region->host + at, part,
                                 (off_t)(core->segments[index].p_offset + at));
            }
            at += part;
        }
    }
    return ret;
}

static int core_write_all(struct core *core)
{
    const Elf64_Phdr *last = NULL;
    int ret;

    core_plan(core);
    ret = core_write_headers(core);
    for (unsigned i = 0; ret == 0 && i < core->count; i++) {
        if (core->regions[i] != NULL) {
            ret = core_write_region(core, i);
            last = &core->segments[i];
        }
    }
    if (ret == 0 && last != NULL &&
        ftruncate(core->fd, (off_t)(last->p_offset + last->p_filesz)) < 0) {
        ret = -errno;
    }
    return ret;
}

int umbra_vm_write_core(struct umbra_vm *vm, const char *path, struct umbra_error *error)
{
    struct core core = { .vm = vm };
    int ret = callback_refuse(vm, "umbra_vm_write_core", error);
    bool running;

    if (ret != 0) {
        return ret;
    }
    core.fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (core.fd < 0) {
        return error_errno(
            error, UMBRA_ERROR_INTERNAL, errno,
            "cannot create the core %s (an existing file is not overwritten)", path);
    }
    pthread_mutex_lock(&vm->control);
    running = vm_state(vm) == VM_RUNNING;
    if (running) {
        vcpu_set_pause(vm->machine.vcpus);
    }
    ret = core_write_all(&core);
    if (running) {
        vm_open_gate(vm);
    }
    pthread_mutex_unlock(&vm->control);
    if (close(core.fd) < 0 && ret == 0) {
        ret = -errno;
    }
    if (ret < 0) {
        unlink(path);
        return error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "cannot write the core %s",
                           path);
    }
    return 0;
}
