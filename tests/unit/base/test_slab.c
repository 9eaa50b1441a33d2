/* Blocks of a slab: zeroed, aligned, apart from each other, on huge pages where the kernel has them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"
#include "base/slab.h"
#include "support/test.h"

#define MIB ((size_t)1 << 20)

static void test_blocks(void **state)
{
    (void)state;
    static const size_t size[] = {1,        64, 100,      3 * MIB, 40 * MIB, 60 * MIB,
                                  65 * MIB, 5,  70 * MIB, 0,       20 * MIB};
    unsigned char *at[QN_COUNT(size)];
    struct qn_slab *s = qn_slab_create();
    for (size_t i = 0; i < QN_COUNT(size); i++) {
        at[i] = qn_slab_alloc(s, size[i]);
        assert_non_null(at[i]);
        assert_int_equal((uintptr_t)at[i] % 64, 0);
        if (!size[i]) continue;
        assert_int_equal(at[i][0] | at[i][size[i] / 2] | at[i][size[i] - 1], 0);
        at[i][0] = at[i][size[i] / 2] = at[i][size[i] - 1] = (unsigned char)(i + 1);
    }
    for (size_t i = 0; i < QN_COUNT(size); i++) {
        if (!size[i]) continue;
        assert_int_equal(at[i][0], i + 1);
        assert_int_equal(at[i][size[i] - 1], i + 1);
    }
    qn_slab_free(s);
}

/* What the slabs are for: a block of half a MiB has no page tables of its own. */
static void test_neighbours(void **state)
{
    (void)state;
    struct qn_slab *s = qn_slab_create();
    char *last = qn_slab_alloc(s, MIB / 2);
    assert_int_equal((uintptr_t)last % (2 * MIB), 0);
    for (int i = 0; i < 100; i++) {
        char *next = qn_slab_alloc(s, MIB / 2);
        assert_ptr_equal(next, last + MIB / 2);
        last = next;
    }
    /* a large block in between does not end the slab in use */
    assert_non_null(qn_slab_alloc(s, 100 * MIB));
    assert_ptr_equal(qn_slab_alloc(s, MIB / 2), last + MIB / 2);
    qn_slab_free(s);
}

static void test_refused(void **state)
{
    (void)state;
    struct qn_slab *s = qn_slab_create();
    assert_null(qn_slab_alloc(s, SIZE_MAX));
    assert_null(qn_slab_alloc(s, SIZE_MAX / 2));
    assert_non_null(qn_slab_alloc(s, 8));
    qn_slab_free(s);
    qn_slab_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_blocks), cmocka_unit_test(test_neighbours),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
