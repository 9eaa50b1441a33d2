/* runtime.cc: the CUDA runtime's part of simt.h: memory, streams, events, graphs. SPDX-License-Identifier:
 * Apache-2.0 */
#include <deque>
#include <mutex>
#include <vector>

#include "simt.h"

using namespace simt;

/* --- the runtime: streams are queues that run when somebody waits for them, as late as possible --- */
struct simt_graph {
    std::vector<std::function<void()>> nodes;
};
struct simt_stream {
    std::deque<std::function<void()>> queue;
    uint64_t n_in = 0, n_out = 0;
    simt_graph *capture = nullptr;
};
struct simt_event {
    simt_stream *stream = nullptr;
    uint64_t ticket = 0;
    simt_graph *capture = nullptr;
};
/* One thread at a time: devices of several rank threads take turns. */
static std::recursive_mutex turn;
#define TURN std::lock_guard<std::recursive_mutex> lock(turn)
static simt_stream default_stream;
static std::vector<simt_stream *> streams = {&default_stream};
static void run_until(simt_stream *s, uint64_t ticket)
{
    while (s->n_out < ticket && !s->queue.empty()) {
        auto f = std::move(s->queue.front());
        s->queue.pop_front();
        f();
        s->n_out++;
    }
}
void simt::enqueue(cudaStream_t s, std::function<void()> what)
{
    TURN;
    if (!s) s = &default_stream;
    if (s->capture) return s->capture->nodes.push_back(std::move(what));
    s->queue.push_back(std::move(what));
    s->n_in++;
}
const char *cudaGetErrorString(cudaError_t e)
{
    return e ? "error" : "no error";
}
cudaError_t cudaGetLastError()
{
    TURN;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int *n)
{
    TURN;
    return *n = 1, cudaSuccess;
}
cudaError_t cudaSetDevice(int d)
{
    TURN;
    return d ? cudaErrorInvalidValue : cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *v, cudaDeviceAttr a, int)
{
    TURN;
    start_up();
    bool is_hopper = options.smem_limit > 99 << 10;
    *v = a == cudaDevAttrMultiProcessorCount            ? options.n_sm
         : a == cudaDevAttrComputeCapabilityMajor       ? is_hopper ? 9 : 12
         : a == cudaDevAttrMaxSharedMemoryPerBlockOptin ? (int)options.smem_limit
                                                        : 0;
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *f, size_t *t)
{
    TURN;
    *t = (size_t)32 << 30, *f = *t - memory_used;
    return cudaSuccess;
}
cudaError_t cudaMalloc(void **p, size_t n)
{
    TURN;
    return (*p = memory_new(n)) ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void *p)
{
    TURN;
    cudaDeviceSynchronize();
    return !p || memory_free(p) ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaMallocHost(void **p, size_t n)
{
    TURN;
    cudaError_t e = cudaMalloc(p, n);
    if (!e) host_wrote(*p, n);
    return e;
}
cudaError_t cudaFreeHost(void *p)
{
    TURN;
    return cudaFree(p);
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind, cudaStream_t s)
{
    TURN;
    enqueue(s, [=] {
        memmove(to, from, n);
        host_wrote(to, n);
    });
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *p, int v, size_t n, cudaStream_t s)
{
    TURN;
    enqueue(s, [=] {
        memset(p, v, n);
        host_wrote(p, n);
    });
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    TURN;
    streams.push_back(*s = new simt_stream);
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    TURN;
    if (!s) s = &default_stream;
    if (s->capture) return complain("cudaStreamSynchronize while capturing"), cudaErrorInvalidValue;
    run_until(s, s->n_in);
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    TURN;
    cudaStreamSynchronize(s);
    std::erase(streams, s);
    delete s;
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize()
{
    TURN;
    for (size_t i = 0; i < streams.size(); i++) run_until(streams[i], streams[i]->n_in);
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    TURN;
    return *e = new simt_event, cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    TURN;
    return delete e, cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    TURN;
    if (!s) s = &default_stream;
    e->stream = s, e->ticket = s->n_in, e->capture = s->capture;
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    TURN;
    if (!s) s = &default_stream;
    if (e->capture)
        return s->capture = e->capture, cudaSuccess; /* joins the capture; order of calls is kept */
    if (!e->stream) return cudaSuccess;
    simt_stream *of = e->stream;
    uint64_t ticket = e->ticket;
    enqueue(s, [=] { run_until(of, ticket); });
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t e) /* each look runs one piece of work */
{
    TURN;
    if (!e->stream || e->stream->n_out >= e->ticket) return cudaSuccess;
    run_until(e->stream, e->stream->n_out + 1);
    return e->stream->n_out >= e->ticket ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    TURN;
    if (e->stream) run_until(e->stream, e->ticket);
    return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void *k, cudaFuncAttribute, int v)
{
    TURN;
    return opt_in(k, (size_t)v) ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode)
{
    TURN;
    return s->capture = new simt_graph, cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
    TURN;
    *g = s->capture;
    for (simt_stream *x : streams)
        if (x->capture == *g) x->capture = nullptr;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long)
{
    TURN;
    return *x = new simt_graph(*g), cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s)
{
    TURN;
    for (auto &n : x->nodes) enqueue(s, n);
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    TURN;
    return delete g, cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x)
{
    TURN;
    return delete x, cudaSuccess;
}
