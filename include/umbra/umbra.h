/* SPDX-License-Identifier: MIT */
/**
 * @file umbra.h
 * libumbra: create, run, observe and destroy KVM virtual machines from a C or C++
 * program.
 *
 * The library keeps no global state, never exits, prints, installs signal handlers or
 * touches the terminal. Any number of VMs can live in one process. Functions return 0 or
 * a negative errno value unless said otherwise; those that take a `struct umbra_error *`
 * fill it in on failure (it may be NULL). A struct with a `size` member is versioned: the
 * caller stores sizeof(the struct) there before the call, and the library writes no more
 * than that.
 *
 * Threads: a `struct umbra_vm` may be used from several threads at once, except that
 * umbra_vm_destroy() must be the last call on it. A `struct umbra_config` belongs to one
 * thread at a time.
 */
#ifndef UMBRA_UMBRA_H
#define UMBRA_UMBRA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define UMBRA_API __attribute__((visibility("default")))

/** The class of an error: what a caller (or an exit status) distinguishes. */
enum umbra_error_class {
    UMBRA_ERROR_NONE = 0,
    UMBRA_ERROR_USAGE,      /**< a wrong call or command line (exit status 64) */
    UMBRA_ERROR_CONFIG,     /**< a bad config, kernel, image (65) */
    UMBRA_ERROR_MISSING,    /**< an input file that is not there (66) */
    UMBRA_ERROR_NO_KVM,     /**< no usable KVM on this host (69) */
    UMBRA_ERROR_INTERNAL,   /**< a system call or umbra itself failed (70) */
    UMBRA_ERROR_PERMISSION, /**< the host forbids it (77) */
    UMBRA_ERROR_STATE,      /**< the call does not fit the VM's state */
};

/** What failed: filled by the library, owned by the caller; plain data, copy it freely.
 */
struct umbra_error {
    enum umbra_error_class code;
    int errnum;         /**< positive errno value, 0 if none applies */
    char message[2048]; /**< UTF-8, may hold several lines; what, on what, why, remedy */
};

/** The library's version, "MAJOR.MINOR.PATCH". */
UMBRA_API const char *umbra_version(void);

/** The word of the NULL-terminated @p candidates that a mistyped @p word was probably meant
 * to be; NULL when none is near. */
UMBRA_API const char *umbra_nearest(const char *word, const char *const *candidates);

/* ---- Configuration -------------------------------------------------------------- */

struct umbra_config;

/** Make a config that holds the defaults. Free it with umbra_config_free(). */
UMBRA_API int umbra_config_new(struct umbra_config **config);
UMBRA_API void umbra_config_free(struct umbra_config *config);

/** Read a JSON file on top of @p config. Relative paths in it are relative to the file.
 */
UMBRA_API int umbra_config_load_file(struct umbra_config *config, const char *path,
                                     struct umbra_error *error);

/** The same from text; @p name stands for the file in messages, @p base_dir for its
 * folder. */
UMBRA_API int umbra_config_load_text(struct umbra_config *config, const char *json,
                                     const char *name, const char *base_dir,
                                     struct umbra_error *error);

/**
 * Set one key ("memory", "append", "cpus", "disks", ...) from launcher-style text
 * ("512M"). A key that holds a list (disks, net, share) gains one element described by
 * "name=value,name=value".
 */
UMBRA_API int umbra_config_set(struct umbra_config *config, const char *key,
                               const char *value, struct umbra_error *error);

/** One key as the text that umbra_config_set() takes (malloc'd, the caller frees it);
 * NULL when it is not set, holds objects, or memory is out. */
UMBRA_API char *umbra_config_get(const struct umbra_config *config, const char *key);

/** Check everything that can be checked without /dev/kvm and without the files named in
 * it. */
UMBRA_API int umbra_config_validate(const struct umbra_config *config,
                                    struct umbra_error *error);

/** Check that the files named in it (kernel, initrd, disks, shares) are there and may be
 * used. */
UMBRA_API int umbra_config_check_files(const struct umbra_config *config,
                                       struct umbra_error *error);

/** What the configuration knows, for help texts and checks. Strings are static. */
struct umbra_config_key {
    uint32_t size;       /**< in: sizeof(struct umbra_config_key) */
    bool is_switch;      /**< on or off; a launcher option that needs no value */
    const char *parent;  /**< the key whose object holds it; NULL at the top */
    const char *name;    /**< in JSON */
    const char *option;  /**< the launcher's, without dashes; NULL inside objects */
    const char *value;   /**< what stands for the value in help texts */
    const char *help;    /**< one sentence */
    const char *example; /**< launcher text that is valid for it */
};

/** Describe key @p index, each followed by those of its object; -ENOENT behind the last.
 */
UMBRA_API int umbra_config_key_at(size_t index, struct umbra_config_key *key);

/** The JSON schema of a config file (malloc'd, the caller frees it); NULL when out of
 * memory. */
UMBRA_API char *umbra_config_schema(void);

/** The config as JSON text (malloc'd, the caller frees it); NULL when out of memory. */
UMBRA_API char *umbra_config_to_json(const struct umbra_config *config);

/* ---- Life of a VM --------------------------------------------------------------- */

struct umbra_vm;

/** How a run ended. */
enum umbra_outcome_kind {
    UMBRA_OUTCOME_NONE = 0,     /**< it has not ended */
    UMBRA_OUTCOME_POWEROFF,     /**< the guest powered off */
    UMBRA_OUTCOME_RESET,        /**< the guest asked for a reset */
    UMBRA_OUTCOME_EXIT,         /**< the guest wrote to the debug-exit port */
    UMBRA_OUTCOME_PANIC,        /**< the guest reported a panic (pvpanic) */
    UMBRA_OUTCOME_TRIPLE_FAULT, /**< the guest's processor shut down */
    UMBRA_OUTCOME_DEADLINE,     /**< the config's timeout passed */
    UMBRA_OUTCOME_STOPPED,      /**< umbra_vm_stop() */
    UMBRA_OUTCOME_ERROR,        /**< KVM or umbra could not go on */
};

