/* Tokenizer: byte-level BPE read from tokenizer.json. Text <-> token ids.
 *
 * Ownership: made by qn_tokenizer_open, freed by qn_tokenizer_free; lives as long as the process.
 * Threads: immutable after open; any number of threads may use one tokenizer at once. Scratch memory is
 * per call.
 *
 * What is read: of a GGUF file its metadata; of a folder tokenizer.json, and the added_tokens_decoder of
 * FOLDER/tokenizer_config.json when that file is present (the family keeps some control tokens only there;
 * tokenizer.json wins where both name an id). Nothing else of the folder is needed.
 *
 * Encoding equals the reference library's encode(text, add_special_tokens=False) on the same file:
 *   1. added tokens are cut out of the text, leftmost-longest (see `literal` below),
 *   2. what lies between is NFC-normalised when the file says so,
 *   3. split by the file's pre-tokeniser pattern,
 *   4. merged by rank within each piece (lowest rank first, leftmost on ties).
 * The post_processor (a BOS token, say) is not applied: chat templates write such tokens themselves.
 *
 * Decision, the split pattern: where tokenizer.json carries the older pattern without \p{M} while
 * tokenizer_config.json's pretokenize_regex has it, tokenizer.json is followed, because that is what the
 * reference library does with these files and what clients can check; one warning is logged at open.
 *
 * Decision, invalid UTF-8: text that is not UTF-8 is encoded as if every maximal ill-formed subsequence were
 * U+FFFD: ids of x equal ids of x.decode("utf-8", errors="replace") in Python. So decode(encode(x)) is x for
 * valid, NFC-stable x, NFC(x) for other valid x, and the repaired x otherwise.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_TOKENIZER_H
#define QN_TOKENIZER_H

#include "base/budget.h"
#include "base/err.h"

/* Caps on outside input. */
#define QN_TOKENIZER_MAX_FILE_BYTES ((size_t)256 << 20)
#define QN_TOKENIZER_MAX_VOCAB      (1 << 22)         /* ids */
#define QN_TOKENIZER_MAX_TEXT_BYTES ((size_t)1 << 30) /* one encode call */

/* Growable token ids with a mandatory maximum. Owned by whoever holds the struct; one thread at a time. */
struct qn_ids {
    int32_t *data; /* [n]; NULL while empty */
    size_t n, capacity;
    size_t max;     /* most ids it may hold */
    qn_share share; /* the request whose memory it is, since its first id */
};

#define QN_IDS_INIT(max_ids)                                                                                 \
    {                                                                                                        \
        NULL, 0, 0, (max_ids), 0                                                                             \
    }

void qn_ids_free(struct qn_ids *ids);                                 /* frees; empty and usable again */
int qn_ids_push(struct qn_ids *ids, int32_t id);                      /* QN_TOOBIG over max, QN_NOMEM */
int qn_ids_append(struct qn_ids *ids, const int32_t *from, size_t n); /* the same; all or nothing */
int qn_ids_reserve(struct qn_ids *ids, size_t n_more);                /* the same */

struct qn_tokenizer;

/* Errors: QN_NOTFOUND (no tokenizer.json), QN_IO, QN_TOOBIG (a cap above), QN_FORMAT (not JSON, wrong types,
 * a merge of unknown tokens), QN_UNSUPPORTED (not byte-level BPE; the text names what was found). */
int qn_tokenizer_open(struct qn_tokenizer **out, const char *path, struct qn_err *e);
/* From the metadata of a GGUF file, as the tokenizer.json it was made from would say it. */
struct qn_gguf;
int qn_tokenizer_open_gguf(struct qn_tokenizer **out, const struct qn_gguf *g, struct qn_err *e);
/* The same from memory. config_json (tokenizer_config.json) may be NULL. `what` names the text in errors. */
int qn_tokenizer_open_text(struct qn_tokenizer **out, const char *json, size_t n_json,
                           const char *config_json, size_t n_config, const char *what, struct qn_err *e);
void qn_tokenizer_free(struct qn_tokenizer *t); /* NULL is allowed */

/* Appends the ids of text[n] to out; on failure out keeps its length from before the call.
 *
 * literal: NULL, then every spelling of an added token becomes that token; or [n], one byte per text byte:
 * an added token is recognised only where all bytes of its spelling have literal != 0 (they came from the
 * template, not from a client); elsewhere the spelling is ordinary text. Text between recognised tokens is
 * not cut where literal changes: BPE sees the joined text.
 *
 * Errors: QN_TOOBIG (text over QN_TOKENIZER_MAX_TEXT_BYTES, more than out->max ids), QN_NOMEM,
 * QN_UNSUPPORTED (a split pattern of the file's own ran into the match limit). Cost: O(n log n) at worst. */
int qn_tokenizer_encode(const struct qn_tokenizer *t, const char *text, size_t n, const uint8_t *literal,
                        struct qn_ids *out, struct qn_err *e);

/* Ids run from 0 to n_vocab - 1; every token's id is below n_vocab. The model may have more rows: these are
 * padding, to be masked before sampling. There can be holes (QN_TOKEN_UNUSED). */
int qn_tokenizer_n_vocab(const struct qn_tokenizer *t);
/* false for ids outside [0, n_vocab) and for holes. */
bool qn_tokenizer_has(const struct qn_tokenizer *t, int32_t id);

enum qn_token_flag {
    QN_TOKEN_ADDED = 1,   /* in added_tokens; recognised as a whole in literal text */
    QN_TOKEN_SPECIAL = 2, /* an added token marked special: hidden when special tokens are skipped */
    QN_TOKEN_MARKER = 4,  /* a marker (marker.h): never hidden,
                             whatever the file says of it */
    QN_TOKEN_UNUSED = 8,  /* a hole, or an id outside the vocabulary */
};
/* OR of enum qn_token_flag; QN_TOKEN_UNUSED for any id that is not a token. */
unsigned qn_tokenizer_flags(const struct qn_tokenizer *t, int32_t id);

/* The raw bytes of a token (not NUL-terminated, possibly part of a character), owned by the tokenizer.
 * An added token gives its spelling. Unused ids give n = 0 and a non-NULL pointer. */
const uint8_t *qn_tokenizer_bytes(const struct qn_tokenizer *t, int32_t id, size_t *n_byte);
size_t qn_tokenizer_max_token_bytes(const struct qn_tokenizer *t);

/* The id of an added token by its spelling, else of the vocabulary entry with exactly these bytes, else -1.
 */
int32_t qn_tokenizer_id(const struct qn_tokenizer *t, const char *spelling);
int32_t qn_tokenizer_id_of_bytes(const struct qn_tokenizer *t, const void *bytes, size_t n_byte);

/* For reports. */
struct qn_tokenizer_info {
    int n_vocab, n_base, n_merge, n_added;
    bool is_nfc;
    const char *split;   /* "qwen3.5", "qwen2", "cl100k", "gpt-2", or "custom" (run by PCRE2) */
    const char *warning; /* what was logged at open, or NULL */
};
struct qn_tokenizer_info qn_tokenizer_info(const struct qn_tokenizer *t);

#endif
