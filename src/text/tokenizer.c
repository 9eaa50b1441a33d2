/* Tokenizer: tokenizer.json, added tokens, encode.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/tokenizer.h"

#include "base/gguf_json.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "base/model_path.h"
#include "text/bpe.h"
#include "text/marker.h"
#include "text/pretok.h"
#include "text/utf8.h"

#define MAX_ADDED       65536
#define MAX_ADDED_BYTES 4096 /* spelling of one added token */

/* Spellings of added tokens, found leftmost and longest. */
struct trie {
    struct qn_map edges; /* (node + 1) << 8 | byte -> node; 0 is the root */
    int32_t *id;         /* [n_node] the token that ends here, or -1 */
    uint32_t n_node, capacity;
    uint8_t first[256]; /* a spelling starts with this byte */
};

struct added {
    int32_t id;
    bool is_special, is_word, strips_left, strips_right, is_normalized;
    char *text;
    size_t n;
};

struct qn_tokenizer {
    struct qn_bpe bpe;
    struct qn_pretok *pretok;
    struct added *added; /* [n_added] */
    size_t n_added;
    struct qn_map added_of; /* id + 1 -> index in added */
    struct trie raw;        /* matched in the text as given */
    struct trie normalized; /* matched after normalisation */
    bool is_nfc, has_strips;
    int n_base;
    const char *warning;
};

/* ---- ids ---- */

void qn_ids_free(struct qn_ids *ids)
{
    free(ids->data);
    qn_share_give(ids->share, ids->capacity * sizeof *ids->data);
    *ids = (struct qn_ids){.max = ids->max};
}

int qn_ids_reserve(struct qn_ids *ids, size_t n_more)
{
    if (n_more > ids->max || ids->n > ids->max - n_more) return QN_TOOBIG;
    size_t need = ids->n + n_more;
    if (need <= ids->capacity) return QN_OK;
    size_t capacity = QN_MAX(need, QN_MIN(QN_MAX(ids->capacity * 2, (size_t)64), ids->max));
    size_t more = (capacity - ids->capacity) * sizeof *ids->data;
    if (!ids->data) ids->share = qn_share_mine();
    if (!qn_share_take(ids->share, more)) return QN_NOMEM;
    int32_t *data = try_realloc(ids->data, capacity, sizeof *data);
    if (!data) {
        qn_share_give(ids->share, more);
        qn_share_failed(ids->share, more);
        return QN_NOMEM;
    }
    ids->data = data;
    ids->capacity = capacity;
    return QN_OK;
}

int qn_ids_push(struct qn_ids *ids, int32_t id)
{
    return qn_ids_append(ids, &id, 1);
}

int qn_ids_append(struct qn_ids *ids, const int32_t *from, size_t n)
{
    if (ids->n + n > ids->capacity || n > ids->max) {
        int rc = qn_ids_reserve(ids, n);
        if (rc) return rc;
    }
    if (n) memcpy(ids->data + ids->n, from, n * sizeof *from);
    ids->n += n;
    return QN_OK;
}

/* ---- trie ---- */

static int trie_add(struct trie *t, const char *s, size_t n, int32_t id)
{
    uint32_t node = 0;
    for (size_t i = 0; i <= n; i++) {
        if (node >= t->n_node) {
            if (t->n_node == t->capacity) {
                uint32_t capacity = t->capacity ? t->capacity * 2 : 256;
                int32_t *ids = try_realloc(t->id, capacity, sizeof *ids);
                if (!ids) return QN_NOMEM;
                t->id = ids;
                t->capacity = capacity;
            }
            t->id[t->n_node++] = -1;
        }
        if (i == n) break;
        uint64_t key = ((uint64_t)node + 1) << 8 | (uint8_t)s[i], child;
        if (!qn_map_get(&t->edges, key, &child)) {
            child = t->n_node;
            qn_map_put(&t->edges, key, child);
        }
        node = (uint32_t)child;
    }
    t->first[(uint8_t)s[0]] = 1;
    if (t->id[node] < 0) t->id[node] = id; /* tokenizer.json came first */
    return QN_OK;
}

static void trie_free(struct trie *t)
{
    qn_map_free(&t->edges);
    free(t->id);
    *t = (struct trie){0};
}

/* The longest spelling at s; its length to *length and its id, or -1. */
static int32_t trie_match(const struct trie *t, const uint8_t *s, size_t n, const uint8_t *literal,
                          size_t *length)
{
    int32_t id = -1;
    uint64_t node = 0;
    for (size_t i = 0; i < n && (!literal || literal[i]); i++) {
        if (!qn_map_get(&t->edges, (node + 1) << 8 | s[i], &node)) break;
        if (t->id[node] < 0) continue;
        id = t->id[node];
        *length = i + 1;
    }
    return id;
}

/* ---- reading tokenizer.json ----
 *
 * The vocabulary and the merges are nearly all of the file: they are found by a light scan and read straight
 * into the BPE tables. What remains, a few kilobytes, goes through the ordinary JSON parser. */

struct scan {
    const char *text;
    size_t n, pos;
    const char *what;
    struct qn_err *e;
};

struct range {
    size_t from, to; /* 0, 0: absent */
};

static int scan_failed(const struct scan *s, const char *expected)
{
    return qn_err_set(s->e, QN_FORMAT, __FILE__, __LINE__, "%s: invalid JSON at byte %zu, expected %s",
                      s->what, s->pos, expected);
}