/** The typed result of a run; strings are UTF-8 or raw console bytes, always terminated.
 */
struct umbra_outcome {
    uint32_t size; /**< in: sizeof(struct umbra_outcome) */
    enum umbra_outcome_kind kind;
    uint32_t exit_value;     /**< EXIT: the value v written (a launcher exits 2v+1) */
    uint32_t vcpu;           /**< the vCPU it happened on, UINT32_MAX when none */
    uint64_t run_ns;         /**< wall-clock time from start to end */
    char reason[512];        /**< one line: why */
    char console_tail[2048]; /**< the last bytes of the first serial console */
    char report[16384];      /**< registers, disassembly, ...; empty after a clean end */
};

/**
 * Create a VM: opens /dev/kvm, maps memory, loads the kernel. It does not run yet.
 *
 * It belongs to the calling process. A process forked off it inherits descriptors (all are
 * closed by exec) but neither guest memory nor threads; there every call on the VM fails with
 * -EPERM (umbra_vm_destroy() does nothing), and the VM goes on in its own process. Such a
 * child may exec, _exit, or make VMs of its own.
 */
UMBRA_API int umbra_vm_create(const struct umbra_config *config, struct umbra_vm **vm,
                              struct umbra_error *error);

/** Start the vCPU and I/O threads. */
UMBRA_API int umbra_vm_start(struct umbra_vm *vm, struct umbra_error *error);

/**
 * Wait until the run has ended. @p timeout_ms below 0 waits without end.
 * @return 0 and the outcome; -ETIMEDOUT while it still runs.
 */
UMBRA_API int umbra_vm_wait(struct umbra_vm *vm, int64_t timeout_ms,
                            struct umbra_outcome *outcome, struct umbra_error *error);

/** A descriptor that polls readable once the run has ended; the VM owns it. */
UMBRA_API int umbra_vm_event_fd(struct umbra_vm *vm);

/** Return when every vCPU and every device is quiet. */
UMBRA_API int umbra_vm_pause(struct umbra_vm *vm, struct umbra_error *error);
UMBRA_API int umbra_vm_resume(struct umbra_vm *vm, struct umbra_error *error);

/** Press the ACPI power button; the guest decides what follows. */
UMBRA_API int umbra_vm_power_button(struct umbra_vm *vm, struct umbra_error *error);

/** End the run now, from any thread; the outcome is STOPPED with @p reason. */
UMBRA_API int umbra_vm_stop(struct umbra_vm *vm, const char *reason,
                            struct umbra_error *error);

/** Back to the state that umbra_vm_create() left; the kernel is loaded afresh. When that
 * fails, say because its file has gone, a run ends with ERROR; another reset may succeed. */
UMBRA_API int umbra_vm_reset(struct umbra_vm *vm, struct umbra_error *error);

/** Stop it if it runs and release everything. NULL is fine. */
UMBRA_API void umbra_vm_destroy(struct umbra_vm *vm);

/* ---- Memory ---------------------------------------------------------------------- */

/**
 * Copy guest memory by guest-physical address, at any time after creation. Contents may
 * change under the copy while the VM runs.
 * @return -EFAULT when a byte lies outside RAM (ROM may be read).
 */
UMBRA_API int umbra_memory_read(struct umbra_vm *vm, uint64_t gpa, void *buffer,
                                size_t length, struct umbra_error *error);
UMBRA_API int umbra_memory_write(struct umbra_vm *vm, uint64_t gpa, const void *buffer,
                                 size_t length, struct umbra_error *error);

/**
 * The same by guest-virtual address, through the page tables that vCPU @p vcpu uses now.
 * The VM must not be running (created, paused or ended). Nothing is transferred on error.
 */
UMBRA_API int umbra_memory_read_virtual(struct umbra_vm *vm, unsigned vcpu, uint64_t gva,
                                        void *buffer, size_t length,
                                        struct umbra_error *error);
UMBRA_API int umbra_memory_write_virtual(struct umbra_vm *vm, unsigned vcpu, uint64_t gva,
                                         const void *buffer, size_t length,
                                         struct umbra_error *error);

/** Where @p gva is mapped on vCPU @p vcpu; -EFAULT when it is not. The VM must not run. */
UMBRA_API int umbra_translate(struct umbra_vm *vm, unsigned vcpu, uint64_t gva,
                              uint64_t *gpa, struct umbra_error *error);

/** A range of guest-physical addresses that is memory. */
struct umbra_memory_range {
    uint32_t size; /**< in: sizeof(struct umbra_memory_range) */
    bool readonly; /**< ROM */
    uint64_t gpa, length;
};

/** Describe range @p index of the guest's memory, by address; -ENOENT behind the last. */
UMBRA_API int umbra_memory_range_at(struct umbra_vm *vm, size_t index,
                                    struct umbra_memory_range *range);

/**
 * How much of the host's memory the guest's takes: @p bytes as of at most a second ago (a
 * little longer where it is very much). Guest memory comes from the host when it is first
 * touched, and goes back through a balloon.
 */
UMBRA_API int umbra_memory_resident(struct umbra_vm *vm, uint64_t *bytes,
                                    struct umbra_error *error);

/**
 * Find the 4 KiB pages of RAM that hold the @p length bytes of @p bytes at @p offset: up to
 * @p max of them in @p gpa, by address. @p count is how many there are, which may be more.
 */
UMBRA_API int umbra_memory_find(struct umbra_vm *vm, unsigned offset, const void *bytes,
                                size_t length, uint64_t *gpa, size_t max, size_t *count,
                                struct umbra_error *error);

/** What decides how a vCPU translates addresses. */
struct umbra_paging {
    uint32_t size; /**< in: sizeof(struct umbra_paging) */
    uint32_t pkru; /**< 0 unless CR4.PKE is set */
    uint64_t cr0, cr3, cr4, efer, rflags;
    uint8_t cpl;
    uint8_t physical_bits; /**< MAXPHYADDR */
    bool gbpages;          /**< 1 GiB pages */
    bool amd;              /**< an AMD processor's rules of reserved bits */
    uint32_t reserved;
};

