/* SPDX-License-Identifier: MIT */
/* A hostile driver of a packed ring. */
#include <errno.h>

#include "virtqueue_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return virtqueue_fuzz(true, data, size);
}
