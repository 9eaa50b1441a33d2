/* The thinking of a request: on, off, how much, in all words that clients use.
 * SPDX-License-Identifier: Apache-2.0 */
#include <strings.h>

#include "text/chat_impl.h"

static bool is_one_of(const char *s, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strcasecmp(s, list[i])) return true;
    return false;
}

int qn_words_switch(const struct qn_json *v)
{
    static const char *const on[] = {"true", "on", "yes", "enabled", "enable", "1", "always", "think"};
    static const char *const off[] = {"false",   "off", "no",    "none",     "disabled",
                                      "disable", "0",   "never", "no_think", "nothink"};
    static const char *const unsaid[] = {"auto", "adaptive", "default", "dynamic", "model", ""};
    if (qn_json_is_null(v)) return -1;
    if (v->type == QN_JSON_BOOL) return v->truth;
    if (qn_json_is_number(v)) return qn_json_num(v) == 0 ? 0 : qn_json_num(v) == 1 ? 1 : -2;
    if (v->type != QN_JSON_STRING) return -2;
    if (is_one_of(v->text, on, QN_COUNT(on))) return 1;
    if (is_one_of(v->text, off, QN_COUNT(off))) return 0;
    return is_one_of(v->text, unsaid, QN_COUNT(unsaid)) ? -1 : -2;
}

static const char *const switches[] = {
    "enable_thinking",  "thinking",     "think",         "enable_reasoning", "reasoning_enabled",
    "thinking_enabled", "use_thinking", "use_reasoning", "thinking_mode",    "reasoning_mode"};
static const char *const reversed[] = {"disable_thinking", "disable_reasoning", "no_think", "no_thinking",
                                       "nothink"};

bool qn_chat_is_switch(const char *key)
{
    for (size_t i = 0; i < QN_COUNT(switches); i++)
        if (!strcmp(key, switches[i])) return true;
    return false;
}

/* Does the text end in this word, alone or behind white space? */
static bool ends_in(const struct qn_json *text, const char *word)
{
    size_t n = text->n, k = strlen(word);
    while (n && strchr(" \t\r\n", text->text[n - 1]) && text->text[n - 1]) n--;
    if (n < k || memcmp(text->text + n - k, word, k)) return false;
    return n == k || strchr(" \t\r\n", text->text[n - k - 1]);
}

static int switch_of_text(const struct qn_json *text)
{
    if (!qn_json_is(text, QN_JSON_STRING)) return -1;
    if (ends_in(text, "/no_think") || ends_in(text, "/nothink")) return 0;
    return ends_in(text, "/think") ? 1 : -1;
}

int qn_chat_soft_switch(const struct qn_json *messages)
{
    for (size_t i = qn_json_is(messages, QN_JSON_ARRAY) ? messages->n : 0; i-- > 0;) {
        const struct qn_json *m = messages->items[i], *content = qn_json_get(m, "content");
        if (i && !qn_json_is_str(qn_json_get(m, "role"), "user"))
            continue; /* the first may be the system's */
        int said = switch_of_text(content);
        for (size_t k = 0; said < 0 && qn_json_is(content, QN_JSON_ARRAY) && k < content->n; k++)
            said = switch_of_text(qn_json_get(content->items[k], "text"));
        if (said >= 0) return said;
    }
    return -1;
}

static int read_budget(const struct qn_json *object, const char *key, int64_t *out, struct qn_err *e)
{
    int rc = QN_OK;
    int64_t budget = QN_CHAT_NO_BUDGET;
    QN_TRY(qn_json_get_int(object, key, QN_CHAT_NO_BUDGET, &budget, e));
    if (budget >= 0 && *out == QN_CHAT_NO_BUDGET) *out = budget;
out:
    return rc;
}