/** The VM must not be running (created, paused or ended). */
UMBRA_API int umbra_paging_get(struct umbra_vm *vm, unsigned vcpu,
                               struct umbra_paging *paging, struct umbra_error *error);

/** Stands for the CR3 that the vCPU has. */
#define UMBRA_CR3_CURRENT UINT64_MAX

/**
 * Have KVM translate @p count guest-virtual addresses as vCPU @p vcpu would with its other
 * registers and @p cr3, for a read by the kernel that SMAP does not hinder: gpa[i], or
 * UINT64_MAX where nothing is mapped. The VM must not be running. KVM's walk sets accessed
 * flags in what @p cr3 leads to, as a processor's does; a root that is none any more may lead
 * to other memory, so keep a copy of the tables and put it back.
 */
UMBRA_API int umbra_translate_list(struct umbra_vm *vm, unsigned vcpu, uint64_t cr3,
                                   const uint64_t *gva, uint64_t *gpa, size_t count,
                                   struct umbra_error *error);

/* ---- Symbols --------------------------------------------------------------------------- */

/** A name for an address. */
struct umbra_symbol {
    uint32_t size; /**< in: sizeof(struct umbra_symbol) */
    char type;     /**< as nm(1) has it: T or t code, D, B, R data, A a mere number */
    char reserved[3];
    uint64_t address; /**< guest-virtual, of the symbol itself */
    uint64_t length;  /**< bytes, 0 where it is not known */
    uint64_t offset;  /**< from the symbol: what was asked for is address + offset */
    char name[256];
    char module[64]; /**< the Linux module whose it is; "": none's */
};

/**
 * Find a name ("start_kernel", "jiffies_64+4"). Known are the names in the config's "symbols"
 * file, in files given to umbra_symbols_load(), in the kernel file when it is an ELF file with
 * a symbol table, and those that a Linux kernel has in memory (CONFIG_KALLSYMS), as all
 * distributions' kernels do; there a kernel that moved itself (KASLR) tells its new addresses
 * once it has unpacked itself. Those of its modules are known where the kernel describes its own types
 * (CONFIG_DEBUG_INFO_BTF). Of several symbols of a name a global one is meant, then that
 * of the lowest address. At any time.
 * @return -ENOENT when nothing of that name is known.
 */
UMBRA_API int umbra_symbol_lookup(struct umbra_vm *vm, const char *name,
                                  struct umbra_symbol *symbol, struct umbra_error *error);
/** The symbol that holds guest-virtual address @p gva. */
UMBRA_API int umbra_symbol_at(struct umbra_vm *vm, uint64_t gva,
                              struct umbra_symbol *symbol, struct umbra_error *error);

/** Read more names: an ELF file with a symbol table, a bzImage or a vmlinux with kallsyms.
 * @p slide is added to its addresses. At any time; what was loaded last is asked first. */
UMBRA_API int umbra_symbols_load(struct umbra_vm *vm, const char *path, uint64_t slide,
                                 struct umbra_error *error);

/** umbra_memory_read_virtual() and umbra_memory_write_virtual() at a symbol ("jiffies"). */
UMBRA_API int umbra_memory_read_symbol(struct umbra_vm *vm, unsigned vcpu,
                                       const char *name, void *buffer, size_t length,
                                       struct umbra_error *error);
UMBRA_API int umbra_memory_write_symbol(struct umbra_vm *vm, unsigned vcpu,
                                        const char *name, const void *buffer,
                                        size_t length, struct umbra_error *error);

/**
 * Write what the kernel or ELF file @p kernel (a bzImage as distributions ship it is fine)
 * says about itself as an ELF file for gdb and other tools: its symbols and, of a Linux kernel
 * with ORC tables, call frame information for backtraces. @p path must be new.
 */
UMBRA_API int umbra_symbols_export(const char *kernel, const char *path,
                                   struct umbra_error *error);

/* ---- Dirty pages ------------------------------------------------------------------------ */

/** Called with the guest-physical address of a 4 KiB page. */
typedef void (*umbra_page_fn)(void *context, uint64_t gpa);

/**
 * Call @p fn for every page of RAM written since the last call (or since creation), by the
 * guest or by its devices. The config's "dirty" must be "bitmap" or "ring".
 */
UMBRA_API int umbra_vm_dirty_pages(struct umbra_vm *vm, umbra_page_fn fn, void *context,
                                   struct umbra_error *error);

/* ---- vCPUs ------------------------------------------------------------------------- */

/** A segment register with its hidden part. */
struct umbra_segment {
    uint64_t base;
    uint32_t limit;
    uint16_t selector;
    uint16_t
        attributes; /**< as in a VMCB: type 0-3, S 4, DPL 5-6, P 7, AVL 8, L 9, D 10, G 11 */
};

/** The registers of an x86-64 vCPU. */
struct umbra_registers {
    uint32_t size; /**< in: sizeof(struct umbra_registers) */
    uint32_t reserved;
    uint64_t
        gpr[16]; /**< rax rcx rdx rbx rsp rbp rsi rdi r8..r15, as instructions encode */
    uint64_t rip, rflags;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer;
    struct umbra_segment es, cs, ss, ds, fs, gs, ldtr, tr;
    uint64_t gdt_base, idt_base;
    uint16_t gdt_limit, idt_limit;
    uint32_t reserved2;
};

/** The VM must not be running (created, paused or ended). */
UMBRA_API int umbra_registers_get(struct umbra_vm *vm, unsigned vcpu,
                                  struct umbra_registers *registers,
                                  struct umbra_error *error);
UMBRA_API int umbra_registers_set(struct umbra_vm *vm, unsigned vcpu,
                                  const struct umbra_registers *registers,
                                  struct umbra_error *error);

/* ---- Debugging ----------------------------------------------------------------------- */

