/* Parts of a content that are no plain text.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/chat_block.h"

#define MAX_DEPTH 8

static const char *str_of(const struct qn_json *v, const char *key)
{
    const struct qn_json *text = qn_json_get(v, key);
    return qn_json_is(text, QN_JSON_STRING) && text->n ? text->text : NULL;
}

static const char *type_of(const struct qn_json *block)
{
    const char *type = str_of(block, "type");
    return type ? type : "";
}

static bool is_one_of(const char *s, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(s, list[i])) return true;
    return false;
}

/* Text in base64, if the media type says that it is text. */
static bool put_base64(struct qn_buf *out, const char *media, const char *data, size_t n)
{
    if (strncmp(media, "text/", 5) != 0 && strcmp(media, "application/json") != 0) return false;
    uint32_t bits = 0;
    int n_bit = 0;
    for (size_t i = 0; i < n; i++) {
        static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        const char *at = data[i] ? strchr(digits, data[i]) : NULL;
        if (!at) continue;
        bits = bits << 6 | (uint32_t)(at - digits);
        n_bit += 6;
        if (n_bit < 8) continue;
        n_bit -= 8;
        qn_buf_putc(out, (char)(bits >> n_bit & 0xff));
    }
    return true;
}

/* data:text/plain;base64,... */
static bool put_data_url(struct qn_buf *out, const char *url)
{
    const char *comma = strchr(url, ',');
    if (strncmp(url, "data:", 5) != 0 || !comma) return false;
    char media[64];
    snprintf(media, sizeof media, "%.*s", (int)QN_MIN((size_t)(comma - url - 5), sizeof media - 1), url + 5);
    char *end = strchr(media, ';');
    bool is_base64 = end && strstr(end, "base64");
    if (end) *end = 0;
    return is_base64 && put_base64(out, media, comma + 1, strlen(comma + 1));
}

static bool has_text(const struct qn_json *document)
{
    const struct qn_json *source = qn_json_get(document, "source");
    const char *media = str_of(source, "media_type");
    if (!strcmp(type_of(source), "text") || !strcmp(type_of(source), "content")) return true;
    if (qn_json_is(qn_json_get(document, "content"), QN_JSON_ARRAY) || str_of(document, "text")) return true;
    return !strcmp(type_of(source), "base64") && media &&
           (!strncmp(media, "text/", 5) || !strcmp(media, "application/json"));
}

const char *qn_chat_block_medium(const struct qn_json *block)
{
    static const char *const images[] = {"image", "image_url", "input_image", "computer_screenshot"},
                             *const videos[] = {"video", "video_url", "input_video"},
                             *const sounds[] = {"audio", "audio_url", "input_audio"};
    const char *type = type_of(block);
    if (is_one_of(type, images, QN_COUNT(images))) return "image";
    if (is_one_of(type, videos, QN_COUNT(videos))) return "video";
    if (is_one_of(type, sounds, QN_COUNT(sounds))) return "audio";
    if (!strcmp(type, "input_file") || !strcmp(type, "file")) return "file";
    if (!*type) {
        if (!qn_json_is_null(qn_json_get(block, "image_url")) ||
            !qn_json_is_null(qn_json_get(block, "image")))
            return "image";
        if (!qn_json_is_null(qn_json_get(block, "video_url")) ||
            !qn_json_is_null(qn_json_get(block, "video")))
            return "video";
        if (!qn_json_is_null(qn_json_get(block, "input_audio"))) return "audio";
    }
    return NULL;
}

bool qn_chat_block_is_known(const struct qn_json *block)
{
    static const char *const types[] = {"document",           "search_result",     "tool_reference",
                                        "server_tool_use",    "mcp_tool_use",      "container_upload",
                                        "tool_search_output", "web_search_result", "encrypted_content"};
    const char *type = type_of(block);
    size_t n = strlen(type);
    return is_one_of(type, types, QN_COUNT(types)) || (n > 7 && !strcmp(type + n - 7, "_result"));
}

static void put_block(struct qn_buf *out, const struct qn_json *block, int depth);

static void put_line(struct qn_buf *out)
{
    if (out->n_byte && out->data[out->n_byte - 1] != '\n') qn_buf_putc(out, '\n');
}

static void put_content(struct qn_buf *out, const struct qn_json *content, int depth)
{
    if (qn_json_is(content, QN_JSON_STRING)) qn_buf_append(out, content->text, content->n);
    if (qn_json_is(content, QN_JSON_OBJECT)) put_block(out, content, depth + 1);
    for (size_t i = 0; qn_json_is(content, QN_JSON_ARRAY) && i < content->n; i++) {
        if (i) put_line(out);
        put_block(out, content->items[i], depth + 1);
    }
}

/* Its name in a line of its own: "title (source)". */
static void put_heading(struct qn_buf *out, const struct qn_json *block)
{
    const char *title = str_of(block, "title"), *context = str_of(block, "context"),
               *source = str_of(block, "source");
    if (!source) source = str_of(block, "url");
    if (!title) title = str_of(block, "filename");
    if (title) qn_buf_puts(out, title);
    if (source) qn_buf_printf(out, title ? " (%s)" : "%s", source);
    if (title || source) qn_buf_putc(out, '\n');
    if (context) qn_buf_printf(out, "%s\n", context);
}

