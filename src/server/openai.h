/* What chat completions and completions write alike: usage, timings, log-probabilities of the prompt, the
 * frame of a chunk. Everything is appended to `out` or to the stream's own buffer, on its connection thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_OPENAI_H
#define QN_OPENAI_H

#include "server/stream.h"

void qn_openai_write_usage(struct qn_stream *s, struct qn_buf *out);
/* The numbers of the first choice, for pages and benchmarks. */
void qn_openai_write_timings(struct qn_stream *s, struct qn_buf *out);
/* [null, {"id": {logprob, rank, decoded_token}}, ...] of the prompt */
void qn_openai_write_prompt_logprobs(const struct qn_output *c, struct qn_buf *out);
void qn_openai_write_ids(const struct qn_output *c, struct qn_buf *out); /* [id, ...] of the answer */
/* the stop string, the stop token, or null */
void qn_openai_write_stop_reason(const struct qn_output *c, struct qn_buf *out);
/* {"id":..,"object":..,"created":..,"model":..,"system_fingerprint":.. and no closing brace */
void qn_openai_write_head(struct qn_stream *s, struct qn_buf *out, const char *object);

/* A chunk: s->head, then choices by the caller, then usage as asked for and the end of the object. */
void qn_openai_open_chunk(struct qn_stream *s);
void qn_openai_close_chunk(struct qn_stream *s, bool is_usage_chunk);

/* Members of both dialects. */
void qn_openai_end(struct qn_stream *s);
void qn_openai_fail(struct qn_stream *s, int status, const char *text);
void qn_openai_ping(struct qn_stream *s);

#endif