enum umbra_breakpoint_kind {
    UMBRA_BREAKPOINT_SOFTWARE, /**< an int3 written over the instruction; any number */
    UMBRA_BREAKPOINT_HARDWARE, /**< a debug register; with watchpoints four at most */
    UMBRA_WATCHPOINT_WRITE,    /**< length 1, 2, 4 or 8, aligned to it */
    UMBRA_WATCHPOINT_ACCESS,
};

/** Why a VM is not running. */
enum umbra_stop_kind {
    UMBRA_STOP_NONE = 0, /**< it runs */
    UMBRA_STOP_PAUSED,   /**< umbra_vm_pause(), or never started */
    UMBRA_STOP_STEP,
    UMBRA_STOP_BREAKPOINT,
    UMBRA_STOP_WATCHPOINT,
    UMBRA_STOP_ENDED, /**< umbra_vm_wait() has the outcome */
};

struct umbra_stop {
    uint32_t size; /**< in: sizeof(struct umbra_stop) */
    enum umbra_stop_kind kind;
    uint32_t vcpu;
    uint32_t reserved;
    uint64_t pc;      /**< guest-virtual */
    uint64_t address; /**< of the breakpoint or the watched data */
};

/**
 * Set or clear a breakpoint at a guest-virtual address, translated as vCPU 0 does now, or,
 * where that maps nothing yet, as the kernel's ELF image was loaded; it holds on every vCPU.
 * The VM must not be running. The guest's own debug registers are out of effect while any is
 * set.
 */
UMBRA_API int umbra_breakpoint_add(struct umbra_vm *vm, enum umbra_breakpoint_kind kind,
                                   uint64_t gva, unsigned length,
                                   struct umbra_error *error);
/** The same at a symbol ("start_kernel"). */
UMBRA_API int umbra_breakpoint_add_symbol(struct umbra_vm *vm,
                                          enum umbra_breakpoint_kind kind,
                                          const char *name, unsigned length,
                                          struct umbra_error *error);
UMBRA_API int umbra_breakpoint_remove(struct umbra_vm *vm,
                                      enum umbra_breakpoint_kind kind, uint64_t gva,
                                      unsigned length, struct umbra_error *error);

/** Wait until the VM does not run, and learn why. -ETIMEDOUT while it does. */
UMBRA_API int umbra_vm_wait_stop(struct umbra_vm *vm, int64_t timeout_ms,
                                 struct umbra_stop *stop, struct umbra_error *error);

/**
 * Execute one instruction on vCPU @p vcpu; the VM must be paused and stays so. Devices and the
 * other vCPUs stand still, so a vCPU that waits (HLT) cannot step: -ETIMEDOUT after a second.
 */
UMBRA_API int umbra_vm_step(struct umbra_vm *vm, unsigned vcpu, struct umbra_stop *stop,
                            struct umbra_error *error);

/**
 * Listen for gdb (the remote protocol) on "PORT", "ADDRESS:PORT" or "unix:PATH" until the VM
 * is destroyed; a client that connects stops the VM. Whoever connects controls the guest
 * wholly: a plain PORT is on 127.0.0.1.
 */
UMBRA_API int umbra_gdb_listen(struct umbra_vm *vm, const char *address,
                               struct umbra_error *error);

/**
 * What a person wants to know about a VM that misbehaves, as text (malloc'd, the caller frees
 * it): for every vCPU registers and controls, what it last left the guest for, code at RIP,
 * backtrace, page walks; then the console's tail. In any state; a running VM stands still
 * meanwhile. NULL with @p error when it cannot be made.
 */
UMBRA_API char *umbra_vm_report(struct umbra_vm *vm, struct umbra_error *error);

/**
 * Write an ELF core of the guest to the new file @p path (mode 0600): registers of every vCPU
 * and all RAM, for gdb and crash(8). A running VM stands still meanwhile.
 */
UMBRA_API int umbra_vm_write_core(struct umbra_vm *vm, const char *path,
                                  struct umbra_error *error);

/* ---- Interrupts made by the embedder ------------------------------------------------ */

/** Drive pin @p gsi (0..23) of the interrupt controller, beside the devices on it. */
UMBRA_API int umbra_inject_irq(struct umbra_vm *vm, unsigned gsi, bool level,
                               struct umbra_error *error);
/** Send one message-signalled interrupt. */
UMBRA_API int umbra_inject_msi(struct umbra_vm *vm, uint64_t address, uint32_t data,
                               struct umbra_error *error);
/** Raise a non-maskable interrupt on vCPU @p vcpu. */
UMBRA_API int umbra_inject_nmi(struct umbra_vm *vm, unsigned vcpu,
                               struct umbra_error *error);

/* ---- Hooks and devices of the embedder -------------------------------------------------- */

/** Kinds of access, as bits of a mask. */
enum umbra_access_kind {
    UMBRA_PORT_READ = 1 << 0,
    UMBRA_PORT_WRITE = 1 << 1,
    UMBRA_MMIO_READ = 1 << 2,
    UMBRA_MMIO_WRITE = 1 << 3,
    UMBRA_MSR_READ = 1 << 4,
    UMBRA_MSR_WRITE = 1 << 5,
};

/** One access by the guest that left the processor. */
struct umbra_access {
    uint32_t size; /**< of this struct */
    enum umbra_access_kind kind;
    uint64_t address; /**< port, guest-physical address, or MSR index */
    uint32_t width;   /**< bytes: 1, 2, 4 or 8 */
    uint32_t vcpu;
    uint64_t value; /**< written; or, by the hook, what a read gives */
};

enum umbra_hook_verdict {
    UMBRA_HOOK_PASS, /**< go on as if there were no hook (with the value as it is now) */
    UMBRA_HOOK_HANDLED, /**< done: no device sees it */
    UMBRA_HOOK_FAULT,   /**< MSRs: raise #GP in the guest; otherwise as HANDLED */
};

