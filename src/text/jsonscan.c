/* Incremental JSON check.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/jsonscan.h"

enum {
    VALUE,  /* a value is due */
    FIRST,  /* after '[': a value or ']' */
    OPENED, /* after '{': a key or '}' */
    KEY,    /* a key is due */
    COLON,
    AFTER, /* a value has ended */
    STRING,
    ESCAPE,
    HEX,
    WORD,
    MINUS,
    ZERO,
    DIGITS,
    POINT,
    FRACTION,
    EXPONENT,
    EXPONENT_SIGN,
    EXPONENT_DIGITS,
};

static const char *const words[] = {"true", "false", "null"};

static bool in_object(const struct qn_jsonscan *s)
{
    return s->depth > 0 && (s->is_object[(s->depth - 1) / 8] >> ((s->depth - 1) % 8) & 1);
}

static enum qn_jsonscan_result push(struct qn_jsonscan *s, bool is_object)
{
    if (s->depth >= QN_JSONSCAN_MAX_DEPTH) return QN_JSONSCAN_BAD;
    uint8_t bit = (uint8_t)(1u << (s->depth % 8));
    if (is_object)
        s->is_object[s->depth / 8] |= bit;
    else
        s->is_object[s->depth / 8] &= (uint8_t)~bit;
    s->depth++;
    s->state = is_object ? OPENED : FIRST;
    return QN_JSONSCAN_OPEN;
}

static enum qn_jsonscan_result after(struct qn_jsonscan *s)
{
    s->state = AFTER;
    return s->depth ? QN_JSONSCAN_OPEN : QN_JSONSCAN_WHOLE;
}

static enum qn_jsonscan_result go(struct qn_jsonscan *s, uint8_t state)
{
    s->state = state;
    bool is_number = state == ZERO || state == DIGITS || state == FRACTION || state == EXPONENT_DIGITS;
    return is_number && !s->depth ? QN_JSONSCAN_WHOLE : QN_JSONSCAN_OPEN;
}

static bool is_digit(unsigned char c)
{
    return c >= '0' && c <= '9';
}

static enum qn_jsonscan_result value(struct qn_jsonscan *s, unsigned char c)
{
    if (c == '{') return push(s, true);
    if (c == '[') return push(s, false);
    if (c == '"') {
        s->is_key = false;
        return go(s, STRING);
    }
    if (c == '-') return go(s, MINUS);
    if (c == '0') return go(s, ZERO);
    if (is_digit(c)) return go(s, DIGITS);
    for (uint8_t w = 0; w < 3; w++)
        if (c == (unsigned char)words[w][0]) {
            s->word = w;
            s->at = 1;
            return go(s, WORD);
        }
    return QN_JSONSCAN_BAD;
}

/* After a value: ',' or a closing bracket. */
static enum qn_jsonscan_result after_value(struct qn_jsonscan *s, unsigned char c)
{
    if (!s->depth) return QN_JSONSCAN_BAD;
    if (c == ',') return go(s, in_object(s) ? KEY : VALUE);
    if (c != (in_object(s) ? '}' : ']')) return QN_JSONSCAN_BAD;
    s->depth--;
    return after(s);
}

static enum qn_jsonscan_result in_string(struct qn_jsonscan *s, unsigned char c)
{
    switch (s->state) {
    case STRING:
        if (c == '\\') return go(s, ESCAPE);
        if (c < 0x20) return QN_JSONSCAN_BAD;
        if (c != '"') return QN_JSONSCAN_OPEN;
        return s->is_key ? go(s, COLON) : after(s);
    case ESCAPE:
        if (c == 'u') {
            s->at = 0;
            return go(s, HEX);
        }
        return c && strchr("\"\\/bfnrt", c) ? go(s, STRING) : QN_JSONSCAN_BAD;
    default: /* HEX */
        if (!is_digit(c) && !((c | 32) >= 'a' && (c | 32) <= 'f')) return QN_JSONSCAN_BAD;
        return ++s->at == 4 ? go(s, STRING) : QN_JSONSCAN_OPEN;
    }
}

/* Inside a number; what ends it is handled as what follows a value. */
static enum qn_jsonscan_result in_number(struct qn_jsonscan *s, unsigned char c, bool is_blank)
{
    bool can_end = false;
    switch (s->state) {
    case MINUS:
        return c == '0' ? go(s, ZERO) : is_digit(c) ? go(s, DIGITS) : QN_JSONSCAN_BAD;
    case POINT:
        return is_digit(c) ? go(s, FRACTION) : QN_JSONSCAN_BAD;
    case EXPONENT:
        if (c == '+' || c == '-') return go(s, EXPONENT_SIGN);
        return is_digit(c) ? go(s, EXPONENT_DIGITS) : QN_JSONSCAN_BAD;
    case EXPONENT_SIGN:
        return is_digit(c) ? go(s, EXPONENT_DIGITS) : QN_JSONSCAN_BAD;
    case ZERO:
        can_end = true;
        break;
    case DIGITS:
    case FRACTION:
    case EXPONENT_DIGITS:
        can_end = true;
        if (is_digit(c)) return go(s, s->state);
        break;
    default:
        break;
    }
    if ((s->state == ZERO || s->state == DIGITS) && c == '.') return go(s, POINT);
    if (s->state != EXPONENT_DIGITS && (c == 'e' || c == 'E')) return go(s, EXPONENT);
    if (!can_end) return QN_JSONSCAN_BAD;
    return is_blank ? after(s) : after_value(s, c);
}

enum qn_jsonscan_result qn_jsonscan_byte(struct qn_jsonscan *s, unsigned char c)
{
    bool is_blank = c == ' ' || c == '\t' || c == '\n' || c == '\r';
    switch (s->state) {
    case VALUE:
        return is_blank ? QN_JSONSCAN_OPEN : value(s, c);
    case FIRST:
        if (is_blank) return QN_JSONSCAN_OPEN;
        return c == ']' ? after_value(s, c) : value(s, c);
    case OPENED:
        if (c == '}') return after_value(s, c);
        /* fall through */
    case KEY:
        if (is_blank) return QN_JSONSCAN_OPEN;
        if (c != '"') return QN_JSONSCAN_BAD;
        s->is_key = true;
        return go(s, STRING);
    case COLON:
        if (is_blank) return QN_JSONSCAN_OPEN;
        return c == ':' ? go(s, VALUE) : QN_JSONSCAN_BAD;
    case AFTER:
        if (is_blank) return s->depth ? QN_JSONSCAN_OPEN : QN_JSONSCAN_WHOLE;
        return after_value(s, c);
    case STRING:
    case ESCAPE:
    case HEX:
        return in_string(s, c);
    case WORD:
        if (c != (unsigned char)words[s->word][s->at]) return QN_JSONSCAN_BAD;
        return words[s->word][++s->at] ? QN_JSONSCAN_OPEN : after(s);
    default:
        return in_number(s, c, is_blank);
    }
}
