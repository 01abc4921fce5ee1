/* SPDX-License-Identifier: MIT */
/* Hostile compressed streams; the first byte chooses the format. */
#include "boot_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const struct {
        const char *bytes;
        size_t size;
    } magics[] = {
        { "\x1f\x8b\x08", 3 },        { "\xfd\x37zXZ", 6 }, { "\x28\xb5\x2f\xfd", 4 },
        { "\x02\x21\x4c\x18", 4 },    { "BZh9", 4 },        { "\x5d\0\0", 3 },
        { "\x89LZO\0\r\n\x1a\n", 9 },
    };
    struct umbra_error error = { 0 };
    const char *name = NULL;
    size_t unpacked = 0, kind;
    void *output = NULL;
    uint8_t *file;

    if (size < 16) {
        return 0;
    }
    file = malloc(size - 1);
    FUZZ_EXPECT(file != NULL);
    memcpy(file, bytes + 1, size - 1);
    kind = bytes[0] % (ARRAY_SIZE(magics) + 1); /* the last one: as it is */
    if (kind < ARRAY_SIZE(magics)) {
        memcpy(file, magics[kind].bytes, magics[kind].size);
    }
    if (boot_decompress(file, size - 1, 4 * MIB, &output, &unpacked, &name, &error) < 0) {
        FUZZ_EXPECT(error.message[0] != '\0');
    } else {
        FUZZ_EXPECT(unpacked <= 4 * MIB && name != NULL);
        free(output);
    }
    free(file);
    return 0;
}