/**
 * Runs on the vCPU's thread. It may call the memory and interrupt functions for this VM and
 * umbra_vm_stop(). Calls that would have to wait for this very thread (all that start, stop,
 * pause or change the VM, hooks too) return -EDEADLK, from every callback of a VM.
 */
typedef enum umbra_hook_verdict (*umbra_hook_fn)(void *context,
                                                 struct umbra_access *access);

/**
 * Have @p fn called for accesses of the kinds in @p kinds that begin in [base, base+length),
 * before any device. The latest hook comes first. Accesses that KVM completes in the kernel
 * (its PIC, PIT, IOAPIC and local APIC, doorbells of virtio queues, MSRs of the APIC) do not
 * leave the processor and are not seen. MSR hooks cannot be added while the VM runs.
 */
UMBRA_API int umbra_hook_add(struct umbra_vm *vm, unsigned kinds, uint64_t base,
                             uint64_t length, umbra_hook_fn fn, void *context,
                             uint32_t *hook, struct umbra_error *error);

/** Take a hook of either kind away. When this returns it does not run any more. */
UMBRA_API int umbra_hook_remove(struct umbra_vm *vm, uint32_t hook,
                                struct umbra_error *error);

/** What devices do, as bits of a mask. */
enum umbra_event_kind {
    UMBRA_EVENT_NOTIFY = 1 << 0,  /**< the driver notified virtqueue @c queue */
    UMBRA_EVENT_STARTED = 1 << 1, /**< a request was taken from it; value: bytes out */
    UMBRA_EVENT_DONE = 1 << 2,    /**< a request was finished; value: bytes in */
    UMBRA_EVENT_INTERRUPT =
        1 << 3,                 /**< an interrupt was raised; value: the line, if any */
    UMBRA_EVENT_RESET = 1 << 4, /**< the device was reset, by the driver or with the VM */
    UMBRA_EVENT_STATE = 1 << 5, /**< virtio: the status is value now (1.2, 2.1) */
    UMBRA_EVENT_FAULT = 1 << 6, /**< a planned fault happens; value: its kind */
};

enum { UMBRA_EVENT_NO_QUEUE = 0xffff };

struct umbra_event {
    uint32_t size; /**< of this struct */
    enum umbra_event_kind kind;
    const char *device; /**< its id: "disk0", "com1" */
    uint32_t queue;     /**< UMBRA_EVENT_NO_QUEUE: of no queue */
    uint32_t reserved;
    uint64_t value;
};

/**
 * Runs on the thread where it happened, with the device locked. It may call the memory and
 * interrupt functions for this VM and umbra_vm_stop().
 */
typedef void (*umbra_event_fn)(void *context, const struct umbra_event *event);

/** Have @p fn called for the kinds of event in mask @p kinds, of the device called @p device
 * (NULL: of all). umbra_hook_remove() takes it away. */
UMBRA_API int umbra_event_hook_add(struct umbra_vm *vm, unsigned kinds,
                                   const char *device, umbra_event_fn fn, void *context,
                                   uint32_t *hook, struct umbra_error *error);

/** A device made of callbacks, on the same contract as umbra's own. */
struct umbra_device {
    uint32_t size;    /**< sizeof(struct umbra_device) */
    const char *name; /**< unique in the VM; copied */
    bool mmio;        /**< MMIO, otherwise ports */
    uint64_t base, length;
    void *context;
    /** Offsets are within the device; calls are serialised. NULL: reads give all ones. */
    uint64_t (*read)(void *context, uint64_t offset, unsigned width);
    void (*write)(void *context, uint64_t offset, unsigned width, uint64_t value);
    void (*reset)(void *context);   /**< back to power-on state; may be NULL */
    void (*destroy)(void *context); /**< the VM goes away; may be NULL */
};

/**
 * Add a device before umbra_vm_start(). It raises interrupts by umbra_inject_irq() or
 * umbra_inject_msi(). On failure too its destroy callback has been called.
 */
UMBRA_API int umbra_device_add(struct umbra_vm *vm, const struct umbra_device *device,
                               struct umbra_error *error);

/* ---- Fault injection ------------------------------------------------------------------ */

/** What goes wrong. The opportunity is what the device does anyway: a rule decides for each
 * one whether the fault happens, from its seed alone. */
enum umbra_fault_kind {
    UMBRA_FAULT_IO_ERROR, /**< disk: a request fails; rng: no bytes; vsock: a connection is
                              reset at a packet; other devices: a register access reaches
                              nobody */
    UMBRA_FAULT_SHORT,    /**< only the first bytes move (a disk's request then fails) */
    UMBRA_FAULT_DELAY,    /**< it happens later; frames behind it may overtake */
    UMBRA_FAULT_DROP,     /**< a frame vanishes */
    UMBRA_FAULT_DUPLICATE,    /**< a frame comes twice */
    UMBRA_FAULT_CORRUPT,      /**< one bit of the data is flipped */
    UMBRA_FAULT_LINK_FLAP,    /**< at a frame, the link goes down for a while */
    UMBRA_FAULT_IRQ_LOST,     /**< an interrupt (line, MSI) is not delivered */
    UMBRA_FAULT_IRQ_SPURIOUS, /**< an interrupt without a cause: virtio, as a request begins;
                                 lines, after they fell */
    UMBRA_FAULT_MEMORY_GONE, /**< RAM [address, address+bytes) is there no more: reads give
                                 ones, writes vanish */
    UMBRA_FAULT_CLOCK_JUMP,  /**< clocks jump by jump_ns */
};

/** As the guest sees it: in is a read or a received frame, out a write or a sent frame. */
enum umbra_fault_direction { UMBRA_FAULT_ANY, UMBRA_FAULT_IN, UMBRA_FAULT_OUT };

/** Clocks that can jump, as bits of a mask. */
enum umbra_clock {
    UMBRA_CLOCK_RTC = 1 << 0, /**< the CMOS clock */
    UMBRA_CLOCK_KVM = 1 << 1, /**< kvm-clock */
    UMBRA_CLOCK_TSC = 1 << 2, /**< the time-stamp counter of every vCPU */
};

