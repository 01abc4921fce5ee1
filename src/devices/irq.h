/* SPDX-License-Identifier: MIT */
/*
 * Interrupts as devices see them: a line (level or edge into the irqchip) or a message
 * (MSI). The irqchip itself is KVM's (src/vmm/kvm/kvm.c) or a fake in unit tests.
 *
 * Threads: everything here may be called from any thread.
 */
#ifndef DEVICES_IRQ_H
#define DEVICES_IRQ_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum { IRQ_GSI_COUNT = 24 }; /* pins of the one IOAPIC */

struct device;
struct irq_chip;

struct irq_chip_ops {
    /* Drive a GSI's level as seen by the irqchip. */
    int (*set_level)(struct irq_chip *chip, unsigned gsi, bool level);
    /* Deliver one message-signalled interrupt now. */
    int (*send_msi)(struct irq_chip *chip, uint64_t address, uint32_t data);
    /*
     * Have the kernel send the message @address/@data whenever @fd (an eventfd) is
     * signalled, without a trip through userspace. *route is an opaque handle, -1 at
     * first; a later call with the same handle changes the message. -ENOTSUP where there
     * is none.
     */
    int (*msi_bind)(struct irq_chip *chip, int *route, uint64_t address, uint32_t data,
                    int fd);
    void (*msi_unbind)(struct irq_chip *chip, int *route, int fd);
    /* Have @fd raise @gsi; @resample_fd (or -1) is signalled at EOI for level lines. */
    int (*line_bind)(struct irq_chip *chip, unsigned gsi, int fd, int resample_fd);
    void (*line_unbind)(struct irq_chip *chip, unsigned gsi, int fd);
};

/* Lines of several devices may share a GSI: the pin is high while any of them is. */
struct irq_chip {
    const struct irq_chip_ops *ops;
    pthread_mutex_t lock;
    uint16_t asserted[IRQ_GSI_COUNT]; /* how many lines hold the pin high */
};

void irq_chip_init(struct irq_chip *chip, const struct irq_chip_ops *ops);
void irq_chip_fini(struct irq_chip *chip);

/* One device's line. Plain data, set up by irq_line_init, owned by the device. */
struct irq_line {
    struct irq_chip *chip; /* NULL: not connected, everything is a no-op */
    unsigned gsi;
    bool level;
    bool lost;                  /* a planned fault: high, but the pin does not know */
    const struct device *owner; /* whose interrupts are seen and may be lost; or NULL */
};

void irq_line_init(struct irq_line *line, struct irq_chip *chip, unsigned gsi);

/* Set the device's level; the pin follows the OR of all lines on it. The caller
 * serialises calls on one line (the device's lock). */
void irq_line_set(struct irq_line *line, bool level);

/* A pulse for edge-triggered pins. */
void irq_line_pulse(struct irq_line *line);

int irq_send_msi(struct irq_chip *chip, uint64_t address, uint32_t data);

#endif
