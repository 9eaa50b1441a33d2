/* Memory that a process can have: control groups.
 * SPDX-License-Identifier: Apache-2.0 */
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "support/test.h"

static char root[] = "/tmp/quern-mem-XXXXXX";

static void put(const char *name, const char *text)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", root, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void test_groups(void **state)
{
    (void)state;
    char path[200];
    assert_non_null(mkdtemp(root));
    snprintf(path, sizeof path, "%s/a", root);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/a/b", root);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_true(qn_mem_group_available(root, "/a/b") == SIZE_MAX);
    put("a/b/memory.max", "max\n");
    put("a/b/memory.current", "999999\n");
    assert_true(qn_mem_group_available(root, "/a/b") == SIZE_MAX);
    /* a checkpoint in the page cache is not used up */
    put("a/memory.max", "1000000\n");
    put("a/memory.current", "700000\n");
    assert_int_equal(qn_mem_group_available(root, "/a/b"), 300000);
    put("a/memory.stat", "anon 100000\nfile 600000\ninactive_file 400000\nactive_file 150000\n");
    assert_int_equal(qn_mem_group_available(root, "/a/b"), 850000);
    assert_true(qn_mem_group_available(root, "/") == SIZE_MAX);
    /* the least of all, and never below nothing */
    put("a/b/memory.max", "500\n");
    assert_int_equal(qn_mem_group_available(root, "/a/b"), 0);
    put("a/b/memory.current", "200\n");
    assert_int_equal(qn_mem_group_available(root, "/a/b"), 300);
    snprintf(path, sizeof path, "rm -r %s", root);
    assert_int_equal(system(path), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_groups)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
