/* The noise of a draw, and the logarithm in it: the same bits in C and on a device, without libm.
 *
 * log: m 2^e with m in (sqrt(1/2), sqrt 2], s = (m - 1) / (m + 1), log m = 2 (s + s^3 / 3 + ...); about one
 * unit in the last place. Of normal numbers above 0 only. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_NOISE_H
#define QN_NOISE_H

#include "base/base.h"
#include "base/both.h"

QN_BOTH float qn_noise_log(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    int e = (int)(u >> 23) - 127;
    u = (u & 0x7fffffu) | 0x3f800000u;
    float m;
    memcpy(&m, &u, 4);
    if (m > 1.41421356f) {
        m *= 0.5f;
        e++;
    }
    float f = m - 1.0f, s = f / (2.0f + f), z = s * s, half = 0.5f * f * f, n = (float)e;
    float r = z * (0.666666667f + z * (0.4f + z * (0.285714286f + z * 0.222222222f)));
    /* ln 2 in two parts, the first short enough for an exact product */
    return n * 0.693138123f - ((half - (s * (half + r) + n * 9.05800061e-6f)) - f);
}

/* gumbel(u) for u in (0, 1) with 23 bits: below 17 */
QN_BOTH float qn_noise_gumbel(float u)
{
    return -qn_noise_log(-qn_noise_log(u));
}

#endif
