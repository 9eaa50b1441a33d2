/* simt.h: CUDA kernels on a CPU, for tests. The host side of dev.h, and a thin stand-in for the CUDA runtime.
 *
 * Threads of a block are fibers; one runs until it meets a barrier or a warp operation. A warp operation is
 * computed once, for all lanes, by the last lane to arrive. Blocks run one after the other (cooperative
 * launches: all at once), in an order drawn from the seed, and so do warps and lanes.
 *
 * Always checked: divergent barriers and warp operations, deadlock, dynamic shared memory over the limit,
 * accesses behind the end of an allocation (guard pages), misuse of streams. Shared memory and new
 * allocations are filled with NaN; what cp.async brings appears at the wait, not before: until then it is
 * NaN.
 *
 * Checked when the kernels are compiled with -DSIMT_CHECK -fsanitize=thread (and NOT linked with it: the
 * hooks are ours): every load and store of a kernel, for bounds, alignment, uninitialised bytes, bytes in
 * flight, races within a block (vector clocks by warp) and between blocks.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef SIMT_H
#define SIMT_H

#include <math.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <tuple>

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
static inline float4 make_float4(float x, float y, float z, float w)
{
    return {x, y, z, w};
}
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return {x, y, z, w};
}

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define DEV             static inline __attribute__((always_inline))
#define SHARED(T, name) T *name = (T *)simt::shared()

struct simt_stream;
struct simt_event;
struct simt_graph;
typedef simt_stream *cudaStream_t;
typedef simt_event *cudaEvent_t;
typedef simt_graph *cudaGraph_t;
typedef simt_graph *cudaGraphExec_t;

namespace simt
{

struct Site { /* where in the kernel; filled in by default arguments at the call */
    const char *file;
    int line;
};
#define SIMT_HERE simt::Site at = {__builtin_FILE(), __builtin_LINE()}

struct Lane;
extern thread_local Lane *self;

typedef void (*Op)(void *const *arg, unsigned mask);
void collective(Op op, void *arg, unsigned mask, const char *name, Site at);
void barrier(int id, int n, bool waits, Site at); /* n 0: the whole block */
void grid_barrier(Site at);
void pause_lane(); /* in a loop that waits for another block */
__attribute__((const)) unsigned char *shared();
__attribute__((const)) dim3 thread_index();
__attribute__((const)) dim3 block_index();
__attribute__((const)) dim3 block_dim();
__attribute__((const)) dim3 grid_dim();

/* what runtime.cc needs */
void start_up();
void *memory_new(size_t n);
bool memory_free(void *p);
extern size_t memory_used;
void host_wrote(void *p, size_t n);
bool opt_in(const void *kernel, size_t smem);
void complain(const char *what);

/* warp operations */
void op_shfl(void *const *, unsigned);
void op_ballot(void *const *, unsigned);
void op_max(void *const *, unsigned);
void op_syncwarp(void *const *, unsigned);
void op_ldmatrix(void *const *, unsigned);
void op_mma(void *const *, unsigned);
struct ShflArg {
    uint32_t in, out;
    int from;
};
struct MatrixArg {
    uint32_t *r;
    const void *row;
    bool trans;
};
struct MmaArg {
    float *d;
    const uint32_t *a, *b;
};
void copy_async(void *to, const void *from, int n, Site at);
void copy_commit();
void copy_wait(int n_left);
unsigned atomic_acq_rel(unsigned *p, unsigned v, bool adds, bool stores);
uint64_t atomic_relaxed(void *p, size_t n, uint64_t v, Site at);

/* What to emulate; set by the test, or SIMT_SEED, SIMT_ARCH=sm_90|sm_120, SIMT_MMA=fused|fma. */
struct Options {
    unsigned seed = 0;            /* 0: blocks, warps and lanes in order */
    size_t smem_limit = 99 << 10; /* a block, opted in; without: 48 KiB */
    int n_sm = 4;                 /* small, so that grids that count on being resident show it */
    bool fused_mma = true; /* the adder of Hopper and Blackwell as published; false: 16 fmaf in order */
    bool stops = true;     /* at the first finding: report, abort. false: count it, go on */
};
extern Options options;
struct Counts {
    uint64_t launches, blocks, threads, switches, collectives, mma, loads, stores, findings;
};
extern Counts counts;
extern char last_finding[512];

