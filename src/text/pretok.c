/* Pre-tokeniser.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/pretok.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "text/utf8.h"

#define MAX_STAGES  16
#define MATCH_LIMIT 10000000 /* steps of one match */
#define DEPTH_LIMIT 100000   /* kilobytes of backtracking memory, and depth */

/* The patterns that have a scanner. Where they differ is in struct family. */
static const struct family {
    const char *name, *pattern;
    bool takes_marks; /* \p{M} counts as a letter */
    int max_digits;   /* in one piece; 0: any number (and an optional blank before) */
    bool is_gpt2;
} families[] = {
    {"qwen3.5",
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| "
     "?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|"
     "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     true, 1, false},
    {"qwen2",
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
     "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     false, 1, false},
    {"cl100k",
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
     "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     false, 3, false},
    {"gpt-2", "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", false, 0,
     true},
};
#define GPT2_PATTERN (families[3].pattern)

struct qn_pretok {
    const struct family *family; /* NULL: run the stages */
    pcre2_code *stages[MAX_STAGES];
    int n_stage;
    const uint8_t *classes; /* qn_utf8_class_table() */
    uint8_t ascii[128];     /* enum kind */
    uint8_t of_class[8];    /* enum qn_char_class -> enum kind */
};

/* ---- the scanner ---- */

/* What the published patterns tell apart. */
enum kind { OTHER, LETTER, DIGIT, SPACE, NEWLINE };

/* Kind of the character at s[i]; its length to *len. The text is well formed. */
static inline enum kind kind_at(const struct qn_pretok *p, const unsigned char *s, size_t i, size_t *len)
{
    unsigned c = s[i];
    if (c < 0x80) {
        *len = 1;
        return p->ascii[c];
    }
    uint32_t cp;
    if (c < 0xe0) {
        *len = 2;
        cp = (c & 31) << 6 | (s[i + 1] & 63u);
    } else if (c < 0xf0) {
        *len = 3;
        cp = (c & 15) << 12 | (s[i + 1] & 63u) << 6 | (s[i + 2] & 63u);
    } else {
        *len = 4;
        cp = (c & 7) << 18 | (s[i + 1] & 63u) << 12 | (s[i + 2] & 63u) << 6 | (s[i + 3] & 63u);
    }
    unsigned k = cp < QN_UTF8_TABLE_SIZE ? p->classes[cp] & QN_UTF8_CLASS_BITS : (unsigned)qn_utf8_class(cp);
    return p->of_class[k];
}

/* The end of the run of characters of one kind that starts at i. */
static inline size_t run_of(const struct qn_pretok *p, enum kind kind, const unsigned char *s, size_t n,
                            size_t i)
{
    size_t len;
    while (i < n && kind_at(p, s, i, &len) == kind) i += len;
    return i;
}

static inline unsigned fold(unsigned c, bool any_case)
{
    return any_case && c >= 'A' && c <= 'Z' ? c | 32 : c;
}

/* Length of 's 't 're 've 'm 'll 'd at s[i] == '\'', or 0. U+017F is an s of any case. */
static size_t contraction(const unsigned char *s, size_t n, size_t i, bool any_case)
{
    size_t left = n - i;
    if (left < 2) return 0;
    unsigned a = fold(s[i + 1], any_case), b = left > 2 ? fold(s[i + 2], any_case) : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
    return any_case && left > 2 && s[i + 1] == 0xc5 && s[i + 2] == 0xbf ? 3 : 0;
}

/* The end of white space at i, of kinds SPACE and NEWLINE. *after_newline: the end of its last newline, or 0;
 * *last: where its last character starts. */
static size_t white_run(const struct qn_pretok *p, const unsigned char *s, size_t n, size_t i,
                        size_t *after_newline, size_t *last)
{
    *after_newline = 0;
    while (i < n) {
        size_t len;
        enum kind kind = kind_at(p, s, i, &len);
        if (kind != SPACE && kind != NEWLINE) break;
        *last = i;
        i += len;
        if (kind == NEWLINE) *after_newline = i;
    }
    return i;
}

/* \s+(?!\S)|\s+ : all of it at the end of the text; otherwise all but the last character, which is left for
 * the word that follows, unless it is the only one. */
static size_t blank_piece(size_t n, size_t i, size_t end, size_t last)
{
    return end == n || last == i ? end : last;
}

static size_t next_gpt2(const struct qn_pretok *p, const unsigned char *s, size_t n, size_t i)
{
    size_t len, after_newline, last = i;
    if (s[i] == '\'') {
        len = contraction(s, n, i, false);
        if (len) return i + len;
    }
    size_t at = s[i] == ' ' && i + 1 < n ? i + 1 : i;
    enum kind kind = kind_at(p, s, at, &len);
    if (kind == LETTER || kind == DIGIT || kind == OTHER) return run_of(p, kind, s, n, at + len);
    size_t end = white_run(p, s, n, i, &after_newline, &last);
    return blank_piece(n, i, end, last);
}

static size_t next_family(const struct qn_pretok *p, const unsigned char *s, size_t n, size_t i)
{
    size_t len, next_len, after_newline, last = i;
    enum kind kind = kind_at(p, s, i, &len);
    if (s[i] == '\'') {
        size_t length = contraction(s, n, i, true);
        if (length) return i + length;
    }
    if (kind == LETTER) return run_of(p, LETTER, s, n, i + len);
    size_t second = i + len;
    if (kind == DIGIT) {
        for (int k = 1; k < p->family->max_digits && second < n; k++) {
            if (kind_at(p, s, second, &len) != DIGIT) break;
            second += len;
        }
        return second;
    }
    enum kind next = second < n ? kind_at(p, s, second, &next_len) : NEWLINE;
    /* any one character but a letter, a digit and a newline goes with the word after it */
    if (kind != NEWLINE && next == LETTER) return run_of(p, LETTER, s, n, second + next_len);
    if (kind == OTHER || (s[i] == ' ' && next == OTHER)) {
        size_t end = run_of(p, OTHER, s, n, second);
        while (end < n && (s[end] == '\r' || s[end] == '\n')) end++;
        return end;
    }
    size_t end = white_run(p, s, n, i, &after_newline, &last);
    return after_newline ? after_newline : blank_piece(n, i, end, last);
}

/* ---- custom patterns ---- */

struct ends {
    uint32_t *data;
    size_t n, capacity;
};

static int push_end(struct ends *ends, size_t end)
{
    if (ends->n == ends->capacity) {
        size_t capacity = ends->capacity ? ends->capacity * 2 : 256;
        uint32_t *data = try_realloc(ends->data, capacity, sizeof *data);
        if (!data) return QN_NOMEM;
        ends->data = data;
        ends->capacity = capacity;
    }
    ends->data[ends->n++] = (uint32_t)end;
    return QN_OK;
}

/* Cuts subject[from, to) by one pattern: matches and what lies between them are pieces ("isolated"). */
static int split_range(const pcre2_code *code, pcre2_match_data *data, pcre2_match_context *context,
                       const unsigned char *subject, size_t from, size_t to, struct ends *out,
                       struct qn_err *e)
{
    int rc = QN_OK;
    const unsigned char *s = subject + from;
    size_t n = to - from, pos = 0, done = 0;
    while (pos < n) {
        int k = pcre2_match(code, s, n, pos, PCRE2_NO_UTF_CHECK, data, context);
        if (k == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter keeps its state on the heap */
            k = pcre2_match(code, s, n, pos, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, context);
        if (k == PCRE2_ERROR_NOMATCH) break;
        QN_FAIL_IF(k == PCRE2_ERROR_NOMEMORY, e, QN_NOMEM, "out of memory in the split pattern");
        QN_FAIL_IF(k < 0, e, QN_UNSUPPORTED,
                   "the tokenizer's own split pattern takes too long on this text (PCRE2 error %d)", k);
        const PCRE2_SIZE *at = pcre2_get_ovector_pointer(data);
        if (at[1] <= at[0]) {
            /* an empty match cuts nothing; go on with the next character */
            pos = QN_MAX(at[0], pos) + 1;
            while (pos < n && (s[pos] & 0xc0) == 0x80) pos++;
            continue;
        }
        if (at[0] > done) QN_TRY(push_end(out, from + at[0]));
        QN_TRY(push_end(out, from + at[1]));
        pos = done = at[1];
    }
    if (done < n) QN_TRY(push_end(out, to));
out:
    return rc;
}

/* Text in which characters newer than PCRE2's tables are replaced by older ones of the same category and
 * length; NULL when there are none (or no memory: *failed). */
static unsigned char *with_stand_ins(const unsigned char *text, size_t n, bool *failed)
{
    unsigned char *copy = NULL;
    *failed = false;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = 1;
        if (text[i] >= 0xe0) {
            len = (size_t)qn_utf8_next(text + i, n - i, &cp);
            uint32_t stand_in = qn_utf8_stand_in(cp);
            if (stand_in != cp) {
                if (!copy) {
                    copy = try_malloc(n, 1);
                    if (!copy) {
                        *failed = true;
                        return NULL;
                    }
                    memcpy(copy, text, n);
                }
                qn_utf8_put(stand_in, copy + i);
            }
        }
        i += len;
    }
    return copy;
}

static int split_custom(const struct qn_pretok *p, const unsigned char *text, size_t n, struct ends *out,
                        struct qn_err *e)
{
    int rc = QN_OK;
    struct ends now = {0}, then = {0};
    unsigned char *copy = NULL;
    bool failed;
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    pcre2_match_context *context = pcre2_match_context_create(NULL);
    QN_FAIL_IF(!data || !context, e, QN_NOMEM, "out of memory in the split pattern");
    pcre2_set_match_limit(context, MATCH_LIMIT);
    pcre2_set_depth_limit(context, DEPTH_LIMIT);
    pcre2_set_heap_limit(context, DEPTH_LIMIT);
    copy = with_stand_ins(text, n, &failed);
    QN_FAIL_IF(failed, e, QN_NOMEM, "out of memory in the split pattern");
    QN_TRY(push_end(&now, n));
    for (int stage = 0; stage < p->n_stage; stage++) {
        size_t from = 0;
        then.n = 0;
        for (size_t i = 0; i < now.n; i++) {
            QN_TRY(split_range(p->stages[stage], data, context, copy ? copy : text, from, now.data[i], &then,
                               e));
            from = now.data[i];
        }
        struct ends swap = now;
        now = then;
        then = swap;
    }
    *out = now;
    now = (struct ends){0};
out:
    free(now.data);
    free(then.data);
    free(copy);
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    return rc;
}

/* ---- open ---- */

/* Copies the pattern, with scripts spelled \p{sc:NAME}: PCRE2 takes \p{NAME} of a script for its extensions,
 * the reference library for the script itself. */
static void spell_scripts(const char *pattern, size_t n, struct qn_buf *out)
{
    for (size_t i = 0; i < n;) {
        size_t name = i + 3, end;
        bool is_property =
            n - i > 3 && pattern[i] == '\\' && (pattern[i + 1] | 32) == 'p' && pattern[i + 2] == '{';
        if (!is_property) {
            size_t len = pattern[i] == '\\' && i + 1 < n ? 2 : 1;
            qn_buf_append(out, pattern + i, len);
            i += len;
            continue;
        }
        name += pattern[name] == '^';
        for (end = name; end < n && end - name < 40 && pattern[end] != '}';) end++;
        qn_buf_append(out, pattern + i, name - i);
        char probe[64];
        int error;
        PCRE2_SIZE offset;
        snprintf(probe, sizeof probe, "\\p{sc:%.*s}", (int)(end - name), pattern + name);
        pcre2_code *code = end - name < 3 ? NULL
                                          : pcre2_compile((PCRE2_SPTR)probe, PCRE2_ZERO_TERMINATED, PCRE2_UTF,
                                                          &error, &offset, NULL);
        if (code) qn_buf_puts(out, "sc:");
        pcre2_code_free(code);
        qn_buf_append(out, pattern + name, end - name);
        i = end;
    }
}

static int add_stage(struct qn_pretok *p, const char *pattern, size_t n, struct qn_err *e)
{
    int rc = QN_OK, error;
    PCRE2_SIZE offset;
    pcre2_compile_context *context = NULL;
    struct qn_buf spelled = QN_BUF_INIT((size_t)1 << 20);
    QN_FAIL_IF(p->n_stage == MAX_STAGES, e, QN_UNSUPPORTED, "pre_tokenizer has more than %d splits",
               MAX_STAGES);
    spell_scripts(pattern, n, &spelled);
    QN_FAIL_IF(spelled.failed, e, QN_TOOBIG, "pre_tokenizer: the split pattern is too long");
    context = pcre2_compile_context_create(NULL);
    if (context) pcre2_set_parens_nest_limit(context, 100);
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)qn_buf_str(&spelled), spelled.n_byte,
                      PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, context);
    if (!code) {
        char why[120] = "";
        pcre2_get_error_message(error, (PCRE2_UCHAR *)why, sizeof why);
        QN_FAIL(e, QN_UNSUPPORTED, "pre_tokenizer: the split pattern cannot be used at byte %zu: %s",
                (size_t)offset, why);
    }
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); /* when it cannot, the interpreter runs */
    p->stages[p->n_stage++] = code;
out:
    pcre2_compile_context_free(context);
    qn_buf_free(&spelled);
    return rc;
}

