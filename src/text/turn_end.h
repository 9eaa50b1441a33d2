/* The token with which a template ends an assistant's turn.
 *
 * Checkpoints disagree with themselves: a fine-tune lists one end token where its template writes another. So
 * the template is asked too. Used while a struct qn_text is opened. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_TURN_END_H
#define QN_TURN_END_H

#include "text/jinja.h"
#include "text/tokenizer.h"

/* The special token that the template writes behind an assistant's text, -1 when it writes none, cannot be
 * rendered, or is NULL (as the tokenizer may be). */
int32_t qn_turn_end_of(const struct qn_tokenizer *tokenizer, const struct qn_jinja *template,
                       const struct qn_json *special_tokens);

#endif
