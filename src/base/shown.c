/* Text from outside as it may be printed.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/shown.h"

#define MAX_BYTES 1024

/* Bytes of a control character at s: ASCII's, or U+0080 to U+009F in UTF-8; 0: none. */
static int control(const unsigned char *s)
{
    if (s[0] < 0x20 || s[0] == 0x7f) return 1;
    return s[0] == 0xc2 && s[1] >= 0x80 && s[1] < 0xa0 ? 2 : 0;
}

static size_t show(char *out, size_t out_bytes, const char *text)
{
    size_t n = 0;
    for (const unsigned char *s = (const unsigned char *)text; *s;) {
        char one[12] = {(char)*s, 0};
        int n_control = control(s);
        if (*s == '\n' || *s == '\r' || *s == '\t')
            snprintf(one, sizeof one, "\\%c", *s == '\n' ? 'n' : *s == '\r' ? 'r' : 't');
        else if (n_control)
            snprintf(one, sizeof one, "\\x%02x", n_control == 1 ? *s : s[1]);
        size_t k = strlen(one);
        if (n + k + 1 > out_bytes) break;
        memcpy(out + n, one, k);
        n += k;
        s += n_control ? n_control : 1;
    }
    out[n] = 0;
    return n;
}

const char *qn_shown(const char *text)
{
    static _Thread_local char ring[8][MAX_BYTES];
    static _Thread_local unsigned at;
    char *out = ring[at++ % QN_COUNT(ring)];
    show(out, MAX_BYTES, text ? text : "");
    return out;
}

size_t qn_show(char *text, size_t out_bytes)
{
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i++)
        if (control((const unsigned char *)text + i)) {
            char *copy = strdup(text);
            if (!copy) { /* no memory to make it longer: at least it is harmless */
                for (; i < n; i++)
                    if (control((const unsigned char *)text + i)) text[i] = '?';
                return n;
            }
            n = show(text, out_bytes, copy);
            free(copy);
            return n;
        }
    return n;
}
