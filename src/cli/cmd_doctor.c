/* quern doctor: the machine, what is wrong with it, and the one command that mends it.
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdarg.h>
#include <unistd.h>

#include "base/shown.h"
#include "base/cpu.h"
#include "base/json.h"
#include "cli/bandwidth.h"
#include "cli/cli.h"
#include "cli/machine.h"
#include "model/plan.h"

#define MAX_FINDINGS   32
#define FEW_OPEN_FILES 4096 /* a connection needs one, a shard two */

enum level { NOTE, WARN, BAD };
static const char *const level_names[] = {"note", "warning", "problem"};

struct finding {
    enum level level;
    char text[300], fix[200]; /* fix: a command, or "" */
};

struct report {
    const char *root;
    struct qn_machine m;
    bool has_nvml;
    double read_all, read_one; /* 1e9 bytes a second; 0: not measured */
    struct finding finding[MAX_FINDINGS];
    int n_finding;
};

QN_PRINTF(4, 5)
static void find(struct report *r, enum level level, const char *fix, const char *fmt, ...)
{
    if (r->n_finding == MAX_FINDINGS) return;
    struct finding *f = &r->finding[r->n_finding++];
    f->level = level;
    snprintf(f->fix, sizeof f->fix, "%s", fix);
    va_list args;
    va_start(args, fmt);
    vsnprintf(f->text, sizeof f->text, fmt, args);
    va_end(args);
}

/* ------------------------------------------------------------------ judging */

static void judge_cpu(struct report *r)
{
    const struct qn_machine *m = &r->m;
    const char *mask = *r->root ? NULL : getenv("QUERN_CPU");
    if (mask && *mask)
        find(r, WARN, "unset QUERN_CPU", "QUERN_CPU=%.20s limits the instructions that are used", mask);
    if (!*r->root && qn_cpu_isa() == QN_ISA_SCALAR && !(mask && *mask))
        find(r, WARN, "",
             "the processor has none of the vector instructions quern is fast with (AVX2 or later, on Arm "
             "DotProd)");
    bool is_scaled_by_hardware =
        !strcmp(m->governor_driver, "intel_pstate") || strstr(m->governor_driver, "pstate-epp");
    if (m->n_slow_governor)
        find(r, is_scaled_by_hardware ? NOTE : WARN,
             "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
             "%d of %d CPUs have the frequency governor '%s' (%s)", m->n_slow_governor, m->n_allowed,
             m->governor, m->governor_driver[0] ? m->governor_driver : "driver not known");
    if (m->n_allowed < m->n_cpu)
        find(r, NOTE, "taskset -pc 0-999 $$", "this process may use %d of %d CPUs", m->n_allowed, m->n_cpu);
    if (m->cpu_quota > 0 && m->cpu_quota < m->n_core) {
        char fix[64];
        snprintf(fix, sizeof fix, "quern serve MODEL --threads %d", QN_MAX((int)m->cpu_quota, 1));
        find(r, WARN, fix,
             "the container may use %.1f CPUs' time; threads on %d cores are stopped in between",
             m->cpu_quota, m->n_core);
    }
    if (!*r->root && m->load > 0.5 * m->n_core)
        find(r, NOTE, "ps -eo pcpu,pid,comm --sort=-pcpu | head",
             "the machine is busy (load %.1f on %d cores): what is measured now is less than it can do",
             m->load, m->n_core);
    if (m->is_virtual)
        find(r, NOTE, "", "a virtual machine: its memory bandwidth may be shared with others and move");
}

