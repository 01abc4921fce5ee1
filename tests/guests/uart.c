/* SPDX-License-Identifier: MIT */
/* The UART at port=P (IRQ irq=N): registers, loopback with FIFO, interrupts. With echo=1,
 * prints back a line that it reads from COM1. */
#include "vmm/guest/guest.h"
#include "vmm/guest/ports.h"

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCRATCH }; /* PC16550D, table II */

#define UART_VECTOR VECTOR_FREE

static uint16_t port = COM1_PORT;
static volatile unsigned last_iir;

static uint8_t get(unsigned reg)
{
    return in8((uint16_t)(port + reg));
}

static void put(unsigned reg, uint8_t v)
{
    out8((uint16_t)(port + reg), v);
}

static void wait_idle(void)
{
    while ((get(LSR) & 0x60) != 0x60)
        cpu_pause();
}

static void check_registers(void)
{
    unsigned v;

    for (v = 0; v < 256; v += 51) {
        put(SCRATCH, (uint8_t)v);
        CHECK(get(SCRATCH) == v);
    }
    put(LCR, 0x83);
    put(DATA, 0x0c); /* divisor 12: 9600 baud */
    put(IER, 0x00);
    CHECK(get(DATA) == 0x0c && get(IER) == 0);
    put(DATA, 0x01);
    put(LCR, 0x03);
    CHECK(get(LCR) == 0x03);
    put(IIR, 0x07);
    CHECK((get(IIR) & 0xc1) == 0xc1);
}

static void check_loopback(void)
{
    unsigned i;

    put(MCR, 0x10);
    CHECK((get(MSR) & 0xf0) == 0);
    put(MCR, 0x1f); /* DTR, RTS, OUT1, OUT2 come back as DSR, CTS, RI, DCD */
    CHECK((get(MSR) & 0xf0) == 0xf0);
    for (i = 0; i < 8; i++) {
        put(DATA, (uint8_t)(0xa0 + i));
        wait_idle();
    }
    for (i = 0; i < 8; i++) {
        CHECK(get(LSR) & 1);
        CHECK(get(DATA) == 0xa0 + i);
    }
    CHECK(!(get(LSR) & 1));
    put(MCR, 0x03);
}

static void uart_interrupt(struct trap_frame *frame)
{
    last_iir = get(IIR) & 0x0f;
    if (last_iir == 4)
        get(DATA);
    interrupt_count(frame);
}

static void check_interrupts(unsigned irq)
{
    interrupt_set(UART_VECTOR, uart_interrupt);
    isa_route(irq, UART_VECTOR);
    put(MCR, 0x0b);
    put(IER, 0x02);
    CHECK(time_wait_for(&interrupt_counts[UART_VECTOR], 1, 10000));
    CHECK(last_iir == 2); /* transmitter empty */
    put(IER, 0x01);
    put(IIR, 0x01); /* FIFO on, trigger at one byte */
    put(MCR, 0x1b);
    put(DATA, 'x');
    CHECK(time_wait_for(&interrupt_counts[UART_VECTOR], 2, 10000));
    CHECK(last_iir == 4); /* received data */
    interrupts_off();
    put(IER, 0);
    put(MCR, 0x03);
    CHECK(get(IIR) & 1);
    isa_mask(irq);
}

static void echo_line(void)
{
    char line[128];
    unsigned used = 0;

    print("ready\n");
    while (used < sizeof(line)) {
        while (!(in8(COM1_PORT + LSR) & 1))
            cpu_pause();
        line[used] = (char)in8(COM1_PORT);
        if (line[used] == '\n' || line[used] == '\r')
            break;
        used++;
    }
    print("read <");
    print_bytes(line, used);
    print(">\n");
}

int guest_main(int argc, char **argv)
{
    uint64_t v, irq = 4;

    acpi_init();
    time_init();
    if (boot_option("port"))
        CHECK(number_parse(boot_option("port"), &v) && (port = (uint16_t)v));
    if (boot_option("irq"))
        CHECK(number_parse(boot_option("irq"), &irq) && irq < 16);
    if (boot_option("echo")) {
        echo_line();
        return EXIT_PASS;
    }
    print("UART at %x\n", port);
    wait_idle();
    check_registers();
    check_loopback();
    check_interrupts((unsigned)irq);
    print("registers, loopback, interrupts\n");
    return EXIT_PASS;
}
