/* SPDX-License-Identifier: MIT */
/* The guest's memory map, generated from the board. */
#include "vmm/board/memory_map.h"

#include <assert.h>
#include <stdlib.h>

#include "base/util.h"

/* What no guest may use as RAM although RAM may lie behind it. */
static const struct memory_range memory_map_reserved[] = {
    { BOARD_EBDA_BASE, 0xa0000 - BOARD_EBDA_BASE, MEMORY_RESERVED },
    { BOARD_ROM_BASE, BOARD_ROM_SIZE, MEMORY_RESERVED },
    { BOARD_ECAM_BASE, BOARD_ECAM_SIZE, MEMORY_RESERVED },
    { BOARD_IDENTITY_BASE, BOARD_TSS_BASE + 3 * 4096 - BOARD_IDENTITY_BASE,
      MEMORY_RESERVED },
};

/* The VGA window is neither RAM nor listed: it stays a hole, as on a PC. */
#define MEMORY_MAP_HOLE_BASE BOARD_EBDA_BASE
#define MEMORY_MAP_HOLE_END  UINT64_C(0x100000)

static void memory_map_add(struct memory_range *map, size_t *count, uint64_t base,
                           uint64_t end, enum memory_type type)
{
    if (end > base) {
        assert(*count < MEMORY_MAP_MAX);
        map[(*count)++] = (struct memory_range){ base, end - base, type };
    }
}

static int memory_map_compare(const void *a, const void *b)
{
    uint64_t left = ((const struct memory_range *)a)->base;
    uint64_t right = ((const struct memory_range *)b)->base;

    return (left > right) - (left < right);
}

size_t memory_map_build(const struct board *board,
                        struct memory_range map[static MEMORY_MAP_MAX])
{
    size_t count = 0;

    for (unsigned i = 0; i < board->ram_count; i++) {
        uint64_t base = board->ram[i].base, end = base + board->ram[i].size;

        if (base < MEMORY_MAP_HOLE_END) {
            memory_map_add(map, &count, base,
                           end < MEMORY_MAP_HOLE_BASE ? end : MEMORY_MAP_HOLE_BASE,
                           MEMORY_USABLE);
            base = MEMORY_MAP_HOLE_END;
        }
        memory_map_add(map, &count, base, end, MEMORY_USABLE);
    }
    for (size_t i = 0; i < ARRAY_SIZE(memory_map_reserved); i++) {
        const struct memory_range *range = &memory_map_reserved[i];

        memory_map_add(map, &count, range->base, range->base + range->size, range->type);
    }
    qsort(map, count, sizeof(map[0]), memory_map_compare);
    for (size_t i = 1; i < count; i++) {
        assert(map[i - 1].base + map[i - 1].size <= map[i].base);
    }
    return count;
}
