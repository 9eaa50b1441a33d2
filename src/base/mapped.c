/* A list under a lock. SPDX-License-Identifier: Apache-2.0 */
#include "base/mapped.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"

struct file {
    struct file *next;
    uintptr_t from, to;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct file *files;

void qn_mapped_add(const void *data, size_t n_byte)
{
    struct file *f = xmalloc(sizeof *f);
    pthread_mutex_lock(&lock);
    *f = (struct file){files, (uintptr_t)data, (uintptr_t)data + n_byte};
    files = f;
    pthread_mutex_unlock(&lock);
}

void qn_mapped_remove(const void *data)
{
    pthread_mutex_lock(&lock);
    struct file **at = &files;
    while (*at && (*at)->from != (uintptr_t)data) at = &(*at)->next;
    struct file *found = *at;
    if (found) *at = found->next;
    pthread_mutex_unlock(&lock);
    free(found);
}

void qn_mapped_release(const void *from, size_t n_byte)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), a = (uintptr_t)from, b = a + n_byte;
    pthread_mutex_lock(&lock); /* held over the call: the file stays mapped */
    const struct file *f = files;
    while (f && (a < f->from || b > f->to)) f = f->next;
    a = QN_ROUND_UP(a, page);
    b = b / page * page;
    if (f && b > a) madvise((void *)a, b - a, MADV_DONTNEED);
    pthread_mutex_unlock(&lock);
}