/* Words for how hard to think; those that mean "as you like" are not said. */
static int read_effort(struct qn_chat *c, const struct qn_json *v, const char *what, struct qn_err *e)
{
    int rc = QN_OK;
    if (c->effort || qn_json_is_null(v)) goto out;
    int said = qn_words_switch(v);
    QN_FAIL_IF(v->type != QN_JSON_STRING && said == -2, e, QN_INVAL, "'%s' must be a string", what);
    if (said == -1) goto out;
    if (said == 0)
        c->effort = "none";
    else if (said == 1)
        c->enable_thinking = c->enable_thinking < 0 ? 1 : c->enable_thinking;
    else
        c->effort = v->text;
out:
    return rc;
}

/* Any of the spellings of one thing: a word, {"type": word}, {"enabled": word}, {"effort": word}, {"budget":
 * n}. */
static int read_spelling(struct qn_chat *c, const struct qn_json *v, const char *what, struct qn_err *e)
{
    int rc = QN_OK;
    static const char *const words[] = {"type", "enabled", "enable", "mode"}, *const budgets[] = {
                                                                                  "budget_tokens",
                                                                                  "max_tokens",
                                                                                  "thinking_budget",
                                                                                  "thinkingBudget", "budget"};
    static const char *const efforts[] = {"effort", "level", "thinking_level", "thinkingLevel"};
    if (qn_json_is_null(v)) goto out;
    if (v->type != QN_JSON_OBJECT) {
        int said = qn_words_switch(v);
        if (said >= 0) {
            if (c->enable_thinking < 0) c->enable_thinking = said;
        } else if (said == -2) {
            QN_FAIL_IF(v->type != QN_JSON_STRING, e, QN_INVAL,
                       "'%s' must be true, false, an effort or an object with a type", what);
            QN_TRY(read_effort(c, v, what, e));
        }
        goto out;
    }
    int said = -1;
    for (size_t i = 0; i < QN_COUNT(words) && said < 0; i++) said = qn_words_switch(qn_json_get(v, words[i]));
    if (said >= 0 && c->enable_thinking < 0) c->enable_thinking = said;
    for (size_t i = 0; i < QN_COUNT(efforts); i++)
        QN_TRY(read_effort(c, qn_json_get(v, efforts[i]), what, e));
    for (size_t i = 0; said != 0 && i < QN_COUNT(budgets); i++)
        QN_TRY(read_budget(v, budgets[i], &c->thinking_budget, e));
out:
    return rc;
}

int qn_chat_read_thinking(struct qn_chat *c, const struct qn_json *body, struct qn_err *e)
{
    int rc = QN_OK;
    static const char *const budgets[] = {"thinking_token_budget", "thinking_budget", "reasoning_budget"},
                             *const objects[] = {"reasoning", "thinking_config", "thinkingConfig"};
    const struct qn_json *google = qn_json_get(body, "google");
    int said = qn_words_switch(qn_json_get(body, "enable_thinking"));
    QN_FAIL_IF(said == -2, e, QN_INVAL, "'enable_thinking' must be true or false");
    if (said >= 0) c->enable_thinking = said;
    said = qn_words_switch(qn_json_get(body, "preserve_thinking"));
    QN_FAIL_IF(said == -2, e, QN_INVAL, "'preserve_thinking' must be true or false");
    if (said >= 0) c->preserve_thinking = said;
    for (size_t i = 1; i < QN_COUNT(switches); i++)
        QN_TRY(read_spelling(c, qn_json_get(body, switches[i]), switches[i], e));
    for (size_t i = 0; i < QN_COUNT(reversed); i++) {
        said = qn_words_switch(qn_json_get(body, reversed[i]));
        if (said >= 0 && c->enable_thinking < 0) c->enable_thinking = !said;
    }
    QN_TRY(read_effort(c, qn_json_get(body, "reasoning_effort"), "reasoning_effort", e));
    for (size_t i = 0; i < QN_COUNT(objects); i++)
        QN_TRY(read_spelling(c, qn_json_get(body, objects[i]), objects[i], e));
    for (size_t i = 1; i < QN_COUNT(objects); i++)
        QN_TRY(read_spelling(c, qn_json_get(google, objects[i]), objects[i], e));
    for (size_t i = 0; i < QN_COUNT(budgets); i++)
        QN_TRY(read_budget(body, budgets[i], &c->thinking_budget, e));
out:
    return rc;
}