/* A pattern that matches exactly this text. */
static int add_literal_stage(struct qn_pretok *p, const char *text, size_t n, struct qn_err *e)
{
    struct qn_buf quoted = QN_BUF_INIT(4096);
    for (size_t i = 0; i < n; i++) {
        if (text[i] > 0 && text[i] < 0x7f && !strchr("_ ", text[i]) &&
            !((text[i] | 32) >= 'a' && (text[i] | 32) <= 'z') && !(text[i] >= '0' && text[i] <= '9'))
            qn_buf_printf(&quoted, "\\x%02x", (unsigned)text[i]);
        else
            qn_buf_putc(&quoted, text[i]);
    }
    int rc = quoted.failed
                 ? qn_err_set(e, QN_TOOBIG, __FILE__, __LINE__, "pre_tokenizer: Split text is too long")
                 : add_stage(p, qn_buf_str(&quoted), quoted.n_byte, e);
    qn_buf_free(&quoted);
    return rc;
}

static int add_split(struct qn_pretok *p, const struct qn_json *spec, struct qn_err *e)
{
    int rc = QN_OK;
    const char *behavior;
    bool is_inverted;
    QN_TRY(qn_json_get_str(spec, "behavior", "Isolated", &behavior, e));
    QN_TRY(qn_json_get_bool(spec, "invert", false, &is_inverted, e));
    const struct qn_json *pattern = qn_json_get(spec, "pattern");
    const struct qn_json *regex = qn_json_get(pattern, "Regex"), *string = qn_json_get(pattern, "String");
    if (qn_json_is(regex, QN_JSON_STRING))
        QN_TRY(add_stage(p, regex->text, regex->n, e));
    else if (qn_json_is(string, QN_JSON_STRING) && string->n)
        QN_TRY(add_literal_stage(p, string->text, string->n, e));
    else
        QN_FAIL(e, QN_FORMAT, "pre_tokenizer: Split has neither a Regex nor a String pattern");
    if (qn_json_is(regex, QN_JSON_STRING) && p->n_stage == 1)
        for (size_t i = 0; i < QN_COUNT(families); i++)
            if (!strcmp(regex->text, families[i].pattern)) p->family = &families[i];
    /* Isolated keeps all the text, inverted or not. So do the matches of a pattern that matches everything.
     */
    bool keeps_all =
        !strcmp(behavior, "Isolated") || (!strcmp(behavior, "Removed") && is_inverted && p->family);
    QN_FAIL_IF(!keeps_all, e, QN_UNSUPPORTED,
               "pre_tokenizer: Split with behavior '%s'%s; supported is 'Isolated'", behavior,
               is_inverted ? ", inverted" : "");
out:
    return rc;
}

