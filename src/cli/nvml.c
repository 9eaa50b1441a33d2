/* What the NVIDIA management library says about the GPUs. It comes with the driver and is opened at run time,
 * with the few prototypes of its published interface that are needed.
 * SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>
#include <strings.h>

#include "cli/machine.h"

typedef void *device;

struct pci_info { /* nvmlPciInfo_t */
    char short_id[16];
    unsigned domain, bus, device, pci_device, pci_subsystem;
    char id[32];
};

struct memory { /* nvmlMemory_t */
    unsigned long long total, free, used;
};

struct library {
    int (*init)(void), (*shutdown)(void);
    int (*version)(char *, unsigned);
    int (*count)(unsigned *);
    int (*handle)(unsigned, device *);
    int (*pci)(device, struct pci_info *);
    int (*name)(device, char *, unsigned);
    int (*memory)(device, struct memory *);
    int (*capability)(device, int *, int *);
    int (*p2p)(device, device, int, int *);
};

static bool find(void *lib, void *out, const char *name)
{
    void *p = dlsym(lib, name);
    memcpy(out, &p, sizeof p);
    return p;
}

static bool load(void *lib, struct library *l)
{
    find(lib, &l->p2p, "nvmlDeviceGetP2PStatus"); /* older drivers have none */
    return find(lib, &l->init, "nvmlInit_v2") && find(lib, &l->shutdown, "nvmlShutdown") &&
           find(lib, &l->version, "nvmlSystemGetDriverVersion") &&
           find(lib, &l->count, "nvmlDeviceGetCount_v2") &&
           find(lib, &l->handle, "nvmlDeviceGetHandleByIndex_v2") &&
           find(lib, &l->pci, "nvmlDeviceGetPciInfo_v3") && find(lib, &l->name, "nvmlDeviceGetName") &&
           find(lib, &l->memory, "nvmlDeviceGetMemoryInfo") &&
           find(lib, &l->capability, "nvmlDeviceGetCudaComputeCapability");
}

/* "00000000:01:00.0" there, "0000:01:00.0" in sysfs: the last 12 characters name both. */
static int place(struct qn_machine *m, const char *id)
{
    size_t n = strlen(id);
    const char *tail = n >= 12 ? id + n - 12 : id;
    for (int i = 0; i < m->n_gpu; i++)
        if (!strcasecmp(m->gpu[i].address, tail)) return i;
    if (m->n_gpu == QN_MAX_GPUS) return -1;
    struct qn_gpu *g = &m->gpu[m->n_gpu];
    *g = (struct qn_gpu){.vendor = "NVIDIA", .driver = "nvidia", .numa_node = -1};
    snprintf(g->address, sizeof g->address, "%.15s", tail);
    return m->n_gpu++;
}

static const char *why(int status)
{
    static const char *const texts[] = {"works",
                                        "the chipset does not carry it",
                                        "the GPU does not support it",
                                        "the I/O hub does not carry it",
                                        "it is disabled by a registry key",
                                        "not supported"};
    return status >= 0 && status < (int)QN_COUNT(texts) ? texts[status] : "not known";
}

bool qn_machine_ask_nvml(struct qn_machine *m)
{
    struct library l = {0};
    void *lib = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (!lib) return false;
    bool is_open = load(lib, &l) && !l.init();
    unsigned n = 0;
    device handles[QN_MAX_GPUS];
    int at[QN_MAX_GPUS], n_found = 0;
    if (is_open) {
        l.version(m->driver_version, sizeof m->driver_version);
        if (l.count(&n)) n = 0;
    }
    for (unsigned i = 0; i < n && n_found < QN_MAX_GPUS; i++) {
        struct pci_info pci = {0};
        struct memory memory = {0};
        int major = 0, minor = 0;
        device d;
        if (l.handle(i, &d) || l.pci(d, &pci)) continue;
        pci.id[sizeof pci.id - 1] = 0;
        int k = place(m, pci.id);
        if (k < 0) continue;
        struct qn_gpu *g = &m->gpu[k];
        g->is_known = true;
        l.name(d, g->name, sizeof g->name);
        if (!l.memory(d, &memory)) {
            g->memory_bytes = (int64_t)memory.total;
            g->memory_free_bytes = (int64_t)memory.free;
        }
        if (!l.capability(d, &major, &minor)) g->capability = major * 10 + minor;
        handles[n_found] = d;
        at[n_found++] = k;
    }
    for (int i = 0; i < n_found && l.p2p; i++)
        for (int k = 0; k < n_found; k++) {
            int status, read_index = 0;
            if (i == k || l.p2p(handles[i], handles[k], read_index, &status)) continue;
            m->p2p[at[i]][at[k]] = status == 0;
            m->p2p_why[at[i]][at[k]] = why(status);
        }
    if (is_open) l.shutdown();
    dlclose(lib);
    return is_open;
}
