/* simt.cc: see simt.h. One OS thread runs all of it. SPDX-License-Identifier: Apache-2.0 */
#include "simt.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <string>
#include <map>
#include <unordered_map>
#include <vector>

namespace simt
{

Options options;
Counts counts;
char last_finding[512];
thread_local Lane *self;

/* --- sizes of the windows kernels may touch --- */
static const size_t STACK = 64 << 10, SHARED_WINDOW = 512 << 10, ARENA = (size_t)64 << 30;
static const int MAX_WARP = 32, MAX_BAR = 16;
static const uint16_t NONE = 0xffff, SEVERAL = 63; /* a thread: warp << 6 | lane */

/* --- shadow of 4 bytes of memory: who wrote and read them last, when by his warp's clock --- */
struct Word {
    uint32_t wepoch, wblock, wstamp, wtime, repoch, rblock, rstamp, rstamp2, rtime;
    uint16_t wthr, rthr, rthr2;
    uint8_t valid, flight, wmask, rmask; /* bit i: byte i */
    bool many_blocks;                    /* read by more than one */
    bool was_atomic;                     /* the last write */
};

struct Pending { /* one cp.async */
    unsigned char *to, data[16];
    unsigned group;
};
struct Lane {
    void *sp;
    struct Block *block;
    dim3 tid;
    uint16_t warp, lane, thr;
    bool is_done;
    const char *what; /* where it waits; NULL: it does not */
    Site at;
    std::vector<Pending> copies;
    unsigned n_commit;
};
struct Warp {
    void *arg[32];
    uint32_t exist, ready, done, arrived, mask;
    Op op;
    const char *name;
    Site at;
    uint32_t clock, seen[MAX_WARP]; /* accesses of warp u with stamp <= seen[u] come before what we do now */
};
struct Barrier {
    int n_in, n_want, n_waiting;
    uint32_t clock[MAX_WARP], waiting[MAX_WARP], in[MAX_WARP];
    Site at;
};
struct Block {
    dim3 index;
    unsigned number, slot;
    int n_lane, n_warp, n_left;
    Lane *lanes;
    Warp warp[MAX_WARP];
    Barrier bar[MAX_BAR + 1]; /* the last one: of the grid */
    unsigned char *smem;
    std::vector<Word> shadow;
    uint32_t time;               /* releases it made */
    std::vector<uint32_t> knows; /* of each block: how many of its releases it acquired */
};
struct Grid {
    Start s;
    std::vector<Block *> live;
    void *main_sp;
    uint32_t epoch;
    uint64_t idle; /* pauses since something happened */
    int n_at_grid;
    std::map<const void *, std::vector<uint32_t>> released; /* by address: what is known to who reads it */
    bool is_lost;
};
static Grid *grid;
static unsigned char *stacks, *windows, *arena;
static size_t n_stack;
static uint32_t epoch; /* launches and copies so far */
static uint32_t random_state;
static std::unordered_map<const void *, size_t> opted_in;

static unsigned draw(unsigned n)
{
    if (!options.seed || n < 2) return 0;
    random_state ^= random_state << 13, random_state ^= random_state >> 17, random_state ^= random_state << 5;
    return random_state % n;
}

/* --- switching --- */
extern "C" void simt_switch(void **from, void *to);
#if defined __x86_64__
asm(".text\n.globl simt_switch\nsimt_switch:\n push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n "
    "push %r15\n"
    " mov %rsp,(%rdi)\n mov %rsi,%rsp\n pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n "
    "ret\n");
static void *fresh_stack(unsigned char *top, void (*entry)())
{
    void **p = (void **)top;
    *--p = nullptr;
    *--p = (void *)entry;
    return p - 6; /* six registers, any value */
}
#elif defined __aarch64__
asm(".text\n.globl simt_switch\nsimt_switch:\n sub sp,sp,#160\n stp x19,x20,[sp]\n stp x21,x22,[sp,#16]\n"
    " stp x23,x24,[sp,#32]\n stp x25,x26,[sp,#48]\n stp x27,x28,[sp,#64]\n stp x29,x30,[sp,#80]\n"
    " stp d8,d9,[sp,#96]\n stp d10,d11,[sp,#112]\n stp d12,d13,[sp,#128]\n stp d14,d15,[sp,#144]\n"
    " mov x9,sp\n str x9,[x0]\n mov sp,x1\n ldp x19,x20,[sp]\n ldp x21,x22,[sp,#16]\n ldp x23,x24,[sp,#32]\n"
    " ldp x25,x26,[sp,#48]\n ldp x27,x28,[sp,#64]\n ldp x29,x30,[sp,#80]\n ldp d8,d9,[sp,#96]\n"
    " ldp d10,d11,[sp,#112]\n ldp d12,d13,[sp,#128]\n ldp d14,d15,[sp,#144]\n add sp,sp,#160\n ret\n");
static void *fresh_stack(unsigned char *top, void (*entry)())
{
    void **p = (void **)(top - 160);
    memset(p, 0, 160);
    p[11] = (void *)entry;
    return p;
}
#else
#error "a context switch for this machine, please"
#endif

/* --- findings --- */
static const char *kernel_name()
{
    static char name[200];
    Dl_info i;
    if (!grid || !dladdr(grid->s.kernel, &i) || !i.dli_sname) return "kernel";
    int rc;
    char *s = abi::__cxa_demangle(i.dli_sname, nullptr, nullptr, &rc);
    snprintf(name, sizeof name, "%.*s", (int)strcspn(s ? s : i.dli_sname, "("), s ? s : i.dli_sname);
    free(s);
    return name;
}
static const Site *blame; /* of an access that a warp operation or copy makes: the line that asked for it */
static std::string place(const void *pc) /* source line of an access */
{
    Dl_info i;
    if (blame) {
        const char *base = strrchr(blame->file, '/');
        return std::string(base ? base + 1 : blame->file) + ":" + std::to_string(blame->line);
    }
    if ((counts.findings && !options.stops) || !pc || !dladdr(pc, &i))
        return "?"; /* only the first is told */
    char cmd[400], line[300] = "?";
    snprintf(cmd, sizeof cmd, "addr2line -e %s 0x%zx 2>/dev/null", i.dli_fname,
             (size_t)((const char *)pc - (const char *)i.dli_fbase - 1));
    if (FILE *f = popen(cmd, "r")) {
        if (!fgets(line, sizeof line, f)) strcpy(line, "?");
        pclose(f);
    }
    line[strcspn(line, "\n")] = 0;
    const char *base = strrchr(line, '/');
    return base ? base + 1 : line;
}
__attribute__((format(printf, 2, 3))) static void finding(const Lane *l, const char *fmt, ...)
{
    if (counts.findings++ && !options.stops) return; /* the first is told */
    size_t n = 0;
    n = (size_t)snprintf(last_finding, sizeof last_finding, "simt: %s", kernel_name());
    if (l)
        n += (size_t)snprintf(last_finding + n, sizeof last_finding - n, ", block (%u,%u,%u) warp %d lane %d",
                              l->block->index.x, l->block->index.y, l->block->index.z, l->warp, l->lane);
    n += (size_t)snprintf(last_finding + n, sizeof last_finding - n, ": ");
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(last_finding + n, sizeof last_finding - n, fmt, ap);
    va_end(ap);
    fprintf(stderr, "%s\n", last_finding);
    if (options.stops) abort();
}
static void lose_grid() /* leave all fibers behind */
{
    grid->is_lost = true;
    void *here;
    simt_switch(&here, grid->main_sp);
}
static void dead_end(const char *why)
{
    char text[360];
    size_t n = 0;
    for (Block *b : grid->live)
        for (int w = 0; w < b->n_warp; w++) { /* lanes in the same place, as a mask */
            uint32_t left = b->warp[w].exist;
            while (left && n < sizeof text - 90) {
                Lane *l = &b->lanes[w * 32 + __builtin_ctz(left)];
                uint32_t same = 0;
                for (int i = 0; i < 32; i++)
                    if (left >> i & 1) {
                        Lane *m = &b->lanes[w * 32 + i];
                        if (m->is_done == l->is_done && m->what == l->what && m->at.line == l->at.line)
                            same |= 1u << i;
                    }
                left &= ~same;
                const char *base = l->at.file ? strrchr(l->at.file, '/') : nullptr;
                n += (size_t)snprintf(text + n, sizeof text - n, "; b%u w%d %08x %s", b->number, w, same,
                                      l->is_done ? "exited"
                                      : l->what  ? l->what
                                                 : "runs");
                if (!l->is_done && l->what)
                    n += (size_t)snprintf(text + n, sizeof text - n, " at %s:%d",
                                          base ? base + 1 : l->at.file, l->at.line);
            }
        }
    text[n] = 0;
    finding(nullptr, "%s%s", why, text);
    lose_grid();
}

/* --- scheduling --- */
static Lane *pick_in(Block *b, int warp, int lane)
{
    int w0 = options.seed ? (int)draw((unsigned)b->n_warp) : warp;
    for (int i = 0; i < b->n_warp; i++) {
        int w = (w0 + i) % b->n_warp;
        uint32_t m = b->warp[w].ready;
        if (!m) continue;
        int from = options.seed ? (int)draw(32) : w == warp ? lane + 1 & 31 : 0;
        uint32_t turned = from ? m >> from | m << (32 - from) : m;
        return &b->lanes[w * 32 + (__builtin_ctz(turned) + from & 31)];
    }
    return nullptr;
}
static Lane *pick(Lane *me, bool elsewhere)
{
    size_t n = grid->live.size(), at = me->block->slot;
    for (size_t i = elsewhere ? 1 : 0; i < n + (elsewhere ? 1 : 0); i++) {
        Block *b = grid->live[(at + i) % n];
        if (b->n_left)
            if (Lane *l = pick_in(b, me->warp + (elsewhere ? 1 : 0), me->lane)) return l;
    }
    return nullptr;
}
static void go(Lane *next)
{
    Lane *me = self;
    if (next == me) return;
    self = next;
    counts.switches++;
    simt_switch(&me->sp, next->sp);
}
static void sleep_at(const char *what, Site at)
{
    Lane *me = self;
    me->what = what;
    me->at = at;
    uint32_t &ready = me->block->warp[me->warp].ready;
    ready &= ~(1u << me->lane);
    uint32_t later = ready & ~1u << me->lane; /* the common case first: the next lane of the warp */
    Lane *next = later && !options.seed ? me + __builtin_ctz(later) - me->lane : pick(me, false);
    if (!next) dead_end("nobody can go on");
    go(next);
    me->what = nullptr;
}
void pause_lane()
{
    if (++grid->idle > 2000000) dead_end("waits for a block that is not resident, or for ever");
    Lane *next = pick(self, true);
    if (next) go(next);
}
static void lane_main()
{
    Lane *me = self;
    grid->s.call(grid->s.arg);
    me = self;
    Block *b = me->block;
    Warp &w = b->warp[me->warp];
    for (const Pending &p : me->copies)
        if (p.group < me->n_commit) { /* harmless on a device, but nobody will have looked at it */
            finding(me, "exits with a committed cp.async that was never waited for");
            break;
        }
    me->is_done = true;
    w.ready &= ~(1u << me->lane);
    w.done |= 1u << me->lane;
    b->n_left--;
    grid->idle = 0;
    Lane *next = pick(me, false);
    if (next) go(next);
    for (Block *x : grid->live)
        if (x->n_left) dead_end("some threads exited, the others wait");
    self = nullptr;
    void *here;
    simt_switch(&here, grid->main_sp);
}

/* --- clocks: what is ordered before what --- */
static void join(uint32_t *to, const uint32_t *from)
{
    for (int u = 0; u < MAX_WARP; u++) to[u] = to[u] > from[u] ? to[u] : from[u];
}
void op_syncwarp(void *const *, unsigned)
{
    Warp &w = self->block->warp[self->warp];
    w.seen[self->warp] = w.clock++;
}

void collective(Op op, void *arg, unsigned mask, const char *name, Site at)
{
    Lane *me = self;
    Warp &w = me->block->warp[me->warp];
    uint32_t own = 1u << me->lane;
    mask &= w.exist;
    if (!(mask & own))
        finding(me, "%s at line %d: the mask %08x does not name the lane", name, at.line, mask);
    if (w.done & mask) finding(me, "%s at line %d: lanes %08x have exited", name, at.line, w.done & mask);
    if (!w.arrived)
        w.op = op, w.mask = mask, w.at = at, w.name = name;
    else if (w.op != op || w.mask != mask || w.at.line != at.line) {
        finding(me, "%s at line %d meets lanes %08x at %s, line %d", name, at.line, w.arrived, w.name,
                w.at.line);
        lose_grid();
    }
    w.arg[me->lane] = arg;
    w.arrived |= own;
    if ((w.arrived & mask) != mask) return sleep_at(name, at);
    w.arrived = 0;
    counts.collectives++;
    op(w.arg, mask);
    w.ready |= mask;
    grid->idle = 0;
}

void barrier(int id, int n, bool waits, Site at)
{
    Lane *me = self;
    Block *b = me->block;
    Barrier &x = b->bar[id];
    Warp &w = b->warp[me->warp];
    int want = n ? n : b->n_lane;
    if (id < 0 || id >= MAX_BAR || want > b->n_lane || (n && n % 32))
        finding(me, "barrier %d for %d threads", id, n);
    if (x.n_in && x.n_want != want) finding(me, "barrier %d: %d threads here, %d before", id, want, x.n_want);
    if (!n && x.n_in && x.at.line != at.line) {
        finding(me, "divergent __syncthreads: lines %d and %d", x.at.line, at.line);
        lose_grid();
    }
    if (!n && b->n_left != b->n_lane)
        finding(me, "__syncthreads at line %d after some threads exited", at.line);
    x.at = at;
    x.n_want = want;
    x.n_in++;
    x.in[me->warp] |= 1u << me->lane;
    w.seen[me->warp] = w.clock > w.seen[me->warp] ? w.clock : w.seen[me->warp];
    join(x.clock, w.seen);
    if (x.in[me->warp] == w.exist) w.clock++; /* the whole warp is there: what follows is later */
    if (waits) x.waiting[me->warp] |= 1u << me->lane;
    if (x.n_in < want) {
        if (waits) sleep_at("barrier", at);
        return;
    }
    for (int u = 0; u < b->n_warp; u++) {
        if (x.waiting[u]) join(b->warp[u].seen, x.clock);
        b->warp[u].ready |= x.waiting[u];
    }
    memset(&x, 0, sizeof x);
    grid->idle = 0;
}

void grid_barrier(Site at)
{
    barrier(0, 0, true, at);
    Block *b = self->block;
    if (!grid->s.is_cooperative) finding(self, "grid_sync in a launch that is not cooperative");
    Barrier &x = b->bar[MAX_BAR];
    x.waiting[self->warp] |= 1u << self->lane;
    if (++grid->n_at_grid < (int)grid->live.size() * b->n_lane) {
        sleep_at("grid_sync", at);
        return;
    }
    grid->n_at_grid = 0;
    grid->epoch = ++epoch;
    for (Block *y : grid->live)
        for (int u = 0; u < y->n_warp; u++) {
            y->warp[u].ready |= y->bar[MAX_BAR].waiting[u];
            y->bar[MAX_BAR].waiting[u] = 0;
        }
}

unsigned char *shared()
{
    return self->block->smem;
}
dim3 thread_index()
{
    return self->tid;
}
dim3 block_index()
{
    return self->block->index;
}
dim3 block_dim()
{
    return grid->s.block;
}
dim3 grid_dim()
{
    return grid->s.grid;
}

/* --- device memory --- */
struct Alloc {
    size_t n_byte;
    Word *shadow; /* with SIMT_CHECK only: made at the first checked access */
};
static std::map<uintptr_t, Alloc> allocs; /* by the first address */
static size_t arena_used;
size_t memory_used;
static std::pair<const uintptr_t, Alloc> *find_alloc(uintptr_t a)
{
    static std::pair<const uintptr_t, Alloc> *last;
    static size_t known;
    if (known == allocs.size() && last && a - last->first < last->second.n_byte) return last;
    auto i = allocs.upper_bound(a);
    if (i == allocs.begin()) return nullptr;
    --i;
    if (a - i->first >= i->second.n_byte) return nullptr;
    known = allocs.size();
    return last = &*i;
}
static Word *words_of(std::pair<const uintptr_t, Alloc> *p)
{
    Alloc &a = p->second;
    if (!a.shadow)
        a.shadow = (Word *)mmap(nullptr, (a.n_byte / 4 + 1) * sizeof(Word), PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return a.shadow;
}
static bool is_checked;
static void bytes_are_there(void *p, size_t n)
{
    if (!is_checked || !n) return;
    auto *x = find_alloc((uintptr_t)p);
    if (!x) return;
    Word *w = words_of(x);
    for (size_t i = (uintptr_t)p - x->first, end = i + n; i < end; i++)
        w[i / 4].valid |= (uint8_t)(1 << i % 4);
}

/* --- the checks of one access --- */
enum Access { READ, WRITE, ATOMIC };
static void check_word(Word &x, uint8_t mask, Access kind, Lane *l, uint32_t now, const char *where,
                       const void *pc)
{
    bool write = kind != READ;
    Block *b = l->block;
    const uint32_t *seen = b->warp[l->warp].seen;
    uint32_t clock = b->warp[l->warp].clock;
    auto before = [&](uint32_t ep, uint32_t blk, uint32_t time, uint16_t thr,
                      uint32_t stamp) { /* is it ordered? */
                                        if (ep != now) return true;
                                        if (blk != b->number)
                                            return blk < b->knows.size() && b->knows[blk] > time;
                                        return thr == l->thr || stamp <= seen[thr >> 6];
    };
    if (x.flight & mask)
        finding(l, "%s touches %s memory that cp.async is still bringing, %s", write ? "write" : "read",
                where, place(pc).c_str());
    if (kind != WRITE && (uint8_t)(~x.valid & mask))
        finding(l, "read of uninitialised %s memory, %s", where, place(pc).c_str());
    bool both_atomic = kind == ATOMIC && x.was_atomic;
    if ((x.wmask & mask) && !both_atomic && !before(x.wepoch, x.wblock, x.wtime, x.wthr, x.wstamp))
        finding(l, "race in %s memory: %s after a write of block %u warp %d lane %d, %s", where,
                write ? "write" : "read", x.wblock, x.wthr >> 6, x.wthr & 63, place(pc).c_str());
    if (write) {
        if (x.rmask & mask) {
            bool ok = x.repoch != now ||
                      (!(x.many_blocks) && before(x.repoch, x.rblock, x.rtime, x.rthr, x.rstamp) &&
                       (x.rthr2 == NONE || before(x.repoch, x.rblock, x.rtime, x.rthr2, x.rstamp2)));
            if (!ok)
                finding(l, "race in %s memory: write after a read of block %u warp %d, %s", where, x.rblock,
                        x.rthr >> 6, place(pc).c_str());
        }
        bool again = x.wepoch == now && x.wblock == b->number && x.wthr == l->thr && x.wstamp == clock;
        x.wmask = again ? x.wmask | mask : mask;
        x.was_atomic = kind == ATOMIC;
        x.wepoch = now, x.wblock = b->number, x.wtime = b->time, x.wthr = l->thr, x.wstamp = clock;
        x.valid |= mask;
        x.rmask = 0;
        return;
    }
    if (!x.rmask || x.repoch != now) {
        x.rmask = 0, x.rthr2 = NONE, x.many_blocks = false;
        x.rthr = l->thr;
    } else if (x.rblock != b->number) {
        x.many_blocks = true, x.rthr = l->thr;
    } else if (x.rthr >> 6 != l->warp) { /* the last reader was in another warp: keep both */
        x.rthr2 = x.rthr, x.rstamp2 = x.rstamp;
        x.rthr = l->thr;
    } else
        x.rthr = x.rthr == l->thr || x.rstamp != clock ? l->thr : (uint16_t)(l->warp << 6 | SEVERAL);
    x.repoch = now, x.rblock = b->number, x.rtime = b->time, x.rstamp = clock;
    x.rmask |= mask;
}
extern "C" char __executable_start, _end;
static void touch(Lane *l, uintptr_t a, size_t n, Access kind, const void *pc)
{
    Block *b = l->block;
    bool write = kind != READ;
    (write ? counts.stores : counts.loads)++;
    if (a - (uintptr_t)stacks < n_stack * STACK) return; /* locals */
    Word *w;
    size_t o, size;
    uint32_t now;
    const char *where;
    if (a - (uintptr_t)windows < 1024 * SHARED_WINDOW) {
        o = a - (uintptr_t)b->smem, size = grid->s.smem, where = "shared", now = 0;
        w = b->shadow.data();
    } else if (a - (uintptr_t)arena < ARENA) {
        auto *x = find_alloc(a);
        if (!x) return finding(l, "no device memory at this address, %s", place(pc).c_str());
        o = a - x->first, size = x->second.n_byte, where = "global", now = grid->epoch;
        w = words_of(x);
    } else {
        if (a - (uintptr_t)grid->s.arg < grid->s.arg_bytes) return;
        if (!write && a - (uintptr_t)&__executable_start < (uintptr_t)(&_end - &__executable_start)) return;
        return finding(l, "%s host memory, %s", write ? "writes" : "reads", place(pc).c_str());
    }
    if (o > size || n > size - o)
        return finding(l, "%s of %zu bytes at %zd of %zu bytes of %s memory, %s", write ? "write" : "read", n,
                       (ptrdiff_t)o, size, where, place(pc).c_str());
    if (n <= 16 && a % n)
        finding(l, "misaligned %s of %zu bytes, %s", write ? "write" : "read", n, place(pc).c_str());
    for (size_t i = o / 4; i <= (o + n - 1) / 4; i++) {
        size_t lo = i * 4 < o ? o - i * 4 : 0, hi = o + n - i * 4 < 4 ? o + n - i * 4 : 4;
        check_word(w[i], (uint8_t)((1 << hi) - (1 << lo)), kind, l, now, where, pc);
    }
}

/* --- cp.async --- */
static bool in_shared(const Lane *l, const void *p, size_t n)
{
    size_t o = (size_t)((const unsigned char *)p - l->block->smem);
    return o <= grid->s.smem && n <= grid->s.smem - o;
}
void copy_async(void *to, const void *from, int n, Site at)
{
    Lane *l = self;
    if (!in_shared(l, to, 16) || (uintptr_t)to % 16 || (n && (uintptr_t)from % 16) || n < 0 || n > 16)
        return finding(l, "cp.async, line %d: bad destination, alignment or size", at.line);
    blame = &at;
    Pending p = {(unsigned char *)to, {0}, l->n_commit};
    if (is_checked && n) touch(l, (uintptr_t)from, (size_t)n, READ, nullptr);
    memcpy(p.data, from, (size_t)n);
    memset(to, 0xff, 16); /* NaN until it is waited for */
    if (is_checked) {
        touch(l, (uintptr_t)to, 16, WRITE, nullptr);
        for (size_t i = 0, o = (size_t)((unsigned char *)to - l->block->smem) / 4; i < 4; i++)
            l->block->shadow[o + i].flight = 15;
    }
    l->copies.push_back(p);
    blame = nullptr;
}
void copy_commit()
{
    self->n_commit++;
}
void copy_wait(int n_left)
{
    Lane *l = self;
    size_t keep = 0;
    for (Pending &p : l->copies) {
        if (p.group + (unsigned)n_left >= l->n_commit) {
            l->copies[keep++] = p;
            continue;
        }
        memcpy(p.to, p.data, 16);
        if (!is_checked) continue;
        size_t o = (size_t)(p.to - l->block->smem) / 4;
        for (size_t i = 0; i < 4; i++) {
            Word &x = l->block->shadow[o + i];
            x.flight = 0, x.wstamp = l->block->warp[l->warp].clock; /* it is this thread's write, of now */
        }
    }
    l->copies.resize(keep);
}

/* --- warp operations --- */
void op_shfl(void *const *arg, unsigned mask)
{
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) {
            ShflArg *a = (ShflArg *)arg[i];
            if (!(mask >> a->from & 1)) finding(self, "shfl from lane %d, which is not there", a->from);
            a->out = ((ShflArg *)arg[a->from])->in;
        }
}
void op_ballot(void *const *arg, unsigned mask)
{
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= mask >> i & 1 && ((ShflArg *)arg[i])->in ? 1u << i : 0;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) ((ShflArg *)arg[i])->out = r;
}
void op_max(void *const *arg, unsigned mask)
{
    unsigned r = 0;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1 && ((ShflArg *)arg[i])->in > r) r = ((ShflArg *)arg[i])->in;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) ((ShflArg *)arg[i])->out = r;
}
static void need_all(unsigned mask, const char *what)
{
    if (mask != ~0u) finding(self, "%s needs all 32 lanes, mask %08x", what, mask);
}
void op_ldmatrix(void *const *arg, unsigned mask)
{
    need_all(mask, "ldmatrix");
    Lane *first = &self->block->lanes[self->warp * 32];
    const uint16_t *row[32];
    blame = &self->block->warp[self->warp].at;
    for (int i = 0; i < 32; i++) {
        row[i] = (const uint16_t *)((MatrixArg *)arg[i])->row;
        if (!in_shared(first + i, row[i], 16) || (uintptr_t)row[i] % 16)
            return finding(first + i, "ldmatrix: row address outside shared memory or misaligned");
        if (is_checked) touch(first + i, (uintptr_t)row[i], 16, READ, nullptr);
    }
    blame = nullptr;
    for (int i = 0; i < 32; i++) {
        MatrixArg *a = (MatrixArg *)arg[i];
        int g = i >> 2, t = i & 3;
        for (int m = 0; m < 4; m++)
            a->r[m] = a->trans ? row[m * 8 + 2 * t][g] | (uint32_t)row[m * 8 + 2 * t + 1][g] << 16
                               : row[m * 8 + g][2 * t] | (uint32_t)row[m * 8 + g][2 * t + 1] << 16;
    }
}
/* mma as Hopper and Blackwell are published to add (arXiv 2511.10909, 2512.07004): 16 products and c, aligned
 * to the largest exponent, cut to 25 fraction bits, summed exactly, cut to float. F: float, or double where
 * exponents are extreme; both exact. */
