/* Fuzz target: any bytes as config.json (and, after a NUL, generation_config.json); what is accepted is
 * within the limits the rest of the program relies on, and its patterns can be matched.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "model/config.h"
#include "model/hint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct qn_config c;
    struct qn_err e;
    const char *text = (const char *)data, *second = size ? memchr(text, 0, size) : NULL;
    size_t n = second ? (size_t)(second - text) : size;
    if (size && size < 200) {
        char pattern[256];
        snprintf(pattern, sizeof pattern, "%.*s", (int)n, text);
        qn_hint_matches(pattern, "model.language_model.layers.10.mlp.experts.3.gate_proj");
    }
    /* what follows a second NUL is laid over the first */
    const char *third = second ? memchr(second + 1, 0, size - n - 1) : NULL;
    char over[4096];
    if (third)
        snprintf(over, sizeof over, "%.*s", (int)QN_MIN(size - (size_t)(third + 1 - text), sizeof over - 1),
                 third + 1);
    struct qn_config_text t = {.config = text,
                               .n_config = n,
                               .generation = second ? second + 1 : NULL,
                               .n_generation =
                                   second ? (size_t)((third ? third : text + size) - second - 1) : 0,
                               .overrides = third ? over : NULL,
                               .name = "input"};
    if (qn_config_parse(&c, &t, &e)) return 0;
    QN_CHECK(c.hidden > 0 && c.n_layer > 0 && c.n_layer <= QN_MAX_LAYERS && c.vocab > 0 && c.max_context > 0);
    QN_CHECK(c.n_full + c.n_gdn == c.n_layer && c.rotary_dim >= 0 && c.rotary_dim <= c.head_dim);
    QN_CHECK(c.n_head % c.n_kv_head == 0 && c.n_v_head % c.n_k_head == 0);
    QN_CHECK(qn_config_conv_dim(&c) > 0 && c.n_stop <= QN_MAX_STOP && c.n_note <= QN_MAX_CONFIG_NOTE);
    QN_CHECK(c.is_moe ? c.top_k > 0 && c.top_k <= c.n_expert : c.ffn > 0);
    float frequency[512];
    QN_CHECK(c.rotary_dim <= 1024 && isfinite(qn_rope_gain(&c)));
    qn_rope_frequencies(&c, frequency);
    for (int i = 0; i < c.rotary_dim / 2; i++) QN_CHECK(isfinite(frequency[i]));
    for (int i = 0; i < c.n_stop; i++) QN_CHECK(c.stop_tok[i] >= 0 && c.stop_tok[i] < c.vocab);
    return 0;
}
