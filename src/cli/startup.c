/* The start table.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/startup.h"

#include <stdarg.h>

#include "base/shown.h"
#include "backend/backend.h"
#include "model/plan.h"
#include "server/defaults.h"
#include "text/chat.h"
#include "text/text.h"

static void row(const char *name, const char *fmt, ...) QN_PRINTF(2, 3);
static void row(const char *name, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "  %-12s ", name);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
}

static void print_formats(const struct qn_model *m)
{
    struct qn_tally t;
    char text[400], size[24];
    qn_tally_model(m, &t);
    size_t at = 0;
    for (int p = 0; p < QN_N_PART; p++) {
        if (!t.part[p].n_module || p == QN_PART_SMALL) continue;
        int most = 0;
        for (int f = 1; f < QN_N_FORMAT; f++)
            if (t.part[p].n_by_format[f] > t.part[p].n_by_format[most]) most = f;
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%s %s", at ? ", " : "",
                               qn_part_name((enum qn_part)p), qn_format_name((enum qn_format)most));
        if (at >= sizeof text) break;
    }
    row("formats", "%s; files %s", text, qn_bytes_text(t.text_bytes + t.mtp_bytes, size));
}

void qn_startup_print(const struct qn_startup *u)
{
    const struct qn_server_options *o = u->options;
    const struct qn_wish *w = u->wish;
    const struct qn_model *model = u->model;
    const struct qn_engine_info *i = u->info;
    const char *device = u->device;
    char a[24], b[24], c[24], d[24], r[24], line[200];
    const struct qn_config *cfg = o->config;
    const struct qn_text *t = o->text;
    fprintf(stderr, "quern %s\n", QN_VERSION);
    row("model", "%s: %s, %d layers (%d attention, %d delta net), hidden %d%s", qn_shown(o->names[0]),
        cfg->architecture, cfg->n_layer, cfg->n_full, cfg->n_gdn, cfg->hidden,
        cfg->is_moe ? ", mixture of experts" : "");
    if (model) print_formats(model);
    row("memory", "weights %s, KV %s, state %s, workspace %s, requests %s", qn_bytes_text(i->weight_bytes, a),
        qn_bytes_text(i->kv_bytes, b), qn_bytes_text(i->state_bytes, c), qn_bytes_text(i->workspace_bytes, d),
        qn_bytes_text(i->request_bytes, r));
    row("context", "%d tokens; %d sequences at once; %d pages of %d, %d state slots", i->max_context,
        i->max_seqs, i->n_page, QN_PAGE, i->n_slot);
    int whole = i->n_page / QN_MAX(QN_CEIL_DIV(i->max_context, QN_PAGE), 1);
    if (whole < i->max_seqs)
        row("", "note: %d sequence%s can have the whole context at a time; others wait for their pages",
            whole, whole == 1 ? "" : "s");
    char threads[24] = "one a core";
    if (i->n_thread) snprintf(threads, sizeof threads, "%d", i->n_thread);
    row("compute", "%s%s%s, activations %s, threads %s, %d prefill tokens a step", device,
        i->isa && *i->isa ? " " : "", i->isa ? i->isa : "", w->activations, threads, i->step_tokens);
    if (i->n_rank > 1)
        row("ranks", "%d, threads of this process; each holds a part of every layer", i->n_rank);
    row("KV cache", "%s; prefix cache %s", i->kv ? i->kv : "none", w->no_prefix_cache ? "off" : "on");
    bool has_head = model ? qn_model_has_mtp(model) : i->has_mtp;
    if (!has_head)
        row("speculation", "off: the checkpoint has no MTP head");
    else if (!i->mtp)
        row("speculation", "off (--mtp off)");
    else if (i->mtp < 0)
        row("speculation", "MTP, depth automatic");
    else
        row("speculation", "MTP, depth %d", i->mtp);
    struct qn_sight_stats sight;
    if (u->media->sight) {
        qn_sight_stats(u->media->sight, &sight);
        row("sight", "tower %s, loaded when idle or asked; embeddings of pictures up to %s",
            qn_bytes_text(sight.weight_bytes, a), qn_bytes_text(sight.budget_bytes, b));
    } else if (cfg->has_vision) {
        row("sight", "off: %s",
            u->media->why_blind[0] ? qn_shown(u->media->why_blind)
            : w->media.is_blind    ? "--language-model-only"
                                   : "the files hold no vision tower");
    }
    row("template", "%s",
        t->template_source_name ? qn_shown(t->template_source_name)
                                : "none: only /v1/completions can answer");
    if (t->template && !qn_chat_self_test(t, line, sizeof line)) row("", "note: %s", qn_shown(line));
    row("parsers", "calls <function=...>, reasoning <think>: %s",
        t->think_close_id >= 0 ? "markers are single tokens" : "markers are plain text");
    struct qn_sampling_defaults v;
    qn_sampling_merge(&v, &o->sampling, &t->defaults);
    row("sampling",
        "temperature %g, top_p %g, top_k %" PRId64 ", min_p %g, presence %g, repetition %g (requests win)",
        v.temperature, v.top_p, v.top_k, v.min_p, v.presence, v.repetition);
    const struct qn_gate *gate = &o->gate;
    row("access", "%s; pages of other origins: %s%s", gate->n_key ? "API key needed" : "no API key",
        gate->n_origin ? qn_shown(gate->origins[0]) : "none", gate->n_origin > 1 ? ", ..." : "");
    for (int k = 0; model && k < qn_model_n_notes(model); k++) row("note", "%s", qn_model_note(model, k));
    row("loaded in", "%.2f s", i->load_s);
}
