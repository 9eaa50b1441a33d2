/* The tokenizer against golden files of the reference library (tools/make_tokenizer_golden.py): cases,
 * decodings, every Unicode code point in contexts, mixed text with invalid UTF-8, and variants of
 * tokenizer.json. On the small vocabulary in the tree, and on the published 151k one when it lies beside the
 * checkout (or under QUERN_SHARED). SPDX-License-Identifier: Apache-2.0 */
#include "support/test.h"

#include <unistd.h>
#include <utf8proc.h>

#include "base/json.h"
#include "text/detok.h"
#include "text/pretok.h"
#include "text/utf8.h"

#define GOLDEN QN_TEST_DIR "/golden/tokenizer/"
#define BLOCK  0x4000

static struct qn_arena *arena;

/* ---- what the script does, again ---- */

static uint32_t crc_table[256];

static void make_crc_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c & 1 ? 0xedb88320u ^ c >> 1 : c >> 1;
        crc_table[i] = c;
    }
}

static uint32_t crc_bytes(uint32_t start, const void *bytes, size_t n)
{
    uint32_t c = ~start;
    const unsigned char *s = bytes;
    for (size_t i = 0; i < n; i++) c = crc_table[(c ^ s[i]) & 255] ^ c >> 8;
    return ~c;
}

static uint32_t crc(uint32_t start, const struct qn_ids *ids)
{
    for (size_t i = 0; i < ids->n; i++) {
        uint32_t id = (uint32_t)ids->data[i];
        unsigned char le[4] = {id & 255, id >> 8 & 255, id >> 16 & 255, id >> 24};
        start = crc_bytes(start, le, 4);
    }
    return start;
}

struct rng {
    uint64_t state;
};

static uint32_t draw(struct rng *r, uint32_t n)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ z >> 31) % n);
}

static void put(struct qn_buf *out, uint32_t cp)
{
    unsigned char s[4];
    qn_buf_append(out, s, (size_t)qn_utf8_put(cp, s));
}

static char *snippet[64];
static uint32_t n_snippet;

