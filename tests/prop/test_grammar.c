/* Property: whatever a model wants, what the masks let through is what the schema asks for. A walk takes
 * random allowed tokens, steers to an end after a while, and must get there; a call's text goes through the
 * output parser.
 *
 *   prop_grammar           fixed schemas, many walks
 *   prop_grammar --walk    requests from stdin, one JSON a line; answers the walks (tests/e2e checks them
 *                          with an independent validator): {"schema", "tool", "strict", "seed", "walks"};
 *                          {"schema" or "regex" or "grammar", "texts"} answers which texts are in it
 *   prop_grammar --bench FOLDER [N]
 *                          times masks and compilation over the vocabulary of a tokenizer, filled up to N
 *                          tokens; with QUERN_BENCH_CHECK each mask is compared with a plain walk
 * SPDX-License-Identifier: Apache-2.0 */
#include <time.h>

#include "base/rng.h"
#include "support/test.h"
#include "base/hash.h"
#include "base/mem.h"
#include "text/constrain.h"
#include "text/mask.h"
#include "text/parse.h"
#include "text/tokenizer.h"

#define STEPS_FREE 60    /* random tokens before the walk is steered to its end */
#define STEPS_MAX  4000  /* by then it must have ended */
#define SEARCH     12000 /* states looked at for a way to an end */
#define MARKERS    ((1u << QN_N_MARKER) - 1)

static const char *const pieces[] = {
    "\"s\":",
    "\"n\":",
    "\"e\":",
    "\"o\":",
    "\"l\":",
    "\"p\":",
    "\"d\":",
    "\"u\":",
    "\"v\":",
    "\"kids\":",
    ",\"s\":",
    ",\"n\":",
    ",\"e\":",
    ",\"o\":",
    ",\"l\":",
    ",\"p\":",
    ",\"d\":",
    ",\"u\":",
    ",\"v\":",
    ",\"kids\":",
    "</function>\n</tool_call>",
    "</function>\n",
    "<parameter=s>\n",
    "<parameter=n>\n",
    "<parameter=e>\n",
    "<parameter=o>\n",
    "<parameter=l>\n",
    "<parameter=p>\n",
    "<parameter=d>\n",
    "<parameter=u>\n",
    "<parameter=v>\n",
    "<parameter=kids>\n",
    "\n</parameter>\n<parameter=s>\n",
    "\n</parameter>\n<parameter=n>\n",
    "\n</parameter>\n<parameter=e>\n",
    "\n</parameter>\n<parameter=o>\n",
    "\n</parameter>\n<parameter=l>\n",
    "\n</parameter>\n<parameter=p>\n",
    "\n</parameter>\n<parameter=d>\n",
    "\n</parameter>\n<parameter=u>\n",
    "\n</parameter>\n<parameter=v>\n",
    "\n</parameter>\n<parameter=kids>\n",
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
    "<function=",
    "</function>",
    "<parameter=",
    "</parameter>",
    "</parameter>\n",
    "\n</parameter>",
    ">\n",
    "</",
    "</par",
    "ameter",
    "tool_call",
    "\n\n",
    "\n",
    "  ",
    "    ",
    "true",
    "false",
    "null",
    "{\"",
    "\"}",
    "\":",
    "\": ",
    "\",",
    "\", \"",
    "[]",
    "{}",
    "},",
    "],",
    "]}",
    "}}",
    "\"a",
    "\"b\"",
    "name",
    "value",
    "the",
    " and",
    "12",
    "100",
    "0.5",
    "-1",
    "1e",
    "2024",
    "-01",
    "é",
    "日本",
    "😀",
    "\xe6\x97",
    "\xa5",
    "\\n",
    "\\u00",
    "\\\"",
    "abc",
    "ABC",
    "Hello",
    " world",
    "\"name",
    "_id",

    "x</parameter>\n</function>\n",
    "\n</parameter>\n</function>\n</tool_call>",
    "\n</parameter>\n<parameter=",
    "\r\n",
    "\t",
    "<",
    "</f",
    "unction",
    "=",
};

