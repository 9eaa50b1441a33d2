"""quern doctor: on this machine, on copies of /proc and /sys made here, and with a management library of our own.

SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUERN = pathlib.Path(os.environ.get("QUERN_BUILD", ROOT / "build")) / "quern"


def doctor(*args, **env):
    r = subprocess.run([QUERN, "doctor", *args], capture_output=True, text=True, timeout=120, env={**os.environ, **env})
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout) if "--json" in args else r.stdout


class Copy:
    """A /proc and /sys to be looked at with --root."""

    def __init__(self, root):
        self.root = root
        self.put("/proc/cpuinfo", "processor\t: 0\nmodel name\t: Some Processor 9\nflags\t\t: fpu avx2\n")
        self.put("/proc/meminfo", "MemTotal: 131072000 kB\nMemAvailable: 120000000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n")
        self.put("/proc/loadavg", "0.10 0.20 0.30 1/100 1\n")
        self.put("/sys/devices/system/cpu/online", "0-7\n")
        for cpu in range(8):  # two sockets, two cores each, two threads a core
            self.put(f"/sys/devices/system/cpu/cpu{cpu}/topology/core_id", str(cpu // 2 % 2))
            self.put(f"/sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id", str(cpu // 4))
        self.put("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
        self.put("/sys/devices/system/node/online", "0\n")
        self.put("/sys/devices/system/node/node0/meminfo", "Node 0 MemTotal:       131072000 kB\n")

    def put(self, path, text):
        at = self.root / path[1:]
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(text)

    def gpu(self, address, driver="nvidia", vendor="0x10de", width=16, width_max=16, node=0):
        base = f"/sys/bus/pci/devices/{address}/"
        for name, text in (("class", "0x030200"), ("vendor", vendor), ("device", "0x2330"), ("numa_node", str(node)),
                           ("current_link_speed", "2.5 GT/s PCIe"), ("max_link_speed", "32.0 GT/s PCIe"),
                           ("current_link_width", str(width)), ("max_link_width", str(width_max))):
            self.put(base + name, text + "\n")
        if driver:
            target = self.root / "sys/bus/pci/drivers" / driver
            target.mkdir(parents=True, exist_ok=True)
            (self.root / base[1:] / "driver").symlink_to(target)

    def findings(self):
        return {f["text"]: f for f in doctor("--json", "--root", str(self.root))["findings"]}


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path)


def one(findings, word):
    hits = [f for text, f in findings.items() if word in text]
    assert len(hits) == 1, (word, findings)
    return hits[0]


def test_this_machine():
    d = doctor("--json")
    assert d["cpu"]["cores"] >= 1 and d["cpu"]["cpus"] >= d["cpu"]["cpus_allowed"] >= d["cpu"]["cores"]
    assert d["cpu"]["isa"] in ("scalar", "avx2", "avx512", "avx512bf16")
    assert d["memory"]["total_bytes"] > d["memory"]["available_bytes"] > 0
    assert 1e8 < d["memory"]["read_bytes_per_s"] < 1e13
    assert sum(d["memory"]["node_bytes"]) <= d["memory"]["total_bytes"] * 1.01
    text = doctor("--quick")
    assert text.startswith("processor ") and "\nbandwidth " not in text
    assert doctor("--json", "--quick")["memory"]["read_bytes_per_s"] is None
    masked = doctor("--json", "--quick", QUERN_CPU="avx2")
    assert any(f["fix"] == "unset QUERN_CPU" for f in masked["findings"])


def test_a_good_copy(copy):
    d = doctor("--json", "--root", str(copy.root))
    assert d["findings"] == []
    assert d["cpu"] == {"model": "Some Processor 9", "cores": 4, "sockets": 2, "threads_per_core": 2, "cpus": 8, "cpus_allowed": 8,
                        "isa": None, "l2_bytes": 0, "l3_bytes": 0, "governor": None, "governor_driver": None, "quota": 0,
                        "virtual": False, "load": 0.1}
    assert d["memory"]["total_bytes"] == 131072000 << 10 and d["memory"]["node_bytes"] == [131072000 << 10]
    assert "nothing is wrong" in doctor("--root", str(copy.root))


def test_findings(copy):
    for cpu in range(8):
        copy.put(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor", "performance" if cpu == 0 else "powersave")
        copy.put(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_driver", "acpi-cpufreq")
    copy.put("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n")
    copy.put("/proc/sys/vm/overcommit_memory", "2\n")
    copy.put("/proc/sys/kernel/numa_balancing", "1\n")
    copy.put("/sys/fs/cgroup/cpu.max", "200000 100000\n")
    copy.put("/sys/fs/cgroup/memory.max", "8589934592\n")
    copy.put("/proc/meminfo", "MemTotal: 100000000 kB\nMemAvailable: 5000000 kB\nSwapTotal: 50000000 kB\nSwapFree: 20000000 kB\n")
    copy.put("/sys/devices/system/node/online", "0-1\n")
    copy.put("/sys/devices/system/node/node1/meminfo", "Node 1 MemTotal:       32000000 kB\n")
    f = copy.findings()
    governor = one(f, "governor")
    assert governor["text"].startswith("7 of 8 CPUs") and governor["level"] == "warning" and "scaling_governor" in governor["fix"]
    assert "madvise" in one(f, "huge pages are off")["fix"]
    assert one(f, "every mapping")["fix"] == "sudo sysctl vm.overcommit_memory=0"
    assert one(f, "moves pages")["fix"] == "sudo sysctl kernel.numa_balancing=0"
    assert one(f, "2.0 CPUs' time")["fix"].endswith("--threads 2")
    assert "8.00 GiB" in one(f, "container may use 8")["text"]
    assert "swapoff" in one(f, "swapped out")["fix"]
    assert one(f, "are available")["level"] == "warning"
    assert "interleave" in one(f, "2 memory nodes")["fix"]
    one(f, "differ in size")


def test_gpus_of_sysfs(copy):
    copy.gpu("0000:01:00.0", width=8)
    copy.gpu("0000:02:00.0", driver=None)
    copy.gpu("0000:03:00.0", driver="nouveau")
    copy.gpu("0000:04:00.0", driver="amdgpu", vendor="0x1002")
    copy.put("/sys/bus/pci/devices/0000:05:00.0/class", "0x020000\n")
    copy.put("/sys/bus/pci/devices/0000:05:00.0/vendor", "0x10de\n")
    d = doctor("--json", "--root", str(copy.root))
    assert [g["address"] for g in d["gpus"]] == [f"0000:0{i}:00.0" for i in (1, 2, 3, 4)]
    assert d["gpus"][0]["link_width"] == 8 and d["gpus"][0]["link_gts_max"] == 32 and d["gpus"][3]["vendor"] == "AMD"
    f = copy.findings()
    assert "8 of 16 PCIe lanes" in one(f, "01:00.0 runs")["text"]
    assert one(f, "02:00.0 has no driver")["level"] == "problem"
    assert "nvidia-driver" in one(f, "nouveau")["fix"]
    assert one(f, "CPU only")["level"] == "note"


FAKE = r"""
#include <string.h>
struct pci { char a[16]; unsigned b[5]; char id[32]; };
struct memory { unsigned long long total, free, used; };
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *out, unsigned n) { strncpy(out, "580.65.06", n); return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **out) { *out = (void *)(1ul + i); return 0; }
int nvmlDeviceGetPciInfo_v3(void *d, struct pci *p) { strcpy(p->id, d == (void *)1 ? "00000000:F1:00.0" : "00000000:F2:00.0"); return 0; }
int nvmlDeviceGetName(void *d, char *out, unsigned n) { (void)d; strncpy(out, "NVIDIA Test 100", n); return 0; }
int nvmlDeviceGetMemoryInfo(void *d, struct memory *m) { (void)d; m->total = 85899345920ull; m->free = 1ull << 30; return 0; }
int nvmlDeviceGetCudaComputeCapability(void *d, int *a, int *b) { (void)d; *a = 12; *b = 0; return 0; }
int nvmlDeviceGetP2PStatus(void *a, void *b, int what, int *out) { (void)a; (void)b; *out = what == 0 ? 1 : 0; return 0; }
"""


def test_management_library(tmp_path):
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler")
    (tmp_path / "fake.c").write_text(FAKE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", tmp_path / "libnvidia-ml.so.1", tmp_path / "fake.c"], check=True)
    d = doctor("--json", "--quick", LD_LIBRARY_PATH=str(tmp_path))
    assert d["gpu_driver"] == "580.65.06"
    gpus = [g for g in d["gpus"] if g["name"] == "NVIDIA Test 100"]
    assert len(gpus) == 2 and gpus[0]["memory_bytes"] == 80 << 30 and gpus[0]["compute_capability"] == "12.0"
    assert gpus[0]["p2p"].count(False) == 1
    assert any("no direct access" in f["text"] and "chipset" in f["text"] for f in d["findings"])
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"no library")  # one that cannot be opened changes nothing
    assert not [g for g in doctor("--json", "--quick", LD_LIBRARY_PATH=str(tmp_path))["gpus"] if "Test" in (g["name"] or "")]


def test_usage(tmp_path):
    for args, code in ((["--nope"], 2), (["extra"], 2), (["--root", str(tmp_path / "missing")], 1), (["--help"], 0)):
        r = subprocess.run([QUERN, "doctor", *args], capture_output=True, text=True)
        assert r.returncode == code, (args, r.stderr)