/**
 * One rule of a fault plan. Of the opportunities of device @p device, after the first
 * @p skip, one in @p one_in (0 or 1: each) has the fault, until it happened @p count times
 * (0: no end). Requests of disks are their reads, writes, flushes and discards; of networks,
 * frames; of consoles, buffers. MEMORY_GONE and CLOCK_JUMP happen at requests of virtio
 * devices, at register accesses of others.
 */
struct umbra_fault {
    uint32_t size; /**< in: sizeof(struct umbra_fault) */
    enum umbra_fault_kind kind;
    const char *device; /**< "disk0", "net0", "rng", "consoles", "com1", "rtc", ... */
    uint64_t seed;
    uint64_t skip, one_in, count;
    enum umbra_fault_direction direction; /**< only these opportunities count */
    uint32_t clocks;                      /**< CLOCK_JUMP: enum umbra_clock; 0: all */
    uint64_t delay_ns;                    /**< DELAY and LINK_FLAP; 0: a millisecond */
    uint64_t bytes;   /**< SHORT: how many move, 0: drawn; MEMORY_GONE: the length */
    uint64_t address; /**< MEMORY_GONE: guest-physical, of whole pages */
    int64_t jump_ns;  /**< CLOCK_JUMP */
};

/** A fault that happened. To have it again alone: skip = opportunity - 1, count = 1, with the
 * same seed. */
struct umbra_fault_event {
    uint32_t size; /**< in: sizeof(struct umbra_fault_event) */
    uint32_t id;   /**< of the rule */
    enum umbra_fault_kind kind;
    uint32_t reserved;
    char device[32];
    uint64_t opportunity; /**< of the rule, from 1 */
    uint64_t value; /**< bytes moved, nanoseconds of delay, bit flipped, address, jump */
    uint64_t time_ns; /**< since umbra_vm_create() */
};

/** Add a rule at any time; @p id (may be NULL) names it. Opportunities count from now, and
 * again from umbra_vm_reset(). */
UMBRA_API int umbra_fault_add(struct umbra_vm *vm, const struct umbra_fault *fault,
                              uint32_t *id, struct umbra_error *error);
UMBRA_API int umbra_fault_remove(struct umbra_vm *vm, uint32_t id,
                                 struct umbra_error *error);

/** The @p index'th fault that happened since creation or umbra_vm_reset(), in order; -ENOENT
 * behind the last, and for those that fell out (4096 are kept). */
UMBRA_API int umbra_fault_event_at(struct umbra_vm *vm, uint64_t index,
                                   struct umbra_fault_event *event);

/** The name of a kind, as in a config: "io-error". */
UMBRA_API const char *umbra_fault_name(enum umbra_fault_kind kind);

/**
 * Take RAM [gpa, gpa+length) away from the guest, and give all of it back with its contents.
 * Pages are whole; up to 16 ranges; not with dirty tracking. A running VM stands still
 * meanwhile. Devices find it gone too, but for rings that they mapped before.
 */
UMBRA_API int umbra_memory_hide(struct umbra_vm *vm, uint64_t gpa, uint64_t length,
                                struct umbra_error *error);
UMBRA_API int umbra_memory_show(struct umbra_vm *vm, struct umbra_error *error);

/** Have the clocks of mask @p clocks (enum umbra_clock) jump by @p ns, as far as KVM lets; a
 * running VM stands still meanwhile. */
UMBRA_API int umbra_clock_jump(struct umbra_vm *vm, uint32_t clocks, int64_t ns,
                               struct umbra_error *error);

/* ---- Console --------------------------------------------------------------------- */

/**
 * A console is a number in the calls below: a serial port is 0 to 3; what the others are,
 * umbra_console_find() tells.
 *
 * Find one by its name: "com1" to "com4", or the name that a virtio console port has in the
 * config ("hvc0", "agent"). -ENOENT when the config has no such port.
 */
UMBRA_API int umbra_console_find(struct umbra_vm *vm, const char *name, unsigned *port,
                                 struct umbra_error *error);

/** Called with console output, on a thread of the VM; must not block for long nor call
 * back. */
typedef void (*umbra_console_fn)(void *context, const void *bytes, size_t length);

/** Have output of console @p port handed to @p fn; set it before umbra_vm_start(). */
UMBRA_API int umbra_console_set_output(struct umbra_vm *vm, unsigned port,
                                       umbra_console_fn fn, void *context);

/** Type @p length bytes into console @p port; returns 0 or -errno (-EAGAIN: queue
 * full). */
UMBRA_API int umbra_console_send(struct umbra_vm *vm, unsigned port, const void *bytes,
                                 size_t length);

enum umbra_expect_flags {
    UMBRA_EXPECT_TEXT = 0,
    UMBRA_EXPECT_REGEX = 1 << 0, /**< a POSIX extended regular expression */
};

/** What matched. */
struct umbra_match {
    uint64_t offset; /**< in the console's whole output, in bytes */
    uint64_t length;
    char text[512]; /**< the match, cut off if longer, terminated */
};

/**
 * Wait up to @p timeout_ms for @p pattern in the output of console @p port, behind the last
 * match (of any thread). The VM may have printed it already. The first bytes that match
 * end the wait, whatever may follow: a regex that can go on ("[a-z]+") wants an end ("\n").
 * @return 0 and the match (which may be NULL); -ETIMEDOUT, or -EPIPE when the run ended
 * first, with the console's tail in the error's message.
 */
UMBRA_API int umbra_console_expect(struct umbra_vm *vm, unsigned port,
                                   const char *pattern, unsigned flags,
                                   int64_t timeout_ms, struct umbra_match *match,
                                   struct umbra_error *error);

/** Tell the guest the size of the terminal at console @p port, a virtio console's;
 * -ENOTSUP for a serial port, which has none. */
UMBRA_API int umbra_console_resize(struct umbra_vm *vm, unsigned port, unsigned columns,
                                   unsigned rows, struct umbra_error *error);

