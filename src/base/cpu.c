/* The processor.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif
#include <sched.h>

#include "base/clock.h"
#include "base/mem.h"

#if defined(__aarch64__)
static const char *const names[QN_N_ISA] = {"scalar", "neon"};
#else
static const char *const names[QN_N_ISA] = {"scalar", "avx2", "avx512", "avx512bf16"};
#endif

const char *qn_isa_name(enum qn_isa isa)
{
    return names[isa];
}

enum qn_isa qn_isa_from_name(const char *name)
{
    enum qn_isa isa = 0;
    while (isa < QN_N_ISA && strcmp(name, names[isa]) != 0) isa++;
    return isa;
}

static enum qn_isa best(void)
{
#if defined(__x86_64__)
    unsigned a, b, c, d;
    /* f16c by its bit: clang 14 does not know the name */
    bool has_f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c) return QN_ISA_SCALAR;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return QN_ISA_AVX2;
    if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512vnni") ||
        !__builtin_cpu_supports("avx512vbmi"))
        return QN_ISA_AVX512;
    return QN_ISA_AVX512BF16;
#elif defined(__aarch64__)
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? QN_ISA_NEON : QN_ISA_SCALAR;
#else
    return QN_ISA_SCALAR;
#endif
}

enum qn_isa qn_cpu_isa(void)
{
    const char *mask = getenv("QUERN_CPU");
    enum qn_isa have = best(), most = mask && *mask ? qn_isa_from_name(mask) : QN_N_ISA;
    return QN_MIN(have, most);
}

static int read_number(int cpu, const char *what)
{
    char path[128];
    int n = -1;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/%s", cpu, what);
    FILE *f = fopen(path, "r");
    if (!f) return -1;
    if (fscanf(f, "%d", &n) != 1) n = -1;
    fclose(f);
    return n;
}

static int list(int *cpus, int room, int *n_core)
{
    enum { MOST = 1024 };
    int all[MOST], core[MOST], package[MOST], n = 0, n_out = 0;
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set)) CPU_SET(0, &set);
    for (int i = 0; i < CPU_SETSIZE && n < MOST; i++)
        if (CPU_ISSET(i, &set)) {
            core[n] = read_number(i, "core_id");
            package[n] = read_number(i, "physical_package_id");
            all[n++] = i;
        }
    bool is_first[MOST];
    *n_core = 0;
    for (int i = 0; i < n; i++) {
        is_first[i] = true;
        for (int j = 0; j < i && is_first[i]; j++)
            is_first[i] = core[i] < 0 || core[i] != core[j] || package[i] != package[j];
        *n_core += is_first[i];
    }
    for (int pass = 1; pass >= 0; pass--)
        for (int i = 0; i < n && n_out < room; i++)
            if (is_first[i] == (pass == 1)) cpus[n_out++] = all[i];
    return n_out;
}

int qn_cpu_list(int *cpus, int room)
{
    int n_core;
    return list(cpus, room, &n_core);
}

int qn_cpu_n_core(void)
{
    int n_core, cpus[1];
    list(cpus, 1, &n_core);
    return QN_MAX(n_core, 1);
}
