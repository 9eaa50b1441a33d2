/* Byte-level BPE.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/bpe.h"

#include "base/mem.h"
#include "text/utf8.h"

#define NO_RANK       UINT32_MAX
#define SHORT_PIECE   48 /* up to here a linear scan for the best pair beats a heap */
#define MAX_BLOB_SIZE ((size_t)1 << 30)

void qn_bpe_free(struct qn_bpe *b)
{
    free(b->blob);
    free(b->span);
    free(b->flags);
    free(b->place);
    free(b->pair_key);
    free(b->pair);
    free(b->byte_pair);
    *b = (struct qn_bpe){0};
}

/* ---- the byte alphabet ---- */

/* Printable Latin-1 stands for itself; the other 68 bytes are U+0100 onwards, in order. */
static int byte_of(uint32_t cp)
{
    static const uint8_t rest[] = {[33] = 127, [67] = 173}; /* 0..32, 127, 128..160, 173 */
    if ((cp >= 0x21 && cp <= 0x7e) || (cp >= 0xa1 && cp <= 0xac) || (cp >= 0xae && cp <= 0xff))
        return (int)cp;
    if (cp < 0x100 || cp >= QN_BPE_ALPHABET_SIZE) return -1;
    uint32_t k = cp - 0x100;
    return rest[k] ? rest[k] : k < 33 ? (int)k : (int)k - 34 + 128;
}

/* spelling[n] -> bytes at to (room for n). Returns how many, or -1 when a character is outside the alphabet.
 */
static int64_t to_bytes(const char *spelling, size_t n, uint8_t *to)
{
    const uint8_t *s = (const uint8_t *)spelling;
    int64_t n_byte = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp = s[i];
        if (cp < 0x80) {
            i++;
        } else {
            int len = qn_utf8_next(s + i, n - i, &cp);
            if (len < 0) return -1;
            i += (size_t)len;
        }
        int byte = byte_of(cp);
        if (byte < 0) return -1;
        to[n_byte++] = (uint8_t)byte;
    }
    return n_byte;
}

/* ---- tokens ---- */

static int reserve_blob(struct qn_bpe *b, size_t n, struct qn_err *e)
{
    int rc = QN_OK;
    if (b->blob_capacity - b->n_blob >= n) return QN_OK;
    QN_FAIL_IF(n > MAX_BLOB_SIZE - b->n_blob, e, QN_TOOBIG, "tokens of more than %zu bytes in all",
               MAX_BLOB_SIZE);
    size_t capacity = QN_MAX(b->blob_capacity * 2, QN_MAX(b->n_blob + n, (size_t)4096));
    uint8_t *blob = try_realloc(b->blob, capacity, 1);
    QN_FAIL_IF(!blob, e, QN_NOMEM, "out of memory for the vocabulary");
    b->blob = blob;
    b->blob_capacity = capacity;
out:
    return rc;
}

static int reserve_id(struct qn_bpe *b, int64_t id, struct qn_err *e)
{
    int rc = QN_OK;
    QN_FAIL_IF(id < 0 || id >= QN_TOKENIZER_MAX_VOCAB, e, QN_TOOBIG, "token id %" PRId64 " is not in 0..%d",
               id, QN_TOKENIZER_MAX_VOCAB - 1);
    if (id >= b->id_capacity) {
        int capacity = QN_MAX(b->id_capacity * 2, QN_MAX((int)id + 1, 1024));
        struct qn_bpe_span *span = try_realloc(b->span, (size_t)capacity, sizeof *span);
        if (span) b->span = span;
        uint8_t *flags = try_realloc(b->flags, (size_t)capacity, 1);
        if (flags) b->flags = flags;
        QN_FAIL_IF(!span || !flags, e, QN_NOMEM, "out of memory for the vocabulary");
        b->id_capacity = capacity;
    }
    for (; b->n_id <= id; b->n_id++) {
        b->span[b->n_id] = (struct qn_bpe_span){0, 0};
        b->flags[b->n_id] = QN_TOKEN_UNUSED;
    }
out:
    return rc;
}

/* Flag of our own, never shown: the token is outside the byte alphabet and not in the bytes -> id table. */
#define FOREIGN 0x80

