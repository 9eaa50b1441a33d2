/* The server's metrics: names, buckets, and what is copied from the engine when they are read.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/sight.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "server/state.h"

static const double seconds[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                                 1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640};
static const double token_seconds[] = {0.001, 0.0025, 0.005, 0.01, 0.02, 0.025, 0.05, 0.075, 0.1,
                                       0.15,  0.2,    0.3,   0.4,  0.5,  0.75,  1,    2.5,   5};
static const double tokens[] = {1,    2,    5,    10,    20,    50,    100,    200,   500,
                                1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};
static const double step_tokens[QN_STEP_BINS - 1] = {1,   2,   4,    8,    16,   32,   64,   128,
                                                     256, 512, 1024, 2048, 4096, 8192, 16384};
static const double few[] = {1, 2, 5, 10, 20};

#define ADD(kind, name, alias, help, l, b, n)                                                                \
    qn_metrics_add(m->all, &(struct qn_metric_spec){QN_METRIC_##kind, name, alias, help, l, b, n})
#define GAUGE(name, alias, help)          ADD(GAUGE, name, alias, help, labels, NULL, 0)
#define COUNTER(name, alias, help)        ADD(COUNTER, name, alias, help, labels, NULL, 0)
#define HISTOGRAM(name, alias, help, set) ADD(HISTOGRAM, name, alias, help, labels, set, (int)QN_COUNT(set))

/* Requests, pages, slots, steps. */
static void add_state(struct qn_meters *m, const char *labels)
{
    m->up = GAUGE("quern_up", NULL, "1 when the model is loaded and steps are made.");
    m->start_s = GAUGE("quern_start_time_seconds", NULL, "When the server was started, Unix time.");
    m->connections = GAUGE("quern_http_requests_running", NULL, "HTTP requests being answered.");
    m->running = GAUGE("quern_requests_running", "vllm:num_requests_running", "Requests in steps.");
    m->waiting = GAUGE("quern_requests_waiting", "vllm:num_requests_waiting", "Requests in the queue.");
    m->kv_usage = GAUGE("quern_kv_usage_ratio", "vllm:kv_cache_usage_perc", "Pages referenced, 0 to 1.");
    struct qn_metric *old = ADD(GAUGE, "vllm:gpu_cache_usage_perc", NULL,
                                "Older name of vllm:kv_cache_usage_perc.", labels, NULL, 0);
    m->kv_usage_old = old;
    m->page = GAUGE("quern_pages", NULL, "KV pages.");
    m->page_used = GAUGE("quern_pages_referenced", NULL, "KV pages that requests hold.");
    m->page_cached = GAUGE("quern_pages_cached", NULL, "KV pages kept for later prefixes.");
    m->slot = GAUGE("quern_slots", NULL, "State slots.");
    m->slot_live = GAUGE("quern_slots_live", NULL, "State slots of running requests.");
    m->slot_snapshot = GAUGE("quern_slots_snapshot", NULL, "State slots kept as snapshots.");
    m->depth = GAUGE("quern_draft_depth", NULL, "Draft depth in use.");
    m->steps = COUNTER("quern_steps_total", NULL, "Steps made.");
    m->step_s = COUNTER("quern_step_seconds_total", NULL, "Time in steps.");
    m->step_gap_s = COUNTER("quern_step_gap_seconds_total", NULL,
                            "Time between the end of a step and the start of the next one, with work to do.");
    m->rejected =
        COUNTER("quern_requests_rejected_total", NULL, "Requests refused because the queue was full.");
}

/* Tokens and drafts. */
static void add_tokens(struct qn_meters *m, const char *labels)
{
    m->prompt_total = COUNTER("quern_prompt_tokens_total", "vllm:prompt_tokens_total", "Prompt tokens.");
    m->new_total =
        COUNTER("quern_generation_tokens_total", "vllm:generation_tokens_total", "Tokens generated.");
    m->cached_total = COUNTER("quern_prompt_tokens_cached_total", "vllm:prompt_tokens_cached_total",
                              "Prompt tokens taken from the prefix cache.");
    m->preempted = COUNTER("quern_preemptions_total", "vllm:num_preemptions_total", "Requests preempted.");
    m->queries = COUNTER("quern_prefix_queries_total", "vllm:prefix_cache_queries_total",
                         "Tokens looked up in the prefix cache.");
    m->hits = COUNTER("quern_prefix_hits_total", "vllm:prefix_cache_hits_total",
                      "Tokens found in the prefix cache.");
    m->drafts =
        COUNTER("quern_draft_rounds_total", "vllm:spec_decode_num_drafts_total", "Rounds with drafts.");
    m->drafted =
        COUNTER("quern_drafted_tokens_total", "vllm:spec_decode_num_draft_tokens_total", "Tokens drafted.");
    m->accepted = COUNTER("quern_accepted_tokens_total", "vllm:spec_decode_num_accepted_tokens_total",
                          "Drafted tokens accepted.");
    for (int i = 0; i < QN_MAX_DRAFT; i++) {
        char at[512];
        snprintf(at, sizeof at, "%.480s,position=\"%d\"", labels, i);
        m->accepted_at[i] =
            ADD(COUNTER, "quern_accepted_at_total", "vllm:spec_decode_num_accepted_tokens_per_pos_total",
                "Drafts accepted at this position.", at, NULL, 0);
    }
    for (int i = 0; i < QN_MAX_DRAFT; i++) {
        char at[512];
        snprintf(at, sizeof at, "%.480s,position=\"%d\"", labels, i);
        m->drafted_at[i] =
            ADD(COUNTER, "quern_drafted_at_total", NULL, "Drafts verified at this position.", at, NULL, 0);
    }
}

