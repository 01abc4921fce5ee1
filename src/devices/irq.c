/* SPDX-License-Identifier: MIT */
/* Lines shared by devices, and messages: the front of the irqchip. */
#include "devices/irq.h"

#include <errno.h>
#include <stddef.h>

void irq_chip_init(struct irq_chip *chip, const struct irq_chip_ops *ops)
{
    chip->ops = ops;
    pthread_mutex_init(&chip->lock, NULL);
    for (unsigned i = 0; i < IRQ_GSI_COUNT; i++) {
        chip->asserted[i] = 0;
    }
}

void irq_chip_fini(struct irq_chip *chip)
{
    pthread_mutex_destroy(&chip->lock);
}

void irq_line_init(struct irq_line *line, struct irq_chip *chip, unsigned gsi)
{
    line->chip = gsi < IRQ_GSI_COUNT ? chip : NULL;
    line->gsi = gsi;
    line->level = false;
}

void irq_line_set(struct irq_line *line, bool level)
{
    struct irq_chip *chip = line->chip;

    if (chip == NULL || line->level == level) {
        return;
    }
    line->level = level;
    /* The lock covers the call too, so the pin cannot end up at an older level. */
    pthread_mutex_lock(&chip->lock);
    if (level) {
        if (chip->asserted[line->gsi]++ == 0) {
            chip->ops->set_level(chip, line->gsi, true);
        }
    } else if (--chip->asserted[line->gsi] == 0) {
        chip->ops->set_level(chip, line->gsi, false);
    }
    pthread_mutex_unlock(&chip->lock);
}

void irq_line_pulse(struct irq_line *line)
{
    struct irq_chip *chip = line->chip;

    if (chip == NULL) {
        return;
    }
    pthread_mutex_lock(&chip->lock);
    if (chip->asserted[line->gsi] == 0) {
        chip->ops->set_level(chip, line->gsi, true);
        chip->ops->set_level(chip, line->gsi, false);
    }
    pthread_mutex_unlock(&chip->lock);
}

int irq_send_msi(struct irq_chip *chip, uint64_t address, uint32_t data)
{
    if (chip == NULL || chip->ops->send_msi == NULL) {
        return -ENOTSUP;
    }
    return chip->ops->send_msi(chip, address, data);
}