static void judge_memory(struct report *r)
{
    const struct qn_machine *m = &r->m;
    char a[24], b[24];
    if (!strcmp(m->huge_pages, "never"))
        find(r, WARN, "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
             "huge pages are off: weights and caches are walked in 4 KiB pages");
    if (m->group_limit_bytes)
        find(r, NOTE, "", "the container may use %s of %s memory; plan and serve are told with --memory",
             qn_bytes_text((uint64_t)m->group_limit_bytes, a), qn_bytes_text((uint64_t)m->memory_bytes, b));
    if (m->overcommit == 2)
        find(r, WARN, "sudo sysctl vm.overcommit_memory=0",
             "the kernel counts every mapping as used: mapping a checkpoint may be refused");
    if (m->swap_bytes && m->swap_bytes - m->swap_free_bytes > m->memory_bytes / 20)
        find(r, WARN, "sudo swapoff -a && sudo swapon -a",
             "%s of memory are swapped out; a model must not be",
             qn_bytes_text((uint64_t)(m->swap_bytes - m->swap_free_bytes), a));
    if (m->memory_bytes && m->available_bytes < m->memory_bytes / 10)
        find(r, WARN, "ps -eo rss,pid,comm --sort=-rss | head", "only %s of %s memory are available",
             qn_bytes_text((uint64_t)m->available_bytes, a), qn_bytes_text((uint64_t)m->memory_bytes, b));
    if (m->n_node > 1) {
        find(r, NOTE, "numactl --interleave=all quern serve MODEL",
             "%d memory nodes: without binding, weights lie where the loading thread ran", m->n_node);
        if (m->numa_balancing > 0)
            find(r, NOTE, "sudo sysctl kernel.numa_balancing=0",
                 "the kernel moves pages between nodes while the model reads them");
        for (int i = 0; i < m->n_node; i++)
            if (m->node_bytes[i] * 2 < m->node_bytes[0] || m->node_bytes[0] * 2 < m->node_bytes[i]) {
                find(r, NOTE, "", "the memory nodes differ in size; channels may be empty");
                break;
            }
    }
    if (m->open_files && m->open_files < FEW_OPEN_FILES)
        find(r, NOTE, "ulimit -n 65536",
             "only %" PRId64 " open files are allowed: connections beyond are refused", m->open_files);
}

static void judge_gpus(struct report *r)
{
    const struct qn_machine *m = &r->m;
    int n_nvidia = 0;
    for (int i = 0; i < m->n_gpu; i++) {
        const struct qn_gpu *g = &m->gpu[i];
        if (strcmp(g->vendor, "NVIDIA")) continue;
        n_nvidia++;
        if (!g->driver[0])
            find(r, BAD, "sudo apt-get install nvidia-driver", "GPU %s has no driver", g->address);
        else if (!strcmp(g->driver, "nouveau"))
            find(r, BAD, "sudo apt-get install nvidia-driver",
                 "GPU %s is driven by nouveau, which cannot compute", g->address);
        else if (!strcmp(g->driver, "vfio-pci"))
            find(r, NOTE, "", "GPU %s is reserved for a virtual machine (vfio-pci)", g->address);
        if (g->link_width && g->link_width < g->link_width_max)
            find(r, WARN, "",
                 "GPU %s runs on %d of %d PCIe lanes: look at the slot, the riser, the BIOS's bifurcation",
                 g->address, g->link_width, g->link_width_max);
        if (g->numa_node < 0 && m->n_node > 1)
            find(r, NOTE, "", "GPU %s does not say which memory node it is near", g->address);
    }
    if (n_nvidia) find(r, NOTE, "", "this build computes on the CPU only; GPUs are listed, not used");
    bool said_driver = false;
    for (int i = 0; i < m->n_gpu; i++)
        if (!said_driver && !r->has_nvml && !*r->root && !strcmp(m->gpu[i].driver, "nvidia")) {
            find(r, BAD, "sudo apt-get install libnvidia-ml1",
                 "the kernel has the NVIDIA driver, its management library cannot be opened or does not "
                 "start");
            said_driver = true;
        }
    for (int i = 0; i < m->n_gpu; i++)
        for (int k = i + 1; k < m->n_gpu; k++)
            if (m->p2p[i][k] == 0)
                find(r, WARN,
                     m->has_iommu ? "sudo sed -i 's/^GRUB_CMDLINE_LINUX=\"/&iommu=pt /' /etc/default/grub && "
                                    "sudo update-grub"
                                  : "",
                     "no direct access between GPU %s and %s: %s", m->gpu[i].address, m->gpu[k].address,
                     m->p2p_why[i][k]);
}

/* ------------------------------------------------------------------ telling */

