/* Structural tags: free text, and regions between tags that are constrained.
 *
 * Two shapes are read: {"structures":[{"begin","schema","end"}],"triggers":[..]}, and a tree under "format"
 * of const_string, json_schema, qwen_xml_parameter, regex, grammar, any_text, sequence, or, optional, star,
 * plus, repeat, tag, triggered_tags, tags_with_separator. Formats over token ids are refused by name.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_TAGS_H
#define QN_TAGS_H

#include "base/json.h"
#include "text/term.h"

#define QN_TAGS_MAX_TRIGGERS 256

/* Free text that goes on behind one of some words, each with what must follow it. EMPTY: not allowed. */
struct qn_tags_text {
    const char *words[QN_TAGS_MAX_TRIGGERS];
    qn_term next[QN_TAGS_MAX_TRIGGERS];
    int n;
};

struct qn_tags_opt {
    bool is_strict; /* as of schemas */
    struct qn_buf *report;
    unsigned markers; /* those with a token, a bit each: in fixed strings they are that token */
    /* A call's parameters and what follows them (qwen_xml_parameter). */
    int (*parameters)(qn_term *out, void *user, const struct qn_json *schema, qn_term rest, struct qn_err *e);
    void *user;
};

/* tags: the object. When it is free text with triggers, *text gets them with `after` behind each region (or
 * nothing, where one region is all) and *form stays EMPTY; else *form is the language of the whole output.
 * must_tag: at least one region is asked for. Strings stay in `tags`. */
int qn_tags_read(struct qn_tags_text *text, qn_term *form, bool *must_tag, struct qn_terms *t,
                 const struct qn_json *tags, qn_term after, const struct qn_tags_opt *opt, struct qn_err *e);

#endif