static const char *token_bytes(void *ctx, int id, size_t *n, int *kind)
{
    static char single[256];
    (void)ctx;
    *kind =
        (size_t)id - 256 < QN_COUNT(pieces) && qn_marker_of(pieces[id - 256], strlen(pieces[id - 256])) >= 0
            ? QN_MASK_MARKER
            : QN_MASK_TEXT;
    if (id < 256) {
        single[id] = (char)id;
        *n = 1;
        return &single[id];
    }
    if ((size_t)id < 256 + QN_COUNT(pieces)) {
        *n = strlen(pieces[id - 256]);
        return pieces[id - 256];
    }
    *n = 0;
    *kind = (size_t)id == 256 + QN_COUNT(pieces) ? QN_MASK_END : QN_MASK_CONTROL;
    return "";
}

#define N_VOCAB ((int)(256 + QN_COUNT(pieces) + 2))
#define END_ID  ((int)(256 + QN_COUNT(pieces)))

static struct qn_mask *mask;

/* Tokens that bring a text to its end, the better the earlier. */
static int closing_token(const uint64_t *bits, uint64_t turn)
{
    static const char *const order[] = {"\n</parameter>\n</function>\n</tool_call>",
                                        "\n</parameter>\n<parameter=s>\n",
                                        "\n</parameter>\n<parameter=n>\n",
                                        "\n</parameter>\n<parameter=e>\n",
                                        "\n</parameter>\n<parameter=o>\n",
                                        "\n</parameter>\n<parameter=l>\n",
                                        "\n</parameter>\n<parameter=p>\n",
                                        "\n</parameter>\n<parameter=d>\n",
                                        "\n</parameter>\n<parameter=u>\n",
                                        "\n</parameter>\n<parameter=v>\n",
                                        "\n</parameter>\n<parameter=kids>\n",
                                        "\n</parameter>",
                                        "\"s\":",
                                        "\"n\":",
                                        "\"e\":",
                                        "\"o\":",
                                        "\"l\":",
                                        "\"p\":",
                                        "\"d\":",
                                        "\"u\":",
                                        "\"v\":",
                                        "\"kids\":",
                                        ",\"s\":",
                                        ",\"n\":",
                                        ",\"e\":",
                                        ",\"o\":",
                                        ",\"l\":",
                                        ",\"p\":",
                                        ",\"d\":",
                                        ",\"u\":",
                                        ",\"v\":",
                                        ",\"kids\":",
                                        "</function>\n</tool_call>",
                                        "</function>\n",
                                        "<parameter=s>\n",
                                        "<parameter=n>\n",
                                        "<parameter=e>\n",
                                        "<parameter=o>\n",
                                        "<parameter=l>\n",
                                        "<parameter=p>\n",
                                        "<parameter=d>\n",
                                        "<parameter=u>\n",
                                        "<parameter=v>\n",
                                        "<parameter=kids>\n",
                                        "</parameter>\n",
                                        "\"",
                                        "}",
                                        "]",
                                        "1",
                                        "0",
                                        "null",
                                        "true",
                                        "\"b\"",
                                        "{}",
                                        "[]",
                                        ">\n",
                                        "\n",
                                        "</tool_call>",
                                        "</think>"};
    if (bits[END_ID / 64] >> (END_ID % 64) & 1) return END_ID;
    for (size_t k = 0; k < QN_COUNT(order); k++) {
        size_t i = turn % 4 ? k : QN_COUNT(order) - 1 - k;
        if (turn % 4 == 1) i = (k + turn / 4 % 12) % QN_COUNT(order);
        /* what helps in one place circles in another (a bracket inside a string): skip some each time */
        if (qn_rng64(turn, i, 5) % 2) continue;
        for (int id = 0; id < END_ID; id++) {
            size_t n;
            int kind;
            const char *s = token_bytes(NULL, id, &n, &kind);
            if (n == strlen(order[i]) && !memcmp(s, order[i], n) && bits[id / 64] >> (id % 64) & 1) return id;
        }
    }
    return -1;
}

/* The shortest way to an end by breadth first search over the states, at most `limit` of them: tokens that
 * are bytes or markers. Returns how many there are, -1: no way. */