static void print_text(const struct report *r)
{
    const struct qn_machine *m = &r->m;
    char a[24], b[24];
    printf("processor   %s\n", m->cpu[0] ? m->cpu : "(not told)");
    printf("cores       %d", m->n_core);
    if (m->n_socket > 1) printf(" on %d sockets", m->n_socket);
    if (m->smt > 1) printf(", %d threads a core", m->smt);
    if (m->n_allowed < m->n_cpu) printf(", %d of %d CPUs allowed", m->n_allowed, m->n_cpu);
    printf("\n");
    if (!*r->root) printf("vectors     %s\n", qn_isa_name(qn_cpu_isa()));
    if (m->l2_bytes) {
        printf("caches      %s L2", qn_bytes_text((uint64_t)m->l2_bytes, a));
        if (m->l3_bytes) printf(", %s L3", qn_bytes_text((uint64_t)m->l3_bytes, b));
        printf("\n");
    }
    if (m->governor[0]) printf("frequency   %s (%s)\n", m->governor, m->governor_driver);
    printf("memory      %s, %s available", qn_bytes_text((uint64_t)m->memory_bytes, a),
           qn_bytes_text((uint64_t)m->available_bytes, b));
    if (m->n_node > 1) printf(", %d nodes", m->n_node);
    printf("\n");
    if (r->read_all > 0)
        printf("bandwidth   %.1f GB/s read with %d threads, %.1f with one\n", r->read_all, m->n_core,
               r->read_one);
    printf("huge pages  %s\n", m->huge_pages[0] ? m->huge_pages : "(not told)");
    if (m->driver_version[0]) printf("driver      NVIDIA %s\n", m->driver_version);
    for (int i = 0; i < m->n_gpu; i++) {
        const struct qn_gpu *g = &m->gpu[i];
        printf("gpu         %s  %s", qn_shown(g->address), qn_shown(g->name));
        if (g->memory_bytes) printf(", %s", qn_bytes_text((uint64_t)g->memory_bytes, a));
        if (g->capability) printf(", compute %d.%d", g->capability / 10, g->capability % 10);
        if (g->link_width)
            printf(", PCIe %g GT/s x%d (of %g x%d)", g->link_gts, g->link_width, g->link_gts_max,
                   g->link_width_max);
        if (g->numa_node >= 0) printf(", node %d", g->numa_node);
        printf(", driver %s\n", g->driver[0] ? g->driver : "none");
    }
    if (!m->n_gpu) printf("gpu         none\n");
    printf("\n");
    int n_bad = 0;
    for (int level = BAD; level >= NOTE; level--)
        for (int i = 0; i < r->n_finding; i++) {
            const struct finding *f = &r->finding[i];
            if ((int)f->level != level) continue;
            n_bad += f->level != NOTE;
            printf("%s: %s\n", level_names[f->level], qn_shown(f->text));
            if (f->fix[0]) printf("    %s\n", f->fix);
        }
    if (!n_bad) printf("nothing is wrong with this machine\n");
}

static void put_str(struct qn_buf *b, const char *key, const char *text)
{
    qn_buf_printf(b, "\"%s\":", key);
    if (text[0])
        qn_json_write_str(b, text, strlen(text), false);
    else
        qn_buf_puts(b, "null");
}

static void put_gpus(struct qn_buf *b, const struct qn_machine *m)
{
    for (int i = 0; i < m->n_gpu; i++) {
        const struct qn_gpu *g = &m->gpu[i];
        qn_buf_puts(b, i ? ",{" : "{");
        put_str(b, "address", g->address);
        qn_buf_putc(b, ',');
        put_str(b, "vendor", g->vendor);
        qn_buf_putc(b, ',');
        put_str(b, "name", g->name);
        qn_buf_putc(b, ',');
        put_str(b, "driver", g->driver);
        qn_buf_printf(b,
                      ",\"numa_node\":%d,\"link_gts\":%g,\"link_width\":%d,\"link_gts_max\":%g,"
                      "\"link_width_max\":%d,\"memory_bytes\":%" PRId64 ",\"memory_free_bytes\":%" PRId64
                      ",\"compute_capability\":",
                      g->numa_node, g->link_gts, g->link_width, g->link_gts_max, g->link_width_max,
                      g->memory_bytes, g->memory_free_bytes);
        if (g->capability)
            qn_buf_printf(b, "\"%d.%d\"", g->capability / 10, g->capability % 10);
        else
            qn_buf_puts(b, "null");
        qn_buf_puts(b, ",\"p2p\":[");
        for (int k = 0; k < m->n_gpu; k++)
            qn_buf_printf(b, "%s%s", k ? "," : "",
                          m->p2p[i][k] < 0 ? "null"
                          : m->p2p[i][k]   ? "true"
                                           : "false");
        qn_buf_puts(b, "]}");
    }
}

