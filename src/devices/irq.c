/* SPDX-License-Identifier: MIT */
/* Lines shared by devices, and messages: the front of the irqchip. */
#include "devices/irq.h"

#include <errno.h>
#include <stddef.h>

#include "devices/device.h"

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
    line->lost = false;
    line->owner = NULL;
}

static void pin_change(struct irq_chip *chip, unsigned gsi, bool level)
{
    /* The lock covers the call too, so the pin cannot end up at an older level. */
    pthread_mutex_lock(&chip->lock);
    if (level) {
        if (chip->asserted[gsi]++ == 0) {
            chip->ops->set_level(chip, gsi, true);
        }
    } else if (--chip->asserted[gsi] == 0) {
        chip->ops->set_level(chip, gsi, false);
    }
    pthread_mutex_unlock(&chip->lock);
}

static void pin_pulse(struct irq_chip *chip, unsigned gsi)
{
    pthread_mutex_lock(&chip->lock);
    if (chip->asserted[gsi] == 0) {
        chip->ops->set_level(chip, gsi, true);
        chip->ops->set_level(chip, gsi, false);
    }
    pthread_mutex_unlock(&chip->lock);
}

/* The line rises: tell who looks. True when the interrupt is to be lost. */
static bool line_loses(const struct irq_line *line)
{
    const struct device *owner = line->owner;
    struct fault_hits hits;

    if (owner == NULL) {
        return false;
    }
    device_tell(owner->env, UMBRA_EVENT_INTERRUPT, owner->id, UMBRA_EVENT_NO_QUEUE,
                line->gsi);
    return faults_draw(owner->env->faults, owner->id, FAULT_INTERRUPT, UMBRA_FAULT_ANY, 0,
                       &hits) &&
           fault_hit(&hits, UMBRA_FAULT_IRQ_LOST);
}

/* The line is low again: is there to be an interrupt without a cause? */
static bool line_imagines(const struct irq_line *line)
{
    const struct device *owner = line->owner;
    struct fault_hits hits;

    return owner != NULL &&
           faults_draw(owner->env->faults, owner->id, FAULT_CALM, UMBRA_FAULT_ANY, 0,
                       &hits) &&
           fault_hit(&hits, UMBRA_FAULT_IRQ_SPURIOUS);
}

void irq_line_set(struct irq_line *line, bool level)
{
    struct irq_chip *chip = line->chip;

    if (chip == NULL || line->level == level) {
        return;
    }
    line->level = level;
    if (level) {
        line->lost = line_loses(line);
    }
    if (!line->lost) {
        pin_change(chip, line->gsi, level);
    }
    if (!level) {
        line->lost = false;
        if (line_imagines(line)) {
            pin_pulse(chip, line->gsi);
        }
    }
}

void irq_line_pulse(struct irq_line *line)
{
    if (line->chip == NULL) {
        return;
    }
    if (!line_loses(line)) {
        pin_pulse(line->chip, line->gsi);
    }
    if (line_imagines(line)) {
        pin_pulse(line->chip, line->gsi);
    }
}

int irq_send_msi(struct irq_chip *chip, uint64_t address, uint32_t data)
{
    if (chip == NULL || chip->ops->send_msi == NULL) {
        return -ENOTSUP;
    }
    return chip->ops->send_msi(chip, address, data);
}
