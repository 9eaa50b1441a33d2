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

/* Version 1: other names, no "max", file pages of the groups below told apart, limits above out of sight. */
static void test_old_groups(void **state)
{
    (void)state;
    static const char *const folders[] = {"memory", "memory/a", "memory/a/b", "cpu"};
    char path[200], list[200];
    strcpy(root, "/tmp/quern-mem-XXXXXX");
    assert_non_null(mkdtemp(root));
    for (size_t i = 0; i < QN_COUNT(folders); i++) {
        snprintf(path, sizeof path, "%s/%s", root, folders[i]);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    put("list", "11:cpu,cpuacct:/x\n9:hugetlb,memory:/a/b\n1:name=systemd:/y\n0::/z\n");
    snprintf(list, sizeof list, "%s/list", root);
    assert_true(qn_mem_groups_available(root, list) == SIZE_MAX);
    put("memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("memory/memory.usage_in_bytes", "5000000000\n");
    put("memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
    put("memory/a/b/memory.usage_in_bytes", "650000\n");
    assert_true(qn_mem_groups_available(root, list) == SIZE_MAX);
    put("memory/a/memory.limit_in_bytes", "1000000\n");
    put("memory/a/memory.usage_in_bytes", "700000\n");
    assert_int_equal(qn_mem_groups_available(root, list), 300000);
    put("memory/a/memory.stat", "cache 600000\ninactive_file 0\nactive_file 7\ntotal_inactive_file 400000\n"
                                "total_active_file 150000\n");
    assert_int_equal(qn_mem_groups_available(root, list), 850000);
    put("memory/a/b/memory.stat", "inactive_file 10000\nactive_file 0\nhierarchical_memory_limit 800000\n");
    assert_int_equal(qn_mem_groups_available(root, list), 160000);
    put("memory/a/b/memory.limit_in_bytes", "700000\n");
    assert_int_equal(qn_mem_groups_available(root, list), 60000);
    /* in a container what is mounted is its own group, under another name */
    put("list", "9:memory:/docker/0123\n");
    assert_true(qn_mem_groups_available(root, list) == SIZE_MAX);
    put("memory/memory.limit_in_bytes", "6000000000\n");
    assert_int_equal(qn_mem_groups_available(root, list), 1000000000);
    assert_int_equal(qn_mem_groups_available(root, "/nowhere"), 1000000000);
    put("list", "9:memory_like:/a/b\n0::/\n");
    assert_int_equal(qn_mem_groups_available(root, list), 1000000000);
    snprintf(path, sizeof path, "rm -r %s", root);
    assert_int_equal(system(path), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_groups), cmocka_unit_test(test_old_groups)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
