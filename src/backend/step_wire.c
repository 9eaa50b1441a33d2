/* Steps as messages.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/step_wire.h"

#include "base/mem.h"

#define STEP_MAGIC   0x31534e51u /* "QNS1" */
#define RESULT_MAGIC 0x31524e51u /* "QNR1" */

/* --- words out --- */

/* Counts where `at` is NULL. */
struct out {
    unsigned char *at;
    size_t n; /* words so far */
};

static void put_words(struct out *o, const void *from, size_t n)
{
    if (o->at && n) memcpy(o->at + 4 * o->n, from, 4 * n);
    o->n += n;
}

static void put(struct out *o, uint32_t word)
{
    put_words(o, &word, 1);
}

static void put_int(struct out *o, int value)
{
    put(o, (uint32_t)value);
}

static void put_float(struct out *o, float value)
{
    put_words(o, &value, 1);
}

static void put_64(struct out *o, uint64_t value)
{
    put(o, (uint32_t)value);
    put(o, (uint32_t)(value >> 32));
}

/* --- words in --- */

struct in {
    const unsigned char *at;
    size_t left;   /* words */
    bool is_short; /* more was asked for than there is */
};

/* The next n words, or NULL. */
static const void *take_words(struct in *in, size_t n)
{
    if (n > in->left) {
        in->is_short = true;
        return NULL;
    }
    const void *p = in->at;
    in->at += 4 * n;
    in->left -= n;
    return p;
}

static uint32_t take(struct in *in)
{
    uint32_t word = 0;
    const void *p = take_words(in, 1);
    if (p) memcpy(&word, p, 4);
    return word;
}

static int take_int(struct in *in)
{
    return (int)take(in);
}

static float take_float(struct in *in)
{
    float value = 0;
    const void *p = take_words(in, 1);
    if (p) memcpy(&value, p, 4);
    return value;
}

static uint64_t take_64(struct in *in)
{
    uint64_t low = take(in);
    return low | (uint64_t)take(in) << 32;
}

/* --- a step --- */

enum step_flag {
    HAS_ROPE = 1,
    HAS_EMBED = 2,
    HAS_MASK = 4,
    HAS_SCORE = 8,
    ALL_LOGITS = 16,
    WANTS_RAW = 32,
    N_STEP_FLAG = 64
};
enum seq_flag { IS_FRESH = 1, WANTS_TOKEN = 2, WANTS_MTP = 4, N_SEQ_FLAG = 8 };

static void put_seq(struct out *o, const struct qn_step_seq *q)
{
    const struct qn_sample *p = &q->sample;
    put_int(o, q->first_row);
    put_int(o, q->n_row);
    put_int(o, q->pos0);
    put_int(o, q->first_page);
    put_int(o, q->n_page);
    put_int(o, q->slot);
    put_int(o, q->lane);
    put_int(o, q->n_commit);
    put(o, (q->is_fresh ? IS_FRESH : 0u) | (q->wants_token ? WANTS_TOKEN : 0u) |
               (q->wants_mtp ? WANTS_MTP : 0u));
    put_int(o, q->mtp_from);
    put_int(o, q->n_draft);
    put_int(o, q->n_draft_next);
    put_int(o, q->first_logit);
    put_words(o, q->rope_before, 3);
    put_float(o, p->temperature);
    put_float(o, p->top_p);
    put_float(o, p->min_p);
    put_int(o, p->top_k);
    put_float(o, p->presence);
    put_float(o, p->frequency);
    put_float(o, p->repetition);
    put_64(o, p->seed);
    put_int(o, p->n_top);
    put_int(o, p->first_bias);
    put_int(o, p->n_bias);
    put_int(o, p->first_seen);
    put_int(o, p->n_seen);
}