int qn_bpe_add_token(struct qn_bpe *b, int64_t id, const char *spelling, size_t n, struct qn_err *e)
{
    int rc = QN_OK;
    QN_TRY(reserve_id(b, id, e));
    QN_FAIL_IF(b->flags[id] != QN_TOKEN_UNUSED, e, QN_FORMAT, "two tokens have the id %" PRId64, id);
    QN_TRY(reserve_blob(b, n, e));
    int64_t n_byte = to_bytes(spelling, n, b->blob + b->n_blob);
    b->flags[id] = 0;
    if (n_byte < 0 || !n) {
        if (n) memcpy(b->blob + b->n_blob, spelling, n);
        n_byte = (int64_t)n;
        b->flags[id] = FOREIGN;
    }
    b->span[id] = (struct qn_bpe_span){(uint32_t)b->n_blob, (uint32_t)n_byte};
    b->n_blob += (size_t)n_byte;
out:
    return rc;
}

int qn_bpe_set_token(struct qn_bpe *b, int64_t id, const char *bytes, size_t n, unsigned flags,
                     struct qn_err *e)
{
    int rc = QN_OK;
    QN_TRY(reserve_id(b, id, e));
    QN_TRY(reserve_blob(b, n, e));
    if (n) memcpy(b->blob + b->n_blob, bytes, n);
    b->span[id] = (struct qn_bpe_span){(uint32_t)b->n_blob, (uint32_t)n};
    b->flags[id] = (uint8_t)flags;
    b->n_blob += n;
out:
    return rc;
}

static struct qn_bpe_place *find_place(const struct qn_bpe *b, const uint8_t *s, size_t n, uint64_t hash)
{
    size_t at = (hash >> 32) & b->place_mask;
    for (; b->place[at].id >= 0; at = (at + 1) & b->place_mask) {
        if (b->place[at].tag != (uint32_t)hash) continue;
        const struct qn_bpe_span *span = &b->span[b->place[at].id];
        if (span->length == n && !memcmp(b->blob + span->start, s, n)) break;
    }
    return &b->place[at];
}

int32_t qn_bpe_find(const struct qn_bpe *b, const void *bytes, size_t n)
{
    return find_place(b, bytes, n, qn_bpe_hash(bytes, n))->id;
}

int qn_bpe_index(struct qn_bpe *b, struct qn_err *e)
{
    int rc = QN_OK;
    size_t capacity = 256;
    while (capacity < (size_t)b->n_id * 2) capacity *= 2;
    b->place = try_malloc(capacity, sizeof *b->place);
    QN_FAIL_IF(!b->place, e, QN_NOMEM, "out of memory for the vocabulary");
    b->place_mask = capacity - 1;
    memset(b->place, 0xff, capacity * sizeof *b->place);
    for (int32_t id = 0; id < b->n_id; id++) {
        if (b->flags[id] & (QN_TOKEN_UNUSED | FOREIGN)) continue;
        const uint8_t *s = b->blob + b->span[id].start;
        size_t n = b->span[id].length;
        uint64_t hash = qn_bpe_hash(s, n);
        *find_place(b, s, n, hash) = (struct qn_bpe_place){(uint32_t)hash, id};
    }
    for (int byte = 0; byte < 256; byte++) {
        uint8_t c = (uint8_t)byte;
        b->byte_id[byte] = qn_bpe_find(b, &c, 1);
        bool is_in_utf8 = byte < 0xc0 || (byte > 0xc1 && byte < 0xf5);
        QN_FAIL_IF(b->byte_id[byte] < 0 && is_in_utf8, e, QN_UNSUPPORTED,
                   "the vocabulary has no token for byte 0x%02x: not a byte-level vocabulary", byte);
    }
out:
    return rc;
}

/* ---- merges ---- */

static uint64_t pair_key(int32_t left, int32_t right)
{
    return ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) + 1;
}

static size_t pair_place(const struct qn_bpe *b, uint64_t key)
{
    uint64_t h = key * 0x9e3779b97f4a7c15u;
    size_t at = (h ^ h >> 32) & b->pair_mask;
    while (b->pair_key[at] && b->pair_key[at] != key) at = (at + 1) & b->pair_mask;
    return at;
}

