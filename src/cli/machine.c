/* What machine this is.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/machine.h"

#include <dirent.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/cpu.h"
#include "base/mem.h"

/* ------------------------------------------------------------------ small files */

static bool read_text(const char *root, const char *path, char *out, size_t room)
{
    char *full = xasprintf("%s%s", root, path);
    FILE *f = fopen(full, "r");
    free(full);
    out[0] = 0;
    if (!f) return false;
    size_t n = fread(out, 1, room - 1, f);
    fclose(f);
    while (n && (out[n - 1] == '\n' || out[n - 1] == ' ')) n--;
    out[n] = 0;
    return true;
}

QN_PRINTF(3, 4)
static bool read_at(const char *root, char out[4096], const char *fmt, ...)
{
    char path[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(path, sizeof path, fmt, args);
    va_end(args);
    return read_text(root, path, out, 4096);
}

/* "48K", "32768K", "1M" of a cache. */
static int64_t size_of(const char *text)
{
    char *end;
    int64_t n = strtoll(text, &end, 10);
    return *end == 'K' ? n << 10 : *end == 'M' ? n << 20 : n;
}

/* The CPUs of "0-3,8". */
static int take_list(const char *text, unsigned char *is_in, int room)
{
    int n = 0;
    while (*text) {
        char *end;
        long from = strtol(text, &end, 10), to = from;
        if (end == text) break;
        if (*end == '-') to = strtol(end + 1, &end, 10);
        for (long i = from; i <= to && i >= 0 && i < room; i++) {
            n += !is_in[i];
            is_in[i] = 1;
        }
        text = *end == ',' ? end + 1 : end;
        if (*end && *end != ',') break;
    }
    return n;
}

/* The value behind "name" in a file of "name: value" lines. */
static bool field(const char *text, const char *name, char *out, size_t room)
{
    size_t n = strlen(name);
    for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        if (strncmp(line, name, n)) continue;
        const char *p = line + n;
        while (*p == ' ' || *p == '\t') p++;
        if (*p++ != ':') continue;
        while (*p == ' ' || *p == '\t') p++;
        snprintf(out, room, "%.*s", (int)strcspn(p, "\n"), p);
        return true;
    }
    return false;
}

/* ------------------------------------------------------------------ processor */

enum { MOST_CPUS = 4096 };

static void read_cpus(struct qn_machine *m, const char *root)
{
    static unsigned char is_online[MOST_CPUS];
    static int core[MOST_CPUS], package[MOST_CPUS];
    char text[4096], *big = xmalloc(1 << 16);
    memset(is_online, 0, sizeof is_online);
    if (read_text(root, "/proc/cpuinfo", big, 1 << 16)) {
        char flags[4096];
        if (!field(big, "model name", m->cpu, sizeof m->cpu)) field(big, "CPU part", m->cpu, sizeof m->cpu);
        m->is_virtual = field(big, "flags", flags, sizeof flags) && strstr(flags, " hypervisor");
    }
    free(big);
    if (!read_at(root, text, "/sys/devices/system/cpu/online")) strcpy(text, "0");
    m->n_cpu = take_list(text, is_online, MOST_CPUS);
    cpu_set_t set;
    CPU_ZERO(&set);
    bool has_set = !*root && !sched_getaffinity(0, sizeof set, &set);
    int n = 0;
    for (int i = 0; i < MOST_CPUS; i++) {
        if (!is_online[i] || (has_set && i < CPU_SETSIZE && !CPU_ISSET(i, &set))) continue;
        m->n_allowed++;
        int c = read_at(root, text, "/sys/devices/system/cpu/cpu%d/topology/core_id", i) ? atoi(text) : i;
        int p = read_at(root, text, "/sys/devices/system/cpu/cpu%d/topology/physical_package_id", i)
                    ? atoi(text)
                    : 0;
        bool new_core = true, new_package = true;
        for (int k = 0; k < n; k++) {
            new_package &= package[k] != p;
            new_core &= package[k] != p || core[k] != c;
        }
        m->n_socket += new_package;
        if (new_core) {
            core[n] = c;
            package[n++] = p;
        }
        if (read_at(root, text, "/sys/devices/system/cpu/cpu%d/cpufreq/scaling_governor", i)) {
            bool is_slow = strcmp(text, "performance");
            if (!m->governor[0] || (is_slow && !m->n_slow_governor))
                snprintf(m->governor, sizeof m->governor, "%.23s", text);
            m->n_slow_governor += is_slow;
            if (!m->governor_driver[0] &&
                read_at(root, text, "/sys/devices/system/cpu/cpu%d/cpufreq/scaling_driver", i))
                snprintf(m->governor_driver, sizeof m->governor_driver, "%.31s", text);
        }
    }
    m->n_core = n;
    m->smt = n ? m->n_allowed / n : 1;
    for (int i = 0; i < 8; i++) {
        char level[4096];
        if (!read_at(root, level, "/sys/devices/system/cpu/cpu0/cache/index%d/level", i)) break;
        if (!read_at(root, text, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i)) continue;
        if (atoi(level) == 2) m->l2_bytes = size_of(text);
        if (atoi(level) == 3) m->l3_bytes = size_of(text);
    }
    double quota, period;
    if (read_at(root, text, "/sys/fs/cgroup/cpu.max") && sscanf(text, "%lf %lf", &quota, &period) == 2 &&
        period > 0)
        m->cpu_quota = quota / period;
    if (read_at(root, text, "/proc/loadavg")) m->load = atof(text);
    if (read_at(root, text, "/proc/sys/kernel/osrelease"))
        snprintf(m->kernel, sizeof m->kernel, "%.95s", text);
}

/* ------------------------------------------------------------------ memory */

