/* See base64.h. SPDX-License-Identifier: Apache-2.0 */
#include "base/base64.h"

static int value_of(unsigned char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    if (c == '+') return 62;
    if (c == '/') return 63;
    return -1;
}

bool qn_base64_decode(const char *text, size_t n, uint8_t *to, size_t *n_byte)
{
    size_t n_pad = 0, at = 0;
    while (n_pad < 2 && n > 0 && text[n - 1] == '=') {
        n--;
        n_pad++;
    }
    if ((n_pad && (n + n_pad) % 4) || n % 4 == 1) return false;
    uint32_t bits = 0;
    for (size_t i = 0; i < n; i++) {
        int v = value_of((unsigned char)text[i]);
        if (v < 0) return false;
        bits = bits << 6 | (uint32_t)v;
        if (i % 4 == 3) {
            to[at++] = (uint8_t)(bits >> 16);
            to[at++] = (uint8_t)(bits >> 8);
            to[at++] = (uint8_t)bits;
        }
    }
    if (n % 4 == 2) to[at++] = (uint8_t)(bits >> 4);
    if (n % 4 == 3) {
        to[at++] = (uint8_t)(bits >> 10);
        to[at++] = (uint8_t)(bits >> 2);
    }
    *n_byte = at;
    return true;
}
