/* Pages of mapped files are given back; nothing else is touched.
 * SPDX-License-Identifier: Apache-2.0 */
#include <sys/mman.h>
#include <unistd.h>

#include "base/mapped.h"
#include "base/mem.h"
#include "support/test.h"

enum { PAGES = 64 };

/* Pages of the mapping that this process has in its tables. */
static size_t resident(const char *at)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n = 0;
    FILE *f = fopen("/proc/self/pagemap", "r");
    assert_non_null(f);
    for (size_t i = 0; i < PAGES; i++) {
        uint64_t entry;
        assert_int_equal(fseek(f, (long)(((uintptr_t)at / page + i) * 8), SEEK_SET), 0);
        assert_int_equal(fread(&entry, sizeof entry, 1, f), 1);
        n += entry >> 63;
    }
    fclose(f);
    return n;
}

static void touch(const volatile char *at, size_t n)
{
    for (size_t i = 0; i < n; i += 512) (void)at[i];
}

static void test_release(void **state)
{
    (void)state;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n = PAGES * page;
    FILE *file = tmpfile();
    assert_non_null(file);
    char *text = xmalloc(n);
    memset(text, 'x', n);
    assert_int_equal(fwrite(text, 1, n, file), n);
    fflush(file);
    char *map = mmap(NULL, n, PROT_READ, MAP_PRIVATE, fileno(file), 0);
    assert_true(map != MAP_FAILED);
    touch(map, n);
    size_t all = resident(map);
    assert_int_equal(all, PAGES);

    qn_mapped_release(map, n); /* nobody listed it */
    assert_int_equal(resident(map), all);
    qn_mapped_add(map, n);
    qn_mapped_release(map + 1, 4 * page); /* three whole pages */
    assert_int_equal(resident(map), all - 3);
    qn_mapped_release(map + 60 * page, 5 * page); /* beyond the end */
    assert_int_equal(resident(map), all - 3);
    qn_mapped_release(map, n);
    assert_int_equal(resident(map), 0);
    assert_memory_equal(map, text, n);

    qn_mapped_release(text, n); /* memory of our own keeps what it holds */
    assert_int_equal(text[n / 2], 'x');
    qn_mapped_remove(map);
    touch(map, n);
    qn_mapped_release(map, n);
    assert_int_equal(resident(map), PAGES);
    qn_mapped_remove(map);
    qn_mapped_remove(NULL);
    munmap(map, n);
    free(text);
    fclose(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_release)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
