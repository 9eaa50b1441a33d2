/* Temporary folders for the tests of this directory.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_TEST_FOLDER_H
#define QN_TEST_FOLDER_H

#include "support/test.h"

#include <ftw.h>
#include <unistd.h>

#include "base/mem.h"

static int folder_remove_one(const char *path, const struct stat *info, int flag, struct FTW *ftw)
{
    (void)info;
    (void)flag;
    (void)ftw;
    return remove(path);
}

static inline void folder_remove(const char *path)
{
    nftw(path, folder_remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* A fresh folder; the caller removes and frees it. */
static inline char *folder_make(void)
{
    const char *base = getenv("TMPDIR");
    char *path = xasprintf("%s/quern-test-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(path));
    return path;
}

static inline void folder_write(const char *folder, const char *name, const void *data, size_t n)
{
    char *path = xasprintf("%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
    free(path);
}

#endif