static void take_seq(struct in *in, struct qn_step_seq *q, bool *is_bad)
{
    struct qn_sample *p = &q->sample;
    *q = (struct qn_step_seq){0};
    q->first_row = take_int(in);
    q->n_row = take_int(in);
    q->pos0 = take_int(in);
    q->first_page = take_int(in);
    q->n_page = take_int(in);
    q->slot = take_int(in);
    q->lane = take_int(in);
    q->n_commit = take_int(in);
    uint32_t flags = take(in);
    q->is_fresh = flags & IS_FRESH;
    q->wants_token = flags & WANTS_TOKEN;
    q->wants_mtp = flags & WANTS_MTP;
    *is_bad |= flags >= N_SEQ_FLAG;
    q->mtp_from = take_int(in);
    q->n_draft = take_int(in);
    q->n_draft_next = take_int(in);
    q->first_logit = take_int(in);
    for (int i = 0; i < 3; i++) q->rope_before[i] = take_int(in);
    p->temperature = take_float(in);
    p->top_p = take_float(in);
    p->min_p = take_float(in);
    p->top_k = take_int(in);
    p->presence = take_float(in);
    p->frequency = take_float(in);
    p->repetition = take_float(in);
    p->seed = take_64(in);
    p->n_top = take_int(in);
    p->first_bias = take_int(in);
    p->n_bias = take_int(in);
    p->first_seen = take_int(in);
    p->n_seen = take_int(in);
}

static uint32_t flags_of(const struct qn_step *s)
{
    return (s->rope_pos ? HAS_ROPE : 0u) | (s->embed_row ? HAS_EMBED : 0u) | (s->mask_at ? HAS_MASK : 0u) |
           (s->score_tok ? HAS_SCORE : 0u) | (s->all_logits ? ALL_LOGITS : 0u) |
           (s->wants_raw ? WANTS_RAW : 0u);
}

static void put_step(struct out *o, const struct qn_step *s, int hidden, size_t n_word)
{
    size_t n_row = (size_t)s->n_row, n_logit = (size_t)s->n_logit;
    QN_CHECK(!s->at_pass);
    put(o, STEP_MAGIC);
    put_64(o, n_word);
    put_int(o, s->n_row);
    put_int(o, s->n_seq);
    put_int(o, s->n_decode);
    put_int(o, s->n_decode_row);
    put_int(o, s->slice_from);
    put_int(o, s->slice_to);
    put_int(o, s->n_logit);
    put(o, flags_of(s));
    put_int(o, s->n_embed);
    put_int(o, s->n_pages);
    put_int(o, s->n_mask);
    put_int(o, s->mask_words);
    put_int(o, s->n_bias);
    put_int(o, s->n_seen);
    put_int(o, s->n_score_top);
    for (int i = 0; i < s->n_seq; i++) put_seq(o, &s->seq[i]);
    put_words(o, s->tok, n_row);
    put_words(o, s->row_seq, n_row);
    put_words(o, s->pos, n_row);
    if (s->rope_pos) put_words(o, s->rope_pos, 3 * n_row);
    if (s->embed_row) put_words(o, s->embed_row, n_row);
    put_words(o, s->embed, (size_t)s->n_embed * (size_t)hidden);
    put_words(o, s->pages, (size_t)s->n_pages);
    put_words(o, s->logit_row, n_logit);
    put_words(o, s->logit_seq, n_logit);
    if (s->mask_at) put_words(o, s->mask_at, n_logit);
    put_words(o, s->mask, (size_t)s->n_mask * (size_t)s->mask_words);
    put_words(o, s->bias_tok, (size_t)s->n_bias);
    put_words(o, s->bias, (size_t)s->n_bias);
    put_words(o, s->seen_tok, (size_t)s->n_seen);
    put_words(o, s->seen_count, (size_t)s->n_seen);
    if (s->score_tok) put_words(o, s->score_tok, n_logit);
}

size_t qn_step_bytes(const struct qn_step *s, int hidden)
{
    struct out o = {0};
    put_step(&o, s, hidden, 0);
    return 4 * o.n;
}

void qn_step_put(const struct qn_step *s, int hidden, void *to)
{
    struct out o = {.at = to};
    put_step(&o, s, hidden, qn_step_bytes(s, hidden) / 4);
}

/* --- reading a step --- */

static bool is_in(int value, int least, int end)
{
    return value >= least && value < end;
}

/* Is [first, first + n) in [0, end)? */
static bool is_range(int first, int n, int end)
{
    return first >= 0 && n >= 0 && first <= end && n <= end - first;
}

static bool all_in(const int32_t *list, int n, int least, int end)
{
    for (int i = 0; i < n; i++)
        if (!is_in(list[i], least, end)) return false;
    return true;
}

