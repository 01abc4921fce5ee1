/* SPDX-License-Identifier: MIT */
/* ACPI tables: checksums, pointers, contents, and iasl's opinion of them. */
#include "unit/boot_fixture.h"

#include <errno.h>

static uint8_t sum(const uint8_t *bytes, size_t size)
{
    uint8_t total = 0;

    for (size_t i = 0; i < size; i++) {
        total = (uint8_t)(total + bytes[i]);
    }
    return total;
}

/* The table at @addr of guest memory, checked, as a malloc'd copy. */
static uint8_t *table_at(const struct boot_fixture *f, gpa addr, const char *signature)
{
    uint32_t size = (uint32_t)boot_fixture_read(f, addr + 4, 4);
    uint8_t *table = malloc(size);

    assert_non_null(table);
    assert_true(addr >= BOARD_ROM_BASE && addr + size <= BOARD_ROM_BASE + BOARD_ROM_SIZE);
    assert_int_equal(guest_mem_read(f->mem, addr, table, size), 0);
    assert_memory_equal(table, signature, 4);
    if (strcmp(signature, "FACS") != 0) {
        assert_int_equal(sum(table, size), 0);
    }
    return table;
}

static void write_and_follow(unsigned cpus)
{
    struct boot_fixture f;
    uint8_t rsdp[36], *xsdt, *rsdt, *fadt, *table;
    gpa at = 0;

    boot_fixture_setup(&f, cpus, 64 * MIB);
    assert_int_equal(
        acpi_write(&f.board, f.mem, BOARD_ROM_BASE, BOARD_ROM_SIZE, &at, &f.error), 0);
    assert_int_equal(at, BOARD_ROM_BASE);
    assert_int_equal(guest_mem_read(f.mem, at, rsdp, sizeof(rsdp)), 0);
    assert_memory_equal(rsdp, "RSD PTR ", 8);
    assert_int_equal(sum(rsdp, 20), 0);
    assert_int_equal(sum(rsdp, 36), 0);
    xsdt = table_at(&f, load_le64(rsdp + 24), "XSDT");
    rsdt = table_at(&f, load_le32(rsdp + 16), "RSDT");
    assert_int_equal(load_le32(xsdt + 4), 36 + 3 * 8);
    for (unsigned i = 0; i < 3; i++) {
        static const char *const names[] = { "FACP", "APIC", "MCFG" };

        assert_int_equal(load_le64(xsdt + 36 + 8 * i), load_le32(rsdt + 36 + 4 * i));
        table = table_at(&f, load_le64(xsdt + 36 + 8 * i), names[i]);
        free(table);
    }
    fadt = table_at(&f, load_le64(xsdt + 36), "FACP");
    assert_int_equal(load_le32(fadt + 40), load_le64(fadt + 140));
    assert_int_equal(load_le32(fadt + 36) % 64, 0);
    free(table_at(&f, load_le32(fadt + 36), "FACS"));
    free(table_at(&f, load_le32(fadt + 40), "DSDT"));
    assert_int_equal(load_le16(fadt + 46), BOARD_SCI_GSI);
    assert_int_equal(load_le32(fadt + 56), BOARD_PM_BASE);
    assert_int_equal(load_le64(fadt + 116 + 4), BOARD_RESET_PORT);
    assert_int_equal(fadt[128], BOARD_RESET_VALUE);
    /* Not hardware-reduced (bit 20), a fixed power button (bit 4 clear). */
    assert_int_equal(load_le32(fadt + 112) & (1u << 20 | 1u << 4), 0);
    free(fadt);
    free(xsdt);
    free(rsdt);
    boot_fixture_teardown(&f);
}

static void test_write(void **state)
{
    (void)state;
    write_and_follow(1);
    write_and_follow(4);
    write_and_follow(BOARD_MAX_CPUS);
}

