/* SPDX-License-Identifier: MIT */
/* Finding names and addresses in a guest. */
#include "vmm/symbols/symbols.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "vmm/guest/demo_image.h"
#include "vmm/vm/vm.h"

struct symbols *symbols_create(void)
{
    struct symbols *symbols = calloc(1, sizeof(*symbols));

    if (symbols != NULL) {
        pthread_mutex_init(&symbols->lock, NULL);
    }
    return symbols;
}

static void symbols_forget_kernel(struct symbols *symbols)
{
    symbol_file_free(symbols->kernel);
    symbols->kernel = NULL;
    modules_free(symbols->modules);
    symbols->modules = NULL;
    symbols->modules_tried = false;
}

void symbols_destroy(struct symbols *symbols)
{
    if (symbols == NULL) {
        return;
    }
    for (unsigned i = 0; i < symbols->count; i++) {
        symbol_file_free(symbols->files[i]);
    }
    symbols_forget_kernel(symbols);
    pthread_mutex_destroy(&symbols->lock);
    free(symbols);
}

/* ---- Sources ------------------------------------------------------------------------------- */

/* Kernels that say nothing in memory but may in their file. */
static int symbols_read_file(struct umbra_vm *vm, struct symbol_file **file)
{
    const struct umbra_config *config = vm->config;
    enum boot_image_kind kind = vm->symbols->entry.kind;

    if (config->demo) {
        return symbol_file_parse(demo_image, demo_image_size(), "demo", file, NULL);
    }
    if (kind == BOOT_IMAGE_BZIMAGE || kind == BOOT_IMAGE_FLAT || config->kernel == NULL) {
        return -ENODATA;
    }
    return symbol_file_read_table(config->kernel, file, NULL);
}

/* A kernel that moved itself tells by how much; the given file has its link addresses. */
static void symbols_set_slide(struct symbols *symbols)
{
    static const char *const names[] = { "_stext", "_text", "start_kernel" };
    uint64_t linked, now;

    if (symbols->given == NULL || symbols->kernel == NULL) {
        return;
    }
    symbols->given->slide = 0;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (symbol_file_address(symbols->given, names[i], &linked) &&
            symbol_file_address(symbols->kernel, names[i], &now)) {
            symbols->given->slide = now - linked;
            return;
        }
    }
}

/* Have the kernel's own names, as they are now; the caller holds the lock. */
static void symbols_need_kernel(struct umbra_vm *vm)
{
    struct symbols *symbols = vm->symbols;
    const struct boot_entry *entry = &vm->symbols->entry;

    if (symbols->kernel != NULL && symbol_file_moved(symbols->kernel, vm->machine.mem)) {
        symbols_forget_kernel(symbols);
    }
    if (symbols->kernel != NULL || symbols->kernel_tried) {
        return;
    }
    if (symbols_read_file(vm, &symbols->kernel) < 0) {
        symbol_file_of_guest(vm->machine.mem, entry, &symbols->kernel);
    }
    /* What was loaded as it is stays so; one that unpacks itself may be there later. */
    symbols->kernel_tried = !entry->linux_kernel || entry->segment_count > 0;
    symbols_set_slide(symbols);
}

/* The kernel's modules, or NULL; the caller holds the lock and has the kernel. */
static struct modules *symbols_modules(struct umbra_vm *vm)
{
    struct symbols *symbols = vm->symbols;
    const struct symbol_file *kernel = symbols->kernel;
    const struct boot_entry *entry = &symbols->entry;

    if (kernel == NULL || symbols->modules_tried || !entry->linux_kernel) {
        return symbols->modules;
    }
    symbols->modules_tried = true;
    if (kernel->located) {
        modules_open(vm->machine.mem, kernel, kernel->offset, &symbols->modules);
    } else if (entry->segment_count > 0) {
        modules_open(vm->machine.mem, kernel,
                     entry->segments[0].virtual_address - entry->segments[0].address,
                     &symbols->modules);
    }
    return symbols->modules;
}

static int symbols_add(struct symbols *symbols, struct symbol_file *file,
                       struct umbra_error *error)
{
    if (symbols->count == SYMBOLS_MAX_FILES) {
        symbol_file_free(file);
        return error_set(error, UMBRA_ERROR_USAGE, ENOSPC, "%d files of symbols at most",
                         SYMBOLS_MAX_FILES);
    }
    symbols->files[symbols->count++] = file;
    return 0;
}

