/* probe.cu: bits of mma.sync m16n8k16 BF16 on hard operands, written to a file: `cmp` of the emulator's file
 * with a device's says whether the adder is the published one. SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <stdio.h>

#include <vector>

#include "backend/cuda/dev.h"

__global__ void probe(const uint16_t *a, const uint16_t *b, const float *c,
                      float *d) /* a [16][16], b [16][8] */
{
    int g = LANE >> 2, t = LANE & 3, m = blockIdx.x;
    a += m * 256, b += m * 128, c += m * 128, d += m * 128;
    uint32_t x[4], y[2];
    float z[4];
    for (int j = 0; j < 4; j++) {
        const uint16_t *p = a + (g + 8 * (j & 1)) * 16 + 2 * t + 8 * (j >> 1);
        x[j] = p[0] | (uint32_t)p[1] << 16;
        z[j] = c[(g + 8 * (j >> 1)) * 8 + 2 * t + (j & 1)];
    }
    for (int j = 0; j < 2; j++)
        y[j] = b[(2 * t + 8 * j) * 8 + g] | (uint32_t)b[(2 * t + 8 * j + 1) * 8 + g] << 16;
    mma_bf16(z, x, y);
    for (int j = 0; j < 4; j++) d[(g + 8 * (j >> 1)) * 8 + 2 * t + (j & 1)] = z[j];
}

static uint64_t state = 1;
static uint32_t random32()
{
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(state >> 33);
}
/* sign, exponent around 127 within +-spread, any mantissa */
static uint32_t random_float(int spread, int middle)
{
    uint32_t e = (uint32_t)(middle + (int)(random32() % (unsigned)(2 * spread + 1)) - spread);
    return random32() << 31 | e << 23 | (random32() & 0x7fffff);
}
int main(int argc, char **argv)
{
    /* spreads of the exponents of a and b, of c, and the middle; then subnormals, then infinities and NaNs */
    static const int kinds[][4] = {
        {0, 0, 127, 127}, {2, 4, 127, 127}, {8, 16, 127, 127}, {12, 30, 127, 127}, {40, 80, 127, 127},
        {3, 5, 127, 152}, {3, 5, 127, 102}, {1, 1, 66, 8},     {60, 100, 64, 100}, {20, 20, 180, 230}};
    const int n_kind = sizeof kinds / sizeof *kinds, each = argc > 2 ? atoi(argv[2]) : 40,
              n = (n_kind + 1) * each;
    std::vector<uint16_t> a(n * 256), b(n * 128);
    std::vector<uint32_t> c(n * 128), d(n * 128);
    for (int i = 0; i < n; i++) {
        const int *k = kinds[i / each < n_kind ? i / each : 1];
        for (int j = 0; j < 256; j++) a[i * 256 + j] = (uint16_t)(random_float(k[0], k[2]) >> 16);
        for (int j = 0; j < 128; j++) b[i * 128 + j] = (uint16_t)(random_float(k[0], k[2]) >> 16);
        for (int j = 0; j < 128; j++) c[i * 128 + j] = random_float(k[1], k[3]);
        for (int j = 0; j < 128; j += 9) c[i * 128 + j] = random32() & 1 ? 0 : 0x80000000; /* zeros */
        for (int j = 0; j < 256; j += 11) a[i * 256 + j] &= i & 1 ? 0x8000 : 0xffff;
        if (i / each == n_kind)
            for (int j = 0; j < 256; j += 37) a[i * 256 + j] = random32() & 1 ? 0x7f80 : 0x7fc1;
    }
    uint16_t *da, *db;
    float *dc, *dd;
    cudaMalloc((void **)&da, a.size() * 2), cudaMalloc((void **)&db, b.size() * 2);
    cudaMalloc((void **)&dc, c.size() * 4), cudaMalloc((void **)&dd, d.size() * 4);
    cudaMemcpyAsync(da, a.data(), a.size() * 2, cudaMemcpyHostToDevice, 0);
    cudaMemcpyAsync(db, b.data(), b.size() * 2, cudaMemcpyHostToDevice, 0);
    cudaMemcpyAsync(dc, c.data(), c.size() * 4, cudaMemcpyHostToDevice, 0);
    launch(probe, n, 32, 0, 0, da, db, dc, dd);
    cudaMemcpyAsync(d.data(), dd, d.size() * 4, cudaMemcpyDeviceToHost, 0);
    cudaDeviceSynchronize();
    FILE *f = fopen(argc > 1 ? argv[1] : "mma.bits", "wb");
    for (int i = 0; i < n; i++) {
        fwrite(&a[i * 256], 2, 256, f), fwrite(&b[i * 128], 2, 128, f);
        fwrite(&c[i * 128], 4, 128, f), fwrite(&d[i * 128], 4, 128, f);
    }
    return fclose(f);
}
