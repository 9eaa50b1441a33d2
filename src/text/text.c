/* The text side of a checkpoint folder.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/text.h"

#include <sys/stat.h>

#include "base/gguf_json.h"
#include "base/model_path.h"
#include "text/jinja.h"
#include "text/marker.h"
#include "text/tokenizer.h"
#include "text/turn_end.h"

#define MAX_PATH_BYTES 4096

static int make_path(char *out, const char *folder, const char *name, struct qn_err *e)
{
    int rc = QN_OK;
    int n = snprintf(out, MAX_PATH_BYTES, "%s/%s", folder, name);
    QN_FAIL_IF(n < 0 || n >= MAX_PATH_BYTES, e, QN_INVAL, "the path of the folder is longer than %d bytes",
               MAX_PATH_BYTES);
out:
    return rc;
}

/* A JSON object of the folder; *out is NULL when there is no such file. */
static int read_config(struct qn_json **out, struct qn_arena *arena, const char *folder, const char *name,
                       struct qn_err *e)
{
    int rc = QN_OK;
    char path[MAX_PATH_BYTES];
    *out = NULL;
    QN_TRY(make_path(path, folder, name, e));
    rc = qn_json_read_file(out, arena, path, QN_TEXT_MAX_CONFIG_BYTES, e);
    if (rc == QN_NOTFOUND) {
        *out = NULL;
        rc = QN_OK;
        goto out;
    }
    QN_TRY(rc);
    QN_FAIL_IF((*out)->type != QN_JSON_OBJECT, e, QN_FORMAT, "%s: not a JSON object", path);
out:
    return rc;
}

/* One of the JSON files a GGUF file stands for. */
static int json_of_gguf(struct qn_json **out, struct qn_arena *arena, const struct qn_gguf *g,
                        const char *name,
                        int (*write)(const struct qn_gguf *, struct qn_buf *, struct qn_err *),
                        struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_buf text = QN_BUF_INIT(QN_TEXT_MAX_CONFIG_BYTES);
    QN_TRY(write(g, &text, e));
    QN_TRY(qn_json_parse(out, arena, qn_buf_str(&text), text.n_byte, name, e));
out:
    qn_buf_free(&text);
    return rc;
}

/* ---- template ---- */

static int compile_file(struct qn_text *t, const char *path, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_buf source = QN_BUF_INIT(QN_JINJA_MAX_SOURCE_BYTES);
    QN_TRY(qn_buf_read_file(&source, path, e));
    const char *slash = strrchr(path, '/');
    QN_TRY(qn_jinja_compile(&t->template, qn_buf_str(&source), source.n_byte, slash ? slash + 1 : path, e));
    t->template_source_name = xstrdup(path);
out:
    qn_buf_free(&source);
    return rc;
}

/* `chat_template` of a JSON file: a text, or a list of {name, template}. */
static int compile_member(struct qn_text *t, const struct qn_json *config, const char *name, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *v = qn_json_get(config, "chat_template");
    if (qn_json_is_null(v)) goto out;
    if (v->type == QN_JSON_STRING) {
        QN_TRY(qn_jinja_compile(&t->template, v->text, v->n, "chat_template", e));
    } else {
        QN_FAIL_IF(v->type != QN_JSON_ARRAY, e, QN_FORMAT, "%s: chat_template must be a string or a list",
                   name);
        for (size_t i = 0; i < v->n; i++) {
            const struct qn_json *source = qn_json_get(v->items[i], "template");
            const struct qn_json *label = qn_json_get(v->items[i], "name");
            QN_FAIL_IF(!qn_json_is(source, QN_JSON_STRING) || !qn_json_is(label, QN_JSON_STRING), e,
                       QN_FORMAT, "%s: chat_template[%zu] must have a name and a template", name, i);
            struct qn_jinja **to = !strcmp(label->text, "default")    ? &t->template
                                   : !strcmp(label->text, "tool_use") ? &t->tool_template
                                                                      : NULL;
            if (to && !*to) QN_TRY(qn_jinja_compile(to, source->text, source->n, "chat_template", e));
        }
        if (!t->template) { /* a lone one, whatever its name */
            t->template = t->tool_template;
            t->tool_template = NULL;
        }
    }
    if (t->template) t->template_source_name = xstrdup(name);
out:
    return rc;
}

/* Beside chat_template.jinja further ones may lie, by name. */
static int open_tool_template(struct qn_text *t, const char *folder, struct qn_err *e)
{
    int rc = QN_OK;
    char path[MAX_PATH_BYTES];
    struct qn_buf source = QN_BUF_INIT(QN_JINJA_MAX_SOURCE_BYTES);
    QN_TRY(make_path(path, folder, "additional_chat_templates/tool_use.jinja", e));
    rc = qn_buf_read_file(&source, path, e);
    if (rc == QN_NOTFOUND) {
        rc = QN_OK;
        goto out;
    }
    QN_TRY(rc);
    QN_TRY(qn_jinja_compile(&t->tool_template, qn_buf_str(&source), source.n_byte, "tool_use.jinja", e));
out:
    qn_buf_free(&source);
    return rc;
}

