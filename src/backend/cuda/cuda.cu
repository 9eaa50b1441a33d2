/* cuda: the table.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/cuda/cuda.h"

extern "C" {
#include "backend/registry.h"
}

/* A device that failed stays failed: what was in flight cannot be trusted. */
bool cu_ok(struct qn_device *d, cudaError_t rc, const char *what)
{
    if (!rc) return true;
    if (!d->fault) {
        d->fault = rc == cudaErrorMemoryAllocation ? QN_NOMEM : QN_DEVICE;
        snprintf(d->fault_text, sizeof d->fault_text, "GPU %d, %s: %s", d->o.ordinal, what,
                 cudaGetErrorString(rc));
    }
    return false;
}

static int check_shape(const struct qn_device *d, struct qn_err *e)
{
    const struct qn_config *c = &d->c;
    CU_FAIL_IF(c->n_head % c->n_kv_head, e, QN_UNSUPPORTED,
               "num_attention_heads %d is not a multiple of num_key_value_heads %d", c->n_head, c->n_kv_head);
    CU_FAIL_IF(c->n_gdn && c->n_v_head % c->n_k_head, e, QN_UNSUPPORTED,
               "linear_num_value_heads %d is not a multiple of linear_num_key_heads %d", c->n_v_head,
               c->n_k_head);
    CU_FAIL_IF(c->head_dim > 256, e, QN_UNSUPPORTED, "cuda has no kernel for head_dim %d, 256 is the most",
               c->head_dim);
    CU_FAIL_IF(c->n_gdn && c->k_dim > 128, e, QN_UNSUPPORTED,
               "cuda has no kernel for linear_key_head_dim %d, 128 is the most", c->k_dim);
    CU_FAIL_IF(c->n_gdn && c->conv_taps > 9, e, QN_UNSUPPORTED,
               "cuda has no kernel for a convolution of %d taps", c->conv_taps);
    CU_FAIL_IF(c->top_k > 32 || c->n_expert > 2048, e, QN_UNSUPPORTED,
               "cuda has no kernel for %d of %d experts, 32 of 2048 are the most", c->top_k, c->n_expert);
    CU_FAIL_IF(d->o.act == QN_ACT_INT8, e, QN_UNSUPPORTED,
               "--activations int8 is not built for cuda; use bf16 or f32, or --device cpu");
    CU_FAIL_IF(d->o.observer, e, QN_UNSUPPORTED, "calibration is not built for cuda; use --device cpu");
    CU_FAIL_IF(d->o.max_rows < 1 || d->o.max_logits < 1 || d->o.max_seqs < 1, e, QN_INVAL,
               "device limits must be positive");
    return QN_OK;
}

static int find_card(int ordinal, struct qn_err *e)
{
    int n = 0;
    cudaError_t rc = cudaGetDeviceCount(&n);
    CU_FAIL_IF(rc || !n, e, QN_UNSUPPORTED, "no GPU can be used (%s); use --device cpu",
               rc ? cudaGetErrorString(rc) : "none is there");
    CU_FAIL_IF(ordinal >= n, e, QN_INVAL, "there is no GPU %d, only %d", ordinal, n);
    rc = cudaSetDevice(ordinal);
    CU_FAIL_IF(rc, e, QN_DEVICE, "GPU %d: %s", ordinal, cudaGetErrorString(rc));
    return QN_OK;
}

static int cu_memory(int ordinal, uint64_t *free_bytes, uint64_t *total, struct qn_err *e)
{
    size_t a = 0, b = 0;
    int code = find_card(ordinal, e);
    if (code) return code;
    cudaError_t rc = cudaMemGetInfo(&a, &b);
    CU_FAIL_IF(rc, e, QN_DEVICE, "GPU %d: %s", ordinal, cudaGetErrorString(rc));
    *free_bytes = a;
    *total = b;
    return QN_OK;
}

static int open_card(struct qn_device *d, struct qn_err *e)
{
    int major = 0, minor = 0, code = find_card(d->o.ordinal, e);
    if (code) return code;
    cudaError_t rc = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, d->o.ordinal);
    if (!rc) rc = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, d->o.ordinal);
    if (!rc) rc = cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking);
    CU_FAIL_IF(rc, e, QN_DEVICE, "GPU %d: %s", d->o.ordinal, cudaGetErrorString(rc));
    snprintf(d->arch, sizeof d->arch, "sm_%d%d", major, minor);
    CU_FAIL_IF(major < 8, e, QN_UNSUPPORTED, "GPU %d is %s; sm_80 (Ampere) and later are supported",
               d->o.ordinal, d->arch);
    return QN_OK;
}

static void cu_close(struct qn_device *d)
{
    if (!d) return;
    if (d->stream) (void)cudaStreamSynchronize(d->stream);
    cu_memory_close(d);
    cu_experts_free(d);
    for (struct qn_weight *w = d->weights, *next; w; w = next) {
        next = w->next;
        free(w);
    }
    if (d->stream) (void)cudaStreamDestroy(d->stream);
    free(d);
}