static int add_one(struct qn_pretok *p, const struct qn_json *spec, bool *is_byte_level, struct qn_err *e)
{
    int rc = QN_OK;
    const char *type;
    bool flag;
    QN_TRY(qn_json_get_str(spec, "type", "(none)", &type, e));
    QN_FAIL_IF(*is_byte_level, e, QN_UNSUPPORTED, "pre_tokenizer: '%s' after ByteLevel is not supported",
               type);
    if (!strcmp(type, "Split")) {
        QN_TRY(add_split(p, spec, e));
    } else if (!strcmp(type, "Digits")) {
        QN_TRY(qn_json_get_bool(spec, "individual_digits", false, &flag, e));
        /* the reference library asks its compiler's library here, whose numbers are Unicode 17 */
        static const char numbers[] = "[\\p{N}\\x{11de0}-\\x{11de9}\\x{16ff4}-\\x{16ff6}]+";
        QN_TRY(add_stage(p, numbers, sizeof numbers - 1 - flag, e));
    } else if (!strcmp(type, "ByteLevel")) {
        *is_byte_level = true;
        QN_TRY(qn_json_get_bool(spec, "add_prefix_space", true, &flag, e));
        QN_FAIL_IF(flag, e, QN_UNSUPPORTED,
                   "pre_tokenizer: ByteLevel with add_prefix_space true is not supported");
        QN_TRY(qn_json_get_bool(spec, "use_regex", true, &flag, e));
        if (flag) {
            QN_TRY(add_stage(p, GPT2_PATTERN, strlen(GPT2_PATTERN), e));
            p->family = p->n_stage == 1 ? &families[3] : NULL;
        }
    } else {
        QN_FAIL(
            e, QN_UNSUPPORTED,
            "pre_tokenizer '%s' is not supported: quern reads byte-level BPE (Split, Digits and ByteLevel)",
            type);
    }
    if (p->n_stage > 1) p->family = NULL;
out:
    return rc;
}