static int take_counts(struct in *in, struct qn_step *s, const struct qn_step_limits *l, uint32_t *flags,
                       struct qn_err *e)
{
    int rc = QN_OK;
    s->n_row = take_int(in);
    s->n_seq = take_int(in);
    s->n_decode = take_int(in);
    s->n_decode_row = take_int(in);
    s->slice_from = take_int(in);
    s->slice_to = take_int(in);
    s->n_logit = take_int(in);
    *flags = take(in);
    s->n_embed = take_int(in);
    s->n_pages = take_int(in);
    s->n_mask = take_int(in);
    s->mask_words = take_int(in);
    s->n_bias = take_int(in);
    s->n_seen = take_int(in);
    s->n_score_top = take_int(in);
    s->all_logits = *flags & ALL_LOGITS;
    s->wants_raw = *flags & WANTS_RAW;
    QN_FAIL_IF(in->is_short, e, QN_FORMAT, "a step ends in its head");
    QN_FAIL_IF(*flags >= N_STEP_FLAG, e, QN_FORMAT, "a step has flags %#x", *flags);
    QN_FAIL_IF(!is_in(s->n_row, 1, l->max_rows + 1) || !is_in(s->n_seq, 1, l->max_seqs + 1) ||
                   !is_in(s->n_logit, 0, l->max_logits + 1) || !is_in(s->n_decode, 0, s->n_seq + 1),
               e, QN_FORMAT, "a step has %d rows, %d sequences, %d of them decoding, %d logit rows", s->n_row,
               s->n_seq, s->n_decode, s->n_logit);
    QN_FAIL_IF((s->slice_from || s->slice_to) &&
                   (!is_in(s->slice_from, 0, s->slice_to) || s->slice_to > l->n_part ||
                    s->n_decode == s->n_seq || s->all_logits),
               e, QN_FORMAT, "a step has a slice of parts %d to %d", s->slice_from, s->slice_to);
    QN_FAIL_IF(s->n_embed < 0 || s->n_embed > s->n_row || s->n_pages < 0 || s->n_bias < 0 || s->n_seen < 0 ||
                   (s->n_embed && !(*flags & HAS_EMBED)),
               e, QN_FORMAT, "a step has %d embeddings, %d pages, %d biases, %d seen tokens", s->n_embed,
               s->n_pages, s->n_bias, s->n_seen);
    QN_FAIL_IF(!is_in(s->n_mask, 0, s->n_logit + 1) || (s->n_mask && !(*flags & HAS_MASK)) ||
                   s->mask_words < 0 || (s->n_mask && (int64_t)s->mask_words * 32 < l->vocab),
               e, QN_FORMAT, "a step has %d masks of %d words", s->n_mask, s->mask_words);
    QN_FAIL_IF(!is_in(s->n_score_top, 0, QN_MAX_TOP + 1), e, QN_FORMAT, "a step scores %d alternatives",
               s->n_score_top);
    QN_FAIL_IF(s->all_logits ? s->n_logit != s->n_row : s->wants_raw || (*flags & HAS_SCORE), e, QN_FORMAT,
               "a step has %d logit rows for %d rows that are all wanted", s->n_logit, s->n_row);
out:
    return rc;
}

static void take_arrays(struct in *in, struct qn_step *s, uint32_t flags, int hidden)
{
    size_t n_row = (size_t)s->n_row, n_logit = (size_t)s->n_logit;
    s->tok = take_words(in, n_row);
    s->row_seq = take_words(in, n_row);
    s->pos = take_words(in, n_row);
    if (flags & HAS_ROPE) s->rope_pos = take_words(in, 3 * n_row);
    if (flags & HAS_EMBED) s->embed_row = take_words(in, n_row);
    s->embed = take_words(in, (size_t)s->n_embed * (size_t)hidden);
    s->pages = take_words(in, (size_t)s->n_pages);
    s->logit_row = take_words(in, n_logit);
    s->logit_seq = take_words(in, n_logit);
    if (flags & HAS_MASK) s->mask_at = take_words(in, n_logit);
    s->mask = take_words(in, (size_t)s->n_mask * (size_t)s->mask_words);
    s->bias_tok = take_words(in, (size_t)s->n_bias);
    s->bias = take_words(in, (size_t)s->n_bias);
    s->seen_tok = take_words(in, (size_t)s->n_seen);
    s->seen_count = take_words(in, (size_t)s->n_seen);
    if (flags & HAS_SCORE) s->score_tok = take_words(in, n_logit);
}

