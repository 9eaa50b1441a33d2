/* Passes over a row of numbers; a back end may bring faster ones that give the same answers (sum_exp: up to
 * rounding). SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SCAN_H
#define QN_SCAN_H

struct qn_scan {
    float (*max)(const float *x, int n); /* NaN when one of them is (or both infinities are among them) */
    int (*above)(const float *x, int from, int n, float than); /* first i >= from with x[i] > than, or n */
    double (*sum_exp)(const float *x, int n, float max, float scale); /* sum of exp((x - max) * scale) */
};
extern const struct qn_scan qn_scan_plain;

#endif