int qn_pretok_open(struct qn_pretok **out, const struct qn_json *spec, struct qn_err *e)
{
    int rc = QN_OK;
    bool is_byte_level = false;
    struct qn_pretok *p = try_calloc(1, sizeof *p);
    QN_FAIL_IF(!p, e, QN_NOMEM, "out of memory");
    QN_FAIL_IF(!qn_json_is(spec, QN_JSON_OBJECT), e, QN_UNSUPPORTED,
               "no pre_tokenizer: quern reads byte-level BPE, which has a ByteLevel pre_tokenizer");
    if (qn_json_is_str(qn_json_get(spec, "type"), "Sequence")) {
        struct qn_json *list;
        QN_TRY(qn_json_get_arr(spec, "pretokenizers", &list, e));
        for (size_t i = 0; list && i < list->n; i++) QN_TRY(add_one(p, list->items[i], &is_byte_level, e));
    } else {
        QN_TRY(add_one(p, spec, &is_byte_level, e));
    }
    QN_FAIL_IF(!is_byte_level, e, QN_UNSUPPORTED,
               "pre_tokenizer has no ByteLevel step: quern reads byte-level BPE only");
    p->classes = qn_utf8_class_table();
    uint8_t *of = p->of_class;
    of[QN_CHAR_OTHER] = OTHER;
    of[QN_CHAR_LETTER] = LETTER;
    of[QN_CHAR_MARK] = p->family && p->family->takes_marks ? LETTER : OTHER;
    of[QN_CHAR_NUMBER] = DIGIT;
    of[QN_CHAR_SPACE] = SPACE;
    of[QN_CHAR_NEWLINE] = NEWLINE;
    for (unsigned c = 0; c < 128; c++) p->ascii[c] = of[p->classes[c] & QN_UTF8_CLASS_BITS];
    *out = p;
    p = NULL;
out:
    qn_pretok_free(p);
    return rc;
}