static int next_char(struct scan *s)
{
    while (s->pos < s->n) {
        char c = s->text[s->pos];
        if (c != ' ' && c != '\n' && c != '\t' && c != '\r') return (unsigned char)c;
        s->pos++;
    }
    return -1;
}

/* Moves past a string; the bytes between the quotes are text[*from, *to). */
static int scan_string(struct scan *s, size_t *from, size_t *to, bool *has_escape)
{
    if (next_char(s) != '"') return scan_failed(s, "a string");
    *from = ++s->pos;
    *has_escape = false;
    while (s->pos < s->n && s->text[s->pos] != '"') {
        if (s->text[s->pos] == '\\') {
            *has_escape = true;
            s->pos++;
        }
        s->pos++;
    }
    if (s->pos >= s->n) return scan_failed(s, "the closing quote of a string");
    *to = s->pos++;
    return QN_OK;
}

/* Moves past any value without judging it. */
static int skip_value(struct scan *s)
{
    int depth = 0;
    do {
        size_t from, to;
        bool has_escape;
        int c = next_char(s);
        if (c < 0) return scan_failed(s, "a value");
        if (c == '"') {
            int rc = scan_string(s, &from, &to, &has_escape);
            if (rc) return rc;
            continue;
        }
        if (c == '{' || c == '[')
            depth++;
        else if (c == '}' || c == ']')
            depth--;
        else if (c != ',' && c != ':')
            while (s->pos + 1 < s->n && !strchr(",:]}[{\" \t\r\n", s->text[s->pos + 1])) s->pos++;
        if (depth < 0) return scan_failed(s, "a value");
        s->pos++;
    } while (depth);
    return QN_OK;
}

/* Moves into an object or array, or to its next member: 1 when there is one, 0 at the end, negative on
 * failure. */
static int next_member(struct scan *s, char open, char close, bool *is_first)
{
    int c = next_char(s);
    if (*is_first) {
        if (c != open) return scan_failed(s, open == '{' ? "an object" : "an array");
        s->pos++;
        c = next_char(s);
    } else if (c == ',') {
        s->pos++;
        c = next_char(s);
        if (c == close) return scan_failed(s, "a value after ','");
    } else if (c != close) {
        return scan_failed(s, "',' or the end");
    }
    *is_first = false;
    if (c != close) return 1;
    s->pos++;
    return 0;
}

static int scan_key(struct scan *s, size_t *from, size_t *to)
{
    bool has_escape;
    int rc = scan_string(s, from, to, &has_escape);
    if (rc) return rc;
    if (next_char(s) != ':') return scan_failed(s, "':'");
    s->pos++;
    return QN_OK;
}

static bool key_is(const struct scan *s, size_t from, size_t to, const char *name)
{
    return to - from == strlen(name) && !memcmp(s->text + from, name, to - from);
}

/* Copies the file to rest with the values of model.vocab and model.merges replaced by 0. */
static int split_file(struct scan *s, struct qn_buf *rest, struct range *vocab, struct range *merges)
{
    int rc = QN_OK, more;
    size_t done = 0;
    bool is_first = true;
    *vocab = *merges = (struct range){0, 0};
    while ((more = next_member(s, '{', '}', &is_first)) > 0) {
        size_t from, to;
        QN_TRY(scan_key(s, &from, &to));
        if (!key_is(s, from, to, "model") || next_char(s) != '{') {
            QN_TRY(skip_value(s));
            continue;
        }
        bool is_first_key = true;
        while ((more = next_member(s, '{', '}', &is_first_key)) > 0) {
            QN_TRY(scan_key(s, &from, &to));
            struct range *hit = key_is(s, from, to, "vocab")    ? vocab
                                : key_is(s, from, to, "merges") ? merges
                                                                : NULL;
            next_char(s);
            size_t start = s->pos;
            QN_TRY(skip_value(s));
            if (!hit) continue;
            *hit = (struct range){start, s->pos};
            qn_buf_append(rest, s->text + done, start - done);
            qn_buf_putc(rest, '0');
            done = s->pos;
        }
        if (more < 0) break;
    }
    rc = more < 0 ? more : QN_OK;
    QN_TRY(rc);
    qn_buf_append(rest, s->text + done, s->n - done);
    QN_FAIL_IF(rest->failed, s->e, rest->failed, "%s: more than %zu bytes besides the vocabulary", s->what,
               rest->max_bytes);
out:
    return rc;
}

/* The string text[from, to) without its escapes, in `out`. */
static int unescape(struct scan *s, size_t from, size_t to, struct qn_buf *out)
{
    int rc = QN_OK;
    struct qn_json *v;
    struct qn_arena *arena = qn_arena_create(((size_t)1 << 20) + (to - from) * 2);
    QN_TRY(qn_json_parse(&v, arena, s->text + from - 1, to - from + 2, s->what, s->e));
    qn_buf_clear(out);
    QN_TRY(qn_buf_append(out, v->text, v->n));
out:
    qn_arena_free(arena);
    return rc;
}

/* A string value, unescaped into `scratch` when needed. */
static int read_string(struct scan *s, struct qn_buf *scratch, const char **text, size_t *n)
{
    size_t from, to;
    bool has_escape;
    int rc = scan_string(s, &from, &to, &has_escape);
    if (rc) return rc;
    *text = s->text + from;
    *n = to - from;
    if (!has_escape) return QN_OK;
    rc = unescape(s, from, to, scratch);
    *text = qn_buf_str(scratch);
    *n = scratch->n_byte;
    return rc;
}