typedef float v8f __attribute__((vector_size(32)));
typedef int v8i __attribute__((vector_size(32)));
template <class F, class VF>
static inline void fused_row(const float *a, const int *ea, const v8f *b, const v8i *eb, v8f *c)
{
    v8i top = ((v8i)*c >> 23 & 255), part[2] = {};
    top = (top | (top == 0 & 1)) - 127;
    top = *c == 0 ? v8i{} - 126 : top;
    for (int k = 0; k < 16; k++) {
        v8i e = eb[k] + ea[k];
        top = top > e ? top : e;
    }
    VF unit;
    for (int n = 0; n < 8; n++)
        unit[n] =
            sizeof(F) == 4 ? (F)bits_float((uint32_t)(127 + 25 - top[n]) << 23) : (F)ldexp(1, 25 - top[n]);
    v8i own = __builtin_convertvector(__builtin_convertvector(*c, VF) * unit, v8i);
    for (int k = 0; k < 16; k++) /* two sums: 8 products below 2^27 fit an int */
        part[k & 1] += __builtin_convertvector((F)a[k] * __builtin_convertvector(b[k], VF) * unit, v8i);
    for (int n = 0; n < 8; n++) {
        double x = ((double)part[0][n] + (double)part[1][n] + (double)own[n]) / (double)unit[n];
        float f = (float)x;
        if (fabs((double)f) > fabs(x)) f = bits_float(float_bits(f) - 1); /* towards zero */
        (*c)[n] = f;
    }
}
void op_mma(void *const *arg, unsigned mask)
{
    need_all(mask, "mma");
    counts.mma++;
    typedef double v8d __attribute__((vector_size(64)));
    alignas(32) float a[16][16], b[16][8], c[16][8];
    for (int i = 0; i < 32; i++) {
        const MmaArg *m = (const MmaArg *)arg[i];
        int g = i >> 2, t = i & 3;
        for (int j = 0; j < 4; j++) { /* a: rows g, g + 8; columns 2t, 2t + 1, the same + 8 */
            float *at = &a[g + 8 * (j & 1)][2 * t + 8 * (j >> 1)];
            at[0] = bits_float(m->a[j] << 16), at[1] = bits_float(m->a[j] & 0xffff0000);
        }
        for (int j = 0; j < 2; j++) {
            b[2 * t + 8 * j][g] = bits_float(m->b[j] << 16);
            b[2 * t + 8 * j + 1][g] = bits_float(m->b[j] & 0xffff0000);
        }
        for (int j = 0; j < 4; j++) c[g + 8 * (j >> 1)][2 * t + (j & 1)] = m->d[j];
    }
    alignas(32) int ea[16][16], eb[16][8];
    int most = -300, least = 300; /* of the exponents; 128: not finite */
    if (options.fused_mma) {
        auto exponents = [&](const float *x, int *e, int n) {
            for (int i = 0; i < n; i++) {
                int v = (int)(float_bits(x[i]) >> 23 & 255);
                e[i] = (v ? v : 1) - 127;
                most = most > e[i] ? most : e[i];
                least = x[i] != 0 && least > e[i] ? e[i] : least;
            }
        };
        int ec[128];
        exponents(a[0], ea[0], 256), exponents(b[0], eb[0], 128), exponents(c[0], ec, 128);
    }
    for (int i = 0; i < 16; i++) {
        v8f *row = (v8f *)c[i], plain = *row;
        const v8f *vb = (const v8f *)b;
        if (!options.fused_mma || most == 128)
            for (int k = 0; k < 16; k++) plain = plain + a[i][k] * vb[k]; /* the product is exact */
        if (!options.fused_mma)
            *row = plain;
        else if (most < 50 && least > -50)
            fused_row<float, v8f>(a[i], ea[i], vb, (const v8i *)eb, row);
        else
            fused_row<double, v8d>(a[i], ea[i], vb, (const v8i *)eb, row);
        for (int n = 0; most == 128 && n < 8; n++)
            if (!isfinite(plain[n])) c[i][n] = plain[n] != plain[n] ? bits_float(0x7fffffff) : plain[n];
    }
    for (int i = 0; i < 32; i++)
        for (int j = 0; j < 4; j++)
            ((const MmaArg *)arg[i])->d[j] = c[(i >> 2) + 8 * (j >> 1)][2 * (i & 3) + (j & 1)];
}

