/* What detect.c and detect_int.c share. Not included elsewhere. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_DETECT_IMPL_H
#define QN_DETECT_IMPL_H

#include "model/detect.h"

const struct qn_tensor *qn_detect_companion(const struct qn_detect *d, const char *stem, const char *suffix);
int qn_detect_wrong(const struct qn_tensor *t, struct qn_err *e, const char *expected);
QN_PRINTF(3, 4) int qn_detect_wrong_shape(const struct qn_tensor *t, struct qn_err *e, const char *fmt, ...);
int qn_detect_missing(const char *stem, const char *suffix, const char *why, struct qn_err *e);
/* How many values share a scale when n_part scales serve n of them: what the configuration says where that
 * fits, else the power of two that fits, else equal parts; 0 when nothing does. */
int qn_detect_part(const int *said, int n_said, int step, int n, int64_t n_part);

static inline bool qn_detect_is_shape(const struct qn_tensor *t, int64_t a, int64_t b)
{
    return t->n_dim == 2 && t->shape[0] == a && t->shape[1] == b;
}
static inline int64_t qn_detect_count(const struct qn_tensor *t)
{
    return (int64_t)(t->n_byte / qn_dtype_bytes(t->dtype));
}
static inline bool qn_detect_is_float(enum qn_dtype t)
{
    return t == QN_F32 || t == QN_BF16 || t == QN_F16;
}

/* detect_int.c: qweight (AWQ, GPTQ), weight_packed of words, int8, MLX. */
int qn_detect_qweight(const struct qn_detect *d, const char *stem, const struct qn_tensor *q, bool is_deep,
                      struct qn_linear *l, struct qn_err *e);
int qn_detect_packed(const struct qn_detect *d, const char *stem, const struct qn_tensor *packed,
                     const struct qn_tensor *scale, bool is_deep, struct qn_linear *l, struct qn_err *e);
int qn_detect_int8(const struct qn_detect *d, const char *stem, const struct qn_tensor *w,
                   const struct qn_tensor *scale, struct qn_linear *l, struct qn_err *e);
int qn_detect_mlx(const struct qn_detect *d, const char *stem, const struct qn_tensor *w, struct qn_linear *l,
                  struct qn_err *e);

#endif
