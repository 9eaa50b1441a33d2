/* Fuzz target: any JSON as a chat request. Input text never counts as literal unless a call was sampled; what
 * renders has a mask as long as its text.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/chat.h"
#include "text/jinja.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool lookup(void *user, const char *id, struct qn_chat_sampled *out)
{
    static const char text[] = "\n\n<tool_call>\n<function=f>\n</function>\n</tool_call>";
    *out = (struct qn_chat_sampled){"f", user, text, sizeof text - 1};
    return id[0] == 's';
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct qn_text text;
    static const struct qn_json empty = {.type = QN_JSON_OBJECT};
    struct qn_err e = {0};
    if (!text.template) {
        struct qn_buf source = QN_BUF_INIT(1 << 20);
        QN_CHECK(!qn_buf_read_file(&source, QN_TEST_DIR "/golden/templates/family.jinja", &e));
        QN_CHECK(!qn_jinja_compile(&text.template, source.data, source.n_byte, "family.jinja", &e));
        qn_buf_free(&source);
    }
    struct qn_arena *arena = qn_arena_create(32 << 20);
    struct qn_json *body;
    struct qn_chat chat;
    struct qn_prompt p = {0};
    const struct qn_chat_opt opt = {.lookup = lookup,
                                    .user = (void *)&empty,
                                    .now_s = 1735732800,
                                    .no_ids = true,
                                    .allow_request_template = false};
    qn_chat_init(&chat, arena);
    if (!qn_json_parse(&body, arena, (const char *)data, size, "body", &e) &&
        !qn_chat_read(&chat, body, &e) && !qn_chat_render(&p, &text, &chat, &opt, &e)) {
        QN_CHECK(p.text && p.literal && strlen(p.text) <= p.n_byte);
        for (size_t i = 0; i < p.n_byte; i++) QN_CHECK(p.literal[i] <= 1);
    }
    qn_prompt_free(&p);
    qn_arena_free(arena);
    return 0;
}