static int open_template(struct qn_text *t, const char *folder, const struct qn_text_opt *opt,
                         const struct qn_json *tokenizer_config, struct qn_err *e)
{
    int rc = QN_OK;
    char path[MAX_PATH_BYTES];
    if (opt->template_path) {
        QN_TRY(compile_file(t, opt->template_path, e));
        goto out;
    }
    QN_TRY(make_path(path, folder, "chat_template.jinja", e));
    rc = compile_file(t, path, e);
    if (rc && rc != QN_NOTFOUND) goto out;
    if (!rc) {
        rc = open_tool_template(t, folder, e);
        goto out;
    }
    QN_TRY(compile_member(t, tokenizer_config, "tokenizer_config.json", e));
    if (!t->template) {
        struct qn_json *file;
        QN_TRY(read_config(&file, t->arena, folder, "chat_template.json", e));
        QN_TRY(compile_member(t, file, "chat_template.json", e));
    }
out:
    return rc;
}

/* ---- special tokens ---- */

/* A token is a string or an object with the string as content. */
static struct qn_json *token_text(const struct qn_json *v)
{
    if (qn_json_is(v, QN_JSON_OBJECT)) v = qn_json_get(v, "content");
    return qn_json_is(v, QN_JSON_STRING) ? (struct qn_json *)v : NULL;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

static int read_special(struct qn_text *t, const struct qn_json *config, struct qn_err *e)
{
    int rc = QN_OK;
    t->special_tokens = qn_json_new(t->arena, QN_JSON_OBJECT);
    for (size_t i = 0; config && i < config->n; i++) {
        const char *key = config->keys[i].text;
        struct qn_json *text = ends_with(key, "_token") ? token_text(config->items[i]) : NULL;
        if (text)
            QN_FAIL_IF(!qn_json_set(t->arena, t->special_tokens, key, text), e, QN_NOMEM,
                       "tokenizer_config.json: too large");
    }
out:
    return rc;
}

/* ---- ids ---- */

static void add_stop(struct qn_text *t, int64_t id)
{
    if (id < 0 || id > INT32_MAX || t->n_stop == QN_TEXT_MAX_STOP_IDS) return;
    if (t->tokenizer && !qn_tokenizer_has(t->tokenizer, (int32_t)id)) return;
    for (int i = 0; i < t->n_stop; i++)
        if (t->stop_ids[i] == id) return;
    t->stop_ids[t->n_stop++] = (int32_t)id;
}

static void add_stops(struct qn_text *t, const struct qn_json *config)
{
    const struct qn_json *eos = qn_json_get(config, "eos_token_id");
    int64_t id;
    if (qn_json_int(eos, &id)) add_stop(t, id);
    for (size_t i = 0; qn_json_is(eos, QN_JSON_ARRAY) && i < eos->n; i++)
        if (qn_json_int(eos->items[i], &id)) add_stop(t, id);
}

/* All that any file names, and what the template writes itself. */
static void read_stops(struct qn_text *t, const struct qn_json *config, const struct qn_json *generation)
{
    add_stops(t, generation);
    add_stops(t, config);
    add_stops(t, qn_json_get(config, "text_config"));
    t->turn_end_id = -1;
    if (!t->tokenizer) return;
    const struct qn_json *token = qn_json_get(t->special_tokens, "eos_token");
    if (token) add_stop(t, qn_tokenizer_id(t->tokenizer, token->text));
    t->turn_end_id = qn_turn_end_of(t->tokenizer, t->template, t->special_tokens);
    add_stop(t, t->turn_end_id);
    if (t->n_stop) return;
    add_stop(t, t->im_end_id);
    add_stop(t, t->endoftext_id);
}

static void read_ids(struct qn_text *t)
{
    const struct {
        int32_t *id;
        const char *spelling;
    } all[] = {{&t->im_start_id, "<|im_start|>"},          {&t->im_end_id, "<|im_end|>"},
               {&t->endoftext_id, "<|endoftext|>"},        {&t->think_open_id, "<think>"},
               {&t->think_close_id, "</think>"},           {&t->call_open_id, "<tool_call>"},
               {&t->call_close_id, "</tool_call>"},        {&t->response_open_id, "<tool_response>"},
               {&t->response_close_id, "</tool_response>"}};
    for (size_t i = 0; i < QN_COUNT(all); i++)
        *all[i].id = t->tokenizer ? qn_tokenizer_id(t->tokenizer, all[i].spelling) : -1;
}

/* ---- generation_config.json ---- */

static int read_number(const struct qn_json *config, const char *key, bool *has, double *out,
                       struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_json *v = qn_json_get(config, key);
    if (qn_json_is_null(v)) goto out;
    QN_FAIL_IF(!qn_json_is_number(v), e, QN_FORMAT, "generation_config.json: '%s' must be a number", key);
    *has = true;
    *out = qn_json_num(v);
out:
    return rc;
}

static int read_defaults(struct qn_text_defaults *d, const struct qn_json *config, struct qn_err *e)
{
    int rc = QN_OK;
    double top_k = 0;
    QN_TRY(read_number(config, "temperature", &d->has_temperature, &d->temperature, e));
    QN_TRY(read_number(config, "top_p", &d->has_top_p, &d->top_p, e));
    QN_TRY(read_number(config, "top_k", &d->has_top_k, &top_k, e));
    QN_TRY(read_number(config, "min_p", &d->has_min_p, &d->min_p, e));
    QN_TRY(read_number(config, "repetition_penalty", &d->has_repetition_penalty, &d->repetition_penalty, e));
    QN_TRY(read_number(config, "presence_penalty", &d->has_presence_penalty, &d->presence_penalty, e));
    QN_TRY(read_number(config, "frequency_penalty", &d->has_frequency_penalty, &d->frequency_penalty, e));
    d->top_k = top_k > 0 && top_k < 1e9 ? (int64_t)top_k : 0;
    const struct qn_json *sample = qn_json_get(config, "do_sample");
    d->has_do_sample = qn_json_is(sample, QN_JSON_BOOL);
    d->do_sample = d->has_do_sample && sample->truth;
out:
    return rc;
}

/* The small JSON files; NULL where there is none. */
struct configs {
    struct qn_json *tokenizer, *generation, *model;
};

/* Configurations, tokenizer and template of a folder. */
static int open_folder(struct qn_text *t, const char *folder, const struct qn_text_opt *opt,
                       struct configs *c, struct qn_err *e)
{
    int rc = QN_OK;
    QN_TRY(read_config(&c->tokenizer, t->arena, folder, "tokenizer_config.json", e));
    QN_TRY(read_config(&c->generation, t->arena, folder, "generation_config.json", e));
    QN_TRY(read_config(&c->model, t->arena, folder, "config.json", e));
    if (!opt->no_tokenizer) QN_TRY(qn_tokenizer_open(&t->tokenizer, folder, e));
    QN_TRY(open_template(t, folder, opt, c->tokenizer, e));
out:
    return rc;
}

/* The same from the metadata of a GGUF file. */
static int open_gguf(struct qn_text *t, const char *path, const struct qn_text_opt *opt, struct configs *c,
                     struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_gguf *g = NULL;
    QN_TRY(qn_gguf_open(&g, path, e));
    QN_TRY(qn_gguf_check_model(g, NULL, e));
    QN_TRY(
        json_of_gguf(&c->tokenizer, t->arena, g, "tokenizer_config.json", qn_gguf_tokenizer_config_json, e));
    QN_TRY(json_of_gguf(&c->generation, t->arena, g, "generation_config.json", qn_gguf_generation_json, e));
    if (!opt->no_tokenizer) QN_TRY(qn_tokenizer_open_gguf(&t->tokenizer, g, e));
    if (opt->template_path)
        QN_TRY(compile_file(t, opt->template_path, e));
    else
        QN_TRY(compile_member(t, c->tokenizer, "the metadata of the .gguf file", e));
out:
    qn_gguf_close(g);
    return rc;
}

int qn_text_open(struct qn_text **out, const char *path, const struct qn_text_opt *opt, struct qn_err *e)
{
    static const struct qn_text_opt plain;
    int rc = QN_OK;
    char *folder = NULL;
    struct configs c = {0};
    struct qn_text *t = xcalloc(1, sizeof *t);
    struct stat st;
    if (!opt) opt = &plain;
    QN_TRY(qn_model_path_resolve(path, &folder, e));
    bool is_gguf = qn_model_path_is_gguf(folder);
    QN_FAIL_IF(stat(folder, &st) || (!S_ISDIR(st.st_mode) && !is_gguf), e, QN_NOTFOUND,
               "%s: neither a folder nor a .gguf file", folder);
    t->arena = qn_arena_create(QN_TEXT_MAX_CONFIG_BYTES * 8);
    QN_TRY((is_gguf ? open_gguf : open_folder)(t, folder, opt, &c, e));
    QN_TRY(read_special(t, c.tokenizer, e));
    QN_TRY(read_defaults(&t->defaults, c.generation, e));
    read_ids(t);
    read_stops(t, c.model, c.generation);
    *out = t;
    t = NULL;
out:
    free(folder);
    qn_text_close(t);
    return rc;
}

void qn_text_close(struct qn_text *t)
{
    if (!t) return;
    qn_tokenizer_free(t->tokenizer);
    qn_jinja_free(t->template);
    qn_jinja_free(t->tool_template);
    free(t->template_source_name);
    qn_arena_free(t->arena);
    free(t);
}

unsigned qn_text_markers(const struct qn_text *t)
{
    unsigned out = 0;
    for (int i = 0; t->tokenizer && i < QN_N_MARKER; i++) {
        int32_t id = qn_tokenizer_id(t->tokenizer, qn_marker_text((enum qn_marker)i));
        bool is_token = id >= 0 && qn_tokenizer_flags(t->tokenizer, id) & QN_TOKEN_MARKER;
        for (int k = 0; k < t->n_stop; k++) is_token &= t->stop_ids[k] != id;
        if (is_token) out |= 1u << i;
    }
    return out;
}