/** All of its output (the last half megabyte at least; malloc'd, the caller frees). */
UMBRA_API char *umbra_console_transcript(struct umbra_vm *vm, unsigned port,
                                         size_t *length);

/* ---- Sockets between guest and host (virtio-vsock) ---------------------------------- */

/**
 * Connect to @p port of the guest, whose config must have a "vsock" (it needs no path).
 * @p timeout_ms, below 0: without end, may well cover the guest's boot up to the driver of
 * its socket device; a guest without a listener on the port refuses at once.
 * @return 0 and a connected stream socket, the caller's to close; -ECONNREFUSED;
 * -ETIMEDOUT; -EPIPE when the run ended first; -ENOSPC with too many connections.
 */
UMBRA_API int umbra_vsock_connect(struct umbra_vm *vm, uint32_t port, int64_t timeout_ms,
                                  int *fd, struct umbra_error *error);

/** Let the guest connect to @p port of the host (CID 2), from now on. */
UMBRA_API int umbra_vsock_listen(struct umbra_vm *vm, uint32_t port,
                                 struct umbra_error *error);

/**
 * The next connection of the guest to @p port, which listens from this call on at the latest.
 * @return 0 and a connected stream socket, the caller's to close; -ETIMEDOUT; -EPIPE when
 * the run ended first.
 */
UMBRA_API int umbra_vsock_accept(struct umbra_vm *vm, uint32_t port, int64_t timeout_ms,
                                 int *fd, struct umbra_error *error);

/** A connected stream socket, to talk with as with a console. One thread at a time. */
struct umbra_stream;

/** Take @p fd over, also on failure: any stream socket. With @p vm (may be NULL) the end of
 * its run ends waiting too; it must outlive the stream. */
UMBRA_API int umbra_stream_open(struct umbra_vm *vm, int fd, struct umbra_stream **stream,
                                struct umbra_error *error);
/** As umbra_console_expect(); -EPIPE also when the other side has closed. It reads no
 * further than it must: what nobody expects holds the sender up. */
UMBRA_API int umbra_stream_expect(struct umbra_stream *stream, const char *pattern,
                                  unsigned flags, int64_t timeout_ms,
                                  struct umbra_match *match, struct umbra_error *error);
/** Send all of it. On -ETIMEDOUT a part may have gone. */
UMBRA_API int umbra_stream_send(struct umbra_stream *stream, const void *bytes,
                                size_t length, int64_t timeout_ms,
                                struct umbra_error *error);
/** What came so far, as umbra_console_transcript(). */
UMBRA_API char *umbra_stream_transcript(struct umbra_stream *stream, size_t *length);
/** Close the socket. NULL is fine. */
UMBRA_API void umbra_stream_close(struct umbra_stream *stream);

/* ---- Devices while the VM lives ----------------------------------------------------- */

/*
 * By the device's name: its "id" in the config, or "disk0", "net0", ... in the order of the
 * config, and "balloon". From any thread, in any state but after the end of the run; the guest
 * is told by an interrupt and acts in its own time. -ENOENT: there is no such device.
 */

/** What a guest tells of its memory (virtio 1.2, 5.5.6.4): bytes, or counts since its start. */
enum umbra_balloon_stat {
    UMBRA_BALLOON_SWAP_IN,  /**< bytes */
    UMBRA_BALLOON_SWAP_OUT, /**< bytes */
    UMBRA_BALLOON_MAJOR_FAULTS,
    UMBRA_BALLOON_MINOR_FAULTS,
    UMBRA_BALLOON_FREE,      /**< bytes in no use at all */
    UMBRA_BALLOON_TOTAL,     /**< bytes */
    UMBRA_BALLOON_AVAILABLE, /**< bytes that programs could have without swapping */
    UMBRA_BALLOON_CACHES,    /**< bytes that the guest could give up at once */
    UMBRA_BALLOON_HUGETLB_ALLOCATIONS,
    UMBRA_BALLOON_HUGETLB_FAILURES,
    UMBRA_BALLOON_OOM_KILLS,
    UMBRA_BALLOON_ALLOC_STALLS,
    UMBRA_BALLOON_ASYNC_SCANS,     /**< bytes */
    UMBRA_BALLOON_DIRECT_SCANS,    /**< bytes */
    UMBRA_BALLOON_ASYNC_RECLAIMS,  /**< bytes */
    UMBRA_BALLOON_DIRECT_RECLAIMS, /**< bytes */
    UMBRA_BALLOON_STAT_COUNT,
};

/** The balloon and what it brought; bytes. */
struct umbra_balloon_stats {
    uint32_t size;     /**< in: sizeof(struct umbra_balloon_stats) */
    bool driver_ready; /**< the guest's driver is there */
    uint64_t target;   /**< what is to be in the balloon */
    uint64_t actual;   /**< what is, as the guest says */
    uint64_t resident; /**< host memory that the guest's memory takes now */
    uint64_t released; /**< given to the host through the balloon since the start */
    uint64_t reported; /**< given to the host by free page reporting since the start */
    uint64_t age_ms;   /**< of what follows; UINT64_MAX: the guest has said nothing */
    uint64_t guest[UMBRA_BALLOON_STAT_COUNT]; /**< UINT64_MAX: not told */
};

/**
 * Have the guest lend @p bytes of its memory to the host (its balloon's target); 0 gives all
 * of it back. The driver rounds to 4 KiB pages, and takes its time.
 * @return -ERANGE when that is more than the guest has.
 */
UMBRA_API int umbra_balloon_set(struct umbra_vm *vm, const char *name, uint64_t bytes,
                                struct umbra_error *error);

/**
 * What is known of the balloon now. When the config asks for no statistics at an interval,
 * each call also asks the guest for new ones, which a later call shows.
 */
UMBRA_API int umbra_balloon_stats(struct umbra_vm *vm, const char *name,
                                  struct umbra_balloon_stats *stats,
                                  struct umbra_error *error);