int symbols_open(struct umbra_vm *vm, struct umbra_error *error)
{
    struct symbols *symbols = vm->symbols;
    const char *path = vm->config->symbols;
    struct symbol_file *file;
    int ret;

    if (path == NULL) {
        return 0;
    }
    ret = symbol_file_read(path, &file, error);
    if (ret < 0) {
        error_prefix(error, "symbols '%s'", path);
        return ret;
    }
    symbols->given = file;
    return symbols_add(symbols, file, error);
}

void symbols_reset(struct umbra_vm *vm)
{
    struct symbols *symbols = vm->symbols;

    pthread_mutex_lock(&symbols->lock);
    symbols_forget_kernel(symbols);
    symbols->kernel_tried = false;
    symbols->entry = vm->machine.entry;
    if (symbols->given != NULL) {
        symbols->given->slide = 0;
    }
    pthread_mutex_unlock(&symbols->lock);
}

int umbra_symbols_load(struct umbra_vm *vm, const char *path, uint64_t slide,
                       struct umbra_error *error)
{
    struct symbol_file *file;
    int ret = callback_foreign(vm, "umbra_symbols_load", error);

    if (ret < 0) {
        return ret;
    }
    ret = symbol_file_read(path, &file, error);
    if (ret < 0) {
        error_prefix(error, "symbols '%s'", path);
        return ret;
    }
    file->slide = slide;
    pthread_mutex_lock(&vm->symbols->lock);
    ret = symbols_add(vm->symbols, file, error);
    pthread_mutex_unlock(&vm->symbols->lock);
    return ret;
}

/* The files in the order of asking; NULL behind the last. The caller holds the lock. */
static struct symbol_file *symbols_file(struct umbra_vm *vm, unsigned index)
{
    struct symbols *symbols = vm->symbols;

    if (index < symbols->count) {
        return symbols->files[symbols->count - 1 - index];
    }
    if (index > symbols->count) {
        return NULL;
    }
    symbols_need_kernel(vm);
    return symbols->kernel;
}

/* ---- Lookups ------------------------------------------------------------------------------- */

static void symbol_to_public(const struct symbol_file *file, const struct symbol *symbol,
                             uint64_t offset, struct umbra_symbol *to)
{
    struct umbra_symbol full = {
        .size = to->size,
        .type = symbol_type(&file->table, symbol),
        .length = symbol->size,
        .offset = offset,
    };

    full.address = symbol->address + (full.type == 'A' ? 0 : file->slide);
    snprintf(full.name, sizeof(full.name), "%s", symbol_name(&file->table, symbol));
    snprintf(full.module, sizeof(full.module), "%s", file->module);
    memcpy(to, &full, to->size < sizeof(full) ? to->size : sizeof(full));
}

/* The symbol at @address and its file; the caller holds the lock. */
static const struct symbol *symbols_at(struct umbra_vm *vm, uint64_t address,
                                       struct symbol_file **file)
{
    const struct symbol *symbol;
    struct modules *modules;

    for (unsigned i = 0; (*file = symbols_file(vm, i)) != NULL; i++) {
        symbol = symbol_table_at(&(*file)->table, address - (*file)->slide);
        if (symbol != NULL) {
            return symbol;
        }
    }
    modules = symbols_modules(vm);
    *file = modules != NULL ? modules_at(modules, address) : NULL;
    return *file != NULL ? symbol_table_at(&(*file)->table, address) : NULL;
}

/* The symbol called @name and its file; *any tells whether there were names at all. The
 * caller holds the lock. */
static const struct symbol *symbols_find(struct umbra_vm *vm, const char *name,
                                         struct symbol_file **file, bool *any)
{
    const struct symbol *found = NULL;
    struct modules *modules;

    for (unsigned i = 0; found == NULL && (*file = symbols_file(vm, i)) != NULL; i++) {
        *any = true;
        found = symbol_table_find(&(*file)->table, name);
    }
    modules = found == NULL ? symbols_modules(vm) : NULL;
    if (modules != NULL) {
        modules_refresh(modules);
    }
    for (unsigned i = 0; modules != NULL && found == NULL && i < modules_count(modules);
         i++) {
        *file = modules_file(modules, i);
        found = *file != NULL ? symbol_table_find(&(*file)->table, name) : NULL;
    }
    return found;
}

