/* quern inspect: what a checkpoint is.
 * SPDX-License-Identifier: Apache-2.0 */
#include <sys/stat.h>

#include "base/gguf.h"
#include "base/json.h"
#include "base/shown.h"
#include "cli/cli.h"
#include "cli/model_opts.h"
#include "model/plan.h"
#include "model/roles.h"

/* Files beside the weights that a server needs. */
struct extras {
    const char *template; /* where the chat template is, or NULL */
    bool has_tokenizer;
    bool has_processor;
    bool is_inside; /* a GGUF file has them in its metadata */
};

static bool has_file(const char *folder, const char *name, long *n_byte)
{
    struct stat info;
    char *path = xasprintf("%s/%s", folder, name);
    bool found = !stat(path, &info) && S_ISREG(info.st_mode);
    if (n_byte) *n_byte = found ? (long)info.st_size : 0;
    free(path);
    return found;
}

static struct extras find_extras(const struct qn_model *m)
{
    const char *folder = qn_model_folder(m);
    struct extras x = {0};
    struct qn_gguf *g;
    if (qn_model_is_gguf(m)) {
        if (qn_gguf_open(&g, folder, NULL)) return x;
        x.has_tokenizer = qn_gguf_find(g, "tokenizer.ggml.tokens") != NULL;
        if (qn_gguf_find(g, "tokenizer.chat_template")) x.template = "in the file";
        x.is_inside = true;
        qn_gguf_close(g);
        return x;
    }
    x.has_tokenizer = has_file(folder, "tokenizer.json", NULL);
    x.has_processor = has_file(folder, "preprocessor_config.json", NULL);
    if (has_file(folder, "chat_template.jinja", NULL)) {
        x.template = "chat_template.jinja";
    } else if (has_file(folder, "chat_template.json", NULL)) {
        x.template = "chat_template.json";
    } else {
        struct qn_arena *arena = qn_arena_create((size_t)64 << 20);
        struct qn_json *top;
        char *path = xasprintf("%s/tokenizer_config.json", folder);
        if (!qn_json_read_file(&top, arena, path, (size_t)16 << 20, NULL) &&
            !qn_json_is_null(qn_json_get(top, "chat_template")))
            x.template = "tokenizer_config.json";
        free(path);
        qn_arena_free(arena);
    }
    return x;
}

/* The formats of one part, "NVFP4 x 192, BF16 x 4". */
static void formats_text(const struct qn_tally *t, int part, char *out, size_t n)
{
    size_t at = 0;
    out[0] = 0;
    for (int f = 0; f < QN_N_FORMAT && at < n; f++) {
        int k = t->part[part].n_by_format[f];
        if (k)
            at += (size_t)snprintf(out + at, n - at, "%s%s x %d", at ? ", " : "",
                                   qn_format_name((enum qn_format)f), k);
    }
    if (!at) snprintf(out, n, "float");
}

static int64_t n_params(const struct qn_tally *t)
{
    int64_t n = 0;
    for (int p = 0; p < QN_N_PART; p++)
        if (p != QN_PART_MTP) n += t->part[p].n_param;
    return n;
}