/* --- between blocks --- */
static void learn(std::vector<uint32_t> &to, const std::vector<uint32_t> &from)
{
    if (to.size() < from.size()) to.resize(from.size());
    for (size_t i = 0; i < from.size(); i++) to[i] = to[i] > from[i] ? to[i] : from[i];
}
unsigned atomic_acq_rel(unsigned *p, unsigned v, bool adds, bool stores)
{
    Block *b = self->block;
    std::vector<uint32_t> &r = grid->released[p];
    if (is_checked && !find_alloc((uintptr_t)p)) finding(self, "atomic outside device memory");
    if (adds || !stores) learn(b->knows, r); /* acquire */
    if (adds || stores) {                    /* release: also what it knows of others */
        if (b->knows.size() <= b->number) b->knows.resize(b->number + 1);
        b->knows[b->number] = ++b->time;
        learn(r, b->knows);
        grid->idle = 0;
    }
    unsigned was = *p;
    if (adds) *p = was + v;
    if (stores) *p = v;
    bytes_are_there(p, 4);
    return was;
}

/* Relaxed additions: order nothing, and do not race with each other. */
uint64_t atomic_relaxed(void *p, size_t n, uint64_t v, Site at)
{
    blame = &at;
    if (is_checked) touch(self, (uintptr_t)p, n, ATOMIC, nullptr);
    blame = nullptr;
    uint64_t was = 0;
    memcpy(&was, p, n);
    v += was;
    memcpy(p, &v, n);
    return was;
}

