/* Which tokens end a turn.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/turn_end.h"

#define PROBE "QuernProbe"

/* {"messages": two turns, "add_generation_prompt": false} and the special tokens. */
static struct qn_json *probe_vars(const struct qn_json *special_tokens, struct qn_arena *arena)
{
    static const char body[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\","
                               "\"content\":\"" PROBE "\"}],\"tools\":null,\"documents\":null,"
                               "\"add_generation_prompt\":false}";
    struct qn_json *vars;
    if (qn_json_parse(&vars, arena, body, sizeof body - 1, "probe", NULL)) return NULL;
    for (size_t i = 0; special_tokens && i < special_tokens->n; i++)
        if (!qn_json_set(arena, vars, special_tokens->keys[i].text, special_tokens->items[i])) return NULL;
    return vars;
}

int32_t qn_turn_end_of(const struct qn_tokenizer *tokenizer, const struct qn_jinja *template,
                       const struct qn_json *special_tokens)
{
    int32_t id = -1;
    if (!template || !tokenizer) return -1;
    struct qn_arena *arena = qn_arena_create(1 << 20);
    struct qn_jinja_out out = {0};
    struct qn_ids ids = QN_IDS_INIT(1 << 16);
    struct qn_json *vars = probe_vars(special_tokens, arena);
    if (!vars || qn_jinja_render(&out, template, vars, NULL, NULL)) goto out;
    const char *at = NULL;
    for (const char *p = out.text; (p = strstr(p, PROBE)); p++) at = p;
    if (!at) goto out;
    at += sizeof PROBE - 1;
    while (*at == ' ' || *at == '\n') at++;
    uint8_t literal[64];
    memset(literal, 1, sizeof literal);
    size_t n = QN_MIN(strlen(at), sizeof literal);
    if (!n || qn_tokenizer_encode(tokenizer, at, n, literal, &ids, NULL) || !ids.n) goto out;
    unsigned flags = qn_tokenizer_flags(tokenizer, ids.data[0]);
    if (flags & QN_TOKEN_SPECIAL && !(flags & QN_TOKEN_MARKER) &&
        strncmp((const char *)qn_tokenizer_bytes(tokenizer, ids.data[0], &n), "<|im_start|>", 12))
        id = ids.data[0];
out:
    qn_ids_free(&ids);
    qn_jinja_out_free(&out);
    qn_arena_free(arena);
    return id;
}