static void print_text(const struct qn_model *m, const struct qn_tally *t, const struct extras *x)
{
    const struct qn_config *c = qn_model_config(m);
    char a[24], formats[240];
    printf("%s\n", qn_model_name(m));
    printf("architecture   %s, %s%s\n", c->architecture, c->is_moe ? "MoE" : "dense",
           c->is_tied ? ", tied head" : "");
    printf("layers         %d (%d attention, %d gated delta net)\n", c->n_layer, c->n_full, c->n_gdn);
    printf("hidden         %d\n", c->hidden);
    printf("attention      %d heads, %d KV heads, head size %d, rotary %d, theta %.0f\n", c->n_head,
           c->n_kv_head, c->head_dim, c->rotary_dim, c->rope_theta);
    if (c->rope.type != QN_ROPE_DEFAULT)
        printf("positions      %s, factor %g of %g, attention factor %g\n", qn_rope_name(c->rope.type),
               c->rope.factor, c->rope.original, (double)qn_rope_gain(c));
    printf("delta net      %d key heads of %d, %d value heads of %d, %d taps\n", c->n_k_head, c->k_dim,
           c->n_v_head, c->v_dim, c->conv_taps);
    if (c->is_moe)
        printf("experts        %d, %d a token, width %d; shared width %d\n", c->n_expert, c->top_k,
               c->expert_ffn, c->shared_ffn);
    else
        printf("mlp            width %d\n", c->ffn);
    printf("vocabulary     %d rows\n", c->vocab);
    printf("context        %d tokens\n", c->max_context);
    printf("stop tokens   ");
    for (int i = 0; i < c->n_stop; i++) printf(" %d", c->stop_tok[i]);
    printf("%s\n", c->n_stop ? "" : " none named");
    printf("parameters     %" PRId64 "\n", n_params(t));
    printf("mtp            %s\n", qn_model_has_mtp(m) ? "present" : "absent");
    printf("vision         %s", t->n_vision ? "present" : "absent");
    if (t->n_vision) printf(" (%d tensors, %s; skipped)", t->n_vision, qn_bytes_text(t->vision_bytes, a));
    printf("\ntokenizer      %s\n", !x->has_tokenizer ? "missing: tokenizer.json is needed to serve"
                                    : x->is_inside    ? "in the file"
                                                      : "tokenizer.json");
    printf("template       %s\n", x->template    ? qn_shown(x->template)
                                  : x->is_inside ? "missing: chat needs one (--chat-template FILE)"
                                                 : "missing: chat needs a chat_template.jinja");
    printf("kv scales      %d of %d attention layers\n", qn_model_n_kv_scale(m), c->n_full);
    printf("files          %d, %d tensors\n\n", qn_model_n_files(m), qn_model_n_tensors(m));
    printf("%-15s %9s %16s %16s  %s\n", "part", "modules", "parameters", "bytes", "stored as");
    for (int p = 0; p < QN_N_PART; p++) {
        if (!t->part[p].n_module) continue;
        formats_text(t, p, formats, sizeof formats);
        printf("%-15s %9d %16" PRId64 " %16" PRIu64 "  %s\n", qn_part_name((enum qn_part)p),
               t->part[p].n_module, t->part[p].n_param, t->part[p].bytes, formats);
    }
    printf("%-15s %9s %16s %16" PRIu64 "  %s\n", "text", "", "", t->text_bytes,
           qn_bytes_text(t->text_bytes, a));
    printf("%-15s %9s %16s %16" PRIu64 "  %s\n", "read a token", "", "", t->active_bytes,
           qn_bytes_text(t->active_bytes, a));
    for (int i = 0; i < qn_model_n_notes(m); i++) printf("%snote: %s\n", i ? "" : "\n", qn_model_note(m, i));
}

static void put_str(struct qn_buf *b, const char *key, const char *s)
{
    qn_buf_printf(b, "\"%s\":", key);
    if (s)
        qn_json_write_str(b, s, strlen(s), false);
    else
        qn_buf_puts(b, "null");
}

