/* SPDX-License-Identifier: MIT */
/* kvm-unit-tests' unittests.cfg: the tests that it lists, as far as umbra can run them. */
#ifndef VMM_CLI_TEST_CFG_H
#define VMM_CLI_TEST_CFG_H

#include "vmm/cli/test/suite.h"

/*
 * Add the tests that the file @path lists, in its order, those that cannot run here as
 * skipped ones with the reason. Only the tests of group @group, if it is not NULL; without
 * one those of group "nodefault" are skipped. 0, -errno, or -EINVAL with *line.
 */
int test_cfg_collect(struct test_suite *suite, const char *path, const char *group,
                     unsigned *line);

#endif