static int read_vocab(struct qn_tokenizer *t, struct scan *s)
{
    int rc = QN_OK, more;
    bool is_first = true;
    struct qn_buf key = QN_BUF_INIT((size_t)1 << 20);
    while ((more = next_member(s, '{', '}', &is_first)) > 0) {
        const char *text;
        size_t n;
        QN_TRY(read_string(s, &key, &text, &n));
        if (next_char(s) != ':') {
            rc = scan_failed(s, "':'");
            goto out;
        }
        s->pos++;
        next_char(s);
        size_t first = s->pos;
        int64_t id = 0;
        for (; s->pos < s->n && s->text[s->pos] >= '0' && s->text[s->pos] <= '9'; s->pos++)
            id = QN_MIN(id * 10 + (s->text[s->pos] - '0'), (int64_t)INT32_MAX);
        if (s->pos == first) {
            rc = scan_failed(s, "a token id");
            goto out;
        }
        rc = qn_bpe_add_token(&t->bpe, id, text, n, s->e);
        if (rc) {
            qn_err_prefix(s->e, "%s: model.vocab", s->what);
            goto out;
        }
    }
    rc = more < 0 ? more : QN_OK;
out:
    qn_buf_free(&key);
    return rc;
}

/* At least the number of merges, to size the table: by commas, of which a pair written as an array has one
 * more. */
static size_t count_merges(struct scan *s)
{
    size_t n = 0, start = s->pos;
    for (const char *at = s->text + s->pos, *end = s->text + s->n;
         at < end && (at = memchr(at, ',', (size_t)(end - at))); at++)
        n++;
    s->pos++;
    bool has_pairs = next_char(s) == '[';
    s->pos = start;
    return has_pairs ? n / 2 + 1 : n + 1;
}

static int read_merges(struct qn_tokenizer *t, struct scan *s)
{
    int rc = QN_OK, more;
    bool is_first = true;
    struct qn_buf one = QN_BUF_INIT((size_t)1 << 20), two = QN_BUF_INIT((size_t)1 << 20);
    QN_TRY(qn_bpe_reserve_merges(&t->bpe, count_merges(s), s->e));
    while ((more = next_member(s, '[', ']', &is_first)) > 0) {
        const char *left, *right;
        size_t n_left, n_right;
        if (next_char(s) == '[') {
            s->pos++;
            QN_TRY(read_string(s, &one, &left, &n_left));
            if (next_char(s) != ',') {
                rc = scan_failed(s, "two strings in a merge");
                goto out;
            }
            s->pos++;
            QN_TRY(read_string(s, &two, &right, &n_right));
            if (next_char(s) != ']') {
                rc = scan_failed(s, "two strings in a merge");
                goto out;
            }
            s->pos++;
        } else {
            QN_TRY(read_string(s, &one, &left, &n_left));
            if (n_left >= 8 && !memcmp(left, "#version", 8)) continue;
            right = memchr(left, ' ', n_left);
            QN_FAIL_IF(!right, s->e, QN_FORMAT, "%s: merge '%.*s' is not two tokens with a blank between",
                       s->what, (int)QN_MIN(n_left, (size_t)60), left);
            n_right = n_left - (size_t)(right - left) - 1;
            n_left = (size_t)(right - left);
            right++;
        }
        rc = qn_bpe_add_merge(&t->bpe, left, n_left, right, n_right, s->e);
        if (rc) {
            qn_err_prefix(s->e, "%s", s->what);
            goto out;
        }
    }
    rc = more < 0 ? more : QN_OK;
out:
    qn_buf_free(&one);
    qn_buf_free(&two);
    return rc;
}

/* An option of the BPE model that byte-level vocabularies leave off. */
static int check_off(const struct qn_json *model, const char *key, const char *what, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *v = qn_json_get(model, key);
    bool is_off = qn_json_is_null(v) || (v->type == QN_JSON_BOOL && !v->truth) || qn_json_is_str(v, "") ||
                  (qn_json_is_number(v) && qn_json_num(v) == 0);
    QN_FAIL_IF(!is_off, e, QN_UNSUPPORTED, "%s: model.%s is set: quern reads byte-level BPE without it", what,
               key);
out:
    return rc;
}

static int check_model(struct qn_tokenizer *t, const struct qn_json *root, const char *what, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *model = qn_json_get(root, "model");
    QN_FAIL_IF(!qn_json_is(model, QN_JSON_OBJECT), e, QN_FORMAT,
               "%s: no \"model\" object: not a tokenizer.json", what);
    const struct qn_json *type = qn_json_get(model, "type");
    /* older files leave the type out; then vocab and merges tell */
    bool is_bpe = qn_json_is_str(type, "BPE") || (!type && qn_json_get(model, "merges"));
    QN_FAIL_IF(!is_bpe, e, QN_UNSUPPORTED, "%s: the model is '%s': quern reads byte-level BPE only", what,
               qn_json_is(type, QN_JSON_STRING) ? type->text : "(unnamed)");
    QN_TRY(check_off(model, "byte_fallback", what, e));
    QN_TRY(check_off(model, "continuing_subword_prefix", what, e));
    QN_TRY(check_off(model, "end_of_word_suffix", what, e));
    QN_TRY(check_off(model, "dropout", what, e));
    QN_TRY(qn_json_get_bool(model, "ignore_merges", false, &t->bpe.takes_whole, e));
out:
    return rc;
}

