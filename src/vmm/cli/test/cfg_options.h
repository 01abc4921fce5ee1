/* SPDX-License-Identifier: MIT */
/* What a section of unittests.cfg asks of QEMU: the part that has a meaning here. */
#ifndef VMM_CLI_TEST_CFG_OPTIONS_H
#define VMM_CLI_TEST_CFG_OPTIONS_H

#include "vmm/cli/test/suite.h"

enum { TEST_CFG_TEXT_MAX = 65536 };

/* Have @test skipped, with the reason; of several the first stays. 0 or -ENOMEM. */
int test_cfg_skip(struct test_case *test, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Replace the text *@member by a copy of @text. 0 or -ENOMEM. */
int test_cfg_text(char **member, const char *text);

/* "4", "$MAX_SMP", "$(($MAX_SMP < 4 ? $MAX_SMP : 4))"; 0: none of these. */
unsigned test_cfg_smp(const char *text);

/* QEMU's options @text into @test; it is skipped where one asks for what is not here. */
int test_cfg_qemu(struct test_case *test, const char *text);

#endif