/* What a person would want to know about what is not here. */
static void put_left_out(struct qn_buf *out, const struct qn_json *block, const char *what, int depth)
{
    const struct qn_json *source = qn_json_get(block, "source"), *file = qn_json_get(block, "file");
    const char *details[] = {
        str_of(block, "title"),   str_of(block, "filename"),    str_of(file, "filename"),
        str_of(block, "name"),    str_of(source, "media_type"), str_of(source, "url"),
        str_of(block, "file_id"), str_of(source, "file_id"),    str_of(block, "file_url")};
    qn_buf_printf(out, "[%s", what);
    for (size_t i = 0; i < QN_COUNT(details); i++)
        if (details[i] && strncmp(details[i], "data:", 5) != 0) qn_buf_printf(out, " %.200s", details[i]);
    /* by other models; a PDF by none, nor a picture inside a document or a search result */
    bool is_seen = !depth && (!strcmp(what, "image") || !strcmp(what, "video"));
    qn_buf_puts(out, is_seen ? ": left out, this model reads text only]" : ": left out, not readable here]");
}

static void put_document(struct qn_buf *out, const struct qn_json *block, int depth)
{
    const struct qn_json *source = qn_json_get(block, "source"), *data = qn_json_get(source, "data");
    if (!has_text(block)) {
        put_left_out(out, block, "document", depth);
        return;
    }
    put_heading(out, block);
    if (qn_json_is(data, QN_JSON_STRING) && !strcmp(type_of(source), "text"))
        qn_buf_append(out, data->text, data->n);
    else if (qn_json_is(data, QN_JSON_STRING))
        put_base64(out, str_of(source, "media_type"), data->text, data->n);
    put_content(out, qn_json_get(source, "content"), depth);
    put_content(out, qn_json_get(block, "content"), depth);
    put_content(out, qn_json_get(block, "text"), depth);
}

/* A call that a vendor's server ran, or a shell: its name and what it was called with. */
static void put_server_call(struct qn_buf *out, const struct qn_json *block)
{
    static const char *const inputs[] = {"input",   "arguments", "action", "operation",
                                         "queries", "query",     "code",   "prompt"};
    const char *name = str_of(block, "name"), *server = str_of(block, "server_name"), *type = type_of(block);
    size_t n = strlen(type);
    if (!server) server = str_of(block, "server_label");
    qn_buf_printf(out, "[called %s%s", server ? server : "", server ? " " : "");
    if (name)
        qn_buf_puts(out, name);
    else
        qn_buf_append(out, type, n > 5 && !strcmp(type + n - 5, "_call") ? n - 5 : n);
    for (size_t i = 0; i < QN_COUNT(inputs); i++) {
        const struct qn_json *input = qn_json_get(block, inputs[i]);
        if (qn_json_is_null(input)) continue;
        qn_buf_puts(out, " with ");
        if (input->type == QN_JSON_STRING)
            qn_buf_append(out, input->text, input->n);
        else
            qn_json_write(out, input, QN_JSON_EXACT);
    }
    qn_buf_putc(out, ']');
}

/* Members in which results hold their text; how much was written. */
static size_t put_members(struct qn_buf *out, const struct qn_json *block, int depth)
{
    static const char *const keys[] = {"text",       "content", "output",  "stdout",          "stderr",
                                       "result",     "results", "outputs", "tool_references", "logs",
                                       "error_code", "error",   "refusal"};
    size_t before = out->n_byte;
    for (size_t i = 0; i < QN_COUNT(keys); i++) {
        const struct qn_json *v = qn_json_get(block, keys[i]);
        if (qn_json_is_null(v) || qn_json_is_str(v, "")) continue;
        put_line(out);
        put_content(out, v, depth);
    }
    return out->n_byte - before;
}

static void put_result(struct qn_buf *out, const struct qn_json *block, int depth)
{
    size_t before = out->n_byte;
    put_heading(out, block);
    put_members(out, block, depth);
    if (out->n_byte == before) put_left_out(out, block, *type_of(block) ? type_of(block) : "a part", depth);
}

static void put_block(struct qn_buf *out, const struct qn_json *block, int depth)
{
    const char *type = type_of(block), *medium = qn_chat_block_medium(block), *name;
    size_t n = strlen(type);
    if (qn_json_is(block, QN_JSON_STRING)) {
        qn_buf_append(out, block->text, block->n);
    } else if (!qn_json_is(block, QN_JSON_OBJECT) || depth > MAX_DEPTH) {
        if (block && block->type != QN_JSON_NULL && block->type < QN_JSON_ARRAY)
            qn_json_write(out, block, QN_JSON_EXACT);
    } else if (medium) {
        const struct qn_json *file = qn_json_get(block, "file");
        const char *data = str_of(block, "file_data");
        if (!data) data = str_of(file, "file_data");
        if (!data || !put_data_url(out, data)) put_left_out(out, block, medium, depth);
    } else if (!strcmp(type, "document")) {
        put_document(out, block, depth);
    } else if (!strcmp(type, "tool_reference")) {
        name = str_of(block, "text"); /* its definition, where it is shown */
        if (!name) name = str_of(block, "tool_name");
        if (!name) name = str_of(block, "name");
        qn_buf_puts(out, name ? name : "[a tool without a name]");
    } else if (!strcmp(type, "server_tool_use") || !strcmp(type, "mcp_tool_use") ||
               (n > 5 && !strcmp(type + n - 5, "_call"))) {
        put_server_call(out, block);
        put_members(out, block, depth);
    } else {
        put_result(out, block, depth);
    }
}

void qn_chat_block_text(struct qn_buf *out, const struct qn_json *block)
{
    put_block(out, block, 0);
}