/**
 * Tell the guest the size that disk @p name has now. @p bytes, if not 0, is first made its
 * size, where it is a file or an overlay; a disk only grows. @p size, if not NULL, gets the
 * size in bytes.
 */
UMBRA_API int umbra_disk_resize(struct umbra_vm *vm, const char *name, uint64_t bytes,
                                uint64_t *size, struct umbra_error *error);

/** Pull the cable of network interface @p name, or plug it in again. */
UMBRA_API int umbra_net_set_link(struct umbra_vm *vm, const char *name, bool up,
                                 struct umbra_error *error);

/* ---- Control socket --------------------------------------------------------------- */

/**
 * Listen for JSON-RPC 2.0 requests, one object a line, on a unix socket at @p path (mode
 * 0600, clients of the same user or root) until the VM is destroyed. The method rpc.discover
 * lists the others.
 */
UMBRA_API int umbra_control_listen(struct umbra_vm *vm, const char *path,
                                   struct umbra_error *error);

/**
 * Where the control socket of a VM named @p name is by convention, in a folder that is made
 * if need be: $XDG_RUNTIME_DIR/umbra, /run/umbra for root, or /tmp/umbra-UID. With @p name
 * NULL: that folder.
 */
UMBRA_API int umbra_control_path(const char *name, char *path, size_t size,
                                 struct umbra_error *error);

/* ---- Statistics ------------------------------------------------------------------ */

/** What was counted of one kind of exit on one vCPU. */
struct umbra_exit_counter {
    uint32_t size; /**< of this struct */
    uint32_t vcpu;
    char reason[24]; /**< "IO", "MMIO", ... (KVM_EXIT_*); empty: see access */
    uint32_t access; /**< enum umbra_access_kind; 0: all of that reason */
    uint32_t buckets;
    uint64_t key; /**< port, page of MMIO, MSR */
    uint64_t count;
    uint64_t ns;           /**< from the exit until its handler was done, in all */
    uint64_t below_ns[24]; /**< how many took less, and as long as the bucket before */
    uint64_t bucket_count[24];
};

typedef void (*umbra_exit_fn)(void *context, const struct umbra_exit_counter *counter);

/** Call @p fn for every kind of exit that happened, while the VM goes on. */
UMBRA_API int umbra_vm_exits(struct umbra_vm *vm, umbra_exit_fn fn, void *context,
                             struct umbra_error *error);

/** As KVM has them; kernels to come may have others. */
enum umbra_kvm_stat_kind {
    UMBRA_KVM_STAT_CUMULATIVE,
    UMBRA_KVM_STAT_INSTANT,
    UMBRA_KVM_STAT_PEAK,
    UMBRA_KVM_STAT_LINEAR_HISTOGRAM, /**< buckets of bucket_size, the last all above */
    UMBRA_KVM_STAT_LOG_HISTOGRAM,    /**< bucket n holds [2^(n-1), 2^n), the first 0 */
};

enum umbra_kvm_stat_unit {
    UMBRA_KVM_STAT_NONE,
    UMBRA_KVM_STAT_BYTES,
    UMBRA_KVM_STAT_SECONDS,
    UMBRA_KVM_STAT_CYCLES,
    UMBRA_KVM_STAT_BOOLEAN,
};

/** One of KVM's own statistics; each value stands for value * base^exponent units. */
struct umbra_kvm_stat {
    uint32_t size; /**< of this struct */
    enum umbra_kvm_stat_kind kind;
    enum umbra_kvm_stat_unit unit;
    uint32_t base; /**< 10 or 2 */
    int32_t exponent;
    uint32_t bucket_size;
    uint32_t count; /**< of values */
    uint32_t reserved;
    char name[48];
    uint64_t values[64];
};

typedef void (*umbra_kvm_stat_fn)(void *context, const struct umbra_kvm_stat *stat);

/** Call @p fn for each statistic that KVM keeps of vCPU @p vcpu, or of the VM with -1.
 * -ENOTSUP where KVM has none (Linux before 5.14). */
UMBRA_API int umbra_vm_kvm_stats(struct umbra_vm *vm, int vcpu, umbra_kvm_stat_fn fn,
                                 void *context, struct umbra_error *error);

/** All statistics as JSON text (malloc'd, the caller frees it); NULL when out of memory.
 */
UMBRA_API char *umbra_vm_stats_json(struct umbra_vm *vm);

/* ---- The board ------------------------------------------------------------------- */

/**
 * One ACPI table of the config's board by its signature ("DSDT", "FACP", ...), and its
 * device tree: malloc'd, the caller frees it. Neither needs KVM nor the files that the config
 * names.
 */
UMBRA_API int umbra_acpi_table(const struct umbra_config *config, const char *signature,
                               void **table, size_t *size, struct umbra_error *error);
UMBRA_API int umbra_fdt(const struct umbra_config *config, void **blob, size_t *size,
                        struct umbra_error *error);

/* ---- The host --------------------------------------------------------------------- */

/**
 * What this host offers a VM and what stands in the way, as JSON text (malloc'd, the caller
 * frees it): {"version", "kvm": "usable"|"absent"|"forbidden", "checks": [{"name", "status":
 * "good"|"note"|"bad", "value", "remedy"?}], "seconds"}. @p kvm_device NULL is /dev/kvm.
 */
UMBRA_API int umbra_doctor_json(const char *kvm_device, char **json,
                                struct umbra_error *error);

/* ---- Log -------------------------------------------------------------------------- */

enum umbra_log_level {
    UMBRA_LOG_ERROR,
    UMBRA_LOG_WARNING,
    UMBRA_LOG_INFO,
    UMBRA_LOG_DEBUG,
};

/** Receives log lines (no newline), possibly from several threads at once. */
typedef void (*umbra_log_fn)(void *context, enum umbra_log_level level, const char *line);

/** Where a VM made from @p config sends its log; without it there is no log. */
UMBRA_API int umbra_config_set_log(struct umbra_config *config, umbra_log_fn fn,
                                   void *context, enum umbra_log_level level);

#ifdef __cplusplus
}
#endif

#endif
