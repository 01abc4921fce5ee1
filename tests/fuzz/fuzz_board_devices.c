/* SPDX-License-Identifier: MIT */
/*
 * A hostile guest at the board's registers: the input is a program of port and MMIO
 * accesses, mixed with what the host does meanwhile (input, keys, the power button, time
 * passing, reset, save and load).
 */
#include "board_fixture.h"

struct program {
    const uint8_t *at;
    size_t left;
};

static uint64_t program_take(struct program *program, unsigned bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < bytes && program->left != 0; i++) {
        value |= (uint64_t)*program->at++ << (8 * i);
        program->left--;
    }
    return value;
}

/* Where there is something: any port, or a place in the ECAM and BAR windows. */
static uint64_t program_port(struct program *program)
{
    static const uint16_t bases[] = { 0x3f8, 0x70,  0x60,  0x64,  0x92,  0x600,  0xe9,
                                      0xf4,  0x505, 0xcf8, 0xcf9, 0xcfc, 0xc000, 0xc010 };
    uint8_t choice = (uint8_t)program_take(program, 1);

    if (choice % 16 >= ARRAY_SIZE(bases)) {
        return program_take(program, 2);
    }
    return bases[choice % 16] + (choice >> 4);
}

static uint64_t program_address(struct program *program)
{
    uint32_t value = (uint32_t)program_take(program, 3);

    if ((value & 1) != 0) {
        return 0xd0000000 + (value >> 1 & 0x3fff);
    }
    return BOARD_ECAM + (value >> 1 & 0xffff);
}

static void access_bus(struct program *program, struct bus *bus, uint64_t address,
                       bool write)
{
    unsigned size = 1u << (program_take(program, 1) & 3);
    uint64_t value;

    if (write) {
        bus_write(bus, address, size, program_take(program, size));
    } else {
        bus_read(bus, address, size, &value);
        FUZZ_EXPECT(size == 8 || value >> (8 * size) == 0);
    }
}

/* What a device saved it loads again, and saves the same. */
static void save_and_load(struct board_fixture *board, unsigned index)
{
    struct device *device = board->devices[index];
    struct state_writer *writer;
    struct state_reader *reader;
    struct umbra_error error;
    const void *bytes;
    size_t size;

    FUZZ_EXPECT(state_writer_create(&writer) == 0);
    FUZZ_EXPECT(device_save(device, writer, &error) == 0);
    FUZZ_EXPECT(state_writer_finish(writer, &bytes, &size) == 0);
    FUZZ_EXPECT(state_reader_create(bytes, size, &reader, &error) == 0);
    FUZZ_EXPECT(device_load(device, reader, &error) == 0);
    state_reader_destroy(reader);
    state_writer_destroy(writer);
}

static void host_acts(struct board_fixture *board, struct program *program)
{
    uint8_t action = (uint8_t)program_take(program, 1);
    uint8_t bytes[40] = { 0 };

    switch (action % 9) {
    case 0:
        uart16550_send(board->devices[BOARD_UART], bytes, action % sizeof(bytes));
        break;
    case 1:
        uart16550_set_modem(board->devices[BOARD_UART],
                            (uint8_t)program_take(program, 1));
        break;
    case 2:
        uart16550_send_break(board->devices[BOARD_UART]);
        break;
    case 3:
        i8042_key(board->devices[BOARD_I8042], (unsigned)program_take(program, 2),
                  (action & 0x80) != 0);
        break;
    case 4:
        acpi_pm_power_button(board->devices[BOARD_PM]);
        break;
    case 5:
        board->time += program_take(program, 8) >> 8;
        board->time %= UINT64_C(8000000000000000000);
        break;
    case 6:
        board_reset(board);
        break;
    case 7:
        device_reset(board->devices[program_take(program, 1) % BOARD_DEVICES]);
        break;
    default:
        save_and_load(board, (unsigned)program_take(program, 1) % BOARD_DEVICES);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct program program = { data, size };
    struct board_fixture board;

    board_init(&board);
    while (program.left != 0) {
        uint8_t op = (uint8_t)program_take(&program, 1);

        switch (op % 8) {
        case 0:
        case 1:
        case 2:
            access_bus(&program, board.pio, program_port(&program), true);
            break;
        case 3:
        case 4:
            access_bus(&program, board.pio, program_port(&program), false);
            break;
        case 5:
            access_bus(&program, board.mmio, program_address(&program), true);
            break;
        case 6:
            access_bus(&program, board.mmio, program_address(&program), false);
            break;
        default:
            host_acts(&board, &program);
            break;
        }
    }
    board_fini(&board);
    return 0;
}