void enqueue(cudaStream_t s, std::function<void()> what);
struct Start { /* a launch: call(arg) is the kernel with its arguments, arg the only host memory it may read
                */
    const void *kernel;
    dim3 grid, block;
    size_t smem;
    bool is_cooperative;
    void (*call)(void *arg);
    void *arg;
    size_t arg_bytes;
};
void run_grid(const Start &s);

template <class... P> struct Call {
    void (*kernel)(P...);
    std::tuple<P...> args;
    static void run(void *p) { std::apply(((Call *)p)->kernel, ((Call *)p)->args); }
};
template <class... P, class... A>
void launch_any(bool coop, void (*k)(P...), dim3 g, dim3 b, size_t smem, cudaStream_t s, A... a)
{
    Call<P...> c = {k, {static_cast<P>(a)...}}; /* arguments are evaluated now, as on the device */
    enqueue(s, [=]() mutable {
        run_grid({(const void *)k, g, b, smem, coop, Call<P...>::run, &c, sizeof c});
    });
}
} // namespace simt

#define threadIdx simt::thread_index()
#define blockIdx  simt::block_index()
#define blockDim  simt::block_dim()
#define gridDim   simt::grid_dim()

template <class... P, class... A>
inline void launch(void (*k)(P...), dim3 g, dim3 b, size_t smem, cudaStream_t s, A... a)
{
    simt::launch_any(false, k, g, b, smem, s, a...);
}
template <class... P, class... A>
inline void launch_cooperative(void (*k)(P...), dim3 g, dim3 b, size_t smem, cudaStream_t s, A... a)
{
    simt::launch_any(true, k, g, b, smem, s, a...);
}

/* --- dev.h, emulated --- */
static inline void __syncthreads(SIMT_HERE)
{
    simt::barrier(0, 0, true, at);
}
static inline void __syncwarp(unsigned mask = ~0u, SIMT_HERE)
{
    simt::collective(simt::op_syncwarp, nullptr, mask, "__syncwarp", at);
}
static inline void __threadfence() {}
static inline void bar_sync(int id, int n, SIMT_HERE)
{
    simt::barrier(id, n, true, at);
}
static inline void bar_arrive(int id, int n, SIMT_HERE)
{
    simt::barrier(id, n, false, at);
}