static int read_normalizer(struct qn_tokenizer *t, const struct qn_json *v, const char *what, int depth,
                           struct qn_err *e)
{
    int rc = QN_OK;
    if (qn_json_is_null(v)) return QN_OK;
    const struct qn_json *type = qn_json_get(v, "type"), *list = qn_json_get(v, "normalizers");
    if (qn_json_is_str(type, "NFC")) {
        t->is_nfc = true;
    } else if (qn_json_is_str(type, "Sequence") && qn_json_is(list, QN_JSON_ARRAY) && depth < 4) {
        for (size_t i = 0; i < list->n; i++) QN_TRY(read_normalizer(t, list->items[i], what, depth + 1, e));
    } else {
        QN_FAIL(e, QN_UNSUPPORTED, "%s: normalizer '%s' is not supported: NFC or none is", what,
                qn_json_is(type, QN_JSON_STRING) ? type->text : "(unnamed)");
    }
out:
    return rc;
}

/* ---- added tokens ---- */

static int add_added(struct qn_tokenizer *t, size_t *capacity, int64_t id, const struct qn_json *v,
                     const char *what, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *content = qn_json_get(v, "content");
    QN_FAIL_IF(!qn_json_is(content, QN_JSON_STRING), e, QN_FORMAT,
               "%s: added token %" PRId64 " has no \"content\" string", what, id);
    if (!content->n) goto out;
    QN_FAIL_IF(content->n > MAX_ADDED_BYTES, e, QN_TOOBIG,
               "%s: added token %" PRId64 " is longer than %d bytes", what, id, MAX_ADDED_BYTES);
    QN_FAIL_IF(t->n_added == MAX_ADDED, e, QN_TOOBIG, "%s: more than %d added tokens", what, MAX_ADDED);
    QN_FAIL_IF(id < 0 || id >= QN_TOKENIZER_MAX_VOCAB, e, QN_TOOBIG,
               "%s: added token '%.60s' has the id %" PRId64 ", not in 0..%d", what, content->text, id,
               QN_TOKENIZER_MAX_VOCAB - 1);
    if (qn_map_get(&t->added_of, (uint64_t)id + 1, NULL)) goto out; /* tokenizer.json came first */
    /* an added token that is in the vocabulary has its id there, and must be that token */
    if (id < t->n_base && !(t->bpe.flags[id] & QN_TOKEN_UNUSED)) {
        size_t n = t->bpe.span[id].length;
        const uint8_t *bytes = t->bpe.blob + t->bpe.span[id].start;
        bool is_same = n == content->n && !memcmp(bytes, content->text, n);
        struct qn_bpe probe = {0};
        if (!is_same && !qn_bpe_add_token(&probe, 0, content->text, content->n, NULL))
            is_same = n == probe.span[0].length && !memcmp(bytes, probe.blob, n);
        qn_bpe_free(&probe);
        QN_FAIL_IF(!is_same, e, QN_FORMAT,
                   "%s: added token '%.60s' has the id %" PRId64 ", which is another token of the vocabulary",
                   what, content->text, id);
    }
    struct added a = {.id = (int32_t)id};
    QN_TRY(qn_json_get_bool(v, "special", false, &a.is_special, e));
    QN_TRY(qn_json_get_bool(v, "single_word", false, &a.is_word, e));
    QN_TRY(qn_json_get_bool(v, "lstrip", false, &a.strips_left, e));
    QN_TRY(qn_json_get_bool(v, "rstrip", false, &a.strips_right, e));
    QN_TRY(qn_json_get_bool(v, "normalized", !a.is_special, &a.is_normalized, e));
    if (t->n_added == *capacity) {
        *capacity = *capacity ? *capacity * 2 : 64;
        t->added = xreallocarray(t->added, *capacity, sizeof *t->added);
    }
    unsigned flags = QN_TOKEN_ADDED | (a.is_special ? QN_TOKEN_SPECIAL : 0);
    if (qn_marker_of(content->text, content->n) >= 0) flags |= QN_TOKEN_MARKER;
    QN_TRY(qn_bpe_set_token(&t->bpe, id, content->text, content->n, flags, e));
    a.text = xstrndup(content->text, content->n);
    a.n = content->n;
    qn_map_put(&t->added_of, (uint64_t)id + 1, t->n_added);
    t->added[t->n_added++] = a;
out:
    return rc;
}

static int read_added(struct qn_tokenizer *t, const struct qn_json *root, const struct qn_json *config,
                      const char *what, struct qn_err *e)
{
    int rc = QN_OK;
    size_t capacity = 0;
    struct qn_json *list, *decoder;
    QN_TRY(qn_json_get_arr(root, "added_tokens", &list, e));
    for (size_t i = 0; list && i < list->n; i++) {
        int64_t id;
        QN_TRY(qn_json_get_int(list->items[i], "id", -1, &id, e));
        QN_TRY(add_added(t, &capacity, id, list->items[i], what, e));
    }
    QN_TRY(qn_json_get_obj(config, "added_tokens_decoder", &decoder, e));
    for (size_t i = 0; decoder && i < decoder->n; i++) {
        char *end;
        long long id = strtoll(decoder->keys[i].text, &end, 10);
        QN_FAIL_IF(*end || end == decoder->keys[i].text, e, QN_FORMAT,
                   "tokenizer_config.json: added_tokens_decoder: '%.40s' is not a token id",
                   decoder->keys[i].text);
        QN_TRY(add_added(t, &capacity, id, decoder->items[i], "tokenizer_config.json", e));
    }
    for (size_t i = 0; i < t->n_added; i++) {
        const struct added *a = &t->added[i];
        struct qn_buf text = QN_BUF_INIT(MAX_ADDED_BYTES * 4);
        if (a->is_normalized && t->is_nfc)
            qn_utf8_nfc(a->text, a->n, NULL, &text, NULL);
        else
            qn_buf_append(&text, a->text, a->n);
        rc = text.failed
                 ? text.failed
                 : trie_add(a->is_normalized ? &t->normalized : &t->raw, text.data, text.n_byte, a->id);
        qn_buf_free(&text);
        QN_FAIL_IF(rc, e, rc, "%s: out of memory for the added tokens", what);
        t->has_strips |= a->is_word || a->strips_left || a->strips_right;
    }
out:
    return rc;
}

