/* SPDX-License-Identifier: MIT */
/* KVM's own binary statistics (Documentation/virt/kvm/api.rst, 4.133 KVM_GET_STATS_FD). */
#ifndef VCPU_KVM_STATS_H
#define VCPU_KVM_STATS_H

#include <umbra/umbra.h>

/* The statistics descriptor of a VM's or vCPU's @fd, or -errno; -ENOTSUP where KVM has none.
 * A vCPU must not be in KVM_RUN: the ioctl would wait for it. */
int kvm_stats_open(int fd);

/*
 * Call @fn for each statistic behind @stats_fd. What the descriptor says of itself is
 * checked like any input: -EPROTO when it does not fit together. Any thread.
 */
int kvm_stats_read(int stats_fd, umbra_kvm_stat_fn fn, void *context);

#endif