/* Snapshots and tiers. */
static void add_cache(struct qn_meters *m, const char *labels)
{
    m->fetching =
        GAUGE("quern_requests_fetching", NULL, "Waiting requests whose prefix is being read from disk.");
    m->snap_made = COUNTER("quern_snapshots_made_total", NULL, "State snapshots made.");
    m->snap_evicted = COUNTER("quern_snapshots_evicted_total", NULL, "State snapshots evicted.");
    m->page_evicted = COUNTER("quern_pages_evicted_total", NULL, "Cached pages evicted.");
    m->sight.encoded = COUNTER("quern_sight_encoded_total", NULL, "Pictures and videos looked at.");
    m->sight.hits =
        COUNTER("quern_sight_hits_total", NULL, "Pictures and videos whose embeddings were still there.");
    m->sight.tok = COUNTER("quern_sight_tokens_total", NULL, "Embeddings made.");
    m->sight.seconds = COUNTER("quern_sight_seconds_total", NULL, "Time of the vision tower.");
    m->sight.evicted = COUNTER("quern_sight_evicted_total", NULL, "Pictures whose embeddings were dropped.");
    m->sight.cache_bytes = GAUGE("quern_sight_cache_bytes", NULL, "Embeddings kept.");
    m->sight.cache_budget = GAUGE("quern_sight_cache_budget_bytes", NULL, "Limit of the embeddings kept.");
    m->sight.weight_bytes = GAUGE("quern_sight_weight_bytes", NULL, "Weights of the vision tower.");
    m->tier.ram_bytes = GAUGE("quern_tier_ram_bytes", NULL, "Prefixes in the RAM tier.");
    m->tier.ram_budget = GAUGE("quern_tier_ram_budget_bytes", NULL, "Limit of the RAM tier.");
    m->tier.blobs = GAUGE("quern_tier_ram_blobs", NULL, "Pages and snapshots in the RAM tier.");
    m->tier.disk_bytes = GAUGE("quern_tier_disk_bytes", NULL, "Prefixes in the disk tier.");
    m->tier.disk_budget = GAUGE("quern_tier_disk_budget_bytes", NULL, "Limit of the disk tier.");
    m->tier.files = GAUGE("quern_tier_files", NULL, "Files of the disk tier.");
    m->tier.saved = COUNTER("quern_tier_saved_total", NULL, "Snapshots copied into the tiers.");
    m->tier.hits = COUNTER("quern_tier_hits_total", NULL, "Prefixes brought back from the tiers.");
    m->tier.hit_tok = COUNTER("quern_tier_hit_tokens_total", NULL, "Tokens that this saved.");
    m->tier.reads = COUNTER("quern_tier_reads_total", NULL, "Files read.");
    m->tier.read_bytes = COUNTER("quern_tier_read_bytes_total", NULL, "Bytes read from files.");
    m->tier.writes = COUNTER("quern_tier_writes_total", NULL, "Files written.");
    m->tier.write_bytes = COUNTER("quern_tier_write_bytes_total", NULL, "Bytes written to files.");
    m->tier.over_budget =
        COUNTER("quern_tier_writes_over_budget_total", NULL, "Writes left out: over the day's budget.");
    m->tier.ram_drops = COUNTER("quern_tier_ram_drops_total", NULL, "Copies dropped from RAM.");
    m->tier.file_drops = COUNTER("quern_tier_file_drops_total", NULL, "Files removed for others.");
    m->tier.damaged = COUNTER("quern_tier_damaged_total", NULL, "Damaged files found.");
    m->tier.failed = COUNTER("quern_tier_write_errors_total", NULL, "Writes that failed.");
}

