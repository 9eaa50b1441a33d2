/* A checkpoint of random weights in a given shape, in the published layout.
 *
 * A weight is a pure function of (seed, tensor name, index), so the file is the same on every machine, in any
 * number of shards, fused or split, and a layer cut keeps the layers it has. Quantised formats encode those
 * same weights. Streams to disk. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SYNTH_H
#define QN_SYNTH_H

#include "model/recipe.h"
#include "model/shape.h"

struct qn_synth {
    const struct qn_shape *shape;
    const struct qn_store *store;   /* bf16 or a quantised one */
    const struct qn_recipe *recipe; /* NULL: the format's default */
    uint64_t seed;
    int64_t shard_bytes; /* 0: as published */
    int n_thread;
    bool is_quiet;
    bool headers_only; /* files of full length without data: for plans */
};

int qn_synth_write(const struct qn_synth *s, const char *folder, struct qn_err *e);

/* tokenizer.json, tokenizer_config.json and chat_template.jinja of a synthetic model: 256 byte tokens,
 * fillers, then the family's control tokens from first_control on. */
void qn_synth_tokenizer(int first_control, struct qn_buf *out);
void qn_synth_tokenizer_config(int first_control, struct qn_buf *out);
extern const char qn_synth_template[];

#endif
