/* Where free text inside a parameter may not go: the parser's rule for closing tags (parse_value.c,
 * value_mark) as a byte automaton. A state is eight bytes; a text that would make the parser end the value
 * without the grammar's closer is refused. At most as permissive as the parser: nested blocks have to
 * balance. Any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_FREETEXT_H
#define QN_FREETEXT_H

#include "base/base.h"

struct qn_freetext {
    uint8_t phase, node; /* text, inside a tag, inside a parameter opener's name */
    uint8_t owed;        /* what must not follow the closers just read */
    uint8_t line_start : 1;
    uint8_t is_flat : 1;  /* no nested blocks: text of bounded length might have no room to close them */
    uint8_t is_owing : 1; /* required parameters are still to come; not in bounded text */
    uint8_t unused : 5;
    uint8_t parameter_function; /* open blocks, 4 bits each */
    uint8_t call;
    uint16_t key;
};

struct qn_freetext_key {
    const char *name;
    size_t n;
};

/* At the start of a line, right behind the opener's newline. */
struct qn_freetext qn_freetext_start(bool is_flat, bool is_owing);
/* keys [n_key]: declared and not yet given. False: the text would end the value; or, while parameters are
 * owed, a closing tag behind a closer that was read as data. There a model wants to end the call: let on, it
 * would spell "</function" and be pushed away from its end, into data that never closes. */
bool qn_freetext_step(struct qn_freetext *s, unsigned char byte, const struct qn_freetext_key *keys,
                      int n_key);
/* Behind a '<' that may begin the closer: no block is open. */
bool qn_freetext_can_close(const struct qn_freetext *s);
/* Inside a parameter opener's name: what goes on depends on the keys. */
bool qn_freetext_is_key(const struct qn_freetext *s);

#endif
