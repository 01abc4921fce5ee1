/* SPDX-License-Identifier: MIT */
/* The keyboard controller and a PS/2 keyboard answer as drivers expect, by interrupt too. */
#include "vmm/guest/guest.h"
#include "vmm/guest/ports.h"

#define KEYBOARD_VECTOR VECTOR_FREE

static volatile unsigned last_byte;

static void keyboard_interrupt(struct trap_frame *frame)
{
    last_byte = in8(I8042_DATA_PORT);
    interrupt_count(frame);
}

static void check_controller(void)
{
    while (in8(I8042_STATUS_PORT) & 1)
        in8(I8042_DATA_PORT);
    CHECK(i8042_command(0xaa) && i8042_read() == 0x55); /* self-test */
    CHECK(i8042_command(0xab) && i8042_read() == 0x00); /* keyboard line */
    CHECK(i8042_command(0x60) && i8042_write(0x40));    /* translate, no interrupt */
    CHECK(i8042_command(0x20) && i8042_read() == 0x40);
    CHECK(i8042_command(0xae));
    print("controller\n");
}

static void check_keyboard(void)
{
    int first, second;

    CHECK(i8042_write(0xff) && i8042_read() == 0xfa && i8042_read() == 0xaa);
    CHECK(i8042_write(0xee) && i8042_read() == 0xee);
    CHECK(i8042_write(0xf5) && i8042_read() == 0xfa); /* no scanning while identifying */
    CHECK(i8042_write(0xf2) && i8042_read() == 0xfa);
    first = i8042_read();
    second = i8042_read();
    print("keyboard id %x %x\n", (unsigned)first, (unsigned)second);
    CHECK(first == 0xab && (second == 0x83 || second == 0x41)); /* 0x41: translated */
    CHECK(i8042_write(0xed) && i8042_read() == 0xfa);           /* LEDs */
    CHECK(i8042_write(0x02) && i8042_read() == 0xfa);
    CHECK(i8042_write(0xf4) && i8042_read() == 0xfa);
}

static void check_interrupt(void)
{
    interrupt_set(KEYBOARD_VECTOR, keyboard_interrupt);
    isa_route(1, KEYBOARD_VECTOR);
    CHECK(i8042_command(0x60) && i8042_write(0x41));
    CHECK(i8042_write(0xee));
    CHECK(time_wait_for(&interrupt_counts[KEYBOARD_VECTOR], 1, 10000));
    CHECK(last_byte == 0xee);
    interrupts_off();
    print("interrupt\n");
}

int guest_main(int argc, char **argv)
{
    acpi_init();
    time_init();
    check_controller();
    check_keyboard();
    check_interrupt();
    return EXIT_PASS;
}
