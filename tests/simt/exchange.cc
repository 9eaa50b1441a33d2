/* exchange.cc: the flag protocol of a one-shot all-reduce between two ranks, under Relacy (Debian:
 * relacy-dev), which tries interleavings and stale reads as the C++11 memory model allows. BUG=1: relaxed
 * store; 2: one buffer in the place of two; 3: relaxed load. The template's calls are those of dev.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include <relacy/relacy.hpp>
#ifndef BUG
#define BUG 0
#endif
#if BUG == 1 /* macros: Relacy's orders are macros that add the place */
#define PUBLISH rl::memory_order_relaxed
#else
#define PUBLISH rl::memory_order_release
#endif
#if BUG == 3
#define OBSERVE rl::memory_order_relaxed
#else
#define OBSERVE rl::memory_order_acquire
#endif
enum { RANKS = 2, EPOCHS = 4, BUFFERS = BUG == 2 ? 1 : 2 };

struct exchange : rl::test_suite<exchange, RANKS> {
    rl::atomic<int> flag[RANKS];       /* of a rank: written by the other one only, rising */
    rl::var<int> data[RANKS][BUFFERS]; /* what the other rank pushed */
    void before()
    {
        for (int r = 0; r < RANKS; r++) flag[r].store(0, rl::memory_order_relaxed);
    }
    void thread(unsigned rank)
    {
        unsigned peer = 1 - rank;
        for (int e = 1; e <= EPOCHS;
             e++) { /* a push may overwrite what the peer read two epochs ago: it has shown by its
                       own flag of epoch e - 1 that it was through with e - 2 */
            data[peer][e % BUFFERS]($) = e * 10 + (int)rank;
            flag[peer].store(e, PUBLISH);
            rl::linear_backoff wait;
            while (flag[rank].load(OBSERVE) < e) wait.yield($);
            RL_ASSERT(data[rank][e % BUFFERS]($) == e * 10 + (int)peer);
        }
    }
};
int main()
{
    rl::test_params p;
    p.search_type = rl::random_scheduler_type;
    p.iteration_count = 20000;
    return !rl::simulate<exchange>(p);
}