static void read_snippets(void)
{
    struct qn_buf text = QN_BUF_INIT(1 << 20);
    struct qn_err e = {0};
    assert_int_equal(qn_buf_read_file(&text, GOLDEN "snippets.txt", &e), QN_OK);
    char *all = qn_buf_take(&text);
    for (char *line = all, *end; (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        snippet[n_snippet++] = line;
        assert_true(n_snippet < 64);
    }
}

static void mixed(struct qn_buf *out, uint64_t seed, size_t n_byte, bool has_invalid)
{
    static const char *const spelled[] = {"<|im_start|>", "<|im_end|>", "<think>",       "</think>",
                                          "<tool_call>",  "<|im_",      "<|endoftext|>", "|>"};
    static const uint32_t blanks[] = {0x20, 0x20, 0x20, 0x0a, 0x09, 0x0d, 0xa0, 0x3000, 0x2028, 0x85};
    struct rng r = {seed};
    while (out->n_byte < n_byte) {
        uint32_t kind = draw(&r, has_invalid ? 13 : 12), n = 1 + draw(&r, 8);
        if (kind == 0) {
            qn_buf_puts(out, snippet[draw(&r, n_snippet)]);
            put(out, 0x0a);
        } else if (kind == 10) {
            qn_buf_puts(out, spelled[draw(&r, QN_COUNT(spelled))]);
        }
        for (uint32_t i = 0; i < n; i++) {
            uint32_t cp;
            switch (kind) {
            case 1:
                put(out, 0x4e00 + draw(&r, 0x5200));
                if (!draw(&r, 6)) put(out, 0xff0c);
                break;
            case 2:
                put(out, 0x621 + draw(&r, 0x2a));
                if (!draw(&r, 3)) put(out, 0x64b + draw(&r, 8));
                break;
            case 3:
                put(out, 0xe01 + draw(&r, 0x2e));
                if (!draw(&r, 2)) put(out, 0xe34 + draw(&r, 7));
                if (!draw(&r, 3)) put(out, 0xe47 + draw(&r, 8));
                break;
            case 4:
                put(out, 0x1f300 + draw(&r, 0x250));
                if (!draw(&r, 4)) put(out, 0x1f3fb + draw(&r, 5));
                if (!draw(&r, 3)) put(out, 0x200d);
                if (!draw(&r, 6)) put(out, 0xfe0f);
                break;
            case 5:
                put(out, 0x61 + draw(&r, 26));
                for (uint32_t k = draw(&r, 4); k; k--) put(out, 0x300 + draw(&r, 0x70));
                break;
            case 6:
                put(out, 0x1100 + draw(&r, 19));
                put(out, 0x1161 + draw(&r, 21));
                if (!draw(&r, 2)) put(out, 0x11a8 + draw(&r, 27));
                break;
            case 7:
                put(out, 0x915 + draw(&r, 0x25));
                if (!draw(&r, 2)) put(out, 0x93c + draw(&r, 0x12));
                break;
            case 8:
                put(out, blanks[draw(&r, QN_COUNT(blanks))]);
                break;
            case 9:
                put(out, 0x21 + draw(&r, 0x20));
                break;
            case 11:
                cp = draw(&r, 0x10f800);
                put(out, cp < 0xd800 ? cp : cp + 0x800);
                break;
            case 12:
                qn_buf_putc(out, (char)(0x80 + draw(&r, 0x80)));
                break;
            default:
                break;
            }
        }
        if (!draw(&r, 2)) put(out, 0x20);
    }
    assert_false(out->failed);
}

/* ---- checks ---- */

static int64_t item_int(const struct qn_json *list, size_t i)
{
    int64_t x;
    assert_true(i < list->n && qn_json_int(list->items[i], &x));
    return x;
}

static void encode(const struct qn_tokenizer *t, const char *s, size_t n, struct qn_ids *ids)
{
    struct qn_err e = {0};
    ids->n = 0;
    if (qn_tokenizer_encode(t, s, n, NULL, ids, &e)) fail_msg("%s", e.text);
}

static void check_ids(const struct qn_ids *got, const struct qn_json *want, const char *text)
{
    bool same = got->n == want->n;
    for (size_t i = 0; same && i < got->n; i++) same = got->data[i] == item_int(want, i);
    if (same) return;
    print_message("for text '%s': got", text);
    for (size_t i = 0; i < got->n; i++) print_message(" %d", got->data[i]);
    print_message("\n");
    fail_msg("ids differ");
}

static uint32_t check_cases(const struct qn_tokenizer *t, const struct qn_json *cases, bool compares)
{
    struct qn_ids ids = QN_IDS_INIT(1 << 20);
    uint32_t h = 0;
    for (size_t i = 0; i < cases->n; i++) {
        const struct qn_json *text = cases->items[i]->items[0];
        encode(t, text->text, text->n, &ids);
        if (compares) check_ids(&ids, cases->items[i]->items[1], text->text);
        h = crc(h, &ids);
    }
    qn_ids_free(&ids);
    return h;
}

static void check_decodings(const struct qn_tokenizer *t, const struct qn_json *list)
{
    for (size_t i = 0; i < list->n; i++) {
        const struct qn_json *one = list->items[i];
        int32_t ids[64];
        size_t n = one->items[0]->n;
        assert_true(n <= QN_COUNT(ids));
        for (size_t k = 0; k < n; k++) ids[k] = (int32_t)item_int(one->items[0], k);
        for (int skips = 0; skips < 2; skips++) {
            struct qn_buf text = QN_BUF_INIT(1 << 16);
            assert_int_equal(qn_detok_all(t, ids, n, skips ? QN_DETOK_SKIP : QN_DETOK_KEEP, &text), QN_OK);
            assert_int_equal(text.n_byte, one->items[1 + skips]->n);
            assert_memory_equal(qn_buf_str(&text), one->items[1 + skips]->text, text.n_byte);
            qn_buf_free(&text);
        }
    }
}

/* What a text gives, as a CRC chained over texts. */
typedef uint32_t hash_fn(void *subject, const struct qn_buf *text, uint32_t start);

static uint32_t hash_ids(void *subject, const struct qn_buf *text, uint32_t start)
{
    struct qn_ids ids = QN_IDS_INIT(1 << 20);
    encode(subject, text->data, text->n_byte, &ids);
    start = crc(start, &ids);
    qn_ids_free(&ids);
    return start;
}

static uint32_t hash_pieces(void *subject, const struct qn_buf *text, uint32_t start)
{
    struct qn_ids lengths = QN_IDS_INIT(1 << 20);
    struct qn_pretok_cursor cursor;
    assert_int_equal(qn_pretok_begin(&cursor, subject, text->data, text->n_byte, NULL), QN_OK);
    while (cursor.pos < text->n_byte) {
        size_t from = cursor.pos;
        qn_ids_push(&lengths, (int32_t)(qn_pretok_next(&cursor) - from));
    }
    qn_pretok_end(&cursor);
    start = crc(start, &lengths);
    qn_ids_free(&lengths);
    return start;
}

static uint32_t hash_nfc(void *subject, const struct qn_buf *text, uint32_t start)
{
    (void)subject;
    struct qn_buf out = QN_BUF_INIT(1 << 20);
    assert_int_equal(qn_utf8_nfc(text->data, text->n_byte, NULL, &out, NULL), QN_OK);
    start = crc_bytes(start, out.data, out.n_byte);
    qn_buf_free(&out);
    return start;
}

static uint32_t hash_decomposed_nfc(void *subject, const struct qn_buf *text, uint32_t start)
{
    utf8proc_uint8_t *nfd;
    struct qn_buf marked = QN_BUF_INIT(1 << 10);
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text->data, (utf8proc_ssize_t)text->n_byte,
                                      &nfd, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
    assert_true(n >= 0);
    qn_buf_append(&marked, nfd, (size_t)n);
    qn_buf_puts(&marked, "\xcc\x96\xcc\x81");
    start = hash_nfc(subject, &marked, start);
    free(nfd);
    qn_buf_free(&marked);
    return start;
}

/* Every code point in place of each "%" of a context; hashes: one a block. */
static void check_blocks(const char *context, const struct qn_json *hashes, hash_fn *hash, void *subject)
{
    struct qn_buf text = QN_BUF_INIT(1 << 10);
    int n_wrong = 0;
    assert_int_equal(hashes->n, 0x110000 / BLOCK);
    for (uint32_t first = 0; first < 0x110000; first += BLOCK) {
        uint32_t h = 0;
        for (uint32_t cp = first; cp < first + BLOCK; cp++) {
            if (cp >= 0xd800 && cp < 0xe000) continue;
            qn_buf_clear(&text);
            for (const char *c = context; *c; c++) {
                if (*c == '%')
                    put(&text, cp);
                else
                    qn_buf_putc(&text, *c);
            }
            h = hash(subject, &text, h);
        }
        if (h == item_int(hashes, first / BLOCK)) continue;
        print_message("code points U+%04X-U+%04X in '%s' differ\n", first, first + BLOCK - 1, context);
        n_wrong++;
    }
    qn_buf_free(&text);
    assert_int_equal(n_wrong, 0);
}

static void check_contexts(const struct qn_json *contexts, size_t n_least, hash_fn *hash, void *subject)
{
    assert_true(contexts->n >= n_least);
    for (size_t i = 0; i < contexts->n; i++) {
        bool is_nfd = !strcmp(contexts->keys[i].text, "decomposed");
        check_blocks(is_nfd ? "%" : contexts->keys[i].text, contexts->items[i],
                     is_nfd ? hash_decomposed_nfc : hash, subject);
    }
}

static void check_pieces(const struct qn_json *spec, const struct qn_json *contexts, size_t n_least)
{
    struct qn_pretok *p;
    struct qn_err e = {0};
    if (qn_pretok_open(&p, spec, &e)) fail_msg("%s", e.text);
    check_contexts(contexts, n_least, hash_pieces, p);
    qn_pretok_free(p);
}

static void check_round_trip(const struct qn_tokenizer *t, const struct qn_ids *ids,
                             const struct qn_buf *text)
{
    struct qn_buf back = QN_BUF_INIT(8 << 20), repaired = QN_BUF_INIT(8 << 20), want = QN_BUF_INIT(8 << 20);
    assert_int_equal(qn_detok_all(t, ids->data, ids->n, QN_DETOK_KEEP, &back), QN_OK);
    assert_int_equal(qn_utf8_repair(text->data, text->n_byte, NULL, &repaired, NULL), QN_OK);
    assert_int_equal(qn_utf8_nfc(repaired.data, repaired.n_byte, NULL, &want, NULL), QN_OK);
    assert_int_equal(back.n_byte, want.n_byte);
    assert_memory_equal(back.data, want.data, want.n_byte);
    qn_buf_free(&back);
    qn_buf_free(&repaired);
    qn_buf_free(&want);
}

static void check_mixed(const struct qn_tokenizer *t, const struct qn_json *list, bool round_trips)
{
    struct qn_ids ids = QN_IDS_INIT(1 << 24);
    struct qn_buf text = QN_BUF_INIT(4 << 20);
    for (size_t i = 0; i < list->n; i++) {
        const struct qn_json *want = list->items[i];
        int64_t seed = item_int(want, 0);
        qn_buf_clear(&text);
        mixed(&text, (uint64_t)seed, seed == 15 ? 1 << 20 : 1 << 16, seed % 2);
        assert_int_equal(text.n_byte, item_int(want, 1)); /* else the generators differ, not the tokenizers */
        encode(t, text.data, text.n_byte, &ids);
        assert_int_equal(ids.n, item_int(want, 2));
        assert_int_equal(crc(0, &ids), item_int(want, 3));
        if (round_trips) check_round_trip(t, &ids, &text);
    }
    qn_ids_free(&ids);
    qn_buf_free(&text);
}

static struct qn_json *read_golden(const char *name)
{
    struct qn_json *root;
    struct qn_err e = {0};
    char path[512];
    snprintf(path, sizeof path, "%s%s", GOLDEN, name);
    if (qn_json_read_file(&root, arena, path, 16 << 20, &e)) fail_msg("%s", e.text);
    return root;
}

static void check_golden(const char *folder, const char *name)
{
    struct qn_tokenizer *t;
    struct qn_err e = {0};
    if (qn_tokenizer_open(&t, folder, &e)) fail_msg("%s", e.text);
    struct qn_json *golden = read_golden(name);
    check_cases(t, qn_json_get(golden, "cases"), true);
    check_decodings(t, qn_json_get(golden, "decodings"));
    check_mixed(t, qn_json_get(golden, "mixed"), true);
    check_contexts(qn_json_get(golden, "ids"), 3, hash_ids, t);
    qn_tokenizer_free(t);
}

static void test_small(void **state)
{
    (void)state;
    check_golden(GOLDEN "small", "small.json");
}

static void test_code_points(void **state)
{
    (void)state;
    struct qn_json *golden = read_golden("small.json"), *root;
    struct qn_err e = {0};
    if (qn_json_read_file(&root, arena, GOLDEN "small/tokenizer.json", 1 << 20, &e)) fail_msg("%s", e.text);
    check_pieces(qn_json_get(root, "pre_tokenizer"), qn_json_get(golden, "pieces"), 3);
    check_contexts(qn_json_get(golden, "nfc"), 4, hash_nfc, NULL);
}

static void test_big(void **state)
{
    (void)state;
    const char *shared = getenv("QUERN_SHARED");
    char folder[1024], path[1100];
    snprintf(folder, sizeof folder, "%s/data/tokenizer-151k", shared ? shared : QN_SOURCE_DIR "/../shared");
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    if (access(path, R_OK)) {
        print_message(
            "skipped: the 151k vocabulary, because there is no %s (QUERN_SHARED names its parent)\n", path);
        skip();
    }
    check_golden(folder, "big.json");
}

/* The small tokenizer.json with the changes of a variant. */
static void open_variant(struct qn_tokenizer **t, const struct qn_json *variant)
{
    struct qn_json *root;
    struct qn_err e = {0};
    if (qn_json_read_file(&root, arena, GOLDEN "small/tokenizer.json", 1 << 20, &e)) fail_msg("%s", e.text);
    struct qn_json *model = qn_json_get(root, "model");
    const struct qn_json *top = qn_json_get(variant, "top"), *options = qn_json_get(variant, "model");
    for (size_t i = 0; i < top->n; i++) qn_json_set(arena, root, top->keys[i].text, top->items[i]);
    for (size_t i = 0; i < options->n; i++) {
        if (strcmp(options->keys[i].text, "merges")) {
            qn_json_set(arena, model, options->keys[i].text, options->items[i]);
            continue;
        }
        struct qn_json *merges = qn_json_get(model, "merges");
        for (size_t k = 0; k < merges->n; k++) {
            struct qn_buf s = QN_BUF_INIT(1 << 10);
            qn_buf_printf(&s, "%s %s", merges->items[k]->items[0]->text, merges->items[k]->items[1]->text);
            merges->items[k] = qn_json_new_str(arena, s.data, s.n_byte);
            qn_buf_free(&s);
        }
    }
    struct qn_buf text = QN_BUF_INIT(1 << 22);
    /* escapes, for the reader to have some */
    qn_json_write(&text, root, &(const struct qn_json_style){.indent = 1, .ensure_ascii = true});
    if (qn_tokenizer_open_text(t, text.data, text.n_byte, NULL, 0, "variant", &e)) fail_msg("%s", e.text);
    qn_buf_free(&text);
}

static void test_variants(void **state)
{
    (void)state;
    struct qn_json *golden = read_golden("small.json");
    const struct qn_json *variants = qn_json_get(golden, "variants");
    struct qn_json cases = *qn_json_get(golden, "cases");
    cases.n -= 40; /* the hand-written ones and the snippets */
    assert_true(variants->n >= 10);
    for (size_t i = 0; i < variants->n; i++) {
        const struct qn_json *v = variants->items[i];
        struct qn_tokenizer *t;
        int64_t want;
        print_message("variant '%s'\n", qn_json_get(v, "name")->text);
        open_variant(&t, v);
        assert_true(qn_json_int(qn_json_get(v, "cases"), &want));
        assert_int_equal(check_cases(t, &cases, false), want);
        check_mixed(t, qn_json_get(v, "mixed"), false);
        const struct qn_json *spec = qn_json_get(qn_json_get(v, "top"), "pre_tokenizer");
        if (spec) check_pieces(spec, qn_json_get(v, "pieces"), 2);
        qn_tokenizer_free(t);
    }
}

static int setup(void **state)
{
    (void)state;
    arena = qn_arena_create((size_t)1 << 30);
    make_crc_table();
    read_snippets();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    qn_arena_free(arena);
    free(snippet[0]);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small),
        cmocka_unit_test(test_code_points),
        cmocka_unit_test(test_variants),
        cmocka_unit_test(test_big),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