static int shortest_end(struct qn_grammar *g, qn_gstate from, int *path, size_t limit)
{
    struct seen {
        qn_gstate state;
        uint32_t parent;
        int token;
    } *seen = xcalloc(limit + 256 + QN_COUNT(pieces), sizeof *seen);
    struct qn_map map = {0};
    size_t n = 1, at = 0;
    bool is_found = false;
    seen[0].state = from;
    qn_map_put(&map, (uint64_t)from + 1, 1);
    for (; at < n && n < limit && !is_found; at++) {
        if (qn_grammar_may_end(g, seen[at].state)) {
            is_found = true;
            break;
        }
        for (int id = 0; id < END_ID; id++) {
            if (id >= 128 && (id < 256 || qn_marker_of(pieces[id - 256], strlen(pieces[id - 256])) < 0))
                continue;
            qn_gstate next = qn_mask_advance(mask, g, seen[at].state, id);
            if (next == QN_GSTATE_DEAD || qn_map_get(&map, (uint64_t)next + 1, NULL)) continue;
            qn_map_put(&map, (uint64_t)next + 1, 1);
            seen[n++] = (struct seen){next, (uint32_t)at, id};
        }
    }
    int len = 0, k = 0;
    for (size_t i = at; is_found && i; i = seen[i].parent) len++;
    for (size_t i = at; is_found && i; i = seen[i].parent) path[len - ++k] = seen[i].token;
    free(seen);
    qn_map_free(&map);
    return is_found ? len : -1;
}

/* A mask is right when it has the tokens whose bytes, one by one, keep a twin of the grammar alive that never
 * made a mask. */
static bool is_right(struct qn_grammar *twin, qn_gstate at, const uint64_t *bits)
{
    for (int id = 0; id < N_VOCAB; id++) {
        bool in_mask = bits[id / 64] >> (id % 64) & 1;
        if (in_mask != qn_mask_allows(mask, twin, at, id)) return false;
    }
    return true;
}

/* false: no way on, or no end. The text is appended to out. twin: another grammar of the same request, or
 * NULL. */
static bool walk(struct qn_grammar *g, struct qn_grammar *twin, uint64_t seed, struct qn_buf *out,
                 const char **why)
{
    uint64_t bits[(256 + QN_COUNT(pieces) + 2 + 63) / 64];
    qn_gstate s = qn_grammar_start(g), at = twin ? qn_grammar_start(twin) : 0;
    size_t n_free = 4 + qn_rng64(seed, 0, 9) % STEPS_FREE;
    for (uint64_t step = 0; step < STEPS_MAX; step++) {
        int n = qn_mask_fill(mask, g, s, bits), token = -1;
        if (!n) {
            *why = qn_grammar_failed(g) ? "the grammar outgrew its terms" : "the mask is empty";
            return false;
        }
        if (twin && !is_right(twin, at, bits)) {
            *why = "the mask differs from a plain walk";
            return false;
        }
        if (step >= n_free && (step - n_free) % 500 == 499) {
            static int path[SEARCH];
            int n_path = shortest_end(g, s, path, SEARCH);
            for (int i = 0; i < n_path; i++) {
                int id = path[i], kind;
                size_t n_byte;
                qn_mask_fill(mask, g, s, bits);
                if (!(bits[id / 64] >> (id % 64) & 1)) {
                    *why = "a byte that leads to an end is not in the mask";
                    return false;
                }
                s = qn_mask_advance(mask, g, s, id);
                if (twin) at = qn_mask_advance(mask, twin, at, id);
                const char *text = token_bytes(NULL, id, &n_byte, &kind);
                qn_buf_append(out, text, n_byte);
            }
            if (n_path >= 0 && qn_mask_fill(mask, g, s, bits) && bits[END_ID / 64] >> (END_ID % 64) & 1)
                return true;
            if (n_path >= 0) {
                *why = "the end is not in the mask";
                return false;
            }
        }
        /* while steering, a random token now and then, lest a preference runs in a circle */
        if (step >= n_free && qn_rng64(seed, step, 1) % 8)
            token = closing_token(bits, qn_rng64(seed, step, 4));
        if (token < 0) {
            int pick = (int)(qn_rng64(seed, step, 2) % (uint64_t)n);
            for (int id = 0; token < 0; id++)
                if (bits[id / 64] >> (id % 64) & 1 && !pick--) token = id;
        }
        size_t n_byte;
        int kind;
        const char *text = token_bytes(NULL, token, &n_byte, &kind);
        s = qn_mask_advance(mask, g, s, token);
        if (twin) at = qn_mask_advance(mask, twin, at, token);
        if (s == QN_GSTATE_DEAD) {
            *why = "a token of the mask is refused";
            return false;
        }
        if (kind == QN_MASK_END) return true;
        qn_buf_append(out, text, n_byte);
    }
    *why = "no end in sight";
    return false;
}

