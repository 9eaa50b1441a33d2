/* The types of the KV cache.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_KV_H
#define QN_KV_H

#include "base/base.h"

/* E4M3 and E5M2 values are x over the scale of the layer's K or V in the checkpoint, 1 when it has none;
 * E4M3D's over a power of two of each token's and head's own, kept beside them in the page. */
enum qn_kv { QN_KV_F32, QN_KV_BF16, QN_KV_E4M3, QN_KV_E5M2, QN_KV_E4M3D, QN_N_KV };

const char *qn_kv_name(enum qn_kv t);   /* "BF16", ... */
size_t qn_kv_bytes(enum qn_kv t);       /* per value */
size_t qn_kv_scale_bytes(enum qn_kv t); /* per token, head and K or V */
/* A name as users write it, in any case; -1: unknown. "fp8" is E4M3 when the checkpoint has scales, else
 * E4M3D. */
int qn_kv_find(const char *name, bool has_scales);
#define QN_KV_NAMES "bf16, f32, fp8, fp8_e4m3, fp8_e5m2 or fp8_dynamic"

/* Value i of an array of type t: stored, read back. */
float qn_kv_load(enum qn_kv t, const void *p, size_t i);
void qn_kv_store(enum qn_kv t, void *p, size_t i, float x);
/* The power of two that brings the largest of x[n] between 224 and 448; 1 for zeros and what is not finite.
 */
float qn_kv_fit(const float *x, int n);

#endif
