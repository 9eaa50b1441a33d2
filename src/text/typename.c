/* Names of types.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/typename.h"

#include <ctype.h>

#define MAX_DEPTH 8

static const struct {
    unsigned bits;
    const char *words; /* between blanks */
} types[] = {
    {QN_ARG_NULL, " null none nil nonetype undefined void "},
    {QN_ARG_INTEGER, " integer int uint sint long ulong short ushort byte ubyte sbyte unsigned signed bigint "
                     "biginteger smallint "
                     "tinyint int8 "},
    {QN_ARG_NUMBER, " number num numeric float double decimal real bigdecimal "},
    {QN_ARG_BOOLEAN, " boolean bool logical "},
    {QN_ARG_OBJECT,
     " object dict dictionary map mapping hash hashmap struct json jsonobject record treemap ordereddict "
     "defaultdict typeddict "},
    {QN_ARG_ARRAY,
     " array arr list tuple set frozenset sequence vector iterable collection arraylist linkedlist slice "},
    {QN_ARG_STRING, " string str text char character varchar enum literal date datetime time timestamp uuid "
                    "url uri email path "
                    "file filename bytes binary "},
    {QN_ARG_ANY, " any mixed variant unknown jsonvalue value "},
};

static unsigned of_word(const char *s, size_t n)
{
    char word[24] = " ";
    if (!n || n > sizeof word - 3) return 0;
    memcpy(word + 1, s, n);
    word[n + 1] = ' ';
    for (size_t i = 0; i < QN_COUNT(types); i++)
        if (strstr(types[i].words, word)) return types[i].bits;
    return 0;
}

/* The end of the first of several names in s [n]: at a '|' or ',' outside brackets. */
static size_t first_of(const char *s, size_t n)
{
    int open = 0;
    for (size_t i = 0; i < n; i++) {
        open += s[i] == '[' || s[i] == '<' || s[i] == '(' || s[i] == '{';
        open -= s[i] == ']' || s[i] == '>' || s[i] == ')' || s[i] == '}';
        if (!open && (s[i] == '|' || s[i] == ',' || s[i] == '/')) return i;
        if (!open && n - i > 4 && !memcmp(s + i, " or ", 4)) return i;
    }
    return n;
}

static unsigned bits_of(const char *s, size_t n, int depth);

/* "a | b", "a, b", "a or b" */
static unsigned bits_of_several(const char *s, size_t n, int depth)
{
    unsigned set = 0;
    while (n) {
        size_t i = first_of(s, n);
        set |= bits_of(s, i, depth + 1);
        if (i == n) break;
        i += s[i] == ' ' ? 4 : 1;
        s += i;
        n -= i;
    }
    return set;
}

/* Lower case already. */
static unsigned bits_of(const char *s, size_t n, int depth)
{
    while (n && (isspace((unsigned char)*s) || *s == '|')) s++, n--;
    while (n && isspace((unsigned char)s[n - 1])) n--;
    if (!n || depth > MAX_DEPTH) return 0;
    if (first_of(s, n) < n) return bits_of_several(s, n, depth);
    if (s[n - 1] == '?') return QN_ARG_NULL | bits_of(s, n - 1, depth + 1);
    if (n > 2 && !memcmp(s + n - 2, "[]", 2)) return QN_ARG_ARRAY;
    for (size_t dot = n; dot-- > 0;) /* typing.Any, java.lang.String */
        if (s[dot] == '.' && !memchr(s, '[', dot) && !memchr(s, '<', dot))
            return bits_of(s + dot + 1, n - dot - 1, depth + 1);
    if (n > 5 && !memcmp(s, "type_", 5)) return bits_of(s + 5, n - 5, depth + 1);
    size_t word = 0;
    while (word < n && s[word] >= 'a' && s[word] <= 'z') word++;
    const char *inner = s + word + 1;
    bool has_inner = word < n && (s[word] == '[' || s[word] == '<') && (s[n - 1] == ']' || s[n - 1] == '>');
    if (has_inner && word == 8 && !memcmp(s, "optional", word))
        return QN_ARG_NULL | bits_of(inner, n - word - 2, depth + 1);
    if (has_inner && word == 5 && !memcmp(s, "union", word))
        return bits_of_several(inner, n - word - 2, depth);
    if (has_inner && word == 9 && !memcmp(s, "annotated", word))
        return bits_of(inner, first_of(inner, n - word - 2), depth + 1);
    if (*s == '[' && s[n - 1] == ']') return QN_ARG_ARRAY;
    if (*s == '{' && s[n - 1] == '}') return QN_ARG_OBJECT;
    return of_word(s, word);
}

unsigned qn_typename_bits(const char *name, size_t n)
{
    char lower[128];
    n = QN_MIN(n, sizeof lower);
    for (size_t i = 0; i < n; i++) lower[i] = (char)tolower((unsigned char)name[i]);
    return bits_of(lower, n, 0);
}

unsigned qn_typename_of(const struct qn_json *type)
{
    unsigned set = 0;
    if (qn_json_is(type, QN_JSON_STRING)) return qn_typename_bits(type->text, type->n);
    if (qn_json_is(type, QN_JSON_OBJECT)) return qn_typename_of(qn_json_get(type, "type"));
    for (size_t i = 0; qn_json_is(type, QN_JSON_ARRAY) && i < type->n; i++) {
        const struct qn_json *each = type->items[i];
        if (!qn_json_is(each, QN_JSON_ARRAY)) set |= qn_typename_of(each);
    }
    return set;
}
