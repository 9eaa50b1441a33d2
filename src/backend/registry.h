/* The back ends that are compiled in. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_REGISTRY_H
#define QN_REGISTRY_H

const struct qn_backend *qn_ref_backend(void);
const struct qn_backend *qn_cpu_backend(void);
/* NULL where the back end is not linked: */
const char *qn_cuda_archs(void) __attribute__((weak)); /* "sm_80 sm_90", or what emulates them */
const struct qn_backend *qn_cuda_backend(void) __attribute__((weak));

#endif