static void test_no_room(void **state)
{
    struct boot_fixture f;
    gpa at = 0;

    (void)state;
    boot_fixture_setup(&f, BOARD_MAX_CPUS, 64 * MIB);
    assert_int_equal(acpi_write(&f.board, f.mem, BOARD_ROM_BASE, 4096, &at, &f.error),
                     -ENOSPC);
    assert_non_null(strstr(f.error.message, "4096"));
    assert_int_equal(
        acpi_write(&f.board, f.mem, BOARD_ECAM_BASE, BOARD_ROM_SIZE, &at, &f.error),
        -EFAULT);
    boot_fixture_teardown(&f);
}

/* Count MADT structures of each type; ids above 254 take the x2APIC form. */
static void test_madt(void **state)
{
    struct board board;
    unsigned count[256] = { 0 };
    uint8_t *madt;
    void *table;
    size_t size;

    (void)state;
    boot_fixture_board(&board, 6, 64 * MIB);
    board.apic_ids[4] = 255;
    board.apic_ids[5] = 300;
    board.x2apic = true;
    assert_int_equal(acpi_table(&board, "APIC", &table, &size), 0);
    madt = table;
    for (size_t at = 44; at < size; at += madt[at + 1]) {
        assert_true(at + 2 <= size && madt[at + 1] >= 2);
        count[madt[at]]++;
        if (madt[at] == 2 && madt[at + 3] == 0) {
            assert_int_equal(load_le32(madt + at + 4), 2);
        }
        if (madt[at] == 2 && madt[at + 3] == BOARD_SCI_GSI) {
            assert_int_equal(load_le16(madt + at + 8), 0x0d);
        }
    }
    assert_int_equal(count[0], 4);
    assert_int_equal(count[9], 2);
    assert_int_equal(count[1], 1);
    assert_int_equal(count[2], 2);
    assert_int_equal(count[4], 1);
    assert_int_equal(count[10], 1);
    free(table);
    assert_int_equal(acpi_table(&board, "NOPE", &table, &size), -ENOENT);
}

/* Run @command in @folder; its output is shown when it fails. */
static void run(const char *folder, const char *command)
{
    char line[512];

    snprintf(line, sizeof(line), "cd %s && { %s; } >log 2>&1 || { cat log; false; }",
             folder, command);
    if (system(line) != 0) {
        fail_msg("failed: %s", command);
    }
}

static void iasl_board(const struct board *board)
{
    static const char *const names[] = { "DSDT", "FACP", "APIC", "MCFG",
                                         "XSDT", "RSDT", "FACS" };
    char folder[] = "/tmp/umbra-acpi-XXXXXX", command[160];

    assert_non_null(mkdtemp(folder));
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        char path[64];
        void *table;
        size_t size;
        FILE *file;

        assert_int_equal(acpi_table(board, names[i], &table, &size), 0);
        snprintf(path, sizeof(path), "%s/%s.aml", folder, names[i]);
        file = fopen(path, "w");
        assert_non_null(file);
        assert_int_equal(fwrite(table, 1, size, file), size);
        fclose(file);
        free(table);
        snprintf(command, sizeof(command),
                 "iasl -d %s.aml && ! grep -iE 'error|warning|invalid' log", names[i]);
        run(folder, command);
        /* What was read back compiles without errors and warnings. */
        snprintf(command, sizeof(command),
                 "iasl -p again%s %s.dsl && "
                 "{ grep -q '0 Errors, 0 Warnings' log || ! grep -q Compilation log; }",
                 names[i], names[i]);
        run(folder, command);
    }
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    assert_int_equal(system(command), 0);
}

static void test_iasl(void **state)
{
    struct board board;

    (void)state;
    if (system("iasl -v >/dev/null 2>&1") != 0) {
        print_message("SKIP: iasl is missing (apt-get install acpica-tools)\n");
        skip();
    }
    boot_fixture_board(&board, 1, 64 * MIB);
    iasl_board(&board);
    boot_fixture_board(&board, BOARD_MAX_CPUS, 6 * GIB);
    board.apic_ids[BOARD_MAX_CPUS - 1] = 300;
    board.x2apic = true;
    iasl_board(&board);
    board.device_count = 0;
    board.mmio64_size = 0;
    iasl_board(&board);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write),
        cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_madt),
        cmocka_unit_test(test_iasl),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