void qn_pretok_free(struct qn_pretok *p)
{
    if (!p) return;
    for (int i = 0; i < p->n_stage; i++) pcre2_code_free(p->stages[i]);
    free(p);
}

const char *qn_pretok_name(const struct qn_pretok *p)
{
    return p->family ? p->family->name : "custom";
}

int qn_pretok_begin(struct qn_pretok_cursor *c, const struct qn_pretok *p, const void *text, size_t n,
                    struct qn_err *e)
{
    *c = (struct qn_pretok_cursor){.pretok = p, .text = text, .n = n};
    if (p->family || !n) return QN_OK;
    struct ends ends = {0};
    int rc = split_custom(p, text, n, &ends, e);
    if (rc) return rc;
    c->ends = ends.data;
    c->n_end = ends.n;
    return QN_OK;
}

void qn_pretok_end(struct qn_pretok_cursor *c)
{
    free(c->ends);
    c->ends = NULL;
}

size_t qn_pretok_next(struct qn_pretok_cursor *c)
{
    const struct qn_pretok *p = c->pretok;
    if (!p->family)
        c->pos = c->ends[c->end_index++];
    else if (p->family->is_gpt2)
        c->pos = next_gpt2(p, c->text, c->n, c->pos);
    else
        c->pos = next_family(p, c->text, c->n, c->pos);
    return c->pos;
}