/* Sequence i, whose rows begin at `row`. */
static int check_seq(const struct qn_step *s, int i, int row, const struct qn_step_limits *l,
                     struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_step_seq *q = &s->seq[i];
    const struct qn_sample *p = &q->sample;
    bool is_decode = i < s->n_decode;
    QN_FAIL_IF(q->first_row != row || !is_range(q->first_row, q->n_row, s->n_row) || q->n_row < 1, e,
               QN_FORMAT, "sequence %d has rows %d to %d", i, q->first_row, q->n_row);
    QN_FAIL_IF(is_decode
                   ? !is_in(q->n_draft, 0, QN_MAX_DRAFT + 1) || q->n_row != q->n_draft + 1 || !q->wants_token
                   : q->n_draft != 0,
               e, QN_FORMAT, "sequence %d has %d drafts in %d rows", i, q->n_draft, q->n_row);
    QN_FAIL_IF(!is_in(q->n_draft_next, 0, QN_MAX_DRAFT + 1) ||
                   (q->n_draft_next && !(q->wants_token && q->wants_mtp)),
               e, QN_FORMAT, "sequence %d wants %d drafts", i, q->n_draft_next);
    QN_FAIL_IF(q->pos0 < 0 || q->pos0 > l->max_context || q->n_row > l->max_context - q->pos0 ||
                   (q->is_fresh && q->pos0),
               e, QN_FORMAT, "sequence %d is at position %d", i, q->pos0);
    QN_FAIL_IF(!is_range(q->first_page, q->n_page, s->n_pages) ||
                   (int64_t)q->n_page * QN_PAGE < (int64_t)q->pos0 + q->n_row + q->n_draft_next + 1,
               e, QN_FORMAT, "sequence %d has pages %d and %d behind it", i, q->first_page, q->n_page);
    QN_FAIL_IF(!is_in(q->slot, 0, l->n_slot) || !is_in(q->lane, 0, l->n_lane) ||
                   !is_in(q->n_commit, 0, QN_MAX_DRAFT + 2) || q->n_commit > q->pos0,
               e, QN_FORMAT, "sequence %d has slot %d, lane %d, %d rows to commit", i, q->slot, q->lane,
               q->n_commit);
    QN_FAIL_IF(q->mtp_from < 0 || (q->wants_mtp && q->mtp_from > q->pos0 + 1), e, QN_FORMAT,
               "sequence %d has the draft layer's KV from %d on", i, q->mtp_from);
    int n_pick = is_decode ? q->n_row : 1;
    QN_FAIL_IF(q->wants_token && !is_range(q->first_logit, n_pick, s->n_logit), e, QN_FORMAT,
               "sequence %d has its logits at %d", i, q->first_logit);
    for (int k = 0; k < n_pick && q->wants_token; k++) {
        int of = is_decode ? row + k : row + q->n_row - 1;
        QN_FAIL_IF(s->logit_row[q->first_logit + k] != of, e, QN_FORMAT,
                   "logit row %d is not of row %d of sequence %d", q->first_logit + k, of, i);
    }
    QN_FAIL_IF(!is_range(p->first_bias, p->n_bias, s->n_bias) ||
                   !is_range(p->first_seen, p->n_seen, s->n_seen) || !is_in(p->n_top, -1, QN_MAX_TOP + 1) ||
                   p->top_k < 0,
               e, QN_FORMAT, "sequence %d has a sample out of range", i);
out:
    return rc;
}

static int check_rows(const struct qn_step *s, const struct qn_step_limits *l, struct qn_err *e)
{
    int rc = QN_OK;
    for (int i = 0; i < s->n_row; i++) {
        int at = s->row_seq[i];
        QN_FAIL_IF(!is_in(at, 0, s->n_seq) || i - s->seq[at].first_row < 0 ||
                       i - s->seq[at].first_row >= s->seq[at].n_row ||
                       s->pos[i] != s->seq[at].pos0 + i - s->seq[at].first_row,
                   e, QN_FORMAT, "row %d is not where its sequence has it", i);
        QN_FAIL_IF(s->embed_row && !is_in(s->embed_row[i], -1, s->n_embed), e, QN_FORMAT,
                   "row %d has embedding %d", i, s->embed_row[i]);
    }
    for (int i = 0; i < s->n_logit; i++) {
        int row = s->logit_row[i];
        QN_FAIL_IF(!is_in(row, 0, s->n_row) || s->logit_seq[i] != s->row_seq[row] ||
                       (s->all_logits && row != i),
                   e, QN_FORMAT, "logit row %d is of row %d", i, row);
        QN_FAIL_IF(s->mask_at && !is_in(s->mask_at[i], -1, s->n_mask), e, QN_FORMAT,
                   "logit row %d has mask %d", i, s->mask_at[i]);
    }
    QN_FAIL_IF(!all_in(s->tok, s->n_row, 0, l->vocab) || !all_in(s->bias_tok, s->n_bias, 0, l->vocab) ||
                   !all_in(s->seen_tok, s->n_seen, 0, l->vocab) ||
                   !all_in(s->seen_count, s->n_seen, 0, INT32_MAX) ||
                   (s->score_tok && !all_in(s->score_tok, s->n_logit, -1, l->vocab)),
               e, QN_FORMAT, "a step has a token that the model of %d does not have", l->vocab);
    QN_FAIL_IF(!all_in(s->pages, s->n_pages, 0, l->n_page), e, QN_FORMAT, "a step has a page above %d",
               l->n_page);
    QN_FAIL_IF(s->rope_pos && !all_in(s->rope_pos, 3 * s->n_row, 0, INT32_MAX), e, QN_FORMAT,
               "a step has a rope position below 0");
out:
    return rc;
}

