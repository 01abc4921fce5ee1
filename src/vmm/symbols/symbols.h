/* SPDX-License-Identifier: MIT */
/* The names of a VM's guest: what it was given, and what its kernel says about itself. */
#ifndef VMM_SYMBOLS_SYMBOLS_H
#define VMM_SYMBOLS_SYMBOLS_H

#include <pthread.h>

#include "vmm/symbols/file.h"
#include "vmm/symbols/modules.h"

struct umbra_vm;

enum { SYMBOLS_MAX_FILES = 16, SYMBOLS_TEXT = SYMBOL_MAX_NAME + 24 + 63 };

struct symbols {
    pthread_mutex_t lock;                         /* a leaf */
    struct boot_entry entry;                      /* how the guest was loaded */
    struct symbol_file *files[SYMBOLS_MAX_FILES]; /* given; the last is asked first */
    unsigned count;
    struct symbol_file *given;  /* the config's, one of files; NULL: none */
    struct symbol_file *kernel; /* the kernel's own; NULL: not read */
    bool kernel_tried;          /* and that will not change before a reset */
    struct modules *modules; /* of that kernel; NULL: not asked for, or it does not say */
    bool modules_tried;
};

struct symbols *symbols_create(void);          /* NULL: no memory */
void symbols_destroy(struct symbols *symbols); /* NULL is fine */
/* Read the config's file. */
int symbols_open(struct umbra_vm *vm, struct umbra_error *error);
/* The guest was loaded, for the first time or afresh. */
void symbols_reset(struct umbra_vm *vm);

/* Write "name+0x12", or "name+0x12 [module]", for @address into @text; "" when nothing is known. */
void symbols_describe(struct umbra_vm *vm, uint64_t address, char text[SYMBOLS_TEXT]);
/* Whether @address is in code that has a name. */
bool symbols_is_text(struct umbra_vm *vm, uint64_t address);
/* The unwind rule for code at @pc. */
bool symbols_unwind_rule(struct umbra_vm *vm, uint64_t pc, struct orc_rule *rule);
/* Where names come from, and whether they fit, for a person. */
void symbols_origin(struct umbra_vm *vm, char *text, size_t size);

#endif
