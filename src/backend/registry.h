/* The back ends that are compiled in. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_REGISTRY_H
#define QN_REGISTRY_H

const struct qn_backend *qn_ref_backend(void);
const struct qn_backend *qn_cpu_backend(void);

#endif
