/* faults.cu: does the emulator find what it says it finds, and nothing else? Host only.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "backend/cuda/dev.h"

typedef float *F;
__global__ void missing_barrier(F, F out)
{
    SHARED(float, s);
    s[threadIdx.x] = 1;
    out[threadIdx.x] = s[threadIdx.x ^ 32];
}
__global__ void write_after_read(F, F out)
{
    SHARED(float, s);
    s[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x ^ 32];
    s[threadIdx.x] = 2; /* the other warp may not have read it */
}
__global__ void within_warp(F, F out)
{
    SHARED(float, s);
    s[threadIdx.x] = 1;
    float v = shfl_xor(1.0f, 1); /* orders nothing in memory */
    out[threadIdx.x] = s[threadIdx.x ^ 1] + v;
}
__global__ void within_warp_ok(F, F out)
{
    SHARED(float, s);
    s[threadIdx.x] = 1;
    __syncwarp();
    out[threadIdx.x] = s[threadIdx.x ^ 1];
    __syncthreads();
    s[threadIdx.x ^ 33] = 2;
}
__global__ void uninitialised(F, F out)
{
    SHARED(float, s);
    if (threadIdx.x < 63) s[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}
__global__ void behind_shared(F, F out)
{
    SHARED(float, s);
    s[threadIdx.x + 1] = 1;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x + 1];
}
__global__ void behind_global(F in, F out)
{
    out[threadIdx.x] = in[threadIdx.x + 1];
}
__global__ void far_behind(F in, F out)
{
    out[threadIdx.x] = in[threadIdx.x + 4096];
}
__global__ void misaligned(F in, F out)
{
    *(float4 *)(out + 1) = *(float4 *)in;
}
__global__ void host_memory(F, F out)
{
    out[threadIdx.x] = *(volatile float *)getenv("PATH");
}
__global__ void divergent(F, F out)
{
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 0;
}
__global__ void left_early(F, F out)
{
    if (threadIdx.x == 5) return;
    __syncthreads();
    out[threadIdx.x] = 0;
}
__global__ void half_warp(F, F out)
{
    if (threadIdx.x & 1) out[threadIdx.x] = shfl_xor(1.0f, 2);
}
__global__ void between_blocks(F, F out)
{
    if (blockIdx.x == 0) out[threadIdx.x] = 1;
    if (blockIdx.x == 1) out[64 + threadIdx.x] = out[threadIdx.x];
}
__global__ void wrong_copy_wait(F in, F out)
{
    SHARED(float, s);
    cp_async16(s + 4 * threadIdx.x, in + 4 * (threadIdx.x & 15));
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
    cp_async_wait<0>();
}
__global__ void copy_without_barrier(F in, F out) /* the wait is for the thread's own copies only */
{
    SHARED(float, s);
    cp_async16(s + 4 * threadIdx.x, in + 4 * (threadIdx.x & 15));
    cp_async_commit();
    cp_async_wait<0>();
    out[threadIdx.x] = s[threadIdx.x];
}
__global__ void spins(F in, F) /* on a flag that only a later block sets */
{
    unsigned *flag = (unsigned *)in;
    if (blockIdx.x == 0)
        while (!ld_acquire(flag)) {
        }
    else
        st_release(flag, 1);
}
__global__ void last_block_ok(F in, F out) /* the last one sums what all wrote */
{
    SHARED(unsigned, s);
    out[blockIdx.x * 64 + threadIdx.x] = 1;
    __syncthreads();
    if (!threadIdx.x) *s = atomic_add_acq_rel((unsigned *)in, 1);
    __syncthreads();
    if (*s == gridDim.x - 1) out[threadIdx.x] = out[threadIdx.x] + out[64 + threadIdx.x];
}
__global__ void last_block_late(F in, F out) /* counts before it writes */
{
    SHARED(unsigned, s);
    if (!threadIdx.x) *s = atomic_add_acq_rel((unsigned *)in, 1);
    __syncthreads();
    out[64 + blockIdx.x * 64 + threadIdx.x] = 1;
    if (*s == gridDim.x - 1) out[threadIdx.x] = out[64 + threadIdx.x] + out[128 + threadIdx.x];
}
__global__ void grid_ok(F in, F out)
{
    out[blockIdx.x * 64 + threadIdx.x] = 1;
    grid_sync((unsigned *)in);
    out[128 + blockIdx.x * 64 + threadIdx.x] = out[(blockIdx.x ^ 1) * 64 + threadIdx.x];
}
__global__ void grid_race(F, F out)
{
    out[blockIdx.x * 64 + threadIdx.x] = 1;
    out[128 + blockIdx.x * 64 + threadIdx.x] = out[(blockIdx.x ^ 1) * 64 + threadIdx.x];
}
__global__ void halves_ok(F, F out) /* BF16 neighbours written by two threads */
{
    SHARED(uint16_t, s);
    s[threadIdx.x] = 0x3f80;
    __syncthreads();
    out[threadIdx.x] = (float)s[threadIdx.x ^ 1];
}
__global__ void producer_ok(F, F out) /* warp 0 fills, warp 1 reads: named barriers */
{
    SHARED(float, s);
    for (int i = 0; i < 3; i++) {
        if (threadIdx.x < 32) {
            if (i) bar_sync(2, 64);
            s[threadIdx.x] = (float)i;
            bar_arrive(1, 64);
        } else {
            bar_sync(1, 64);
            out[threadIdx.x] = s[threadIdx.x - 32];
            if (i < 2) bar_arrive(2, 64);
        }
    }
}
__global__ void producer_hasty(F, F out)
{
    SHARED(float, s);
    for (int i = 0; i < 3; i++)
        if (threadIdx.x < 32) {
            s[threadIdx.x] = (float)i;
            bar_arrive(1 + i, 64);
        } else {
            bar_sync(1 + i, 64);
            out[threadIdx.x] = s[threadIdx.x - 32];
        }
}