static struct qn_bpe_pair look_up_pair(const struct qn_bpe *b, int32_t left, int32_t right)
{
    size_t at = pair_place(b, pair_key(left, right));
    return b->pair_key[at] ? b->pair[at] : (struct qn_bpe_pair){NO_RANK, -1};
}

int qn_bpe_reserve_merges(struct qn_bpe *b, size_t n, struct qn_err *e)
{
    int rc = QN_OK;
    QN_FAIL_IF(n > (size_t)QN_TOKENIZER_MAX_VOCAB * 4, e, QN_TOOBIG, "%zu merges; at most %d are read", n,
               QN_TOKENIZER_MAX_VOCAB * 4);
    size_t capacity = 64;
    while (capacity < n * 2) capacity *= 2;
    b->pair_key = try_calloc(capacity, sizeof *b->pair_key);
    b->pair = try_malloc(capacity, sizeof *b->pair);
    b->byte_pair = try_malloc(65536, sizeof *b->byte_pair);
    QN_FAIL_IF(!b->pair_key || !b->pair || !b->byte_pair, e, QN_NOMEM, "out of memory for the merges");
    b->pair_mask = capacity - 1;
out:
    return rc;
}

int qn_bpe_add_merge(struct qn_bpe *b, const char *left, size_t n_left, const char *right, size_t n_right,
                     struct qn_err *e)
{
    int rc = QN_OK;
    uint8_t small[512], *bytes = small;
    if (n_left + n_right > sizeof small) bytes = try_malloc(n_left + n_right, 1);
    QN_FAIL_IF(!bytes, e, QN_NOMEM, "out of memory for the merges");
    uint32_t rank = (uint32_t)b->n_merge++;
    int64_t n_first = to_bytes(left, n_left, bytes);
    int64_t n_second = n_first < 0 ? -1 : to_bytes(right, n_right, bytes + n_first);
    /* outside the byte alphabet: no text ever gets there */
    if (n_first < 0 || n_second < 0) goto out;
    int32_t left_id = qn_bpe_find(b, bytes, (size_t)n_first);
    int32_t right_id = qn_bpe_find(b, bytes + n_first, (size_t)n_second);
    int32_t id = qn_bpe_find(b, bytes, (size_t)(n_first + n_second));
    QN_FAIL_IF(left_id < 0 || right_id < 0 || id < 0, e, QN_FORMAT,
               "merge %u: '%.*s' '%.*s': %s is not in the vocabulary", rank, (int)QN_MIN(n_left, (size_t)40),
               left, (int)QN_MIN(n_right, (size_t)40), right,
               left_id < 0    ? "the first part"
               : right_id < 0 ? "the second part"
                              : "their union");
    /* of a pair listed twice the later counts, as in the reference library */
    uint64_t key = pair_key(left_id, right_id);
    size_t at = pair_place(b, key);
    b->pair_key[at] = key;
    b->pair[at] = (struct qn_bpe_pair){rank, id};
out:
    if (bytes != small) free(bytes);
    return rc;
}

void qn_bpe_seal(struct qn_bpe *b)
{
    for (int left = 0; left < 256; left++)
        for (int right = 0; right < 256; right++)
            b->byte_pair[left << 8 | right] = b->byte_id[left] < 0 || b->byte_id[right] < 0
                                                  ? (struct qn_bpe_pair){NO_RANK, -1}
                                                  : look_up_pair(b, b->byte_id[left], b->byte_id[right]);
    for (int id = 0; id < b->n_id; id++) {
        b->flags[id] &= (uint8_t)~FOREIGN;
        b->max_bytes = QN_MAX(b->max_bytes, (size_t)b->span[id].length);
    }
}

/* ---- one piece ---- */