/* ---- open ---- */

static void warn_about_marks(struct qn_tokenizer *t, const struct qn_json *config)
{
    const struct qn_json *regex = qn_json_get(config, "pretokenize_regex");
    if (strcmp(qn_pretok_name(t->pretok), "qwen2") != 0 || !qn_json_is(regex, QN_JSON_STRING) ||
        !strstr(regex->text, "\\p{M}"))
        return;
    t->warning =
        "tokenizer.json has the split pattern without \\p{M}, tokenizer_config.json the one with it, which "
        "the model was trained with; following tokenizer.json as the reference library does (text with "
        "combining marks is split differently)";
    qn_log(QN_LOG_WARN, "tokenizer", "%s", t->warning);
}

/* The pattern of the first Split; NULL without one. */
static const struct qn_json *split_regex(const struct qn_json *v, int depth)
{
    const struct qn_json *list = qn_json_get(v, "pretokenizers"), *found = NULL;
    if (qn_json_is_str(qn_json_get(v, "type"), "Split")) {
        found = qn_json_get(qn_json_get(v, "pattern"), "Regex");
        return qn_json_is(found, QN_JSON_STRING) ? found : NULL;
    }
    for (size_t i = 0; depth < 4 && qn_json_is(list, QN_JSON_ARRAY) && i < list->n && !found; i++)
        found = split_regex(list->items[i], depth + 1);
    return found;
}

/* How the reference's class for the family (Qwen3_5Tokenizer, transformers 5.24) normalises and splits. It
 * takes vocabulary and merges from tokenizer.json, and these two never. */
static const char class_normalizer[] = "{\"type\":\"NFC\"}";
static const char class_pretok[] =
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"
    "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\\\p{L}\\\\p{N}]?[\\\\p{L}\\\\p{M}]+|\\\\p{N}| ?[^\\\\s\\\\p{L}"
    "\\\\p{M}\\\\p{N}]+[\\r\\n]*|\\\\s*[\\r\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\","
    "\"invert\":false},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":false,"
    "\"use_regex\":false}]}";

/* The class's own in place of the file's; a line when that changes anything. */
static int use_class(struct qn_tokenizer *t, struct qn_json *root, struct qn_arena *arena, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *normalizer, *pretok;
    QN_TRY(qn_json_parse(&normalizer, arena, class_normalizer, strlen(class_normalizer), "normalizer", e));
    QN_TRY(qn_json_parse(&pretok, arena, class_pretok, strlen(class_pretok), "pre_tokenizer", e));
    const struct qn_json *own = split_regex(qn_json_get(root, "pre_tokenizer"), 0),
                         *ours = split_regex(pretok, 0);
    bool is_same = own && ours && own->n == ours->n && !memcmp(own->text, ours->text, own->n) &&
                   qn_json_is_str(qn_json_get(qn_json_get(root, "normalizer"), "type"), "NFC");
    if (!is_same) {
        t->warning =
            "tokenizer.json splits or normalises text otherwise than the model's own tokenizer class, "
            "which is followed, as transformers does (pattern with \\p{M}, NFC)";
        qn_log(QN_LOG_WARN, "tokenizer", "%s", t->warning);
    }
    QN_FAIL_IF(!qn_json_set(arena, root, "normalizer", normalizer) ||
                   !qn_json_set(arena, root, "pre_tokenizer", pretok),
               e, QN_TOOBIG, "tokenizer.json is too large");
out:
    return rc;
}

