/* SPDX-License-Identifier: MIT */
/* From the entry code to guest_main(): boot information, memory map, the ends of a run.
 */
#include "vmm/guest/guest.h"
#include "vmm/guest/ports.h"

#define MULTIBOOT_MAGIC 0x2badb002
#define PVH_MAGIC       0x336ec578

struct multiboot_info { /* Multiboot 0.6.96, section 3.3 */
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
    uint32_t syms[4], mmap_length, mmap_addr;
};

struct __attribute__((packed)) multiboot_range {
    uint32_t size; /* of the rest */
    uint64_t start, length;
    uint32_t type;
};

struct multiboot_module {
    uint32_t start, end, cmdline, reserved;
};

struct pvh_info { /* xen/include/public/arch-x86/hvm/start_info.h: hvm_start_info */
    uint32_t magic, version, flags, module_count;
    uint64_t modules, cmdline, rsdp, memmap;
    uint32_t memmap_count, reserved;
};

struct pvh_range {
    uint64_t start, size;
    uint32_t type, reserved;
};

struct pvh_module {
    uint64_t start, size, cmdline, reserved;
};

struct boot boot;
extern uint32_t boot_magic, boot_info;
void guest_start(void);

static const void *physical(uint64_t address)
{
    return (const void *)address;
}

static void range_add(uint64_t start, uint64_t size, uint32_t type)
{
    if (boot.range_count < ARRAY_SIZE(boot.ranges))
        boot.ranges[boot.range_count++] = (struct memory_range){ start, size, type };
}

static void module_add(uint64_t start, uint64_t size)
{
    if (boot.module_count < ARRAY_SIZE(boot.modules))
        boot.modules[boot.module_count++] = (struct boot_module){ start, size };
}

static void command_line_set(uint64_t address)
{
    const char *text = physical(address);
    unsigned i;

    for (i = 0; text && text[i] && i < sizeof(boot.command_line) - 1; i++)
        boot.command_line[i] = text[i];
}

static void multiboot_parse(const struct multiboot_info *info)
{
    const struct multiboot_module *module = physical(info->mods_addr);
    uint32_t at = 0, i;

    boot.protocol = BOOT_MULTIBOOT;
    if (info->flags & 1 << 2)
        command_line_set(info->cmdline);
    if (info->flags & 1 << 3)
        for (i = 0; i < info->mods_count; i++)
            module_add(module[i].start, module[i].end - module[i].start);
    while (info->flags & 1 << 6 && at < info->mmap_length) {
        const struct multiboot_range *range = physical(info->mmap_addr + at);

        range_add(range->start, range->length, range->type);
        at += range->size + 4;
    }
}

static void pvh_parse(const struct pvh_info *info)
{
    const struct pvh_module *module = physical(info->modules);
    const struct pvh_range *range = physical(info->memmap);
    uint32_t i;

    boot.protocol = BOOT_PVH;
    boot.rsdp = info->rsdp;
    command_line_set(info->cmdline);
    for (i = 0; i < info->module_count; i++)
        module_add(module[i].start, module[i].size);
    for (i = 0; info->version >= 1 && i < info->memmap_count; i++)
        range_add(range[i].start, range[i].size, range[i].type);
}

/* Some multiboot loaders put the kernel's file name before the arguments. */
static bool word_is_file(const char *word)
{
    if (*word == '(') /* a boot device, or "(embedded)" */
        return true;
    for (; *word && *word != '='; word++)
        if (*word == '/' || strcmp(word, ".elf") == 0)
            return true;
    return false;
}

static void command_line_split(void)
{
    static char words[sizeof(boot.command_line)];
    char *c = words;

    memcpy(words, boot.command_line, sizeof(words));
    while (*c && boot.argc < (int)ARRAY_SIZE(boot.argv)) {
        while (*c == ' ')
            *c++ = 0;
        if (!*c)
            break;
        boot.argv[boot.argc++] = c;
        while (*c && *c != ' ')
            c++;
        if (*c)
            *c++ = 0;
        if (boot.argc == 1 && boot.protocol == BOOT_MULTIBOOT &&
            word_is_file(boot.argv[0]))
            boot.argc = 0;
    }
}

