/* Sampling defaults: server over model over what is common.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/defaults.h"

#include <math.h>

static double pick(double server, bool has_model, double model, double dflt)
{
    return !isnan(server) ? server : has_model ? model : dflt;
}

void qn_sampling_merge(struct qn_sampling_defaults *out, const struct qn_sampling_defaults *o,
                       const struct qn_text_defaults *d)
{
    bool is_greedy = d->has_do_sample && !d->do_sample;
    *out = (struct qn_sampling_defaults){
        .temperature =
            pick(o->temperature, d->has_temperature || is_greedy, is_greedy ? 0 : d->temperature, 1),
        .top_p = pick(o->top_p, d->has_top_p, d->top_p, 1),
        .min_p = pick(o->min_p, d->has_min_p, d->min_p, 0),
        .top_k = o->top_k >= 0  ? o->top_k
                 : d->has_top_k ? QN_CLAMP(d->top_k, 0, INT32_MAX)
                                : 0,
        .presence = pick(o->presence, d->has_presence_penalty, d->presence_penalty, 0),
        .frequency = pick(o->frequency, d->has_frequency_penalty, d->frequency_penalty, 0),
        .repetition = pick(o->repetition, d->has_repetition_penalty, d->repetition_penalty, 1),
        .max_tokens = o->max_tokens > 0 ? o->max_tokens : 0,
    };
}