static int open_text(struct qn_tokenizer **out, const char *json, size_t n_json, const char *config_json,
                     size_t n_config, const char *what, bool has_class, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_tokenizer *t = xcalloc(1, sizeof *t);
    struct qn_arena *arena = qn_arena_create((size_t)64 << 20);
    struct qn_buf rest = QN_BUF_INIT((size_t)16 << 20);
    struct scan scan = {.text = json, .n = n_json, .what = what, .e = e};
    struct range vocab, merges;
    struct qn_json *root, *config = NULL;
    if (n_json >= 3 && !memcmp(json, "\xef\xbb\xbf", 3)) scan.pos = 3;
    QN_TRY(split_file(&scan, &rest, &vocab, &merges));
    QN_TRY(qn_json_parse(&root, arena, qn_buf_str(&rest), rest.n_byte, what, e));
    if (config_json) QN_TRY(qn_json_parse(&config, arena, config_json, n_config, "tokenizer_config.json", e));
    QN_TRY(check_model(t, root, what, e));
    if (has_class) QN_TRY(use_class(t, root, arena, e));
    QN_FAIL_IF(!vocab.to || !merges.to, e, QN_FORMAT, "%s: the model has no \"%s\"", what,
               vocab.to ? "merges" : "vocab");
    QN_TRY(read_normalizer(t, qn_json_get(root, "normalizer"), what, 0, e));
    rc = qn_pretok_open(&t->pretok, qn_json_get(root, "pre_tokenizer"), e);
    if (rc) {
        qn_err_prefix(e, "%s", what);
        goto out;
    }
    scan.n = vocab.to;
    scan.pos = vocab.from;
    QN_TRY(read_vocab(t, &scan));
    t->n_base = t->bpe.n_id;
    rc = qn_bpe_index(&t->bpe, e);
    if (rc) {
        qn_err_prefix(e, "%s", what);
        goto out;
    }
    scan.n = merges.to;
    scan.pos = merges.from;
    QN_TRY(read_merges(t, &scan));
    QN_TRY(read_added(t, root, config, what, e));
    qn_bpe_seal(&t->bpe);
    if (!has_class) warn_about_marks(t, config);
    *out = t;
    t = NULL;
out:
    qn_tokenizer_free(t);
    qn_arena_free(arena);
    qn_buf_free(&rest);
    return rc;
}

int qn_tokenizer_open_text(struct qn_tokenizer **out, const char *json, size_t n_json,
                           const char *config_json, size_t n_config, const char *what, struct qn_err *e)
{
    return open_text(out, json, n_json, config_json, n_config, what, false, e);
}

int qn_tokenizer_open_gguf(struct qn_tokenizer **out, const struct qn_gguf *g, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_buf text = QN_BUF_INIT(QN_GGUF_JSON_MAX);
    QN_TRY(qn_gguf_tokenizer_json(g, &text, e));
    QN_TRY(qn_tokenizer_open_text(out, qn_buf_str(&text), text.n_byte, NULL, 0, qn_gguf_path(g), e));
out:
    qn_buf_free(&text);
    return rc;
}

/* Does config.json name the family? Then transformers takes its class, whatever tokenizer_class says. */
static bool is_of_family(const char *folder)
{
    static const char *const types[] = {"qwen3_5", "qwen3_5_moe", "qwen3_5_text", "qwen3_5_moe_text"};
    struct qn_arena *arena = qn_arena_create((size_t)256 << 20);
    char *path = xasprintf("%s/config.json", folder);
    struct qn_json *config;
    bool is_known = false;
    if (!qn_json_read_file(&config, arena, path, (size_t)16 << 20, NULL))
        for (size_t i = 0; i < QN_COUNT(types); i++)
            is_known |= qn_json_is_str(qn_json_get(config, "model_type"), types[i]);
    free(path);
    qn_arena_free(arena);
    return is_known;
}

static int open_folder(struct qn_tokenizer **out, const char *folder, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_buf json = QN_BUF_INIT(QN_TOKENIZER_MAX_FILE_BYTES), config = QN_BUF_INIT((size_t)16 << 20);
    char *path = xasprintf("%s/tokenizer.json", folder),
         *config_path = xasprintf("%s/tokenizer_config.json", folder);
    rc = qn_buf_read_file(&json, path, e);
    if (rc == QN_NOTFOUND && e)
        qn_err_set(e, rc, __FILE__, __LINE__,
                   "%s is missing: the folder must hold the tokenizer.json of the published checkpoint",
                   path);
    QN_TRY(rc);
    struct qn_err ignored;
    rc = qn_buf_read_file(&config, config_path, e ? e : &ignored);
    if (rc == QN_NOTFOUND) {
        if (e) *e = (struct qn_err){0};
        rc = QN_OK;
    }
    QN_TRY(rc);
    QN_TRY(open_text(out, qn_buf_str(&json), json.n_byte, config.data, config.n_byte, path,
                     is_of_family(folder), e));
out:
    qn_buf_free(&json);
    qn_buf_free(&config);
    free(path);
    free(config_path);
    return rc;
}

int qn_tokenizer_open(struct qn_tokenizer **out, const char *path, struct qn_err *e)
{
    int rc = QN_OK;
    char *found = NULL;
    struct qn_gguf *g = NULL;
    QN_TRY(qn_model_path_resolve(path, &found, e));
    if (qn_model_path_is_gguf(found)) {
        QN_TRY(qn_gguf_open(&g, found, e));
        QN_TRY(qn_gguf_check_model(g, NULL, e));
        QN_TRY(qn_tokenizer_open_gguf(out, g, e));
    } else {
        QN_TRY(open_folder(out, found, e));
    }
out:
    qn_gguf_close(g);
    free(found);
    return rc;
}

void qn_tokenizer_free(struct qn_tokenizer *t)
{
    if (!t) return;
    qn_bpe_free(&t->bpe);
    qn_pretok_free(t->pretok);
    for (size_t i = 0; i < t->n_added; i++) free(t->added[i].text);
    free(t->added);
    qn_map_free(&t->added_of);
    trie_free(&t->raw);
    trie_free(&t->normalized);
    free(t);
}

/* ---- encode ---- */

/* A piece seen before in this call: where it stands, and the ids it gave. */
struct seen {
    const uint8_t *piece;
    uint32_t n, hash;
    uint32_t n_id;
    size_t at; /* in the ids of the call */
};

#define SEEN_MAX_BYTES 64 /* longer pieces are not remembered */

