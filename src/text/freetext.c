/* Free text inside a parameter.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/freetext.h"

enum { TEXT, TAG, KEY };

/* `owed`: closers read as data, each with what must not come next (after blanks) for it to be data. */
enum {
    AFTER_PARAMETER = 1, /* no structure at all */
    AFTER_FUNCTION = 2,  /* no </tool_call>, no <tool_call> */
    AFTER_TOOL = 4,      /* no <tool_call> */
    WANT_FUNCTION = 8,   /* complete closers and a new call: </function> seen next, */
    WANT_TOOL = 16,      /* then </tool_call>, */
    WANT_OPEN = 32,      /* then <tool_call> must not come */
};

enum { PARAMETER_CLOSE, FUNCTION_CLOSE, TOOL_CLOSE, TOOL_OPEN, FUNCTION_OPEN, PARAMETER_OPEN, N_TAG };

static const char *const tags[N_TAG] = {"</parameter>", "</function>", "</tool_call>",
                                        "<tool_call>",  "<function=",  "<parameter="};

#define KEY_NONE      0xffffu /* matches no name any more */
#define MAX_OPEN      15
#define node_of(t, n) ((uint8_t)((t) << 4 | (n)))

struct qn_freetext qn_freetext_start(bool is_flat, bool is_owing)
{
    /* bounded text comes to its end by itself, and may hold nothing but a closer */
    return (struct qn_freetext){.line_start = 1, .is_flat = is_flat, .is_owing = is_owing && !is_flat};
}

/* Only blanks since a closer that was data, and the call cannot end yet. */
static bool wants_to_end(const struct qn_freetext *s)
{
    return s->is_owing && s->owed & AFTER_PARAMETER;
}

bool qn_freetext_can_close(const struct qn_freetext *s)
{
    return s->phase == TAG && s->node == node_of(0, 1) && !(s->parameter_function & 15) && !wants_to_end(s);
}

bool qn_freetext_is_key(const struct qn_freetext *s)
{
    return s->phase == KEY;
}

static bool count_open(uint8_t *field, int shift)
{
    if ((*field >> shift & 15) == MAX_OPEN) return false;
    *field = (uint8_t)(*field + (1 << shift));
    return true;
}

/* A blank, or a byte of one outside ASCII: the blanks there begin with these lead bytes. */
static bool may_be_blank(unsigned char b)
{
    if (b < 0x80) return b == ' ' || (b >= 9 && b <= 13) || (b >= 0x1c && b <= 0x1f);
    return b < 0xc0 || b == 0xc2 || (b >= 0xe1 && b <= 0xe3);
}

static bool take_text(struct qn_freetext *s, unsigned char b)
{
    s->phase = TEXT;
    if (b == '<') {
        s->phase = TAG;
        s->node = node_of(0, 1);
        return true; /* line_start is of the '<' */
    }
    if (!may_be_blank(b)) s->owed = 0;
    s->line_start = b == '\n';
    return true;
}

/* A whole tag has been read as data. */
static bool take_tag(struct qn_freetext *s, int tag)
{
    bool ls = s->line_start;
    unsigned owed = s->owed, next = 0;
    if (owed & AFTER_PARAMETER && tag != PARAMETER_CLOSE) return false;
    if (owed & AFTER_FUNCTION && (tag == TOOL_CLOSE || tag == TOOL_OPEN)) return false;
    if (owed & AFTER_TOOL && tag == TOOL_OPEN) return false;
    if (owed & WANT_OPEN && tag == TOOL_OPEN && !s->call) return false;
    if (owed & WANT_FUNCTION && tag == FUNCTION_CLOSE) next |= WANT_TOOL;
    if (owed & WANT_TOOL && tag == TOOL_CLOSE) next |= WANT_OPEN;
    if (s->is_flat && ls && tag >= TOOL_OPEN) return false;
    int n_parameter = s->parameter_function & 15, n_function = s->parameter_function >> 4;
    s->phase = TEXT;
    s->line_start = 0;
    switch (tag) {
    case PARAMETER_CLOSE:
        next |= n_parameter ? WANT_FUNCTION : AFTER_PARAMETER;
        if (n_parameter) s->parameter_function--;
        break;
    case FUNCTION_CLOSE:
        if (ls) next |= n_function ? WANT_TOOL : AFTER_FUNCTION;
        if (n_function) s->parameter_function = (uint8_t)(s->parameter_function - 16);
        break;
    case TOOL_CLOSE:
        if (s->call)
            s->call--;
        else if (ls)
            next |= AFTER_TOOL;
        break;
    case TOOL_OPEN:
        if (ls && !count_open(&s->call, 0)) return false;
        break;
    case FUNCTION_OPEN:
        if (ls && !count_open(&s->parameter_function, 4)) return false;
        break;
    case PARAMETER_OPEN:
        if (ls) {
            s->phase = KEY;
            s->key = s->node = 0;
        }
        break;
    default:
        break;
    }
    if (s->phase != KEY) s->node = 0;
    s->owed = (uint8_t)next;
    return true;
}

/* A name after <parameter= at the start of a line. key: index of a name with the prefix read << 8 | bytes. */
static bool take_key(struct qn_freetext *s, unsigned char b, const struct qn_freetext_key *keys, int n_key)
{
    int at = s->key >> 8, pos = s->key & 255;
    if (b == '\n' || b == '<') {
        s->key = s->node = 0;
        return take_text(s, b);
    }
    if (b == '>') {
        bool is_name = s->key != KEY_NONE && at < n_key && keys[at].n == (size_t)pos && pos > 0;
        s->key = s->node = 0;
        s->phase = TEXT;
        return !is_name && n_key <= 255 && count_open(&s->parameter_function, 0);
    }
    bool is_blank = may_be_blank(b);
    if (s->key == KEY_NONE) return true;
    if (is_blank && b < 0x80) {
        if (pos > 0) s->node = 1; /* trailing blanks: only '>' keeps the name */
        return true;
    }
    if (!s->node)
        for (int i = at; i < n_key && i < 255; i++) {
            if (keys[i].n <= (size_t)pos || keys[i].n > 254 || (unsigned char)keys[i].name[pos] != b)
                continue;
            if (pos && (keys[at].n < (size_t)pos || memcmp(keys[i].name, keys[at].name, (size_t)pos)))
                continue;
            s->key = (uint16_t)(i << 8 | (pos + 1));
            return true;
        }
    s->key = KEY_NONE;
    s->node = 0;
    return true;
}

bool qn_freetext_step(struct qn_freetext *s, unsigned char b, const struct qn_freetext_key *keys, int n_key)
{
    if (s->phase == KEY) return take_key(s, b, keys, n_key);
    if (s->phase == TEXT) return take_text(s, b);
    int tag = s->node >> 4, pos = s->node & 15;
    if (pos == 1 && b == '/' && wants_to_end(s)) return false;
    for (int i = 0; i < N_TAG; i++) {
        if (strncmp(tags[i], tags[tag], (size_t)pos) || (unsigned char)tags[i][pos] != b) continue;
        s->node = node_of(i, pos + 1);
        return tags[i][pos + 1] ? true : take_tag(s, i);
    }
    /* no tag after all */
    s->owed = s->node = s->line_start = 0;
    return take_text(s, b);
}
