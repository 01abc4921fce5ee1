/* SPDX-License-Identifier: MIT */
/* KVM's binary statistics from files made here: right ones, and all that can be wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vcpu/kvm_stats.h"

enum { NAME = 48, STRIDE = sizeof(struct kvm_stats_desc) + NAME, DESC = 64, DATA = 1024 };

struct file {
    int fd;
    struct kvm_stats_header header;
};

static void put(struct file *f, const void *bytes, size_t size, off_t at)
{
    assert_int_equal(pwrite(f->fd, bytes, size, at), size);
}

static void put_desc(struct file *f, unsigned index, struct kvm_stats_desc desc,
                     const char *name)
{
    char field[NAME] = "";

    memcpy(field, name, strnlen(name, NAME));
    put(f, &desc, sizeof(desc), DESC + (off_t)index * STRIDE);
    put(f, field, NAME, DESC + (off_t)index * STRIDE + (off_t)sizeof(desc));
}

/* Two statistics: a counter and a histogram of 3. */
static void file_make(struct file *f)
{
    static const uint64_t data[] = { 42, 1, 2, 3 };

    f->fd = memfd_create("stats", MFD_CLOEXEC);
    assert_true(f->fd >= 0);
    f->header = (struct kvm_stats_header){ .name_size = NAME,
                                           .num_desc = 2,
                                           .id_offset = sizeof(f->header),
                                           .desc_offset = DESC,
                                           .data_offset = DATA };
    put_desc(f, 0,
             (struct kvm_stats_desc){ .flags = KVM_STATS_TYPE_CUMULATIVE |
                                               KVM_STATS_UNIT_SECONDS |
                                               KVM_STATS_BASE_POW10,
                                      .exponent = -9,
                                      .size = 1 },
             "wait_ns");
    put_desc(f, 1,
             (struct kvm_stats_desc){ .flags = KVM_STATS_TYPE_LINEAR_HIST |
                                               KVM_STATS_UNIT_BYTES | KVM_STATS_BASE_POW2,
                                      .exponent = 20,
                                      .size = 3,
                                      .offset = 8,
                                      .bucket_size = 5 },
             "sizes");
    put(f, data, sizeof(data), DATA);
    put(f, &f->header, sizeof(f->header), 0);
}

struct seen {
    unsigned count;
    struct umbra_kvm_stat stats[8];
};

static void see(void *context, const struct umbra_kvm_stat *stat)
{
    struct seen *seen = context;

    assert_true(seen->count < 8);
    seen->stats[seen->count++] = *stat;
}

static void test_right(void **state)
{
    struct seen seen = { 0 };
    struct file f;

    file_make(&f);
    assert_int_equal(kvm_stats_read(f.fd, see, &seen), 0);
    assert_int_equal(seen.count, 2);
    assert_string_equal(seen.stats[0].name, "wait_ns");
    assert_int_equal(seen.stats[0].kind, UMBRA_KVM_STAT_CUMULATIVE);
    assert_int_equal(seen.stats[0].unit, UMBRA_KVM_STAT_SECONDS);
    assert_int_equal(seen.stats[0].exponent, -9);
    assert_int_equal(seen.stats[0].base, 10);
    assert_int_equal(seen.stats[0].count, 1);
    assert_int_equal(seen.stats[0].values[0], 42);
    assert_string_equal(seen.stats[1].name, "sizes");
    assert_int_equal(seen.stats[1].kind, UMBRA_KVM_STAT_LINEAR_HISTOGRAM);
    assert_int_equal(seen.stats[1].unit, UMBRA_KVM_STAT_BYTES);
    assert_int_equal(seen.stats[1].base, 2);
    assert_int_equal(seen.stats[1].bucket_size, 5);
    assert_int_equal(seen.stats[1].count, 3);
    assert_int_equal(seen.stats[1].values[2], 3);
    close(f.fd);
}

static void expect(struct file *f, int result, unsigned count)
{
    struct seen seen = { 0 };

    put(f, &f->header, sizeof(f->header), 0);
    assert_int_equal(kvm_stats_read(f->fd, see, &seen), result);
    assert_int_equal(seen.count, count);
    close(f->fd);
}

static void test_wrong_headers(void **state)
{
    struct file f;

    file_make(&f);
    f.header.num_desc = 0;
    expect(&f, 0, 0);
    file_make(&f);
    f.header.num_desc = 3; /* behind the end of the file */
    f.header.desc_offset = 4096;
    expect(&f, -EPROTO, 0);
    file_make(&f);
    f.header.num_desc = UINT32_MAX;
    expect(&f, -EPROTO, 0);
    file_make(&f);
    f.header.name_size = 0;
    expect(&f, -EPROTO, 0);
    file_make(&f);
    f.header.name_size = UINT32_MAX;
    expect(&f, -EPROTO, 0);
    file_make(&f);
    f.header.desc_offset = UINT32_MAX;
    expect(&f, -EPROTO, 0);
    file_make(&f);
    f.header.data_offset = UINT32_MAX;
    expect(&f, -EPROTO, 0);
    file_make(&f);
    f.header.data_offset = 1 << 20;
    expect(&f, -EPROTO, 0);
    file_make(&f);
    assert_int_equal(ftruncate(f.fd, 10), 0);
    assert_int_equal(kvm_stats_read(f.fd, see, NULL), -EPROTO);
    close(f.fd);
    assert_int_equal(kvm_stats_read(-1, see, NULL), -EBADF);
}

static void test_wrong_descriptors(void **state)
{
    char endless[NAME];
    struct file f;

    memset(endless, 'x', sizeof(endless));
    file_make(&f);
    put_desc(&f, 1, (struct kvm_stats_desc){ .size = 0 }, "none");
    expect(&f, -EPROTO, 1);
    file_make(&f);
    put_desc(&f, 1, (struct kvm_stats_desc){ .size = 1 }, endless);
    expect(&f, -EPROTO, 1);
    file_make(&f);
    put_desc(&f, 1, (struct kvm_stats_desc){ .size = 1, .offset = UINT32_MAX }, "far");
    expect(&f, -EPROTO, 1);
    file_make(&f);
    put_desc(&f, 1, (struct kvm_stats_desc){ .size = UINT16_MAX, .offset = 8 }, "huge");
    expect(&f, -EPROTO, 1); /* 64 values at most, and those are not there */
    file_make(&f);
    put_desc(&f, 1, (struct kvm_stats_desc){ .flags = UINT32_MAX, .size = 1 }, "new");
    expect(&f, 0, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_right),
        cmocka_unit_test(test_wrong_headers),
        cmocka_unit_test(test_wrong_descriptors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