DEV float bits_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}
DEV uint32_t float_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}
static inline float shfl_from(float v, int from, simt::Site at)
{
    simt::ShflArg a = {float_bits(v), 0, from};
    simt::collective(simt::op_shfl, &a, ~0u, "shfl", at);
    return bits_float(a.out);
}
static inline float shfl(float v, int from, SIMT_HERE)
{
    return shfl_from(v, from & 31, at);
}
static inline float shfl_xor(float v, int m, SIMT_HERE)
{
    return shfl_from(v, (int)(simt::thread_index().x & 31) ^ m, at);
}
static inline uint32_t shfl_u(uint32_t v, int from, SIMT_HERE)
{
    return float_bits(shfl_from(bits_float(v), from & 31, at));
}
static inline uint32_t shfl_xor_u(uint32_t v, int m, SIMT_HERE)
{
    return float_bits(shfl_from(bits_float(v), (int)(simt::thread_index().x & 31) ^ m, at));
}
static inline unsigned vote(bool p, SIMT_HERE)
{
    simt::ShflArg a = {p, 0, 0};
    simt::collective(simt::op_ballot, &a, ~0u, "vote", at);
    return a.out;
}
static inline unsigned warp_max(unsigned v, SIMT_HERE)
{
    simt::ShflArg a = {v, 0, 0};
    simt::collective(simt::op_max, &a, ~0u, "redux.max", at);
    return a.out;
}
static inline void cp_async16(void *to, const void *from, int n = 16, SIMT_HERE)
{
    simt::copy_async(to, from, n, at);
}
static inline void cp_async_commit()
{
    simt::copy_commit();
}
template <int N> static inline void cp_async_wait()
{
    simt::copy_wait(N);
}
static inline void ldmatrix_x4(uint32_t *r, const void *row, SIMT_HERE)
{
    simt::MatrixArg a = {r, row, false};
    simt::collective(simt::op_ldmatrix, &a, ~0u, "ldmatrix", at);
}
static inline void ldmatrix_x4_trans(uint32_t *r, const void *row, SIMT_HERE)
{
    simt::MatrixArg a = {r, row, true};
    simt::collective(simt::op_ldmatrix, &a, ~0u, "ldmatrix.trans", at);
}
static inline void mma_bf16(float *d, const uint32_t *a, const uint32_t *b, SIMT_HERE)
{
    simt::MmaArg arg = {d, a, b};
    simt::collective(simt::op_mma, &arg, ~0u, "mma", at);
}
DEV uint32_t bf16_round(float x) /* nearest even */
{
    uint32_t u = float_bits(x);
    if ((u & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}
DEV uint32_t byte_perm(uint32_t a, uint32_t b, uint32_t which)
{
    uint64_t all = (uint64_t)b << 32 | a;
    uint32_t r = 0;
    for (int i = 0; i < 4; i++) r |= (uint32_t)(all >> 8 * (which >> 4 * i & 7) & 255) << 8 * i;
    return r;
}
DEV uint32_t bf16x2_pack(float lo, float hi)
{
    return bf16_round(lo) | bf16_round(hi) << 16;
}
/* a b + c, rounded once: the sum of an exact product and c in double has room for all that kernels need */
DEV uint32_t bf16_fma(uint32_t a, uint32_t b, uint32_t c)
{
    double x = (double)bits_float(a << 16) * (double)bits_float(b << 16) + (double)bits_float(c << 16);
    float f = (float)x;
    if ((double)f != x && !(float_bits(f) & 1)) /* to odd, so that the second rounding is the only one */
        f = bits_float(float_bits(f) + (((double)f < x) == (x > 0) ? 1 : -1));
    return bf16_round(f);
}
DEV uint32_t bf16x2_fma(uint32_t a, uint32_t b, uint32_t c)
{
    return bf16_fma(a & 0xffff, b & 0xffff, c & 0xffff) | bf16_fma(a >> 16, b >> 16, c >> 16) << 16;
}
static inline unsigned atomic_add_acq_rel(unsigned *p, unsigned v)
{
    return simt::atomic_acq_rel(p, v, true, false);
}
static inline unsigned atomic_add(unsigned *p, unsigned v, SIMT_HERE)
{
    return (unsigned)simt::atomic_relaxed(p, 4, v, at);
}
static inline uint64_t atomic_add64(uint64_t *p, uint64_t v, SIMT_HERE)
{
    return simt::atomic_relaxed(p, 8, v, at);
}
static inline unsigned ld_acquire(const unsigned *p)
{
    simt::pause_lane();
    return simt::atomic_acq_rel(const_cast<unsigned *>(p), 0, false, false);
}
static inline void st_release(unsigned *p, unsigned v)
{
    simt::atomic_acq_rel(p, v, false, true);
}
static inline void grid_sync(unsigned *, SIMT_HERE)
{
    simt::grid_barrier(at);
}

/* --- the runtime: what a back end of this kind calls --- */
enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorNotReady = 600
};
enum cudaMemcpyKind {
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
};
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal,
    cudaStreamCaptureModeThreadLocal,
    cudaStreamCaptureModeRelaxed
};
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
const char *cudaGetErrorString(cudaError_t);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int d);
cudaError_t cudaDeviceGetAttribute(int *v, cudaDeviceAttr a, int d);
cudaError_t cudaMemGetInfo(size_t *free, size_t *total);
cudaError_t cudaMalloc(void **p, size_t n);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **p, size_t n); /* pinned: kernels may touch it */
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind k, cudaStream_t s);
cudaError_t cudaMemsetAsync(void *p, int v, size_t n, cudaStream_t s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags = 0);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventQuery(cudaEvent_t e);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute a, int v);
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode m);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long flags = 0);
cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s);
cudaError_t cudaGraphDestroy(cudaGraph_t g);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x);
template <class... P> cudaError_t cudaFuncSetAttribute(void (*k)(P...), cudaFuncAttribute a, int v)
{
    return cudaFuncSetAttribute((const void *)k, a, v);
}
#endif