/* --- requests from stdin --- */

static struct qn_json *tools_of(struct qn_arena *arena, struct qn_json *schema, bool strict)
{
    struct qn_json *list = qn_json_new(arena, QN_JSON_ARRAY), *tool = qn_json_new(arena, QN_JSON_OBJECT);
    qn_json_set(arena, tool, "name", qn_json_new_str(arena, "f", 1));
    qn_json_set(arena, tool, "parameters", schema);
    qn_json_set(arena, tool, "strict", qn_json_new_bool(arena, strict));
    qn_json_push(arena, list, tool);
    return list;
}

static void answer_call(struct qn_buf *out, const struct qn_toolset *tools, const char *text, size_t n)
{
    struct qn_parsed message;
    struct qn_parse *p;
    qn_parsed_init(&message);
    struct qn_parse_options o = {.tools = tools, .on_event = qn_parsed_add, .ctx = &message};
    QN_CHECK(qn_parse_create(&p, &o, NULL) == QN_OK);
    qn_parse_feed(p, text, n);
    qn_parse_finish(p, QN_PARSE_STOP);
    qn_buf_printf(out, ", \"n_call\": %d, \"name\": \"%s\", \"arguments\": %s, \"content\": ", message.n_call,
                  message.n_call ? message.calls[0].name : "",
                  message.n_call ? message.calls[0].arguments.data : "null");
    qn_json_write_str(out, qn_buf_str(&message.content), message.content.n_byte, false);
    qn_parse_free(p);
    qn_parsed_free(&message);
}

/* Which of the texts the grammar takes. */
static void answer_texts(struct qn_grammar *g, const struct qn_json *texts)
{
    printf("{\"accepts\": [");
    for (size_t i = 0; i < texts->n; i++) {
        qn_gstate at = qn_grammar_advance(g, qn_grammar_start(g), texts->items[i]->text, texts->items[i]->n);
        printf("%s%s", i ? ", " : "", qn_grammar_may_end(g, at) ? "true" : "false");
    }
    printf("]}\n");
}

static int answer(const char *line)
{
    struct qn_arena *arena = qn_arena_create(64 << 20);
    struct qn_json *request;
    struct qn_err e = {0};
    struct qn_toolset *tools = NULL;
    struct qn_grammar *g = NULL;
    int64_t seed = 1, n_walk = 1;
    bool strict = false, is_tool = false;
    int rc = qn_json_parse(&request, arena, line, strlen(line), "request", &e);
    if (rc) return 1;
    qn_json_get_int(request, "seed", 1, &seed, NULL);
    qn_json_get_int(request, "walks", 1, &n_walk, NULL);
    qn_json_get_bool(request, "strict", false, &strict, NULL);
    qn_json_get_bool(request, "tool", false, &is_tool, NULL);
    struct qn_json *schema = qn_json_get(request, "schema");
    struct qn_constrain c = {.form = QN_CONTENT_JSON_SCHEMA, .schema = schema, .is_strict = strict};
    if (is_tool) {
        QN_CHECK(qn_toolset_create(&tools, tools_of(arena, schema, strict), NULL) == QN_OK);
        c = (struct qn_constrain){
            .tools = tools, .choice = QN_CHOICE_REQUIRED, .single_call = true, .markers = MARKERS};
    }
    const char *pattern = "", *grammar = "";
    qn_json_get_str(request, "regex", "", &pattern, NULL);
    qn_json_get_str(request, "grammar", "", &grammar, NULL);
    if (*pattern) c = (struct qn_constrain){.form = QN_CONTENT_REGEX, .text = pattern};
    if (*grammar) c = (struct qn_constrain){.form = QN_CONTENT_GRAMMAR, .text = grammar, .markers = MARKERS};
    if (qn_constrain_compile(&g, &c, NULL, &e)) {
        struct qn_buf out = QN_BUF_INIT(1 << 20);
        qn_json_write_str(&out, e.text, strlen(e.text), false);
        printf("{\"error\": \"compile\", \"why\": %s}\n", qn_buf_str(&out));
        fprintf(stderr, "%s\n", e.text);
        qn_buf_free(&out);
    }
    const struct qn_json *texts = qn_json_get(request, "texts");
    if (g && qn_json_is(texts, QN_JSON_ARRAY)) {
        answer_texts(g, texts);
        n_walk = 0;
    }
    for (int64_t i = 0; g && i < n_walk; i++) {
        struct qn_buf text = QN_BUF_INIT(1 << 20), out = QN_BUF_INIT(8 << 20);
        const char *why = NULL;
        bool is_ok = walk(g, NULL, (uint64_t)(seed * 1000 + i), &text, &why);
        qn_buf_puts(&out, "{\"text\": ");
        qn_json_write_str(&out, qn_buf_str(&text), text.n_byte, false);
        if (is_tool && is_ok) answer_call(&out, tools, qn_buf_str(&text), text.n_byte);
        if (!is_ok) qn_buf_printf(&out, ", \"error\": \"%s\"", why);
        printf("%s}\n", out.data);
        qn_buf_free(&text);
        qn_buf_free(&out);
    }
    qn_grammar_release(g);
    qn_toolset_free(tools);
    qn_arena_free(arena);
    return 0;
}

