/* Projections.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/project.h"

#include <math.h>

#define NODES_A_LAYER 9    /* kernels in a graph */
#define LOST_US       73.0 /* a layer and step: see the header */
#define LOST_DRAFT_US 450.0

static const double accepted[] = {0.85, 0.67, 0.51, 0.36, 0.31};

/* Of a rank. The router is on each of them. */
static double dense_bytes(const struct qn_project_in *in)
{
    const struct qn_tally *t = in->tally;
    double shared = 0, whole = (double)t->part[QN_PART_ROUTER].bytes;
    static const enum qn_part parts[] = {QN_PART_ATTENTION, QN_PART_GDN, QN_PART_MLP, QN_PART_SHARED,
                                         QN_PART_SMALL};
    for (size_t i = 0; i < QN_COUNT(parts); i++) shared += (double)t->part[parts[i]].bytes;
    return shared / in->ranks + whole;
}

static double head_bytes(const struct qn_project_in *in)
{
    uint64_t n = in->tally->part[in->config->is_tied ? QN_PART_EMBED : QN_PART_HEAD].bytes;
    return (double)n / in->ranks;
}

/* The share of the experts that a step of so many rows reads. */
static double experts_read(const struct qn_config *c, int rows)
{
    return c->n_expert ? 1 - pow(1 - (double)c->top_k / c->n_expert, rows) : 0;
}

static double ms(const struct qn_project_in *in, double n_byte)
{
    return n_byte / (in->target->bandwidth_gbs * 1e6);
}

/* One pass of the draft layer: its weights, experts of its rows, and the head. */
static double draft_ms(const struct qn_project_in *in, int streams)
{
    const struct qn_tally *t = in->tally;
    double layer = (double)t->part[QN_PART_MTP].bytes / in->ranks, experts = 0;
    if (in->config->is_moe) { /* most of the layer is its experts */
        experts = layer * 0.95;
        layer -= experts;
    }
    double reduce = 2 * qn_target_reduce_us(in->target, (double)streams * in->config->hidden * 2);
    return ms(in, layer + experts * experts_read(in->config, streams) + head_bytes(in)) +
           (reduce + NODES_A_LAYER * in->target->launch_us) / 1000;
}

void qn_project_step(const struct qn_project_in *in, int streams, int depth, struct qn_project_step *out)
{
    const struct qn_config *c = in->config;
    int rows = streams * (1 + depth);
    double tokens = 1;
    *out = (struct qn_project_step){.depth = depth};
    out->weights_ms = ms(in, dense_bytes(in) + head_bytes(in));
    out->experts_ms =
        ms(in, (double)in->tally->part[QN_PART_EXPERTS].bytes / in->ranks * experts_read(c, rows));
    out->state_ms = ms(in, 2.0 * (double)in->slot_bytes * streams);
    out->kv_ms = ms(in, (double)in->page_bytes * streams * QN_CEIL_DIV(in->context, in->page_tok));
    out->reduce_ms = 2.0 * c->n_layer * qn_target_reduce_us(in->target, (double)rows * c->hidden * 2) / 1000;
    out->launch_ms = (double)NODES_A_LAYER * c->n_layer * in->target->launch_us / 1000;
    for (int i = 0; i < depth; i++) tokens += accepted[i];
    out->draft_ms = depth * draft_ms(in, streams);
    out->step_ms = out->weights_ms + out->experts_ms + out->state_ms + out->kv_ms + out->reduce_ms +
                   out->launch_ms + out->draft_ms;
    out->lost_ms = (LOST_US * c->n_layer + LOST_DRAFT_US * depth) / 1000;
    out->tokens = tokens * streams;
    out->limit = out->tokens / out->step_ms * 1000;
    out->expected = out->tokens / (out->step_ms + out->lost_ms) * 1000;
}

void qn_project_best(const struct qn_project_in *in, int streams, struct qn_project_step *out)
{
    qn_project_step(in, streams, 0, out);
    if (!in->has_mtp) return;
    qn_project_step(in, streams, 1, out);
    for (int depth = 2; depth <= (int)QN_COUNT(accepted); depth++) {
        struct qn_project_step s;
        qn_project_step(in, streams, depth, &s);
        if (s.expected > out->expected) *out = s;
    }
}

const char *qn_project_limiter(const struct qn_project_step *s)
{
    const struct {
        const char *name;
        double ms;
    } terms[] = {{"weights", s->weights_ms}, {"experts", s->experts_ms}, {"state", s->state_ms},
                 {"kv", s->kv_ms},           {"reduce", s->reduce_ms},   {"launches", s->launch_ms}};
    size_t most = 0;
    for (size_t i = 1; i < QN_COUNT(terms); i++)
        if (terms[i].ms > terms[most].ms) most = i;
    return terms[most].name;
}
