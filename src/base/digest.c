/* SHA-1 and SHA-256.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/digest.h"

static const uint32_t k256[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t left(uint32_t x, int n)
{
    return x << n | x >> (32 - n);
}

static uint32_t right(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static uint32_t word(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void sha1_block(uint32_t h[8], const unsigned char *p)
{
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int i = 0; i < 16; i++) w[i] = word(p + 4 * i);
    for (int i = 16; i < 80; i++) w[i] = left(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t f = i < 20   ? ((b & c) | (~b & d)) + 0x5a827999
                     : i < 40 ? (b ^ c ^ d) + 0x6ed9eba1
                     : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc
                              : (b ^ c ^ d) + 0xca62c1d6;
        uint32_t next = left(a, 5) + f + e + w[i];
        e = d;
        d = c;
        c = left(b, 30);
        b = a;
        a = next;
    }
    h[0] += a;
    h[1] += b;
    h[2] += c;
    h[3] += d;
    h[4] += e;
}

static void sha256_block(uint32_t h[8], const unsigned char *p)
{
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++) w[i] = word(p + 4 * i);
    for (int i = 16; i < 64; i++) {
        uint32_t x = w[i - 15], y = w[i - 2];
        w[i] = w[i - 16] + (right(x, 7) ^ right(x, 18) ^ x >> 3) + w[i - 7] +
               (right(y, 17) ^ right(y, 19) ^ y >> 10);
    }
    memcpy(s, h, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t up = s[7] + (right(s[4], 6) ^ right(s[4], 11) ^ right(s[4], 25)) +
                      ((s[4] & s[5]) ^ (~s[4] & s[6])) + k256[i] + w[i];
        uint32_t down = (right(s[0], 2) ^ right(s[0], 13) ^ right(s[0], 22)) +
                        ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += up;
        s[0] = up + down;
    }
    for (int i = 0; i < 8; i++) h[i] += s[i];
}

static void take_block(struct qn_digest *d, const unsigned char *p)
{
    if (d->kind == QN_SHA1)
        sha1_block(d->h, p);
    else
        sha256_block(d->h, p);
}

void qn_digest_init(struct qn_digest *d, enum qn_digest_kind kind)
{
    static const uint32_t start1[8] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    static const uint32_t start256[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    *d = (struct qn_digest){.kind = kind};
    memcpy(d->h, kind == QN_SHA1 ? start1 : start256, sizeof d->h);
}

void qn_digest_add(struct qn_digest *d, const void *data, size_t n)
{
    const unsigned char *p = data;
    size_t have = d->n_byte % 64;
    d->n_byte += n;
    if (have) {
        size_t k = QN_MIN(64 - have, n);
        memcpy(d->block + have, p, k);
        p += k;
        n -= k;
        if (have + k < 64) return;
        take_block(d, d->block);
    }
    for (; n >= 64; n -= 64, p += 64) take_block(d, p);
    if (n) memcpy(d->block, p, n);
}

void qn_digest_end(struct qn_digest *d, char out[QN_DIGEST_HEX])
{
    uint64_t n_bit = d->n_byte * 8;
    unsigned char tail[72] = {0x80}; /* to 56 of 64 bytes, then the length */
    size_t n_pad = 1 + (119 - d->n_byte % 64) % 64;
    for (int i = 0; i < 8; i++) tail[n_pad + (size_t)i] = (unsigned char)(n_bit >> (56 - 8 * i));
    qn_digest_add(d, tail, n_pad + 8);
    int n_word = d->kind == QN_SHA1 ? 5 : 8;
    for (int i = 0; i < n_word; i++) snprintf(out + 8 * i, 9, "%08x", d->h[i]);
}