/* --- the fixed part --- */

static const char *const schemas[] = {
    "{\"type\":\"object\",\"properties\":{\"s\":{\"type\":\"string\"},\"n\":{\"type\":\"integer\","
    "\"minimum\":-3,\"maximum\":120},"
    "\"e\":{\"enum\":[\"a\",\"b\"]},\"o\":{\"type\":\"object\"},\"l\":{\"type\":\"array\",\"items\":{"
    "\"type\":\"number\"},\"maxItems\":4}},"
    "\"required\":[\"s\",\"n\"]}",
    "{\"$defs\":{\"t\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"string\",\"maxLength\":5},"
    "\"kids\":{\"type\":\"array\",\"items\":"
    "{\"$ref\":\"#/$defs/t\"}}},\"required\":[\"v\"],\"additionalProperties\":false}},\"$ref\":\"#/$defs/"
    "t\"}",
    "{\"type\":\"object\",\"properties\":{\"p\":{\"type\":\"string\",\"pattern\":\"^[a-z]{2,5}(-[0-9]+)?$\"},"
    "\"d\":{\"type\":\"string\","
    "\"format\":\"date-time\"},\"u\":{\"type\":[\"string\",\"null\"]}},\"required\":[\"p\",\"d\"],"
    "\"additionalProperties\":false}",
    "{\"type\":\"object\",\"properties\":{\"s\":{\"type\":\"string\",\"minLength\":3,\"maxLength\":40},\"v\":"
    "{"
    "\"type\":\"string\",\"maxLength\":4},\"o\":{\"type\":\"object\",\"additionalProperties\":{\"type\":"
    "\"string\",\"maxLength\":9}}},\"required\":[\"s\",\"o\"]}",
};

static void test_walks_end(void **state)
{
    (void)state;
    for (size_t i = 0; i < QN_COUNT(schemas); i++)
        for (int is_tool = 0; is_tool < 3; is_tool++) { /* 2: with markers as tokens */
            struct qn_arena *arena = qn_arena_create(64 << 20);
            struct qn_json *schema;
            struct qn_toolset *tools = NULL;
            struct qn_grammar *g = NULL, *twin = NULL;
            struct qn_err e = {0};
            assert_int_equal(qn_json_parse(&schema, arena, schemas[i], strlen(schemas[i]), "schema", &e),
                             QN_OK);
            struct qn_constrain c = {.form = QN_CONTENT_JSON_SCHEMA, .schema = schema, .is_strict = true};
            if (is_tool) {
                assert_int_equal(qn_toolset_create(&tools, tools_of(arena, schema, false), NULL), QN_OK);
                c = (struct qn_constrain){.tools = tools,
                                          .choice = QN_CHOICE_NAMED,
                                          .name = "f",
                                          .markers = is_tool == 2 ? MARKERS : 0};
            }
            for (uint64_t seed = 1; seed <= 150; seed++) {
                if (seed == 1 || qn_grammar_is_worn(g) || qn_grammar_is_worn(twin)) {
                    qn_grammar_release(g);
                    qn_grammar_release(twin);
                    if (qn_constrain_compile(&g, &c, NULL, &e)) fail_msg("%s", e.text);
                    qn_constrain_forget();
                    if (qn_constrain_compile(&twin, &c, NULL, &e)) fail_msg("%s", e.text);
                    qn_constrain_forget();
                }
                struct qn_buf text = QN_BUF_INIT(1 << 20), out = QN_BUF_INIT(8 << 20);
                const char *why = NULL;
                if (!walk(g, twin, is_tool == 2 ? seed + 1000 : seed, &text, &why))
                    fail_msg("schema %zu tool %d seed %d: %s: %s", i, is_tool, (int)seed, why,
                             qn_buf_str(&text));
                struct qn_json *v;
                if (is_tool) {
                    answer_call(&out, tools, text.data, text.n_byte);
                    if (strncmp(out.data, ", \"n_call\": 1, \"name\": \"f\"", 26) ||
                        !strstr(out.data, "\"content\": \"\""))
                        fail_msg("seed %d: %s\n%s", (int)seed, text.data, out.data);
                } else if (qn_json_parse(&v, arena, text.data, text.n_byte, "walk", &e) &&
                           !strstr(e.text, "UTF-8")) {
                    fail_msg("seed %d: %s: %s", (int)seed, e.text, text.data);
                }
                qn_buf_free(&text);
                qn_buf_free(&out);
            }
            qn_grammar_release(g);
            qn_grammar_release(twin);
            qn_toolset_free(tools);
            qn_arena_free(arena);
        }
}