static int64_t kib(const char *text, const char *name)
{
    char value[64];
    return field(text, name, value, sizeof value) ? strtoll(value, NULL, 10) << 10 : 0;
}

static void read_memory(struct qn_machine *m, const char *root)
{
    char text[4096];
    if (read_at(root, text, "/proc/meminfo")) {
        m->memory_bytes = kib(text, "MemTotal");
        m->available_bytes = kib(text, "MemAvailable");
        m->swap_bytes = kib(text, "SwapTotal");
        m->swap_free_bytes = kib(text, "SwapFree");
    }
    if (read_at(root, text, "/sys/fs/cgroup/memory.max") ||
        read_at(root, text, "/sys/fs/cgroup/memory/memory.limit_in_bytes")) {
        int64_t limit = strtoll(text, NULL, 10);
        if (limit > 0 && limit < m->memory_bytes) m->group_limit_bytes = limit;
    }
    /* "always [madvise] never" */
    if (read_at(root, text, "/sys/kernel/mm/transparent_hugepage/enabled")) {
        char *from = strchr(text, '['), *to = from ? strchr(from, ']') : NULL;
        if (to)
            snprintf(m->huge_pages, sizeof m->huge_pages, "%.*s", (int)QN_MIN(to - from - 1, 15), from + 1);
    }
    m->overcommit = read_at(root, text, "/proc/sys/vm/overcommit_memory") ? atoi(text) : -1;
    m->numa_balancing = read_at(root, text, "/proc/sys/kernel/numa_balancing") ? atoi(text) : -1;
    static unsigned char is_node[QN_MAX_NODES];
    memset(is_node, 0, sizeof is_node);
    if (read_at(root, text, "/sys/devices/system/node/online")) take_list(text, is_node, QN_MAX_NODES);
    for (int i = 0; i < QN_MAX_NODES; i++) {
        if (!is_node[i] || !read_at(root, text, "/sys/devices/system/node/node%d/meminfo", i)) continue;
        const char *total = strstr(text, "MemTotal:");
        int64_t n = total ? strtoll(total + 9, NULL, 10) << 10 : 0;
        if (n) m->node_bytes[m->n_node++] = n;
    }
    struct rlimit limit;
    if (!*root && !getrlimit(RLIMIT_NOFILE, &limit)) m->open_files = (int64_t)limit.rlim_cur;
}

/* ------------------------------------------------------------------ devices */

static void read_link(const char *root, const char *address, const char *what, double *gts, int *width)
{
    char text[4096];
    if (read_at(root, text, "/sys/bus/pci/devices/%s/%s_link_speed", address, what)) *gts = atof(text);
    if (read_at(root, text, "/sys/bus/pci/devices/%s/%s_link_width", address, what)) *width = atoi(text);
}

static int by_address(const void *a, const void *b)
{
    return strcmp(((const struct qn_gpu *)a)->address, ((const struct qn_gpu *)b)->address);
}

static void read_gpus(struct qn_machine *m, const char *root)
{
    char *folder = xasprintf("%s/sys/bus/pci/devices", root), text[4096];
    DIR *d = opendir(folder);
    for (struct dirent *entry; d && (entry = readdir(d)) && m->n_gpu < QN_MAX_GPUS;) {
        const char *at = entry->d_name;
        if (at[0] == '.' || strlen(at) >= sizeof m->gpu->address) continue;
        if (!read_at(root, text, "/sys/bus/pci/devices/%s/class", at)) continue;
        long class = strtol(text, NULL, 16) >> 8;
        if (!read_at(root, text, "/sys/bus/pci/devices/%s/vendor", at)) continue;
        long vendor = strtol(text, NULL, 16);
        /* display and compute controllers of those who make accelerators */
        if ((class != 0x0300 && class != 0x0302 && class != 0x0380 && class != 0x1200) ||
            (vendor != 0x10de && vendor != 0x1002 && vendor != 0x8086))
            continue;
        struct qn_gpu *g = &m->gpu[m->n_gpu++];
        snprintf(g->address, sizeof g->address, "%s", at);
        const char *maker = vendor == 0x10de ? "NVIDIA" : vendor == 0x1002 ? "AMD" : "Intel";
        strcpy(g->vendor, maker);
        if (read_at(root, text, "/sys/bus/pci/devices/%s/device", at))
            snprintf(g->name, sizeof g->name, "%s device %.20s", maker, text);
        g->numa_node = read_at(root, text, "/sys/bus/pci/devices/%s/numa_node", at) ? atoi(text) : -1;
        read_link(root, at, "current", &g->link_gts, &g->link_width);
        read_link(root, at, "max", &g->link_gts_max, &g->link_width_max);
        char *link = xasprintf("%s/%s/driver", folder, at), target[512];
        ssize_t n = readlink(link, target, sizeof target - 1);
        if (n > 0) {
            target[n] = 0;
            const char *slash = strrchr(target, '/');
            snprintf(g->driver, sizeof g->driver, "%.31s", slash ? slash + 1 : target);
        }
        free(link);
    }
    if (d) closedir(d);
    free(folder);
    if (m->n_gpu) qsort(m->gpu, (size_t)m->n_gpu, sizeof *m->gpu, by_address);
    folder = xasprintf("%s/sys/kernel/iommu_groups", root);
    d = opendir(folder);
    for (struct dirent *entry; d && (entry = readdir(d));) m->has_iommu |= entry->d_name[0] != '.';
    if (d) closedir(d);
    free(folder);
    memset(m->p2p, -1, sizeof m->p2p);
}

void qn_machine_read(struct qn_machine *m, const char *root)
{
    *m = (struct qn_machine){0};
    read_cpus(m, root);
    read_memory(m, root);
    read_gpus(m, root);
}