/* --- a launch --- */
static void on_fault(int, siginfo_t *i, void *)
{
    if (!self) {
        signal(SIGSEGV, SIG_DFL);
        return;
    }
    uintptr_t a = (uintptr_t)i->si_addr;
    finding(self, "fault at %s memory",
            a - (uintptr_t)arena < ARENA                    ? "device"
            : a - (uintptr_t)windows < 1024 * SHARED_WINDOW ? "shared"
                                                            : "host");
    sigset_t s;
    sigemptyset(&s);
    sigaddset(&s, SIGSEGV);
    sigprocmask(SIG_UNBLOCK, &s, nullptr);
    lose_grid();
}
void start_up()
{
    if (arena) return;
    auto reserve = [](size_t n, int prot) {
        return (unsigned char *)mmap(nullptr, n, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    };
    arena = reserve(ARENA, PROT_NONE);
    windows = reserve(1024 * SHARED_WINDOW, PROT_NONE);
    n_stack = 1 << 18;
    stacks = reserve(n_stack * STACK, PROT_READ | PROT_WRITE);
    static unsigned char alt[65536];
    stack_t s = {};
    s.ss_sp = alt, s.ss_size = sizeof alt;
    sigaltstack(&s, nullptr);
    struct sigaction sa = {};
    sa.sa_sigaction = on_fault;
    sa.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &sa, nullptr);
    if (const char *e = getenv("SIMT_SEED")) options.seed = (unsigned)atoi(e);
    if (const char *e = getenv("SIMT_ARCH"); e && !strcmp(e, "sm_90")) options.smem_limit = 227 << 10;
    if (const char *e = getenv("SIMT_MMA")) options.fused_mma = !!strcmp(e, "fma");
}
static void begin_block(Block *b, unsigned number, unsigned slot)
{
    const Start &s = grid->s;
    int n = (int)(s.block.x * s.block.y * s.block.z);
    b->number = number, b->slot = slot;
    b->index = dim3(number % s.grid.x, number / s.grid.x % s.grid.y, number / s.grid.x / s.grid.y);
    b->n_lane = b->n_left = n;
    b->n_warp = (n + 31) / 32;
    b->knows.clear();
    b->time = 0;
    memset(b->bar, 0, sizeof b->bar);
    memset((void *)b->warp, 0, sizeof b->warp);
    /* the end of shared memory meets a page that faults */
    size_t whole = s.smem + 4095 & ~(size_t)4095;
    unsigned char *window = windows + slot * SHARED_WINDOW;
    if (whole) mprotect(window, whole, PROT_READ | PROT_WRITE);
    b->smem = window + (whole - (s.smem + 127 & ~(size_t)127));
    memset(b->smem, 0xff, s.smem);
    if (is_checked) {
        b->shadow.resize(s.smem / 4 + 1);
        memset((void *)b->shadow.data(), 0, b->shadow.size() * sizeof(Word));
    }
    for (int i = 0; i < n; i++) {
        Lane *l = &b->lanes[i];
        l->block = b;
        l->warp = (uint16_t)(i / 32), l->lane = (uint16_t)(i % 32),
        l->thr = (uint16_t)(l->warp << 6 | l->lane);
        unsigned u = (unsigned)i;
        l->tid = dim3(u % s.block.x, u / s.block.x % s.block.y, u / s.block.x / s.block.y);
        l->is_done = false, l->what = nullptr, l->n_commit = 0;
        l->copies.clear();
        l->sp = fresh_stack(stacks + ((size_t)slot * 1024 + (size_t)i + 1) * STACK, lane_main);
        b->warp[l->warp].exist |= 1u << l->lane;
    }
    for (int w = 0; w < b->n_warp; w++) b->warp[w].ready = b->warp[w].exist, b->warp[w].clock = 1;
    counts.blocks++;
    counts.threads += (uint64_t)n;
}
void run_grid(const Start &s)
{
    start_up();
    Grid g = {};
    g.s = s;
    g.epoch = ++epoch;
    grid = &g;
    counts.launches++;
    size_t n = (size_t)s.grid.x * s.grid.y * s.grid.z, threads = (size_t)s.block.x * s.block.y * s.block.z;
    size_t limit = opted_in.count(s.kernel) ? opted_in[s.kernel] : 48 << 10;
    size_t at_once = s.is_cooperative ? n : 1;
    if (!n || !threads || threads > 1024) finding(nullptr, "launch of %zu blocks of %zu threads", n, threads);
    if (s.smem > limit) finding(nullptr, "launch with %zu bytes of shared memory, limit %zu", s.smem, limit);
    if (s.is_cooperative && n > (size_t)options.n_sm)
        finding(nullptr, "cooperative launch of %zu blocks, %d are resident", n, options.n_sm);
    static std::vector<Block> pool;
    static std::vector<std::vector<Lane>> lanes;
    if (pool.size() < at_once) pool.resize(at_once), lanes.resize(at_once);
    random_state = options.seed * 2654435761u + 1;
    std::vector<unsigned> order(n);
    for (size_t i = 0; i < n; i++) order[i] = (unsigned)i;
    for (size_t i = n; options.seed && i > 1; i--) std::swap(order[i - 1], order[draw((unsigned)i)]);
    for (size_t i = 0; i < n && !g.is_lost; i += at_once) {
        g.live.clear();
        for (size_t j = 0; j < at_once; j++) {
            if (lanes[j].size() < threads) lanes[j].resize(threads);
            pool[j].lanes = lanes[j].data();
            begin_block(&pool[j], order[i + j], (unsigned)j);
            g.live.push_back(&pool[j]);
        }
        self = pick(&pool[0].lanes[0], false);
        simt_switch(&g.main_sp, self->sp);
        self = nullptr;
    }
    grid = nullptr;
}
/* --- for the runtime --- */
void *memory_new(size_t n)
{
    start_up();
    size_t whole = n + 4095 & ~(size_t)4095;
    if (!n || arena_used + whole + 4096 > ARENA) return nullptr;
    unsigned char *pages = arena + arena_used;
    arena_used += whole + 4096; /* never given twice: use after free faults */
    mprotect(pages, whole, PROT_READ | PROT_WRITE);
    void *p = pages + (whole - (n + 255 & ~(size_t)255));
    memset(p, 0xff, n);
    allocs[(uintptr_t)p] = {n, nullptr};
    memory_used += n;
    return p;
}
bool memory_free(void *p)
{
    auto i = allocs.find((uintptr_t)p);
    if (i == allocs.end()) return false;
    Alloc a = i->second;
    uintptr_t pages = (uintptr_t)p & ~(uintptr_t)4095,
              end = ((uintptr_t)p + a.n_byte + 4095) & ~(uintptr_t)4095;
    mmap((void *)pages, end - pages, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
         0);
    if (a.shadow) munmap(a.shadow, (a.n_byte / 4 + 1) * sizeof(Word));
    memory_used -= a.n_byte;
    allocs.erase(i);
    return true;
}
/* A copy or memset of the host's: the bytes are there from now on; later launches come after it. */
void host_wrote(void *p, size_t n)
{
    epoch++;
    bytes_are_there(p, n);
}
bool opt_in(const void *kernel, size_t smem)
{
    start_up();
    if (smem > options.smem_limit) return false;
    opted_in[kernel] = smem;
    return true;
}
void complain(const char *what)
{
    finding(nullptr, "%s", what);
}
} // namespace simt
using namespace simt;

/* --- hooks of -fsanitize=thread: the compiler calls one at each load and store --- */
#define HOOK(name, n, w)                                                                                     \
    extern "C" void __tsan_##name(void *p)                                                                   \
    {                                                                                                        \
        if (self) touch(self, (uintptr_t)p, n, w ? WRITE : READ, __builtin_return_address(0));               \
    }
HOOK(read1, 1, false)
HOOK(read2, 2, false)
HOOK(read4, 4, false) HOOK(read8, 8, false) HOOK(read16, 16, false) HOOK(write1, 1, true)
    HOOK(write2, 2, true) HOOK(write4, 4, true) HOOK(write8, 8, true)
        HOOK(write16, 16, true) extern "C" void __tsan_read_range(void *p, size_t n)
{
    if (self) touch(self, (uintptr_t)p, n, READ, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void *p, size_t n)
{
    if (self) touch(self, (uintptr_t)p, n, WRITE, __builtin_return_address(0));
}
extern "C" void __tsan_init()
{
    is_checked = true;
}
extern "C" void __tsan_vptr_update(void **, void *) {}
extern "C" void __tsan_func_entry(void *) {}
extern "C" void __tsan_func_exit() {}