/* --- timing --- */

struct bench_vocab {
    const struct qn_tokenizer *tokenizer;
    int n_real, n_vocab;
    char *made; /* [n_vocab][32] */
};

static const char *bench_bytes(void *ctx, int id, size_t *n, int *kind)
{
    struct bench_vocab *v = ctx;
    *kind = id < v->n_real && qn_tokenizer_flags(v->tokenizer, id) & QN_TOKEN_MARKER ? QN_MASK_MARKER
                                                                                     : QN_MASK_TEXT;
    if (id == v->n_vocab - 1) {
        *kind = QN_MASK_END;
        *n = 0;
        return "";
    }
    if (id < v->n_real) return (const char *)qn_tokenizer_bytes(v->tokenizer, id, n);
    /* two real tokens glued, so that the shape of the trie is natural */
    char *out = v->made + (size_t)id * 32;
    size_t a, b;
    const uint8_t *x =
        qn_tokenizer_bytes(v->tokenizer, (int)(qn_rng64(7, (uint64_t)id, 0) % (uint64_t)v->n_real), &a);
    const uint8_t *y =
        qn_tokenizer_bytes(v->tokenizer, (int)(qn_rng64(7, (uint64_t)id, 1) % (uint64_t)v->n_real), &b);
    a = QN_MIN(a, 16);
    b = QN_MIN(b, 16);
    memcpy(out, x, a);
    memcpy(out + a, y, b);
    *n = a + b;
    return out;
}

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* the machine may be busy with other things */
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* Spells text with the longest tokens, filling a mask before each. */
static void bench_text(struct qn_mask *m, const struct bench_vocab *v, const char *what,
                       const struct qn_constrain *c, const char *text)
{
    struct qn_grammar *g = NULL;
    struct qn_err e = {0};
    double best = 1e18, compile_us;
    for (int i = 0; i < 20; i++) {
        qn_grammar_release(g);
        qn_constrain_forget();
        double from = now_us();
        if (qn_constrain_compile(&g, c, NULL, &e)) {
            printf("%s: %s\n", what, e.text);
            return;
        }
        best = QN_MIN(best, now_us() - from);
    }
    compile_us = best;
    uint64_t *bits = xcalloc(qn_mask_words(m), 8);
    struct qn_ids ids = QN_IDS_INIT(100000);
    qn_tokenizer_encode(v->tokenizer, text, strlen(text), NULL, &ids, &e);
    double total[3] = {0}, worst = 0;
    int n_free = 0;
    struct qn_grammar *twin = NULL;
    if (getenv("QUERN_BENCH_CHECK")) {
        qn_constrain_forget();
        qn_constrain_compile(&twin, c, NULL, &e);
    }
    for (int round = 0; round < 3; round++) {
        qn_gstate s = qn_grammar_start(g), at = twin ? qn_grammar_start(twin) : 0;
        for (size_t i = 0; i < ids.n; i++) {
            double from = now_us();
            bool is_free = qn_grammar_is_free(g, s);
            if (!is_free) qn_mask_fill(m, g, s, bits);
            double us = now_us() - from;
            for (int id = 0; twin && !is_free && !round && id < v->n_vocab; id++)
                if ((bits[id / 64] >> (id % 64) & 1) != qn_mask_allows(m, twin, at, id)) {
                    printf("%s: the mask of token %zu is wrong about token %d\n", what, i, id);
                    break;
                }
            total[round] += us;
            if (!round) worst = QN_MAX(worst, us), n_free += is_free;
            if (!round && us > 1000 && getenv("QUERN_BENCH_VERBOSE"))
                printf("  token %zu (after %.*s): %.0f us\n", i, 12,
                       i ? (const char *)bench_bytes((void *)v, ids.data[i - 1], &(size_t){0}, &(int){0})
                         : "",
                       us);
            s = qn_mask_advance(m, g, s, ids.data[i]);
            if (twin) at = qn_mask_advance(m, twin, at, ids.data[i]);
            if (s == QN_GSTATE_DEAD) {
                printf("%s: token %zu is refused\n", what, i);
                break;
            }
        }
    }
    struct qn_mask_stats stats = qn_mask_stats(m);
    printf("%-22s compile %7.0f us; %4zu tokens (%d free): first pass %6.1f us a token (worst %.0f), again "
           "%5.2f us; %zu terms; %" PRIu64 " of %" PRIu64 " masks from the cache\n",
           what, compile_us, ids.n, n_free, total[0] / (double)ids.n, worst,
           QN_MIN(total[1], total[2]) / (double)ids.n, qn_grammar_terms(g), stats.n_hit, stats.n_fill);
    qn_ids_free(&ids);
    free(bits);
    qn_grammar_release(g);
    qn_grammar_release(twin);
}

