/* quern-fake: the whole server over the scripted backend, for end-to-end tests. Never shipped.
 *
 *     quern-fake serve FOLDER [options of quern serve]
 *
 * FOLDER has a tokenizer and a template. What the model answers stands in the prompt: the last
 * "[[say:TEXT:yas]]" makes it answer TEXT (U+23CE is a line break) and end its turn; without one it babbles.
 * The environment tunes it: FAKE_CONTEXT (8192), FAKE_STEP_US, FAKE_ROW_US (how long a step takes),
 * FAKE_LOAD_US, FAKE_FAIL_AT, FAKE_HANG_AT (steps). SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "base/hash.h"
#include "cli/serve.h"
#include "support/backend_fake.h"
#include "text/text.h"
#include "text/tokenizer.h"

static struct {
    struct qn_text *text;
    struct qn_ids answer; /* of the prompt seen last */
    uint64_t key;         /* of that prompt */
    int start;            /* where the answer begins */
} script;

/* The bytes of tok[n], joined. */
static char *join(const int32_t *tok, int n)
{
    struct qn_buf text = QN_BUF_INIT(64 << 20);
    for (int i = 0; i < 2 && qn_buf_reserve(&text, (size_t)n * 64); i++) qn_buf_clear(&text);
    for (int i = 0; i < n; i++) {
        size_t n_byte;
        const uint8_t *bytes = qn_tokenizer_bytes(script.text->tokenizer, tok[i], &n_byte);
        qn_buf_append(&text, bytes, n_byte);
    }
    return qn_buf_take(&text);
}

/* An allocation that fails on purpose (tests/soak/fail_alloc.c) is not the script's affair: once more then.
 */
static void encode(const char *text, size_t n, struct qn_ids *out)
{
    for (int i = 0; i < 2; i++) {
        out->n = 0;
        if (!qn_tokenizer_encode(script.text->tokenizer, text, n, NULL, out, NULL)) return;
    }
}

static int match(const int32_t *tok, int n, int at, const char *text)
{
    struct qn_ids ids = QN_IDS_INIT(1024);
    encode(text, strlen(text), &ids);
    bool is_same = at + (int)ids.n <= n && !memcmp(tok + at, ids.data, ids.n * sizeof *tok);
    int length = (int)ids.n;
    qn_ids_free(&ids);
    return is_same ? length : 0;
}

/* Where the model's turn begins: after the last turn opener and its think block, or after the directive. */
static int find_start(const int32_t *tok, int n)
{
    for (int i = n - 1; i >= 0; i--) {
        if (tok[i] != script.text->im_start_id) continue;
        int at = i + 1;
        int role = match(tok, n, at, "assistant\n");
        if (!role) continue;
        at += role;
        int closed = match(tok, n, at, "<think>\n\n</think>\n\n");
        return at + (closed ? closed : match(tok, n, at, "<think>\n"));
    }
    int closer = 0;
    for (int i = n - 1; i >= 0 && !closer; i--)
        if (match(tok, n, i, ":yas]]")) closer = i + match(tok, n, i, ":yas]]");
    return closer;
}

/* A sign that stands for a line break, where JSON would escape one. In place; the new length. */
static size_t line_breaks(char *text, size_t n)
{
    static const char sign[] = "\u23ce";
    size_t to = 0;
    for (size_t i = 0; i < n; i++) {
        bool is_sign = n - i >= sizeof sign - 1 && !memcmp(text + i, sign, sizeof sign - 1);
        text[to++] = is_sign ? '\n' : text[i];
        if (is_sign) i += sizeof sign - 2;
    }
    return to;
}

static int32_t answer(void *user, const int32_t *tok, int n)
{
    (void)user;
    int start = script.start;
    bool is_later = false; /* a later turn of the same conversation */
    for (int i = start; i < n; i++) is_later |= tok[i] == script.text->im_start_id;
    if (!start || is_later || start > n || qn_hash_bytes(0, tok, (size_t)start * sizeof *tok) != script.key) {
        start = script.start = find_start(tok, n);
        script.key = qn_hash_bytes(0, tok, (size_t)start * sizeof *tok);
        script.answer.n = 0;
        char *prompt = join(tok, start), *say = NULL;
        for (char *p = prompt; (p = strstr(p, "[[say:"));) say = p += 6;
        char *end = say ? strstr(say, ":yas]]") : NULL;
        if (end) encode(say, line_breaks(say, (size_t)(end - say)), &script.answer);
        free(prompt);
    }
    if (!script.answer.n) return -1;
    return n - start < (int)script.answer.n ? script.answer.data[n - start] : script.text->im_end_id;
}

static int env(const char *name)
{
    const char *text = getenv(name);
    return text ? atoi(text) : 0;
}

int main(int argc, char **argv)
{
    struct qn_fake fake;
    struct qn_engine_options o;
    struct qn_err e = {0};
    if (argc < 3 || strcmp(argv[1], "serve") != 0) {
        fprintf(stderr, "usage: quern-fake serve FOLDER [options]\n");
        return 2;
    }
    if (qn_text_open(&script.text, argv[2], NULL, &e)) {
        fprintf(stderr, "quern-fake: %s\n", e.text);
        return 1;
    }
    script.answer.max = 1 << 20;
    struct qn_fake_options f = {
        .vocab = qn_tokenizer_n_vocab(script.text->tokenizer),
        .max_context = env("FAKE_CONTEXT") ? (int)env("FAKE_CONTEXT") : 8192,
        .stop_tok = script.text->im_end_id,
        .step_us = env("FAKE_STEP_US"),
        .row_us = env("FAKE_ROW_US"),
        .load_us = env("FAKE_LOAD_US"),
        .fail_at_step = env("FAKE_FAIL_AT"),
        .hang_at_step = env("FAKE_HANG_AT"),
        .script = answer,
    };
    qn_fake_init(&fake, &f);
    qn_fake_engine_options(&fake, &o);
    return qn_serve(argc - 1, argv + 1, &o);
}