/* Ends and times of requests. */
static void add_times(struct qn_meters *m, const char *labels)
{
    for (int i = QN_REASON_STOP; i < QN_N_REASON; i++) {
        char with[512];
        snprintf(with, sizeof with, "%.460s,finished_reason=\"%s\"", labels,
                 qn_reason_name((enum qn_reason)i));
        m->success[i] = ADD(COUNTER, "quern_requests_total", "vllm:request_success_total",
                            "Requests ended, by reason.", with, NULL, 0);
    }
    m->ttft = HISTOGRAM("quern_time_to_first_token_seconds", "vllm:time_to_first_token_seconds",
                        "From the request's first byte to its first token.", seconds);
    m->itl = HISTOGRAM("quern_inter_token_latency_seconds", "vllm:inter_token_latency_seconds",
                       "Between two tokens of a request.", token_seconds);
    m->itl_old = HISTOGRAM("vllm:time_per_output_token_seconds", NULL,
                           "Older name of vllm:inter_token_latency_seconds.", token_seconds);
    m->tpot = HISTOGRAM("quern_time_per_output_token_seconds", "vllm:request_time_per_output_token_seconds",
                        "A request's decode time by its tokens.", token_seconds);
    m->e2e =
        HISTOGRAM("quern_request_seconds", "vllm:e2e_request_latency_seconds", "Whole requests.", seconds);
    m->queue =
        HISTOGRAM("quern_queue_seconds", "vllm:request_queue_time_seconds", "Waiting in the queue.", seconds);
    m->inference = HISTOGRAM("quern_inference_seconds", "vllm:request_inference_time_seconds",
                             "Prefill and decode.", seconds);
    m->prefill = HISTOGRAM("quern_prefill_seconds", "vllm:request_prefill_time_seconds", "Prefill.", seconds);
    m->decode = HISTOGRAM("quern_decode_seconds", "vllm:request_decode_time_seconds", "Decode.", seconds);
}

/* Sizes of requests and steps. */
static void add_sizes(struct qn_meters *m, const char *labels)
{
    m->prompt_tok =
        HISTOGRAM("quern_request_prompt_tokens", "vllm:request_prompt_tokens", "Prompt lengths.", tokens);
    m->new_tok = HISTOGRAM("quern_request_generation_tokens", "vllm:request_generation_tokens",
                           "Output lengths.", tokens);
    m->most_new = HISTOGRAM("quern_request_max_generation_tokens", "vllm:request_max_num_generation_tokens",
                            "Output lengths, of several choices the longest.", tokens);
    m->max_tokens = HISTOGRAM("quern_request_max_tokens", "vllm:request_params_max_tokens",
                              "Output limits asked for.", tokens);
    m->n = HISTOGRAM("quern_request_n", "vllm:request_params_n", "Choices asked for.", few);
    m->step_tok =
        HISTOGRAM("quern_step_tokens", "vllm:iteration_tokens_total", "Tokens read by a step.", step_tokens);
}

void qn_meters_open(struct qn_meters *m, const struct qn_server_options *o)
{
    struct qn_buf base = QN_BUF_INIT(4096);
    m->all = qn_metrics_create();
    qn_buf_puts(&base, "model_name=\"");
    qn_metric_escape(&base, o->n_name ? o->names[0] : "");
    qn_buf_puts(&base, "\",engine=\"0\"");
    const char *labels = qn_buf_str(&base);
    add_state(m, labels);
    add_tokens(m, labels);
    add_cache(m, labels);
    add_times(m, labels);
    add_sizes(m, labels);
    char lora[512]; /* boards filter by it; there are no adapters */
    snprintf(lora, sizeof lora, "%.400s,max_lora=\"0\",running_lora_adapters=\"\",waiting_lora_adapters=\"\"",
             labels);
    ADD(GAUGE, "vllm:lora_requests_info", NULL, "Adapters: none.", lora, NULL, 0);
    qn_metric_set(m->start_s, (double)qn_unix_s());
    qn_buf_free(&base);
}
#undef ADD
#undef GAUGE
#undef COUNTER
#undef HISTOGRAM