/* Words in a message of this kind; 0: it is none. */
static size_t open_message(struct in *in, const void *bytes, size_t n_byte, uint32_t magic)
{
    *in = (struct in){.at = bytes, .left = n_byte / 4};
    if (n_byte % 4 || take(in) != magic || take_64(in) != n_byte / 4 || in->is_short) return 0;
    return n_byte / 4;
}

int qn_step_get(struct qn_step_in *in, const void *bytes, size_t n_byte, const struct qn_step_limits *limits,
                struct qn_err *e)
{
    int rc = QN_OK;
    struct in words;
    struct qn_step *s = &in->step;
    uint32_t flags;
    bool is_bad = false;
    *s = (struct qn_step){0};
    QN_CHECK((uintptr_t)bytes % 4 == 0);
    QN_FAIL_IF(!open_message(&words, bytes, n_byte, STEP_MAGIC), e, QN_FORMAT,
               "%zu bytes are no step, or one of a machine with another byte order", n_byte);
    QN_TRY(take_counts(&words, s, limits, &flags, e));
    if (s->n_seq > in->seq_capacity) {
        in->seq = xreallocarray(in->seq, (size_t)s->n_seq, sizeof *in->seq);
        in->seq_capacity = s->n_seq;
    }
    for (int i = 0; i < s->n_seq; i++) take_seq(&words, &in->seq[i], &is_bad);
    s->seq = in->seq;
    take_arrays(&words, s, flags, limits->hidden);
    QN_FAIL_IF(words.is_short || words.left || is_bad, e, QN_FORMAT, "a step of %zu bytes does not end there",
               n_byte);
    int row = 0, n_decode_row = 0;
    for (int i = 0; i < s->n_seq; i++) {
        QN_TRY(check_seq(s, i, row, limits, e));
        row += s->seq[i].n_row;
        if (i < s->n_decode) n_decode_row = row;
    }
    QN_FAIL_IF(row != s->n_row || n_decode_row != s->n_decode_row, e, QN_FORMAT,
               "the sequences of a step have %d rows, the step %d", row, s->n_row);
    QN_TRY(check_rows(s, limits, e));
out:
    return rc;
}

void qn_step_in_fini(struct qn_step_in *in)
{
    free(in->seq);
    *in = (struct qn_step_in){0};
}

/* --- results --- */

static void put_token(struct out *o, const struct qn_step_token *t)
{
    int n_top = QN_CLAMP(t->n_top, 0, QN_MAX_TOP);
    put_int(o, t->tok);
    put_float(o, t->logprob);
    put_int(o, n_top);
    put_words(o, t->top_tok, (size_t)n_top);
    put_words(o, t->top_logprob, (size_t)n_top);
}

static void take_token(struct in *in, struct qn_step_token *t, int vocab, bool *is_bad)
{
    *t = (struct qn_step_token){.tok = take_int(in)};
    t->logprob = take_float(in);
    t->n_top = take_int(in);
    *is_bad |= !is_in(t->tok, -1, vocab) || !is_in(t->n_top, 0, QN_MAX_TOP + 1);
    if (*is_bad) t->n_top = 0;
    for (int i = 0; i < t->n_top; i++) t->top_tok[i] = take_int(in);
    for (int i = 0; i < t->n_top; i++) t->top_logprob[i] = take_float(in);
    *is_bad |= !all_in(t->top_tok, t->n_top, 0, vocab);
}

static int n_pick(const struct qn_step *s, int i)
{
    return !s->seq[i].wants_token ? 0 : i < s->n_decode ? s->seq[i].n_row : 1;
}