void boot_parse(uint32_t magic, uint32_t info)
{
    if (magic == MULTIBOOT_MAGIC)
        multiboot_parse(physical(info));
    else if (*(const uint32_t *)physical(info) == PVH_MAGIC)
        pvh_parse(physical(info));
    else
        guest_fail("started neither by multiboot nor by PVH: eax %x ebx %x", magic, info);
    command_line_split();
}

const char *boot_option(const char *key)
{
    size_t length = strlen(key);
    int i;

    for (i = 0; i < boot.argc; i++)
        if (text_starts(boot.argv[i], key) && boot.argv[i][length] == '=')
            return boot.argv[i] + length + 1;
    return NULL;
}

bool boot_word(const char *word)
{
    int i;

    for (i = 0; i < boot.argc; i++)
        if (strcmp(boot.argv[i], word) == 0)
            return true;
    return false;
}

uint64_t boot_ram_size(void)
{
    uint64_t size = 0;
    unsigned i;

    for (i = 0; i < boot.range_count; i++)
        if (boot.ranges[i].type == 1)
            size += boot.ranges[i].size;
    return size;
}

/* ---- Page tables --------------------------------------------------------------------
 */

extern uint64_t page_root_directory[512]; /* 512 GiB */

static uint64_t *table_new(void)
{
    static uint64_t tables[64][512] __attribute__((aligned(4096)));
    static unsigned used;

    return used < ARRAY_SIZE(tables) ? tables[used++] : NULL;
}

static uint64_t *table_of(uint64_t entry)
{
    return (uint64_t *)(entry & 0x000ffffffffff000);
}

static uint64_t *directory_entry(uint64_t address)
{
    uint64_t *upper = &page_root_directory[address >> 30 & 511];

    if (address >> 39)
        return NULL;
    if (!*upper) {
        uint64_t *table = table_new();

        if (!table)
            return NULL;
        *upper = (uint64_t)table | PTE_PRESENT | PTE_WRITE | PTE_USER;
    }
    return &table_of(*upper)[address >> 21 & 511];
}

bool memory_map(uint64_t start, uint64_t size, uint64_t flags)
{
    uint64_t address = start & ~0x1fffffull;

    for (; address < start + size; address += 0x200000) {
        uint64_t *entry = directory_entry(address);

        if (!entry)
            return false;
        if (!*entry)
            *entry = address | flags | PTE_LARGE;
    }
    return true;
}

struct split {
    uint64_t *table, base;
};

static uint64_t split_fill(void *argument)
{
    struct split *split = argument;
    unsigned i;

    for (i = 0; i < 512; i++)
        split->table[i] = split->base + i * 4096ull;
    return 0;
}

bool memory_protect(uint64_t address, uint64_t flags)
{
    uint64_t *entry = directory_entry(address);

    if (!entry || !*entry)
        return false;
    if (*entry & PTE_LARGE) {
        struct split split = { table_new(), *entry & ~(uint64_t)PTE_LARGE };

        if (!split.table)
            return false;
        user_run(split_fill, &split, NULL);
        *entry = (uint64_t)split.table | PTE_PRESENT | PTE_WRITE | PTE_USER;
    }
    table_of(*entry)[address >> 12 & 511] = flags ? (address & ~0xfffull) | flags : 0;
    __asm__ volatile("mov %%cr3, %%rax; mov %%rax, %%cr3" ::: "rax", "memory");
    return true;
}

/* ---- Begin and end --------------------------------------------------------------------
 */

void cpu_stop(void)
{
    for (;;)
        __asm__ volatile("cli; hlt");
}

void guest_exit(uint32_t value)
{
    out32(DEBUG_EXIT_PORT, value);
    cpu_stop();
}

void guest_start(void)
{
    cpu_init(cpu_get(0));
    cpu_get(0)->online = 1;
    interrupt_init();
    boot_parse(boot_magic, boot_info);
    guest_exit((uint32_t)guest_main(boot.argc, boot.argv));
}