/* Split "name+0x10" into a name and its offset. */
static int symbol_expression(const char *text, char name[SYMBOL_MAX_NAME + 1],
                             uint64_t *offset, struct umbra_error *error)
{
    size_t length = strcspn(text, "+");
    char *end;

    *offset = 0;
    if (text[length] == '+') {
        errno = 0;
        *offset = strtoull(text + length + 1, &end, 0);
        if (text[length + 1] < '0' || text[length + 1] > '9' || *end != '\0' ||
            errno != 0) {
            return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                             "\"%.300s\": behind + comes a number", text);
        }
    }
    if (length == 0 || length > SYMBOL_MAX_NAME) {
        return error_set(error, UMBRA_ERROR_USAGE, EINVAL,
                         "\"%.300s\" is no symbol's name", text);
    }
    memcpy(name, text, length);
    name[length] = '\0';
    return 0;
}

int umbra_symbol_lookup(struct umbra_vm *vm, const char *text,
                        struct umbra_symbol *symbol, struct umbra_error *error)
{
    char name[SYMBOL_MAX_NAME + 1];
    const struct symbol *found = NULL;
    struct symbol_file *file;
    bool any = false;
    uint64_t offset = 0;
    int ret = callback_foreign(vm, "umbra_symbol_lookup", error);

    if (ret == 0) {
        ret = symbol_expression(text, name, &offset, error);
    }
    if (ret < 0) {
        return ret;
    }
    pthread_mutex_lock(&vm->symbols->lock);
    found = symbols_find(vm, name, &file, &any);
    /* A file that was given has addresses of its own until it is known where the kernel is. */
    if (found != NULL && file == vm->symbols->given) {
        symbols_need_kernel(vm);
    }
    if (found != NULL) {
        symbol_to_public(file, found, offset, symbol);
    }
    pthread_mutex_unlock(&vm->symbols->lock);
    return found != NULL ? 0
                         : error_set(error, UMBRA_ERROR_USAGE, ENOENT, "%s \"%s\"%s",
                                     any ? "there is no symbol" : "no symbols for", name,
                                     any ? ""
                                         : ": the kernel has none that umbra can read "
                                           "(now); name a file of them: --symbols");
}

int umbra_symbol_at(struct umbra_vm *vm, uint64_t gva, struct umbra_symbol *symbol,
                    struct umbra_error *error)
{
    const struct symbol *found;
    struct symbol_file *file;

    if (callback_foreign(vm, "umbra_symbol_at", error) != 0) {
        return -EPERM;
    }
    pthread_mutex_lock(&vm->symbols->lock);
    symbols_need_kernel(vm);
    found = symbols_at(vm, gva, &file);
    if (found != NULL) {
        symbol_to_public(file, found, gva - file->slide - found->address, symbol);
    }
    pthread_mutex_unlock(&vm->symbols->lock);
    return found != NULL ? 0
                         : error_set(error, UMBRA_ERROR_USAGE, ENOENT,
                                     "no symbol is known at 0x%" PRIx64, gva);
}

/* A kernel that has just been entered runs at its physical addresses. */
static bool symbols_to_virtual(struct umbra_vm *vm, uint64_t *address)
{
    const struct boot_entry *entry = &vm->symbols->entry;
    bool found = false;

    pthread_mutex_lock(&vm->symbols->lock);
    for (unsigned i = 0; i < entry->segment_count && !found; i++) {
        if (*address - entry->segments[i].address < entry->segments[i].size) {
            *address += entry->segments[i].virtual_address - entry->segments[i].address;
            found = true;
        }
    }
    pthread_mutex_unlock(&vm->symbols->lock);
    return found;
}

void symbols_describe(struct umbra_vm *vm, uint64_t address, char text[SYMBOLS_TEXT])
{
    struct umbra_symbol symbol = { .size = sizeof(symbol) };

    text[0] = '\0';
    if (umbra_symbol_at(vm, address, &symbol, NULL) == 0 ||
        (symbols_to_virtual(vm, &address) &&
         umbra_symbol_at(vm, address, &symbol, NULL) == 0)) {
        snprintf(text, SYMBOLS_TEXT, "%s+0x%" PRIx64 "%s%s%s", symbol.name, symbol.offset,
                 symbol.module[0] != '\0' ? " [" : "", symbol.module,
                 symbol.module[0] != '\0' ? "]" : "");
    }
}

bool symbols_is_text(struct umbra_vm *vm, uint64_t address)
{
    struct umbra_symbol symbol = { .size = sizeof(symbol) };

    return umbra_symbol_at(vm, address, &symbol, NULL) == 0 &&
           symbol_is_text(symbol.type);
}