/* Text kept until the call ends, because the cache points into it. */
struct kept {
    struct kept *next;
    struct qn_buf text;
};

struct call {
    const struct qn_tokenizer *t;
    struct qn_ids *out;
    struct qn_err *e;
    struct seen *seen; /* [seen_mask + 1] by hash, or NULL */
    size_t seen_mask;
    struct kept *kept;
};

/* Plain text: no added tokens in it. */
static int encode_plain(struct call *c, const uint8_t *s, size_t n)
{
    int rc = QN_OK;
    struct qn_pretok_cursor cursor;
    struct qn_ids *out = c->out;
    QN_TRY(qn_pretok_begin(&cursor, c->t->pretok, s, n, c->e));
    while (cursor.pos < n) {
        const uint8_t *piece = s + cursor.pos;
        size_t n_piece = qn_pretok_next(&cursor) - (size_t)(piece - s);
        if (n_piece < 2 || n_piece > SEEN_MAX_BYTES || !c->seen) {
            rc = qn_bpe_encode(&c->t->bpe, piece, n_piece, out);
            if (rc) break;
            continue;
        }
        uint64_t hash = qn_bpe_hash(piece, n_piece);
        struct seen *seen = &c->seen[(hash >> 32) & c->seen_mask];
        uint32_t tag = (uint32_t)hash;
        if (seen->hash == tag && seen->n == n_piece && !memcmp(seen->piece, piece, n_piece)) {
            rc = qn_ids_reserve(out, seen->n_id); /* before the address is taken: it may move */
            if (rc) break;
            for (uint32_t i = 0; i < seen->n_id; i++) out->data[out->n + i] = out->data[seen->at + i];
            out->n += seen->n_id;
            continue;
        }
        size_t at = out->n;
        rc = qn_bpe_encode(&c->t->bpe, piece, n_piece, out);
        if (rc) break;
        *seen = (struct seen){piece, (uint32_t)n_piece, tag, (uint32_t)(out->n - at), at};
    }
    qn_pretok_end(&cursor);
    if (rc == QN_TOOBIG)
        qn_err_set(c->e, rc, __FILE__, __LINE__, "the text has more than %zu tokens", out->max);
    if (rc == QN_NOMEM) qn_err_set(c->e, rc, __FILE__, __LINE__, "out of memory while encoding");
out:
    return rc;
}

static size_t char_before(const uint8_t *s, size_t at)
{
    do at--;
    while (at && (s[at] & 0xc0) == 0x80);
    return at;
}

static bool is_space_at(const uint8_t *s, size_t n, size_t at, size_t *len)
{
    uint32_t cp;
    *len = (size_t)qn_utf8_next(s + at, n - at, &cp);
    enum qn_char_class k = qn_utf8_class(cp);
    return k == QN_CHAR_SPACE || k == QN_CHAR_NEWLINE;
}

/* Applies single_word, lstrip and rstrip to the match [*from, *to) in s[n], of which [0, done) is used up. */
static bool adjust_match(const struct added *a, const uint8_t *s, size_t n, size_t done, size_t *from,
                         size_t *to)
{
    uint32_t cp;
    size_t len;
    if (a->is_word) {
        size_t before = *from ? char_before(s, *from) : 0;
        if (*from && qn_utf8_next(s + before, n - before, &cp) > 0 && qn_utf8_is_word(cp)) return false;
        if (*to < n && qn_utf8_next(s + *to, n - *to, &cp) > 0 && qn_utf8_is_word(cp)) return false;
    }
    while (a->strips_left && *from > done) {
        size_t before = char_before(s, *from);
        if (before < done || !is_space_at(s, n, before, &len)) break;
        *from = before;
    }
    while (a->strips_right && *to < n && is_space_at(s, n, *to, &len)) *to += len;
    return true;
}

typedef int encode_fn(struct call *c, const uint8_t *s, size_t n, const uint8_t *literal);

/* Cuts the added tokens of one trie out of s[n] and hands what lies between to `between`. */
static int cut_added(struct call *c, const struct trie *trie, const uint8_t *s, size_t n,
                     const uint8_t *literal, encode_fn *between)
{
    int rc = QN_OK;
    const struct qn_tokenizer *t = c->t;
    size_t done = 0;
    for (size_t i = 0; i < n;) {
        if (!trie->first[s[i]]) {
            i++;
            continue;
        }
        size_t length = 0;
        int32_t id = trie_match(trie, s + i, n - i, literal ? literal + i : NULL, &length);
        if (id < 0) {
            i++;
            continue;
        }
        size_t from = i, to = i + length;
        i = to;
        if (t->has_strips) {
            uint64_t index = 0;
            qn_map_get(&t->added_of, (uint64_t)id + 1, &index);
            if (from < done || !adjust_match(&t->added[index], s, n, done, &from, &to)) continue;
        }
        if (from > done) QN_TRY(between(c, s + done, from - done, literal ? literal + done : NULL));
        rc = qn_ids_push(c->out, id);
        QN_FAIL_IF(rc == QN_TOOBIG, c->e, rc, "the text has more than %zu tokens", c->out->max);
        QN_FAIL_IF(rc, c->e, rc, "out of memory while encoding");
        done = to;
        i = QN_MAX(i, done);
    }
    if (done < n) rc = between(c, s + done, n - done, literal ? literal + done : NULL);
out:
    return rc;
}

