/* Fuzz target: any bytes as a stored reference; every row that is read keeps its promises. What a sound
 * header asks for is there: the bytes again and again. SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cli/reference.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t wanted(const uint8_t *data, size_t size)
{
    struct qn_reference_header h;
    if (size < sizeof h || size > 1 << 16) return size;
    memcpy(&h, data, sizeof h);
    if (h.n_ids > 32 || h.k > 32) return size;
    return sizeof h + h.n_ids * (size_t)(8 + 8 * h.k);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char path[40];
    if (fd < 0) {
        fd = memfd_create("reference", MFD_CLOEXEC);
        QN_CHECK(fd >= 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    QN_CHECK(!ftruncate(fd, 0));
    size_t n = wanted(data, size);
    for (size_t at = 0; at < n; at += size) {
        size_t part = QN_MIN(size, n - at);
        QN_CHECK(pwrite(fd, data, part, (off_t)at) == (ssize_t)part);
    }
    struct qn_reference *r;
    struct qn_err e = {0};
    int rc = qn_reference_open(&r, path, &e);
    QN_CHECK(!rc || (e.code == rc && e.text[0]));
    if (rc) return 0;
    const struct qn_reference_header *h = qn_reference_header(r);
    struct qn_top_row row;
    for (uint32_t i = 0; i < h->n_ids; i++) QN_CHECK((uint32_t)qn_reference_ids(r)[i] < h->vocab);
    for (uint32_t i = 0; i < h->n_ids && !qn_reference_next(r, &row, &e); i++) {
        QN_CHECK(row.k == (int)h->k && !isnan(row.tail_logprob));
        for (int j = 0; j < row.k; j++) QN_CHECK((uint32_t)row.tok[j] < h->vocab && row.logprob[j] <= 0);
    }
    qn_reference_close(r);
    return 0;
}