static int bench(const char *folder, int n_vocab)
{
    struct qn_err e = {0};
    struct qn_tokenizer *tokenizer;
    if (qn_tokenizer_open(&tokenizer, folder, &e)) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    int n_real = qn_tokenizer_n_vocab(tokenizer);
    struct bench_vocab v = {tokenizer, n_real, QN_MAX(n_vocab, n_real + 1), NULL};
    v.made = xcalloc((size_t)v.n_vocab, 32);
    struct qn_mask_vocab vocab = {.n_vocab = v.n_vocab, .bytes = bench_bytes, .ctx = &v};
    struct qn_mask *m;
    double from = now_us();
    if (qn_mask_create(&m, &vocab, &e)) return 1;
    printf("%d tokens (%d real): trie in %.0f ms, %.1f MB\n", v.n_vocab, n_real, (now_us() - from) / 1e3,
           (double)qn_mask_stats(m).trie_bytes / 1e6);
    struct qn_arena *arena = qn_arena_create(64 << 20);
    struct qn_buf tools_text = QN_BUF_INIT(1 << 20);
    qn_buf_puts(&tools_text, "[");
    for (int i = 0; i < 25; i++)
        qn_buf_printf(&tools_text,
                      "%s{\"type\":\"function\",\"function\":{\"name\":\"tool_%d\",\"description\":\"d\","
                      "\"parameters\":{\"type\":\"object\","
                      "\"properties\":{\"path\":{\"type\":\"string\",\"description\":\"x\"},\"content\":{"
                      "\"type\":\"string\"},"
                      "\"limit\":{\"type\":\"integer\",\"minimum\":0},\"mode\":{\"type\":\"string\",\"enum\":"
                      "[\"read\",\"write\"]},\"edits\":{\"type\":"
                      "\"array\",\"items\":{\"type\":\"object\",\"properties\":{\"old\":{\"type\":\"string\"}"
                      ",\"new\":{\"type\":\"string\"},\"all\":{\"type\":"
                      "\"boolean\"}},\"required\":[\"old\",\"new\"]}}},\"required\":[\"path\"],"
                      "\"additionalProperties\":false}}}",
                      i ? "," : "", i);
    qn_buf_puts(&tools_text, "]");
    struct qn_json *list, *schema;
    struct qn_toolset *tools;
    QN_CHECK(qn_json_parse(&list, arena, tools_text.data, tools_text.n_byte, "tools", &e) == QN_OK);
    QN_CHECK(qn_toolset_create(&tools, list, &e) == QN_OK);
    unsigned markers = 0;
    for (int i = 0; i < QN_N_MARKER; i++) {
        int32_t id = qn_tokenizer_id(tokenizer, qn_marker_text((enum qn_marker)i));
        if (id >= 0 && qn_tokenizer_flags(tokenizer, id) & QN_TOKEN_MARKER) markers |= 1u << i;
    }
    struct qn_constrain c = {.tools = tools, .starts_in_reasoning = true, .markers = markers};
    static const char call[] =
        "I should write the file now.\n</think>\n\nDone "
        "soon.\n\n<tool_call>\n<function=tool_3>\n<parameter=path>\nsrc/main.c\n</parameter>\n"
        "<parameter=content>\n#include <stdio.h>\n\nint main(void)\n{\n    printf(\"hello, world\\n\");\n    "
        "for (int i = 0; i < 10; i++) {\n"
        "        if (i % 2 == 0) continue;\n        printf(\"%d\\n\", i);\n    }\n    return "
        "0;\n}\n</parameter>\n<parameter=limit>\n120\n</parameter>\n"
        "<parameter=edits>\n[{\"old\": \"int x = 1;\", \"new\": \"int x = 2;\", \"all\": true}, {\"old\": "
        "\"a\", \"new\": \"b\"}]\n</parameter>\n"
        "</function>\n</tool_call>";
    bench_text(m, &v, "call, 25 tools, auto", &c, call);
    c = (struct qn_constrain){.tools = tools, .choice = QN_CHOICE_REQUIRED, .markers = markers};
    bench_text(m, &v, "the same, required", &c, strstr(call, "<tool_call>"));
    static const char schema_text[] =
        "{\"type\":\"object\",\"properties\":{\"title\":{\"type\":\"string\"},\"tags\":{\"type\":\"array\","
        "\"items\":{\"type\":\"string\"}},\"year\":{\"type\":"
        "\"integer\"},\"people\":{\"type\":\"array\",\"items\":{\"type\":\"object\",\"properties\":{\"name\":"
        "{\"type\":\"string\"},\"age\":{\"type\":\"integer\"},"
        "\"email\":{\"type\":\"string\",\"maxLength\":100}},\"required\":[\"name\",\"age\"]}}},\"required\":["
        "\"title\",\"tags\",\"people\"]}";
    QN_CHECK(qn_json_parse(&schema, arena, schema_text, strlen(schema_text), "schema", &e) == QN_OK);
    c = (struct qn_constrain){.form = QN_CONTENT_JSON_SCHEMA, .schema = schema, .is_strict = true};
    static const char value[] = "{\"title\": \"A long story about nothing in particular, told twice\", "
                                "\"tags\": [\"fiction\", \"short\", \"été\"], \"year\": 1987, \"people\": "
                                "[{\"name\": \"Ada Lovelace\", \"age\": 36, \"email\": \"ada@example.org\"}, "
                                "{\"name\": \"Charles Babbage\", \"age\": 79}, {\"name\": "
                                "\"Grace Hopper\", \"age\": 85, \"email\": \"grace@example.com\"}]}";
    bench_text(m, &v, "json_schema", &c, value);
    c = (struct qn_constrain){.form = QN_CONTENT_JSON_OBJECT};
    bench_text(m, &v, "json_object", &c, value);
    qn_toolset_free(tools);
    qn_arena_free(arena);
    qn_buf_free(&tools_text);
    qn_mask_free(m);
    qn_tokenizer_free(tokenizer);
    free(v.made);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 2 && !strcmp(argv[1], "--bench")) return bench(argv[2], argc > 3 ? atoi(argv[3]) : 248320);
    struct qn_mask_vocab vocab = {.n_vocab = N_VOCAB, .bytes = token_bytes, .cache_bytes = 1 << 20};
    QN_CHECK(qn_mask_create(&mask, &vocab, NULL) == QN_OK);
    int rc = 0;
    if (argc > 1 && !strcmp(argv[1], "--walk")) {
        char *line = NULL;
        size_t cap = 0;
        while (!rc && getline(&line, &cap, stdin) > 0) rc = answer(line);
        free(line);
    } else {
        const struct CMUnitTest tests[] = {cmocka_unit_test(test_walks_end)};
        rc = cmocka_run_group_tests(tests, NULL, NULL);
    }
    qn_mask_free(mask);
    return rc;
}