static int encode_last(struct call *c, const uint8_t *s, size_t n, const uint8_t *literal)
{
    (void)literal;
    return encode_plain(c, s, n);
}

/* Text between raw added tokens: normalise, cut the normalised added tokens, encode. */
static int encode_between(struct call *c, const uint8_t *s, size_t n, const uint8_t *literal)
{
    int rc = QN_OK;
    struct qn_buf mask = QN_BUF_INIT(SIZE_MAX / 4);
    bool has_normalized = c->t->normalized.n_node > 0;
    if (c->t->is_nfc && !qn_utf8_is_nfc_quick(s, n)) {
        struct kept *kept = xcalloc(1, sizeof *kept);
        qn_buf_init(&kept->text, SIZE_MAX / 4);
        kept->next = c->kept;
        c->kept = kept;
        const uint8_t *wanted = has_normalized ? literal : NULL;
        rc = qn_utf8_nfc(s, n, wanted, &kept->text, &mask);
        QN_FAIL_IF(rc || mask.failed, c->e, QN_NOMEM, "out of memory while encoding");
        s = (const uint8_t *)qn_buf_str(&kept->text);
        n = kept->text.n_byte;
        literal = wanted ? (const uint8_t *)qn_buf_str(&mask) : NULL;
    }
    rc = has_normalized ? cut_added(c, &c->t->normalized, s, n, literal, encode_last) : encode_plain(c, s, n);
out:
    qn_buf_free(&mask);
    return rc;
}

int qn_tokenizer_encode(const struct qn_tokenizer *t, const char *text, size_t n, const uint8_t *literal,
                        struct qn_ids *out, struct qn_err *e)
{
    int rc = QN_OK;
    size_t n_before = out->n;
    struct call c = {.t = t, .out = out, .e = e};
    struct qn_buf repaired = QN_BUF_INIT(SIZE_MAX / 4), mask = QN_BUF_INIT(SIZE_MAX / 4);
    QN_FAIL_IF(n > QN_TOKENIZER_MAX_TEXT_BYTES, e, QN_TOOBIG,
               "a text of %zu bytes; at most %zu are encoded at once", n, QN_TOKENIZER_MAX_TEXT_BYTES);
    if (qn_utf8_valid(text, n) < n) {
        rc = qn_utf8_repair(text, n, literal, &repaired, &mask);
        QN_FAIL_IF(rc || mask.failed, e, QN_NOMEM, "out of memory while encoding");
        text = qn_buf_str(&repaired);
        n = repaired.n_byte;
        if (literal) literal = (const uint8_t *)qn_buf_str(&mask);
    }
    size_t n_seen = 0;
    if (n >= 256)
        for (n_seen = 64; n_seen < n / 16 && n_seen < 16384;) n_seen *= 2;
    if (n_seen) {
        c.seen = try_calloc(n_seen, sizeof *c.seen); /* without it all the same, only slower */
        c.seen_mask = n_seen - 1;
    }
    QN_TRY(cut_added(&c, &t->raw, (const uint8_t *)text, n, literal, encode_between));
out:
    if (rc) out->n = n_before;
    free(c.seen);
    while (c.kept) {
        struct kept *next = c.kept->next;
        qn_buf_free(&c.kept->text);
        free(c.kept);
        c.kept = next;
    }
    qn_buf_free(&repaired);
    qn_buf_free(&mask);
    return rc;
}

/* ---- asking ---- */

int qn_tokenizer_n_vocab(const struct qn_tokenizer *t)
{
    return t->bpe.n_id;
}

unsigned qn_tokenizer_flags(const struct qn_tokenizer *t, int32_t id)
{
    return id < 0 || id >= t->bpe.n_id ? (unsigned)QN_TOKEN_UNUSED : t->bpe.flags[id];
}

bool qn_tokenizer_has(const struct qn_tokenizer *t, int32_t id)
{
    return !(qn_tokenizer_flags(t, id) & QN_TOKEN_UNUSED);
}

const uint8_t *qn_tokenizer_bytes(const struct qn_tokenizer *t, int32_t id, size_t *n_byte)
{
    bool is_there = qn_tokenizer_has(t, id);
    *n_byte = is_there ? t->bpe.span[id].length : 0;
    return is_there ? t->bpe.blob + t->bpe.span[id].start : (const uint8_t *)"";
}

size_t qn_tokenizer_max_token_bytes(const struct qn_tokenizer *t)
{
    return t->bpe.max_bytes;
}

int32_t qn_tokenizer_id(const struct qn_tokenizer *t, const char *spelling)
{
    size_t n = strlen(spelling);
    for (size_t i = 0; i < t->n_added; i++)
        if (t->added[i].n == n && !memcmp(t->added[i].text, spelling, n)) return t->added[i].id;
    return qn_bpe_find(&t->bpe, spelling, n);
}

int32_t qn_tokenizer_id_of_bytes(const struct qn_tokenizer *t, const void *bytes, size_t n_byte)
{
    return qn_bpe_find(&t->bpe, bytes, n_byte);
}

struct qn_tokenizer_info qn_tokenizer_info(const struct qn_tokenizer *t)
{
    return (struct qn_tokenizer_info){
        .n_vocab = t->bpe.n_id,
        .n_base = t->n_base,
        .n_merge = (int)t->bpe.n_merge,
        .n_added = (int)t->n_added,
        .is_nfc = t->is_nfc,
        .split = qn_pretok_name(t->pretok),
        .warning = t->warning,
    };
}
