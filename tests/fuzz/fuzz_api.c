/* Fuzz target: any bytes as the body of each API -> the normalised request. The first byte chooses the API.
 * SPDX-License-Identifier: Apache-2.0 */
#include <unistd.h>

#include "server/stored.h"
#include "server/stream.h"
#include "text/chat.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct qn_server *server(void)
{
    static struct qn_server s;
    static struct qn_text text;
    static const char *const names[] = {"fuzz"};
    if (s.text) return &s;
    /* bytes as tokens */
    struct qn_buf json = QN_BUF_INIT(1 << 20);
    qn_buf_puts(&json, "{\"model\":{\"type\":\"BPE\",\"vocab\":{");
    for (int b = 0, extra = 0; b < 256; b++) {
        bool keeps = (b >= 33 && b < 127) || (b >= 161 && b < 173) || b >= 174;
        qn_buf_printf(&json, "%s\"\\u%04x\":%d", b ? "," : "", keeps ? b : 256 + extra++, b);
    }
    qn_buf_puts(&json,
                "},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
                "\"use_regex\":false},\"decoder\":{\"type\":\"ByteLevel\"},\"added_tokens\":[]}");
    struct qn_err e = {0};
    if (qn_tokenizer_open_text(&text.tokenizer, json.data, json.n_byte, NULL, 0, "fuzz", &e)) {
        fprintf(stderr, "%s\n", e.text);
        abort();
    }
    qn_buf_free(&json);
    text.call_open_id = text.think_close_id = -1;
    s.o.names = names;
    s.o.n_name = 1;
    s.o.sampling.top_k = -1;
    s.stored = qn_stored_create();
    s.text = &text;
    return &s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > 1 << 16) return 0;
    struct qn_exchange x = {.server = server(), .arena = qn_arena_create(16 << 20)};
    struct qn_json *body;
    struct qn_ask a;
    struct qn_err e = {0};
    struct qn_stream_prompt *prompts;
    struct qn_responses_state *state;
    int n_prompt;
    qn_ask_init(&a, &x);
    if (!qn_json_parse(&body, x.arena, (const char *)data + 1, size - 1, "body", &e) &&
        qn_json_is(body, QN_JSON_OBJECT)) {
        int rc = QN_OK;
        bool is_chat = true;
        switch (data[0] % 5) {
        case 0:
            rc = qn_api_read_chat(&a, &x, body, &e);
            break;
        case 1:
            rc = qn_api_read_completion(&a, &x, body, &prompts, &n_prompt, &e);
            is_chat = false;
            break;
        case 2:
            rc = qn_api_read_messages(&a, &x, body, false, &e);
            break;
        case 3:
            rc = qn_api_read_messages(&a, &x, body, true, &e);
            break;
        default:
            rc = qn_api_read_responses(&a, &x, body, &state, &e);
            break;
        }
        /* an error is a whole one; a request that was read can be normalised, or says why not */
        if (rc) QN_CHECK(e.code == rc && e.text[0]);
        struct qn_json *messages;
        if (!rc && is_chat) qn_chat_normalise(&messages, &a.chat, x.arena, &e);
    }
    qn_ask_free(&a);
    qn_arena_free(x.arena);
    return 0;
}