void qn_meters_refresh(struct qn_server *s)
{
    struct qn_meters *m = &s->meters;
    struct qn_engine *g = atomic_load(&s->engine);
    qn_metric_set(m->connections, s->http ? qn_http_n_running(s->http) : 0);
    qn_metric_set(m->up, g && qn_engine_is_alive(g));
    if (!g) return;
    if (s->o.sight) {
        struct qn_sight_stats sight;
        qn_sight_stats(s->o.sight, &sight);
        qn_metric_set(m->sight.encoded, (double)sight.n_encoded);
        qn_metric_set(m->sight.hits, (double)sight.n_hit);
        qn_metric_set(m->sight.tok, (double)sight.n_token);
        qn_metric_set(m->sight.seconds, sight.encode_s);
        qn_metric_set(m->sight.evicted, (double)sight.n_evicted);
        qn_metric_set(m->sight.cache_bytes, (double)sight.cached_bytes);
        qn_metric_set(m->sight.cache_budget, (double)sight.budget_bytes);
        qn_metric_set(m->sight.weight_bytes, (double)sight.weight_bytes);
    }
    struct qn_engine_stats t = {0};
    qn_engine_stats(g, &t);
    double usage = t.n_page ? (double)t.n_page_used / t.n_page : 0;
    qn_metric_set(m->running, t.n_running);
    qn_metric_set(m->waiting, t.n_waiting);
    qn_metric_set(m->kv_usage, usage);
    qn_metric_set(m->kv_usage_old, usage);
    qn_metric_set(m->page, t.n_page);
    qn_metric_set(m->page_used, t.n_page_used);
    qn_metric_set(m->page_cached, t.n_page_cached);
    qn_metric_set(m->slot, t.n_slot);
    qn_metric_set(m->slot_live, t.n_slot_live);
    qn_metric_set(m->slot_snapshot, t.n_slot_snapshot);
    qn_metric_set(m->depth, t.depth);
    qn_metric_set(m->steps, (double)t.n_step);
    qn_metric_set_counts(m->step_tok, t.steps_of, (double)t.n_step_tok);
    qn_metric_set(m->step_s, (double)t.step_us / 1e6);
    qn_metric_set(m->step_gap_s, (double)t.gap_us / 1e6);
    qn_metric_set(m->rejected, (double)t.n_rejected);
    qn_metric_set(m->prompt_total, (double)t.n_prompt_tok);
    qn_metric_set(m->new_total, (double)t.n_new_tok);
    qn_metric_set(m->cached_total, (double)t.n_cached_tok);
    qn_metric_set(m->preempted, (double)t.n_preempted);
    qn_metric_set(m->queries, (double)t.prefix_queries);
    qn_metric_set(m->hits, (double)t.prefix_hits);
    qn_metric_set(m->drafts, (double)t.n_draft_round);
    qn_metric_set(m->drafted, (double)t.n_drafted);
    qn_metric_set(m->accepted, (double)t.n_accepted);
    for (int i = 0; i < QN_MAX_DRAFT; i++) {
        qn_metric_set(m->accepted_at[i], (double)t.accepted_at[i]);
        qn_metric_set(m->drafted_at[i], (double)t.drafted_at[i]);
    }
    qn_metric_set(m->fetching, t.n_fetching);
    qn_metric_set(m->snap_made, (double)t.n_snap_made);
    qn_metric_set(m->snap_evicted, (double)t.n_snap_evicted);
    qn_metric_set(m->page_evicted, (double)t.n_node_evicted);
    qn_metric_set(m->tier.ram_bytes, (double)t.tier.ram_bytes);
    qn_metric_set(m->tier.ram_budget, (double)t.tier.ram_budget);
    qn_metric_set(m->tier.blobs, t.tier.n_ram);
    qn_metric_set(m->tier.disk_bytes, (double)t.tier.disk_bytes);
    qn_metric_set(m->tier.disk_budget, (double)t.tier.disk_budget);
    qn_metric_set(m->tier.files, t.tier.n_file);
    qn_metric_set(m->tier.saved, (double)t.tier.n_saved);
    qn_metric_set(m->tier.hits, (double)t.tier.n_hit);
    qn_metric_set(m->tier.hit_tok, (double)t.tier.n_hit_tok);
    qn_metric_set(m->tier.reads, (double)t.tier.n_read);
    qn_metric_set(m->tier.read_bytes, (double)t.tier.read_bytes);
    qn_metric_set(m->tier.writes, (double)t.tier.n_write);
    qn_metric_set(m->tier.write_bytes, (double)t.tier.write_bytes);
    qn_metric_set(m->tier.over_budget, (double)t.tier.n_over_budget);
    qn_metric_set(m->tier.ram_drops, (double)t.tier.n_ram_drop);
    qn_metric_set(m->tier.file_drops, (double)t.tier.n_file_drop);
    qn_metric_set(m->tier.damaged, (double)t.tier.n_damaged);
    qn_metric_set(m->tier.failed, (double)t.tier.n_failed);
}