static int cu_open(struct qn_device **out, const struct qn_device_options *o, struct qn_err *e)
{
    struct qn_device *d = (struct qn_device *)calloc(1, sizeof *d);
    QN_CHECK(d);
    d->o = *o;
    d->c = *o->config;
    d->o.config = &d->c;
    cu_shape(&d->s, &d->o);
    int rc = check_shape(d, e);
    if (!rc) rc = open_card(d, e);
    if (!rc) rc = cu_memory_open(d, e);
    if (!rc) rc = cu_sync(d, e);
    if (!rc) *out = d;
    if (rc) cu_close(d);
    return rc;
}

static void *cu_alloc(struct qn_device *d, size_t n_byte)
{
    void *p = NULL;
    if (cudaMalloc(&p, QN_MAX(n_byte, (size_t)1))) {
        (void)cudaGetLastError();
        return NULL;
    }
    cu_ok(d, cudaMemsetAsync(p, d->o.poison ? 0xff : 0, n_byte, d->stream), "a buffer");
    return p;
}
static void cu_free(struct qn_device *d, void *p)
{
    (void)cudaStreamSynchronize(d->stream);
    if (p) cudaFree(p);
}
static int cu_copy(struct qn_device *d, void *to, const void *from, size_t n_byte, cudaMemcpyKind kind,
                   struct qn_err *e)
{
    if (n_byte && cu_ok(d, cudaMemcpyAsync(to, from, n_byte, kind, d->stream), "a copy"))
        cu_ok(d, cudaStreamSynchronize(d->stream), "a copy");
    return d->fault ? qn_err_set(e, d->fault, __FILE__, __LINE__, "%s", d->fault_text) : QN_OK;
}
static int cu_upload(struct qn_device *d, void *to, const void *from, size_t n_byte, struct qn_err *e)
{
    return cu_copy(d, to, from, n_byte, cudaMemcpyHostToDevice, e);
}
static int cu_download(struct qn_device *d, void *to, const void *from, size_t n_byte, struct qn_err *e)
{
    return cu_copy(d, to, from, n_byte, cudaMemcpyDeviceToHost, e);
}
static void cu_move(struct qn_device *d, void *to, const void *from, size_t n_byte)
{
    if (n_byte) cu_ok(d, cudaMemcpyAsync(to, from, n_byte, cudaMemcpyDeviceToDevice, d->stream), "a move");
}
static int cu_vector(struct qn_device *d, const float *from, size_t n, const float **out, struct qn_err *e)
{
    float *p = (float *)cu_take(d, n * sizeof *p);
    CU_FAIL_IF(!p, e, QN_NOMEM, "no device memory for a vector of %zu numbers", n);
    int rc = cu_upload(d, p, from, n * sizeof *p, e);
    if (!rc) *out = p;
    return rc;
}
static void cu_describe(const struct qn_device *d, struct qn_device_info *out)
{
    *out = {};
    snprintf(out->isa, sizeof out->isa, "%s", d->arch);
    out->weight_bytes = d->weight_bytes;
}

static const struct qn_backend cuda = {
    .name = "cuda",
    .memory = cu_memory,
    .sizes = cu_sizes,
    .open = cu_open,
    .close = cu_close,
    .alloc = cu_alloc,
    .free = cu_free,
    .upload = cu_upload,
    .download = cu_download,
    .move = cu_move,
    .weight = cu_weight,
    .vector = cu_vector,
    .describe = cu_describe,
    .begin = cu_begin,
    .sync = cu_sync,
    .embed = cu_embed,
    .attn_in = cu_attn_in,
    .attn_prefill = cu_attn,
    .attn_decode = cu_attn,
    .attn_out = cu_attn_out,
    .gdn_in = cu_gdn_in,
    .gdn_prefill = cu_gdn,
    .gdn_decode = cu_gdn,
    .gdn_out = cu_gdn_out,
    .mlp = cu_mlp,
    .moe = cu_moe,
    .head = cu_head,
    .logits = cu_logits,
    .raw = cu_raw,
    .score = cu_score,
    .adjust = cu_adjust,
    .sample = cu_sample,
    .verify = cu_verify,
    .settle = cu_settle,
    .draft_in = cu_draft_in,
    .carry = cu_carry,
    .draft = cu_draft,
    .kv_copy = cu_kv_copy,
    .kv_read = cu_kv_read,
    .kv_write = cu_kv_write,
    .state_flush = cu_state_flush,
    .state_copy = cu_state_copy,
    .state_zero = cu_state_zero,
    .state_read = cu_state_read,
    .state_write = cu_state_write,
};

#ifndef QN_CUDA_ARCHS
#define QN_CUDA_ARCHS "emulated on the CPU"
#endif
extern "C" const char *qn_cuda_archs(void)
{
    return QN_CUDA_ARCHS;
}

extern "C" const struct qn_backend *qn_cuda_backend(void)
{
    return &cuda;
}
