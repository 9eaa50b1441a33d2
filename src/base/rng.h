/* Counter-based random numbers: a pure function of (seed, position, draw), no state.
 *
 * The mixer is the 64-bit finaliser of SplitMix64 (Steele, Lea, Flood 2014, constants by Stafford),
 * applied to each counter in turn. The same function serves every backend, so the noise of a token is
 * the same whatever computed its logits. Any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_RNG_H
#define QN_RNG_H

#include "base/base.h"
#include "base/both.h"

QN_BOTH uint64_t qn_mix64(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

QN_BOTH uint64_t qn_rng64(uint64_t seed, uint64_t position, uint64_t draw)
{
    return qn_mix64(qn_mix64(qn_mix64(seed) ^ position) ^ draw);
}

/* Uniform in (0, 1): 23 bits (with 24 the half would round, and the largest to 1); never 0 and never 1. */
QN_BOTH float qn_rng_unit(uint64_t bits)
{
    return ((float)(bits >> 41) + 0.5f) * (1.0f / 8388608.0f);
}

#endif