static void print_json(const struct report *r)
{
    const struct qn_machine *m = &r->m;
    struct qn_buf b = QN_BUF_INIT(1 << 20);
    qn_buf_puts(&b, "{\"cpu\":{");
    put_str(&b, "model", m->cpu);
    qn_buf_printf(&b, ",\"cores\":%d,\"sockets\":%d,\"threads_per_core\":%d,\"cpus\":%d,\"cpus_allowed\":%d,",
                  m->n_core, m->n_socket, m->smt, m->n_cpu, m->n_allowed);
    put_str(&b, "isa", *r->root ? "" : qn_isa_name(qn_cpu_isa()));
    qn_buf_printf(&b, ",\"l2_bytes\":%" PRId64 ",\"l3_bytes\":%" PRId64 ",", m->l2_bytes, m->l3_bytes);
    put_str(&b, "governor", m->governor);
    qn_buf_putc(&b, ',');
    put_str(&b, "governor_driver", m->governor_driver);
    qn_buf_printf(&b, ",\"quota\":%g,\"virtual\":%s,\"load\":%g},", m->cpu_quota,
                  m->is_virtual ? "true" : "false", m->load);
    put_str(&b, "kernel", m->kernel);
    qn_buf_printf(&b,
                  ",\"memory\":{\"total_bytes\":%" PRId64 ",\"available_bytes\":%" PRId64
                  ",\"swap_bytes\":%" PRId64 ",\"swap_free_bytes\":%" PRId64 ",\"limit_bytes\":%" PRId64 ",",
                  m->memory_bytes, m->available_bytes, m->swap_bytes, m->swap_free_bytes,
                  m->group_limit_bytes);
    put_str(&b, "huge_pages", m->huge_pages);
    qn_buf_puts(&b, ",\"node_bytes\":[");
    for (int i = 0; i < m->n_node; i++) qn_buf_printf(&b, "%s%" PRId64, i ? "," : "", m->node_bytes[i]);
    qn_buf_puts(&b, "],\"read_bytes_per_s\":");
    if (r->read_all > 0)
        qn_buf_printf(&b, "%.0f,\"read_bytes_per_s_one_thread\":%.0f", r->read_all * 1e9, r->read_one * 1e9);
    else
        qn_buf_puts(&b, "null,\"read_bytes_per_s_one_thread\":null");
    qn_buf_puts(&b, "},\"gpus\":[");
    put_gpus(&b, m);
    qn_buf_puts(&b, "],");
    put_str(&b, "gpu_driver", m->driver_version);
    qn_buf_puts(&b, ",\"findings\":[");
    for (int i = 0; i < r->n_finding; i++) {
        qn_buf_printf(&b, "%s{\"level\":\"%s\",", i ? "," : "", level_names[r->finding[i].level]);
        put_str(&b, "text", r->finding[i].text);
        qn_buf_putc(&b, ',');
        put_str(&b, "fix", r->finding[i].fix);
        qn_buf_putc(&b, '}');
    }
    qn_buf_puts(&b, "]}");
    puts(qn_buf_str(&b));
    qn_buf_free(&b);
}

static int run(int argc, char **argv)
{
    static struct report r;
    bool is_json = false, is_quick = false;
    r.root = "";
    const struct qn_opt table[] = {
        {.name = "json", .type = QN_OPT_FLAG, .out = &is_json, .help = "one JSON object"},
        {.name = "quick",
         .type = QN_OPT_FLAG,
         .out = &is_quick,
         .help = "do not measure the memory's bandwidth"},
        {.name = "root",
         .type = QN_OPT_STR,
         .out = &r.root,
         .arg = "DIR",
         .help = "a copy of another machine's /proc and /sys; nothing is measured"},
    };
    static const struct qn_opt_usage usage = {"quern doctor [options]",
                                              "Says what this machine has (processor, memory and its "
                                              "bandwidth, GPUs and their links), what is wrong, and\n"
                                              "the one command that mends it.",
                                              "quern doctor"};
    struct qn_err e = {0};
    int n_arg, rc = qn_opt_parse(table, QN_COUNT(table), &usage, argc, argv, NULL, 0, &n_arg, &e);
    if (rc) return qn_cli_usage_failed("doctor", rc, &e);
    if (*r.root && access(r.root, R_OK | X_OK)) {
        qn_err_set(&e, QN_NOTFOUND, __FILE__, __LINE__, "%s: %s", r.root, strerror(errno));
        return qn_cli_failed("doctor", &e);
    }
    qn_machine_read(&r.m, r.root);
    if (!*r.root) r.has_nvml = qn_machine_ask_nvml(&r.m);
    if (!*r.root && !is_quick) {
        r.read_one = qn_bandwidth_read(1);
        r.read_all = r.m.n_core > 1 ? qn_bandwidth_read(r.m.n_core) : r.read_one;
    }
    judge_cpu(&r);
    judge_memory(&r);
    judge_gpus(&r);
    if (is_json)
        print_json(&r);
    else
        print_text(&r);
    return 0;
}

const struct qn_cmd qn_cmd_doctor = {"doctor", "the machine: what it has, what is wrong, what mends it", run};