__global__ void count_ok(F, F out) /* atomics of all threads, read behind a barrier */
{
    SHARED(unsigned, s);
    if (!threadIdx.x) *s = 0;
    __syncthreads();
    atomic_add(s, threadIdx.x & 1);
    __syncthreads();
    out[threadIdx.x] = (float)*s;
}
__global__ void count_early(F, F out) /* the same without it */
{
    SHARED(unsigned, s);
    if (!threadIdx.x) *s = 0;
    __syncthreads();
    if (threadIdx.x < 32) atomic_add(s, 1);
    if (threadIdx.x >= 32) out[threadIdx.x] = (float)*s;
}

static int n_bad;
static void expect(const char *name, void (*k)(F, F), const char *what, unsigned blocks = 1,
                   size_t smem = 256, bool coop = false)
{
    float *in, *out;
    cudaMalloc((void **)&in, 256);
    cudaMalloc((void **)&out, 1024);
    cudaMemsetAsync(in, 0, 256, 0);
    simt::counts.findings = 0;
    simt::last_finding[0] = 0;
    if (coop)
        launch_cooperative(k, blocks, 64, smem, 0, in, out);
    else
        launch(k, blocks, 64, smem, 0, in, out);
    cudaDeviceSynchronize();
    bool ok = *what ? strstr(simt::last_finding, what) != nullptr : !simt::counts.findings;
    printf("%-22s %s\n", name, ok ? "ok" : "WRONG");
    n_bad += !ok;
    cudaFree(in);
    cudaFree(out);
}
#define EXPECT(k, ...) expect(#k, k, __VA_ARGS__)
int main()
{
    simt::options.stops = false;
    EXPECT(within_warp_ok, "");
    EXPECT(last_block_ok, "", 2);
    EXPECT(grid_ok, "", 2, 256, true);
    EXPECT(halves_ok, "");
    EXPECT(producer_ok, "");
    EXPECT(count_ok, "");
    EXPECT(divergent, "divergent");
    EXPECT(left_early, "exited");
    EXPECT(half_warp, "exited");
    if (!getenv("SIMT_SEED")) EXPECT(spins, "not resident", 2); /* in another order it may pass */
    EXPECT(far_behind, "device memory");
#ifdef CHECKED
    EXPECT(missing_barrier, "shared memory");
    EXPECT(write_after_read, "race in shared memory");
    EXPECT(within_warp, "shared memory");
    EXPECT(uninitialised, "uninitialised shared");
    EXPECT(behind_shared, "at 256 of 256 bytes of shared");
    EXPECT(behind_global, "no device memory");
    EXPECT(misaligned, "misaligned write");
    EXPECT(host_memory, "reads host memory");
    EXPECT(between_blocks, "global memory", 2);
    EXPECT(wrong_copy_wait, "still bringing", 1, 1024);
    EXPECT(copy_without_barrier, "shared memory", 1, 1024);
    EXPECT(last_block_late, "global memory", 2);
    EXPECT(grid_race, "global memory", 2, 256, true);
    EXPECT(count_early, "race in shared memory");
    EXPECT(producer_hasty, "race in shared memory");
#endif
    return n_bad != 0;
}