bool symbols_unwind_rule(struct umbra_vm *vm, uint64_t pc, struct orc_rule *rule)
{
    struct symbol_file *file;
    struct modules *modules;
    bool found = false;

    pthread_mutex_lock(&vm->symbols->lock);
    for (unsigned i = 0; !found && (file = symbols_file(vm, i)) != NULL; i++) {
        found = symbol_table_at(&file->table, pc - file->slide) != NULL &&
                orc_table_find(&file->orc, pc - file->slide, rule);
    }
    modules = found ? NULL : symbols_modules(vm);
    file = modules != NULL ? modules_at(modules, pc) : NULL;
    if (file != NULL) {
        found = orc_table_find(&file->orc, pc, rule);
    }
    pthread_mutex_unlock(&vm->symbols->lock);
    return found;
}

/* ---- Does the given file fit? ---------------------------------------------------------------- */

/* Whether the guest has in memory another build than the given file; the caller holds the
 * lock. */
static bool symbols_differ(struct umbra_vm *vm)
{
    const struct symbol_file *given = vm->symbols->given, *kernel = vm->symbols->kernel;
    const struct boot_entry *entry = &vm->symbols->entry;
    uint8_t id[BUILD_ID_MAX];
    size_t size = 0;

    if (given == NULL || given->build_id_size == 0) {
        return false;
    }
    if (kernel != NULL && kernel->build_id_size > 0) {
        size = kernel->build_id_size;
        memcpy(id, kernel->build_id, size);
    } else if (entry->segment_count > 0) {
        size = symbol_file_guest_id(
            given, vm->machine.mem,
            entry->segments[0].virtual_address - entry->segments[0].address, id);
    }
    return size > 0 &&
           (size != given->build_id_size || memcmp(id, given->build_id, size) != 0);
}

void symbols_origin(struct umbra_vm *vm, char *text, size_t size)
{
    struct symbol_file *file;
    struct modules *modules;
    size_t used = 0;

    text[0] = '\0';
    pthread_mutex_lock(&vm->symbols->lock);
    for (unsigned i = 0; (file = symbols_file(vm, i)) != NULL && used < size; i++) {
        int n = snprintf(text + used, size - used, "%s%s (%zu names%s%s%s)",
                         used > 0 ? ", " : "", file->origin, file->table.count,
                         file->orc.count > 0 ? ", unwind tables" : "",
                         file->slide != 0 ? ", moved" : "",
                         file == vm->symbols->given && symbols_differ(vm)
                             ? ", OF ANOTHER BUILD than the guest's kernel"
                             : "");

        used += n > 0 ? (size_t)n : 0;
    }
    modules = symbols_modules(vm);
    if (modules != NULL && used < size) {
        modules_refresh(modules);
        snprintf(text + used, size - used, ", its modules (%u)", modules_count(modules));
    }
    pthread_mutex_unlock(&vm->symbols->lock);
}

/* ---- Memory and breakpoints by name ----------------------------------------------------------- */

/* Where @name is. */
static int symbols_address(struct umbra_vm *vm, const char *name, uint64_t *address,
                           struct umbra_error *error)
{
    struct umbra_symbol symbol = { .size = sizeof(symbol) };
    int ret = umbra_symbol_lookup(vm, name, &symbol, error);

    *address = symbol.address + symbol.offset;
    return ret;
}

int umbra_memory_read_symbol(struct umbra_vm *vm, unsigned vcpu, const char *name,
                             void *buffer, size_t length, struct umbra_error *error)
{
    uint64_t address;
    int ret = symbols_address(vm, name, &address, error);

    return ret < 0 ? ret
                   : umbra_memory_read_virtual(vm, vcpu, address, buffer, length, error);
}

int umbra_memory_write_symbol(struct umbra_vm *vm, unsigned vcpu, const char *name,
                              const void *buffer, size_t length,
                              struct umbra_error *error)
{
    uint64_t address;
    int ret = symbols_address(vm, name, &address, error);

    return ret < 0 ? ret
                   : umbra_memory_write_virtual(vm, vcpu, address, buffer, length, error);
}

int umbra_breakpoint_add_symbol(struct umbra_vm *vm, enum umbra_breakpoint_kind kind,
                                const char *name, unsigned length,
                                struct umbra_error *error)
{
    uint64_t address;
    int ret = symbols_address(vm, name, &address, error);

    return ret < 0 ? ret : umbra_breakpoint_add(vm, kind, address, length, error);
}
