/* The size of a KV page, apart from the step so that kernels need not see one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_PAGE_H
#define QN_PAGE_H

#define QN_PAGE 64 /* tokens in a KV page */

#endif
