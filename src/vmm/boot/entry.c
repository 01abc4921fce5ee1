/* SPDX-License-Identifier: MIT */
/* The state a processor enters a loaded image in: GDT, stack, identity page tables. */
#include <errno.h>

#include "base/error.h"
#include "vmm/boot/loader.h"

/* Selectors as Linux's 32-bit and 64-bit boot protocols want them. */
enum { ENTRY_CS = 0x10, ENTRY_DS = 0x18, ENTRY_STACK_SIZE = 16 << 10 };

/* Flat segments, accessed already so that no processor writes to the table. */
#define ENTRY_CODE32 UINT64_C(0x00cf9b000000ffff)
#define ENTRY_CODE64 UINT64_C(0x00af9b000000ffff)
#define ENTRY_DATA   UINT64_C(0x00cf93000000ffff)

/* Intel SDM volume 3, 4.5: present, writable, accessed, dirty, 2 MiB leaf. */
#define ENTRY_TABLE UINT64_C(0x03)
#define ENTRY_LEAF  UINT64_C(0xe3)

/* PML4, PDPT and four page directories of 2 MiB leaves: 4 GiB mapped onto itself. */
enum { ENTRY_TABLE_PAGES = 6, ENTRY_PAGE = 4096 };

static int entry_page_tables(struct loader *loader, struct umbra_error *error)
{
    static const uint8_t zero[ENTRY_TABLE_PAGES * ENTRY_PAGE];
    gpa base;
    uint8_t *tables;
    int result =
        loader_put_low(loader, zero, sizeof(zero), "the first page tables", &base, error);

    if (result != 0) {
        return result;
    }
    tables = guest_mem_ptr(loader->mem, base, sizeof(zero));
    if (tables == NULL) {
        return error_set(error, UMBRA_ERROR_INTERNAL, EFAULT,
                         "the first page tables are not in RAM");
    }
    store_le64(tables, (base + ENTRY_PAGE) | ENTRY_TABLE);
    for (unsigned i = 0; i < 4; i++) {
        store_le64(tables + ENTRY_PAGE + 8 * i,
                   (base + (2 + i) * ENTRY_PAGE) | ENTRY_TABLE);
    }
    for (uint64_t i = 0; i < 4 * 512; i++) {
        store_le64(tables + 2 * ENTRY_PAGE + 8 * i, i << 21 | ENTRY_LEAF);
    }
    guest_mem_mark_dirty(loader->mem, base, sizeof(zero));
    loader->entry->cr3 = base;
    return 0;
}

int loader_enter(struct loader *loader, enum boot_mode mode, uint64_t rip,
                 struct umbra_error *error)
{
    const uint64_t gdt[] = {
        0, 0, htole64(mode == BOOT_MODE_LONG ? ENTRY_CODE64 : ENTRY_CODE32),
        htole64(ENTRY_DATA)
    };
    static const uint8_t stack[ENTRY_STACK_SIZE];
    struct boot_entry *entry = loader->entry;
    gpa base;
    int result;

    entry->mode = mode;
    entry->rip = rip;
    result =
        loader_put_low(loader, gdt, sizeof(gdt), "the first GDT", &entry->gdt, error);
    if (result == 0) {
        result =
            loader_put_low(loader, stack, sizeof(stack), "the first stack", &base, error);
    }
    if (result == 0 && mode == BOOT_MODE_LONG) {
        result = entry_page_tables(loader, error);
    }
    if (result != 0) {
        return result;
    }
    entry->rsp = base + sizeof(stack);
    entry->gdt_limit = sizeof(gdt) - 1;
    entry->cs = ENTRY_CS;
    entry->ds = ENTRY_DS;
    return 0;
}
