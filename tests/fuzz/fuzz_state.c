/* SPDX-License-Identifier: MIT */
/*
 * Hostile saved state: every device loads it, then is used. The first byte chooses
 * whether the input is a stream as it is, with its outer checksum made right, or the
 * fields of one section that is built around them with all checksums right.
 */
#include <zlib.h>

#include "board_fixture.h"

static void use_board(struct board_fixture *board)
{
    uint64_t value;

    for (unsigned port = 0; port < 0x700; port++) {
        bus_read(board->pio, port, 1, &value);
        bus_write(board->pio, port, 1, port);
    }
    for (unsigned offset = 0; offset < 0x1000; offset += 4) {
        bus_read(board->mmio, BOARD_ECAM + 0x8000 + offset, 4, &value);
        bus_read(board->mmio, 0xd0000000 + offset, 4, &value);
    }
    i8042_key(board->devices[BOARD_I8042], 0x1e, true);
    uart16550_send(board->devices[BOARD_UART], "x", 1);
    acpi_pm_power_button(board->devices[BOARD_PM]);
}

static void load_stream(const uint8_t *bytes, size_t size)
{
    struct state_reader *reader;
    struct board_fixture board;
    struct umbra_error error;

    if (state_reader_create(bytes, size, &reader, &error) < 0) {
        return;
    }
    board_init(&board);
    for (unsigned i = 0; i < BOARD_DEVICES; i++) {
        if (device_load(board.devices[i], reader, &error) < 0) {
            FUZZ_EXPECT(error.message[0] != '\0');
        }
    }
    use_board(&board);
    board_reset(&board);
    board_fini(&board);
    state_reader_destroy(reader);
}

/* A true save of the board with bytes of one field's contents replaced. */
static void load_altered(const uint8_t *data, size_t size)
{
    struct state_writer *writer;
    struct board_fixture board;
    struct umbra_error error;
    const void *bytes;
    uint8_t *copy;
    size_t length;

    board_init(&board);
    FUZZ_EXPECT(state_writer_create(&writer) == 0);
    for (unsigned i = 0; i < BOARD_DEVICES; i++) {
        FUZZ_EXPECT(device_save(board.devices[i], writer, &error) == 0);
    }
    FUZZ_EXPECT(state_writer_finish(writer, &bytes, &length) == 0);
    copy = malloc(length);
    FUZZ_EXPECT(copy != NULL);
    memcpy(copy, bytes, length);
    for (; size >= 3; data += 3, size -= 3) {
        copy[load_le16(data) % length] = data[2];
    }
    /* Put every checksum right again, as far as the shape is still there. */
    for (size_t at = 12; at + 4 <= length && memcmp(copy + at, "SECT", 4) == 0;) {
        size_t name = copy[at + 4], head = at + 5 + name, body;

        if (head + 12 > length || name > 63) {
            break;
        }
        body = load_le32(copy + head + 4);
        if (body > length - head - 12) {
            break;
        }
        store_le32(copy + head + 8, (uint32_t)crc32_z(crc32_z(0, copy + at + 5, name + 4),
                                                      copy + head + 12, body));
        at = head + 12 + body;
    }
    store_le32(copy + length - 4, (uint32_t)crc32_z(0, copy, length - 4));
    load_stream(copy, length);
    free(copy);
    state_writer_destroy(writer);
    board_fini(&board);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy;

    if (size < 1) {
        return 0;
    }
    if (data[0] % 2 != 0) {
        load_altered(data + 1, size - 1);
        return 0;
    }
    load_stream(data + 1, size - 1);
    if (size < 21) {
        return 0;
    }
    copy = malloc(size - 1);
    FUZZ_EXPECT(copy != NULL);
    memcpy(copy, data + 1, size - 1);
    store_le32(copy + size - 5, (uint32_t)crc32_z(0, copy, size - 5));
    load_stream(copy, size - 1);
    free(copy);
    return 0;
}
