/* What machine this is, read from /proc and /sys (below a root, so that a copy of them can be looked at).
 * Everything that is not told stays 0, -1 or "". One thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_MACHINE_H
#define QN_MACHINE_H

#include "base/base.h"

#define QN_MAX_NODES 64
#define QN_MAX_GPUS  32

struct qn_gpu {
    char address[16], vendor[12], name[96], driver[32]; /* driver: of the kernel; "" when none is bound */
    int numa_node, link_width, link_width_max;
    double link_gts, link_gts_max; /* GT/s a lane; an idle link is slower than it can be */
    /* told by the vendor's library only */
    bool is_known;
    int64_t memory_bytes, memory_free_bytes;
    int capability; /* 120: compute capability 12.0 */
};

struct qn_machine {
    char cpu[96], kernel[96], driver_version[80];
    int n_cpu, n_allowed, n_core, n_socket, smt; /* CPUs online; ours; physical cores among ours */
    int64_t l2_bytes, l3_bytes;                  /* of the first CPU */
    double cpu_quota;                            /* CPUs of time the group may use; 0: no limit */
    bool is_virtual;
    double load;
    int n_node;
    int64_t node_bytes[QN_MAX_NODES];
    int numa_balancing, overcommit;
    int64_t memory_bytes, available_bytes, swap_bytes, swap_free_bytes, group_limit_bytes; /* 0: no limit */
    char huge_pages[16], governor[24], governor_driver[32];
    int n_slow_governor; /* CPUs that are not on performance */
    int64_t open_files;
    bool has_iommu;
    int n_gpu;
    struct qn_gpu gpu[QN_MAX_GPUS];
    signed char p2p[QN_MAX_GPUS][QN_MAX_GPUS]; /* 1 works, 0 not, -1 not told */
    const char *p2p_why[QN_MAX_GPUS][QN_MAX_GPUS];
};

/* root "" is this machine. */
void qn_machine_read(struct qn_machine *m, const char *root);
/* Adds what the vendor's library says, opened at run time. false: there is none. */
bool qn_machine_ask_nvml(struct qn_machine *m);

#endif