static size_t n_raw(const struct qn_step *s, int vocab)
{
    return s->wants_raw ? (size_t)s->n_logit * (size_t)vocab : 0;
}

static void put_result(struct out *o, const struct qn_step *s, const struct qn_step_result *r, int vocab,
                       size_t n_word)
{
    char text[sizeof r->fault_text] = {0};
    if (r->fault) snprintf(text, sizeof text, "%s", r->fault_text);
    put(o, RESULT_MAGIC);
    put_64(o, n_word);
    put_int(o, r->fault);
    put_words(o, text, sizeof text / 4);
    if (r->fault) return;
    for (int i = 0; i < s->n_seq; i++) {
        int n_drafted = r->n_drafted[i];
        put_int(o, r->n_accepted[i]);
        put_int(o, n_drafted);
        put_words(o, r->draft + (size_t)i * QN_MAX_DRAFT, (size_t)n_drafted);
        for (int k = 0; k < n_pick(s, i); k++) put_token(o, &r->token[s->seq[i].first_logit + k]);
    }
    for (int i = 0; i < s->n_logit && s->score_tok; i++) put_token(o, &r->score[i]);
    if (s->wants_raw) put_words(o, r->logits, n_raw(s, vocab));
}

size_t qn_result_bytes(const struct qn_step *s, const struct qn_step_result *r, int vocab)
{
    struct out o = {0};
    put_result(&o, s, r, vocab, 0);
    return 4 * o.n;
}

void qn_result_put(const struct qn_step *s, const struct qn_step_result *r, int vocab, void *to)
{
    struct out o = {.at = to};
    put_result(&o, s, r, vocab, qn_result_bytes(s, r, vocab) / 4);
}

static int take_verdict(struct in *in, const struct qn_step *s, int i, struct qn_step_result *r, int vocab,
                        struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_step_seq *q = &s->seq[i];
    bool is_bad = false;
    r->n_accepted[i] = take_int(in);
    r->n_drafted[i] = take_int(in);
    QN_FAIL_IF(!is_in(r->n_accepted[i], 0, q->n_draft + 1) || !is_in(r->n_drafted[i], 0, q->n_draft_next + 1),
               e, QN_FORMAT, "a result has %d drafts accepted and %d made of sequence %d", r->n_accepted[i],
               r->n_drafted[i], i);
    int32_t *draft = r->draft + (size_t)i * QN_MAX_DRAFT;
    for (int k = 0; k < r->n_drafted[i]; k++) draft[k] = take_int(in);
    is_bad |= !all_in(draft, r->n_drafted[i], 0, vocab);
    for (int k = 0; k < n_pick(s, i); k++) take_token(in, &r->token[q->first_logit + k], vocab, &is_bad);
    QN_FAIL_IF(is_bad, e, QN_FORMAT, "a result has tokens of sequence %d that the model does not have", i);
out:
    return rc;
}

int qn_result_get(const struct qn_step *s, struct qn_step_result *r, int vocab, const void *bytes,
                  size_t n_byte, struct qn_err *e)
{
    int rc = QN_OK;
    struct in words;
    bool is_bad = false;
    QN_FAIL_IF(!open_message(&words, bytes, n_byte, RESULT_MAGIC), e, QN_FORMAT,
               "%zu bytes are no result, or one of a machine with another byte order", n_byte);
    r->fault = take_int(&words);
    const void *text = take_words(&words, sizeof r->fault_text / 4);
    if (text) memcpy(r->fault_text, text, sizeof r->fault_text);
    r->fault_text[sizeof r->fault_text - 1] = 0;
    QN_FAIL_IF(r->fault && r->fault != QN_DEVICE, e, QN_FORMAT, "a result has fault %d", r->fault);
    if (!r->fault) {
        for (int i = 0; i < s->n_seq; i++) QN_TRY(take_verdict(&words, s, i, r, vocab, e));
        for (int i = 0; i < s->n_logit && s->score_tok; i++) take_token(&words, &r->score[i], vocab, &is_bad);
        const void *logits = take_words(&words, n_raw(s, vocab));
        if (logits && s->wants_raw) memcpy(r->logits, logits, 4 * n_raw(s, vocab));
    }
    QN_FAIL_IF(words.is_short || words.left || is_bad, e, QN_FORMAT,
               "a result of %zu bytes does not go with its step", n_byte);
out:
    return rc;
}
