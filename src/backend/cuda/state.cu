/* Pages and slots between steps: copies in the order of the operations.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/cuda/cuda.h"

static unsigned char *page_at(const struct qn_device *d, int page)
{
    return d->pages + (size_t)page * d->sizes.page_bytes;
}
static unsigned char *slot_at(const struct qn_device *d, int slot)
{
    return d->slots + (size_t)slot * d->sizes.slot_bytes;
}
static void copy(struct qn_device *d, void *to, const void *from, size_t n_byte, cudaMemcpyKind kind)
{
    cu_ok(d, cudaMemcpyAsync(to, from, n_byte, kind, d->stream), "a copy of state");
}
/* The host's memory is the caller's again when these return. */
static void down(struct qn_device *d, void *to, const void *from, size_t n_byte)
{
    copy(d, to, from, n_byte, cudaMemcpyDeviceToHost);
    cu_ok(d, cudaStreamSynchronize(d->stream), "a copy of state");
}
static void up(struct qn_device *d, void *to, const void *from, size_t n_byte)
{
    copy(d, to, from, n_byte, cudaMemcpyHostToDevice);
    cu_ok(d, cudaStreamSynchronize(d->stream), "a copy of state");
}

void cu_kv_copy(struct qn_device *d, const struct qn_copy *copies, int n)
{
    for (int i = 0; i < n; i++)
        copy(d, page_at(d, copies[i].to), page_at(d, copies[i].from), d->sizes.page_bytes,
             cudaMemcpyDeviceToDevice);
}
void cu_kv_read(struct qn_device *d, int page, void *to)
{
    down(d, to, page_at(d, page), d->sizes.page_bytes);
}
void cu_kv_write(struct qn_device *d, int page, const void *from)
{
    up(d, page_at(d, page), from, d->sizes.page_bytes);
}
void cu_state_copy(struct qn_device *d, const struct qn_copy *copies, int n)
{
    for (int i = 0; i < n; i++)
        copy(d, slot_at(d, copies[i].to), slot_at(d, copies[i].from), d->sizes.slot_bytes,
             cudaMemcpyDeviceToDevice);
}
void cu_state_zero(struct qn_device *d, int slot)
{
    cu_ok(d, cudaMemsetAsync(slot_at(d, slot), 0, d->sizes.slot_bytes, d->stream), "a slot");
}
void cu_state_read(struct qn_device *d, int slot, void *to)
{
    down(d, to, slot_at(d, slot), d->sizes.slot_bytes);
}
void cu_state_write(struct qn_device *d, int slot, const void *from)
{
    up(d, slot_at(d, slot), from, d->sizes.slot_bytes);
}
