/* See exif.h. SPDX-License-Identifier: Apache-2.0 */
#include "media/exif.h"

static unsigned get16(const uint8_t *p, bool big)
{
    return big ? (unsigned)p[0] << 8 | p[1] : (unsigned)p[1] << 8 | p[0];
}

static uint32_t get32(const uint8_t *p, bool big)
{
    return big ? (uint32_t)get16(p, big) << 16 | get16(p + 2, big)
               : (uint32_t)get16(p + 2, big) << 16 | get16(p, big);
}

int qn_exif_orientation(const uint8_t *data, size_t n)
{
    if (n >= 6 && !memcmp(data, "Exif\0\0", 6)) {
        data += 6;
        n -= 6;
    }
    if (n < 8) return 1;
    bool big = !memcmp(data, "MM\0*", 4);
    if (!big && memcmp(data, "II*\0", 4)) return 1;
    size_t at = get32(data + 4, big);
    if (at > n || n - at < 2) return 1;
    size_t n_entry = get16(data + at, big);
    at += 2;
    for (size_t i = 0; i < n_entry && n - at >= 12; i++, at += 12) {
        if (get16(data + at, big) != 0x0112 || get16(data + at + 2, big) != 3) continue;
        unsigned v = get16(data + at + 8, big);
        return v >= 1 && v <= 8 ? (int)v : 1;
    }
    return 1;
}
