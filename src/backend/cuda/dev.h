/* dev.h: what a kernel source may use, twice.
 *
 * nvcc: each function is one or two PTX instructions (sm_80 and later; nothing of wgmma or tcgen05).
 * g++:  simt.h gives functions of the same names that a CPU runs, with checks.
 *
 * Rules that keep one source honest on both sides:
 *   - shared memory is dynamic only: SHARED(T, name); `__shared__` does not exist on the host
 *   - no inline PTX, no intrinsics outside this file; warps meet with full masks where it says so
 *   - launches go through launch(); all arguments by value
 *   - -fmad=false (nvcc) and -ffp-contract=off (g++), fused steps are written fmaf(): then everything but
 *     the adder inside mma has the same bits on both
 *   - no float atomics (one answer)
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef DEV_H
#define DEV_H

#include <cstddef>
#include <cstdint>

#ifndef __CUDACC__
#include <simt.h> /* tests/simt */
#else
#include <cuda_runtime.h>

#define SHARED(T, name)                                                                                      \
    extern __shared__ __align__(128) unsigned char simt_smem[];                                              \
    T *name = (T *)simt_smem
#define DEV __device__ __forceinline__

template <class... P, class... A>
inline void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, cudaStream_t stream, A... a)
{
    kernel<<<grid, block, smem, stream>>>(P(a)...);
}
template <class... P, class... A> /* every block resident: grid_sync allowed */
inline void launch_cooperative(void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, cudaStream_t stream,
                               A... a)
{
    cudaLaunchAttribute attr[1];
    attr[0].id = cudaLaunchAttributeCooperative;
    attr[0].val.cooperative = 1;
    cudaLaunchConfig_t c = {grid, block, smem, stream, attr, 1};
    cudaLaunchKernelEx(&c, kernel, P(a)...);
}

DEV unsigned smem_address(const void *p)
{
    return (unsigned)__cvta_generic_to_shared(p);
}
DEV float bits_float(uint32_t u)
{
    return __uint_as_float(u);
}
DEV uint32_t float_bits(float f)
{
    return __float_as_uint(f);
}

/* --- warp: full masks, all lanes present --- */
DEV float shfl_xor(float v, int m)
{
    return __shfl_xor_sync(~0u, v, m);
}
DEV float shfl(float v, int from)
{
    return __shfl_sync(~0u, v, from);
}
DEV uint32_t shfl_u(uint32_t v, int from)
{
    return __shfl_sync(~0u, v, from);
}
DEV uint32_t shfl_xor_u(uint32_t v, int m)
{
    return __shfl_xor_sync(~0u, v, m);
}
DEV unsigned vote(bool p)
{
    return __ballot_sync(~0u, p);
}
DEV unsigned warp_max(unsigned v)
{
    return __reduce_max_sync(~0u, v);
}

/* --- asynchronous copies of 16 bytes, global to shared; n < 16: the rest is zeros --- */
DEV void cp_async16(void *to, const void *from, int n = 16)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_address(to)), "l"(from), "r"(n)
                 : "memory");
}
DEV void cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int N> DEV void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* --- matrices: lane l gives the 16-byte row l % 8 of matrix l / 8 --- */
DEV void ldmatrix_x4(uint32_t *r, const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(smem_address(row))
                 : "memory");
}
DEV void ldmatrix_x4_trans(uint32_t *r, const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(smem_address(row))
                 : "memory");
}
/* d [16, 8] += a [16, 16] b [16, 8], BF16 in, float out */
DEV void mma_bf16(float *d, const uint32_t *a, const uint32_t *b)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* --- BF16 pairs, low half first --- */
DEV uint32_t bf16x2_fma(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t r;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    return r;
}
/* four bytes of the eight in a (0..3) and b (4..7), as the nibbles of `which` say, lowest first */
DEV uint32_t byte_perm(uint32_t a, uint32_t b, uint32_t which)
{
    return __byte_perm(a, b, which);
}
DEV uint32_t bf16x2_pack(float lo, float hi)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}

/* --- between blocks --- */
DEV unsigned atomic_add_acq_rel(unsigned *p, unsigned v)
{
    unsigned r;
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;" : "=r"(r) : "l"(p), "r"(v) : "memory");
    return r;
}
/* relaxed, in shared or global memory; whole numbers only, so that the order does not matter */
DEV unsigned atomic_add(unsigned *p, unsigned v)
{
    return atomicAdd(p, v);
}
DEV uint64_t atomic_add64(uint64_t *p, uint64_t v)
{
    return atomicAdd((unsigned long long *)p, (unsigned long long)v);
}
DEV unsigned ld_acquire(const unsigned *p)
{
    unsigned r;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(r) : "l"(p) : "memory");
    return r;
}
DEV void st_release(unsigned *p, unsigned v)
{
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
DEV void bar_sync(int id, int n)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n) : "memory");
}
DEV void bar_arrive(int id, int n)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(n) : "memory");
}
DEV void grid_sync(unsigned *counter) /* counter: zero at first; cooperative launches only */
{
    __syncthreads();
    if (!threadIdx.x && !threadIdx.y && !threadIdx.z) {
        unsigned n = gridDim.x * gridDim.y * gridDim.z, was = atomic_add_acq_rel(counter, 1);
        unsigned goal = (was / n + 1) * n;
        while ((int)(ld_acquire(counter) - goal) < 0) __nanosleep(64);
    }
    __syncthreads();
}
#endif

#define LANE ((int)(threadIdx.x & 31))
#define WARP ((int)(threadIdx.x >> 5))

/* exp without libm: the same bits on both sides. Relative error about 1e-7; below -87 it is 0. */
DEV float dev_exp(float x)
{
    if (!(x > -87.0f)) return x != x ? x : 0;
    float n = rintf(x * 1.44269504f);
    float r = fmaf(n, -1.42860677e-6f, fmaf(n, -0.693145752f, x));
    float p = 1.98412698e-4f;
    p = fmaf(p, r, 1.38888889e-3f);
    p = fmaf(p, r, 8.33333333e-3f);
    p = fmaf(p, r, 4.16666667e-2f);
    p = fmaf(p, r, 0.166666667f);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    return p * bits_float((uint32_t)((int)n + 127) << 23);
}
#endif
