/* SPDX-License-Identifier: MIT */
/*
 * An ELF core of a guest: registers of every vCPU as NT_PRSTATUS notes, RAM as PT_LOAD
 * segments by guest-physical address. Virtual addresses are those of Linux's direct map,
 * kernel image and current stacks where the guest is a Linux that maps itself, otherwise the
 * physical ones, so that gdb finds memory; what Linux tells about itself for crash dumps
 * (VMCOREINFO) goes along for crash(8). Untouched memory becomes holes in the file.
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
#include "vcpu/x86_64/look.h"
#include "vcpu/x86_64/state.h"
#include "vmm/debug/inspect.h"
#include "vmm/vm/vm.h"

/* Linux's layout (Documentation/x86/x86_64/mm.rst, 4-level paging, without KASLR). */
#define LINUX_DIRECT_MAP   UINT64_C(0xffff888000000000)
#define LINUX_KERNEL_MAP   UINT64_C(0xffffffff80000000)
#define LINUX_KERNEL_TEXT  UINT64_C(0xffffffff81000000)
#define LINUX_KERNEL_LIMIT (UINT64_C(512) << 20)

enum {
    CORE_CHUNK = 1 << 20,
    CORE_STACK_PAGES = 8, /* of each vCPU's stack, as Linux's at most */
    CORE_NOTE_MAX = 16384,
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
    Elf64_Phdr *segments;
    const struct guest_region **regions; /* whose bytes a segment has; NULL: another's */
    unsigned count, capacity;
    size_t notes_size;
    /* Linux: where it is mapped, by what it says about itself. */
    struct vcpu *mapper; /* whose page tables have the kernel; NULL: no Linux */
    uint64_t text, text_at, direct_map;
    uint8_t info[CORE_NOTE_MAX]; /* its VMCOREINFO note */
    size_t info_size;
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

/* ---- Linux ------------------------------------------------------------------------------------- */

/* A pointer of the kernel's. */
static bool core_linux_word(const struct core *core, const struct vcpu_look *look,
                            const char *name, uint64_t *value)
{
    struct umbra_symbol symbol = { .size = sizeof(symbol) };
    uint8_t bytes[sizeof(*value)];

    if (umbra_symbol_lookup(core->vm, name, &symbol, NULL) < 0 ||
        !vcpu_look_read(look, symbol.address, bytes, sizeof(bytes))) {
        return false;
    }
    *value = load_le64(bytes);
    return true;
}

/* The note that a kernel has ready for its own crash dumps (kernel/crash_core.c). */
static void core_linux_info(struct core *core, const struct vcpu_look *look)
{
    static const char name[] = "VMCOREINFO";
    const size_t at = sizeof(Elf64_Nhdr) + align_up(sizeof(name), 4);
    Elf64_Nhdr header;
    uint64_t note;

    if (!core_linux_word(core, look, "vmcoreinfo_note", &note) ||
        !vcpu_look_read(look, note, core->info, at)) {
        return;
    }
    memcpy(&header, core->info, sizeof(header));
    if (header.n_namesz != sizeof(name) || header.n_descsz > CORE_NOTE_MAX - at ||
        memcmp(core->info + sizeof(header), name, sizeof(name)) != 0 ||
        !vcpu_look_read(look, note, core->info, at + header.n_descsz)) {
        return;
    }
    core->info_size = align_up(at + header.n_descsz, 4);
    memset(core->info + at + header.n_descsz, 0,
           core->info_size - (at + header.n_descsz));
}

/* Is the guest a Linux that maps itself, and where? */
static void core_find_linux(struct core *core)
{
    struct umbra_symbol symbol = { .size = sizeof(symbol) };
    const struct vcpu_set *set = core->vm->machine.vcpus;
    struct vcpu_look look;

    core->text = umbra_symbol_lookup(core->vm, "_text", &symbol, NULL) == 0
                     ? symbol.address
                     : LINUX_KERNEL_TEXT;
    core->direct_map = LINUX_DIRECT_MAP;
    for (unsigned i = 0; i < set->options.count && core->mapper == NULL; i++) {
        /* A vCPU in a program may have tables without the kernel. */
        if (core->text >= LINUX_KERNEL_MAP &&
            vcpu_translate(&set->vcpus[i], core->text, &core->text_at)) {
            core->mapper = &set->vcpus[i];
        }
    }
    if (core->mapper != NULL && vcpu_look_begin(core->mapper, &look) == 0) {
        core_linux_word(core, &look, "page_offset_base", &core->direct_map);
        core_linux_info(core, &look);
    }
}

/* ---- Segments ---------------------------------------------------------------------------------- */

/* Some bytes of a segment again at another virtual address. */
static void core_alias(struct core *core, const Elf64_Phdr *of, uint64_t virtual_address,
                       uint64_t from, uint64_t size)
{
    Elf64_Phdr *alias = &core->segments[core->count];

    if (core->count < core->capacity) {
        *alias = *of;
        alias->p_vaddr = virtual_address;
        alias->p_paddr += from;
        alias->p_offset += from;
        alias->p_filesz = alias->p_memsz = size;
        core->regions[core->count++] = NULL;
    }
}

/* A vCPU's stack where it is mapped, if that is in none of Linux's linear maps. */
static void core_plan_stack(struct core *core, struct vcpu *vcpu, unsigned linear)
{
    struct vcpu_look look;
    uint64_t page;

    if (vcpu_look_begin(vcpu, &look) < 0 || look.bits != 64 ||
        look.regs.rsp < LINUX_DIRECT_MAP || look.regs.rsp >= LINUX_KERNEL_MAP) {
        return;
    }
    page = align_down(look.regs.rsp, 4096);
    for (unsigned i = 0; i < CORE_STACK_PAGES; i++, page += 4096) {
        uint64_t at;

        if (!vcpu_translate(vcpu, page, &at)) {
            return; /* the guard page behind the stack */
        }
        for (unsigned n = 0; n < linear; n++) {
            const Elf64_Phdr *segment = &core->segments[n];

            if (page - segment->p_vaddr < segment->p_memsz) {
                break;
            }
            if (core->regions[n] != NULL && at - segment->p_paddr < segment->p_memsz) {
                core_alias(core, segment, page, at - segment->p_paddr, 4096);
                break;
            }
        }
    }
}

/* Lay the segments out behind the headers and notes. Debuggers take an alignment of 0 as the
 * sign of a kernel's dump. */
static int core_plan(struct core *core)
{
    const unsigned cpus = core->vm->config->cpus;
    const struct guest_region *regions;
    uint64_t offset;
    unsigned linear;
    size_t count;

    core_find_linux(core);
    regions = guest_mem_regions(core->vm->machine.mem, &count);
    core->capacity = (unsigned)(2 * count) + CORE_STACK_PAGES * cpus;
    core->segments = calloc(core->capacity, sizeof(*core->segments));
    core->regions = calloc(core->capacity, sizeof(const struct guest_region *));
    if (core->segments == NULL || core->regions == NULL) {
        return -ENOMEM;
    }
    core->notes_size = cpus * sizeof(struct core_note) + core->info_size;
    offset = align_up(sizeof(Elf64_Ehdr) + (core->capacity + 1) * sizeof(Elf64_Phdr) +
                          core->notes_size,
                      4096);
    for (size_t i = 0; i < count; i++) {
        Elf64_Phdr *segment = &core->segments[core->count];
        uint64_t base = regions[i].base, end = base + regions[i].size;

        *segment = (Elf64_Phdr){
            .p_type = PT_LOAD,
            .p_flags = PF_R | PF_W | PF_X,
            .p_offset = offset,
            .p_vaddr = core->mapper != NULL ? core->direct_map + base : base,
            .p_paddr = base,
            .p_filesz = regions[i].size,
            .p_memsz = regions[i].size,
        };
        core->regions[core->count++] = &regions[i];
        if (core->mapper != NULL && base < LINUX_KERNEL_LIMIT) {
            /* Where the kernel image is mapped. */
            core_alias(core, segment, core->text + base - align_down(core->text_at, 4096),
                       0, (end < LINUX_KERNEL_LIMIT ? end : LINUX_KERNEL_LIMIT) - base);
        }
        offset += regions[i].size;
    }
    linear = core->count;
    for (unsigned i = 0; i < cpus && core->mapper != NULL; i++) {
        core_plan_stack(core, &core->vm->machine.vcpus->vcpus[i], linear);
    }
    return 0;
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
    if (ret == 0) {
        ret = core_write(core->fd, core->info, core->info_size,
                         (off_t)(notes_at + core->notes_size - core->info_size));
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

    ret = core_plan(core);
    if (ret == 0) {
        ret = core_write_headers(core);
    }
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
    free(core.segments);
    free(core.regions);
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