static int encode_short(const struct qn_bpe *b, const uint8_t *piece, size_t n, struct qn_ids *out)
{
    int32_t id[SHORT_PIECE];
    struct qn_bpe_pair pair[SHORT_PIECE]; /* [i] merges id[i] with id[i + 1] */
    for (size_t i = 0; i < n; i++) id[i] = b->byte_id[piece[i]];
    for (size_t i = 0; i + 1 < n; i++) pair[i] = b->byte_pair[piece[i] << 8 | piece[i + 1]];
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (pair[i].rank < pair[best].rank) best = i;
        if (pair[best].rank == NO_RANK) break;
        id[best] = pair[best].id;
        n--;
        memmove(id + best + 1, id + best + 2, (n - best - 1) * sizeof *id);
        if (best + 1 < n) {
            memmove(pair + best, pair + best + 1, (n - best - 1) * sizeof *pair);
            pair[best] = look_up_pair(b, id[best], id[best + 1]);
        }
        if (best) pair[best - 1] = look_up_pair(b, id[best - 1], id[best]);
    }
    return qn_ids_append(out, id, n);
}

/* Binary heap of rank << 32 | position: the lowest rank first, leftmost on ties. */
static void sift_down(uint64_t *heap, size_t n, size_t at)
{
    uint64_t x = heap[at];
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= n) break;
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= x) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = x;
}

static void sift_up(uint64_t *heap, size_t at)
{
    uint64_t x = heap[at];
    while (at && heap[(at - 1) / 2] > x) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = x;
}

struct symbol {
    int32_t id; /* -1: merged into the one before */
    uint32_t previous, next;
    struct qn_bpe_pair pair; /* with the next symbol */
};

static int encode_long(const struct qn_bpe *b, const uint8_t *piece, size_t n, struct qn_ids *out)
{
    int rc = QN_OK;
    struct symbol *symbols = try_malloc(n, sizeof *symbols);
    /* each merge takes one entry out and puts at most two in, so n - 1 to start with grow to 2 n at most */
    uint64_t *heap = try_malloc(n, 2 * sizeof *heap);
    QN_FAIL_IF(!symbols || !heap, NULL, QN_NOMEM, "piece");
    size_t n_heap = 0;
    for (size_t i = 0; i < n; i++) {
        struct symbol *s = &symbols[i];
        *s = (struct symbol){b->byte_id[piece[i]], (uint32_t)i - 1, (uint32_t)i + 1, {NO_RANK, -1}};
        if (i + 1 < n) s->pair = b->byte_pair[piece[i] << 8 | piece[i + 1]];
        if (s->pair.rank != NO_RANK) heap[n_heap++] = (uint64_t)s->pair.rank << 32 | i;
    }
    for (size_t i = n_heap / 2; i-- > 0;) sift_down(heap, n_heap, i);
    while (n_heap) {
        uint64_t top = heap[0];
        heap[0] = heap[--n_heap];
        if (n_heap) sift_down(heap, n_heap, 0);
        uint32_t at = (uint32_t)top;
        struct symbol *s = &symbols[at];
        if (s->id < 0 || s->pair.rank != (uint32_t)(top >> 32)) continue; /* the pair is gone */
        struct symbol *gone = &symbols[s->next];
        s->id = s->pair.id;
        s->next = gone->next;
        gone->id = -1;
        s->pair = (struct qn_bpe_pair){NO_RANK, -1};
        if (s->next < n) {
            symbols[s->next].previous = at;
            s->pair = look_up_pair(b, s->id, symbols[s->next].id);
            if (s->pair.rank != NO_RANK) {
                heap[n_heap] = (uint64_t)s->pair.rank << 32 | at;
                sift_up(heap, n_heap++);
            }
        }
        if (s->previous < n) {
            struct symbol *before = &symbols[s->previous];
            before->pair = look_up_pair(b, before->id, s->id);
            if (before->pair.rank != NO_RANK) {
                heap[n_heap] = (uint64_t)before->pair.rank << 32 | s->previous;
                sift_up(heap, n_heap++);
            }
        }
    }
    for (size_t i = 0; i < n; i = symbols[i].next) QN_TRY(qn_ids_push(out, symbols[i].id));
out:
    free(symbols);
    free(heap);
    return rc;
}

int qn_bpe_encode(const struct qn_bpe *b, const uint8_t *piece, size_t n, struct qn_ids *out)
{
    if (n == 1) return qn_ids_push(out, b->byte_id[piece[0]]);
    if (b->takes_whole) {
        int32_t id = qn_bpe_find(b, piece, n);
        if (id >= 0) return qn_ids_push(out, id);
    }
    return n <= SHORT_PIECE ? encode_short(b, piece, n, out) : encode_long(b, piece, n, out);
}