static void print_json(const struct qn_model *m, const struct qn_tally *t, const struct extras *x)
{
    const struct qn_config *c = qn_model_config(m);
    struct qn_buf b = QN_BUF_INIT(1 << 20);
    qn_buf_puts(&b, "{");
    put_str(&b, "name", qn_model_name(m));
    qn_buf_puts(&b, ",");
    put_str(&b, "architecture", c->architecture);
    qn_buf_printf(
        &b, ",\"moe\":%s,\"tied\":%s,\"hidden\":%d,\"layers\":%d,\"attention_layers\":%d,\"gdn_layers\":%d",
        c->is_moe ? "true" : "false", c->is_tied ? "true" : "false", c->hidden, c->n_layer, c->n_full,
        c->n_gdn);
    qn_buf_printf(&b, ",\"heads\":%d,\"kv_heads\":%d,\"head_dim\":%d,\"rotary_dim\":%d,\"rope_theta\":%.0f",
                  c->n_head, c->n_kv_head, c->head_dim, c->rotary_dim, c->rope_theta);
    qn_buf_printf(&b, ",\"rope_type\":\"%s\",\"rope_factor\":%g", qn_rope_name(c->rope.type),
                  c->rope.type == QN_ROPE_DEFAULT ? 1 : c->rope.factor);
    qn_buf_printf(&b, ",\"gdn_key_heads\":%d,\"gdn_value_heads\":%d,\"gdn_key_dim\":%d,\"gdn_value_dim\":%d",
                  c->n_k_head, c->n_v_head, c->k_dim, c->v_dim);
    qn_buf_printf(&b,
                  ",\"ffn\":%d,\"experts\":%d,\"experts_per_token\":%d,\"expert_ffn\":%d,\"shared_ffn\":%d",
                  c->ffn, c->n_expert, c->top_k, c->expert_ffn, c->shared_ffn);
    qn_buf_printf(&b, ",\"vocab\":%d,\"context\":%d,\"parameters\":%" PRId64 ",\"stop_tokens\":[", c->vocab,
                  c->max_context, n_params(t));
    for (int i = 0; i < c->n_stop; i++) qn_buf_printf(&b, "%s%d", i ? "," : "", c->stop_tok[i]);
    qn_buf_printf(
        &b, "],\"mtp\":%s,\"vision\":%s,\"vision_tensors\":%d,\"vision_bytes\":%" PRIu64 ",\"tokenizer\":%s,",
        qn_model_has_mtp(m) ? "true" : "false", t->n_vision ? "true" : "false", t->n_vision, t->vision_bytes,
        x->has_tokenizer ? "true" : "false");
    put_str(&b, "template", x->template);
    qn_buf_printf(&b, ",\"kv_scales\":%d,\"files\":%d,\"tensors\":%d,\"fingerprint\":\"%016" PRIx64 "\",",
                  qn_model_n_kv_scale(m), qn_model_n_files(m), qn_model_n_tensors(m),
                  qn_model_fingerprint(m));
    put_str(&b, "quant_method", c->quant_method[0] ? c->quant_method : NULL);
    qn_buf_printf(
        &b, ",\"text_bytes\":%" PRIu64 ",\"mtp_bytes\":%" PRIu64 ",\"active_bytes\":%" PRIu64 ",\"parts\":{",
        t->text_bytes, t->mtp_bytes, t->active_bytes);
    bool first = true;
    for (int p = 0; p < QN_N_PART; p++) {
        if (!t->part[p].n_module) continue;
        qn_buf_printf(
            &b, "%s\"%s\":{\"modules\":%d,\"parameters\":%" PRId64 ",\"bytes\":%" PRIu64 ",\"formats\":{",
            first ? "" : ",", qn_part_name((enum qn_part)p), t->part[p].n_module, t->part[p].n_param,
            t->part[p].bytes);
        first = false;
        bool first_format = true;
        for (int f = 0; f < QN_N_FORMAT; f++) {
            if (!t->part[p].n_by_format[f]) continue;
            qn_buf_printf(&b, "%s\"%s\":%d", first_format ? "" : ",", qn_format_name((enum qn_format)f),
                          t->part[p].n_by_format[f]);
            first_format = false;
        }
        qn_buf_puts(&b, "}}");
    }
    qn_buf_puts(&b, "},\"notes\":[");
    for (int i = 0; i < qn_model_n_notes(m); i++) {
        if (i) qn_buf_puts(&b, ",");
        qn_json_write_str(&b, qn_model_note(m, i), strlen(qn_model_note(m, i)), false);
    }
    qn_buf_puts(&b, "]}");
    puts(qn_buf_str(&b));
    qn_buf_free(&b);
}

static int run(int argc, char **argv)
{
    bool json = false;
    struct qn_model_wish wish = {0};
    const struct qn_opt table[] = {
        QN_MODEL_OPTS(&wish),
        {"json", 0, QN_OPT_FLAG, &json, NULL, "one JSON object", NULL, NULL, 0, 0},
    };
    static const struct qn_opt_usage usage = {
        "quern inspect MODEL [--json]",
        "Says what a checkpoint is: sizes, storage format of each part, what is missing, and where its "
        "configuration and its files disagree.",
        "quern inspect models/Qwen3.5-27B-FP8"};
    struct qn_err e = {0};
    const char *args[1];
    struct qn_model *m;
    int n_arg, rc = qn_opt_parse(table, QN_COUNT(table), &usage, argc, argv, args, 1, &n_arg, &e);
    if (!rc && n_arg != 1)
        rc = qn_err_set(&e, QN_INVAL, __FILE__, __LINE__,
                        "MODEL is needed: a checkpoint folder or a .gguf file");
    if (rc) return qn_cli_usage_failed("inspect", rc, &e);
    rc = qn_model_opts_open(&m, args[0], &wish, &e);
    if (rc) return qn_cli_failed("inspect", &e);
    struct qn_tally t;
    qn_tally_model(m, &t);
    struct extras x = find_extras(m);
    if (json)
        print_json(m, &t, &x);
    else
        print_text(m, &t, &x);
    qn_model_close(m);
    return 0;
}

const struct qn_cmd qn_cmd_inspect = {"inspect", "say what a checkpoint is", run};
