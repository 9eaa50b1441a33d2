/* Machines by name.
 *
 * Bandwidths are what streaming reads reach, about nine tenths of the data sheet's. A sum over four cards on
 * PCIe 5 takes 6.4 us at 8 KB, 11.8 at 64, 51 at 512 (one-shot, measured by b12x): a constant and a rate.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/target.h"

#include <strings.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/opt.h"

#define GIB ((uint64_t)1 << 30)

static const struct {
    const char *name;
    int gib;
    double gbs;
} cards[] = {
    {"rtx-pro-6000", 96, 1600}, {"h200", 141, 4300},    {"h100", 80, 3000},     {"b200", 180, 7200},
    {"b300", 270, 7200},        {"a100-80g", 80, 1800}, {"a100-40g", 40, 1400}, {"l40s", 48, 780},
    {"rtx-6000-ada", 48, 860},  {"rtx-5090", 32, 1600}, {"rtx-4090", 24, 910},  {"rtx-3090", 24, 840},
};

static const struct {
    const char *name;
    double gbs, base_us; /* base_us: of a sum over four */
} links[] = {
    {"pcie5", 50, 6},
    {"pcie4", 24, 9},
    {"pcie3", 12, 14},
    {"nvlink", 400, 4},
};

static bool has_name(const char *text, size_t n, const char *name)
{
    return strlen(name) == n && !strncasecmp(text, name, n);
}

/* The card whose memory is nearest: the first of equals. */
static void guess_card(struct qn_target *t)
{
    double gib = (double)t->memory / (double)GIB;
    size_t best = 0;
    for (size_t i = 1; i < QN_COUNT(cards); i++)
        if (abs(cards[i].gib - (int)gib) < abs(cards[best].gib - (int)gib)) best = i;
    t->bandwidth_gbs = cards[best].gbs;
    snprintf(t->card, sizeof t->card, "as %s", cards[best].name);
}

static void set_link(struct qn_target *t, size_t i)
{
    t->link_gbs = links[i].gbs;
    t->reduce_us = links[i].base_us * (t->cards > 4 ? 1.5 : t->cards > 2 ? 1 : 0.8);
    snprintf(t->link, sizeof t->link, "%s", links[i].name);
}

static bool set_card(struct qn_target *t, const char *text, size_t n)
{
    char word[40];
    int64_t bytes;
    for (size_t i = 0; i < QN_COUNT(cards); i++)
        if (has_name(text, n, cards[i].name)) {
            t->memory = (uint64_t)cards[i].gib * GIB;
            t->bandwidth_gbs = cards[i].gbs;
            snprintf(t->card, sizeof t->card, "%s", cards[i].name);
            return true;
        }
    snprintf(word, sizeof word, "%.*s", (int)QN_MIN(n, sizeof word - 1), text);
    if (qn_opt_bytes(word, &bytes) || bytes < (int64_t)GIB) return false;
    t->memory = (uint64_t)bytes;
    guess_card(t);
    return true;
}

static bool set_word(struct qn_target *t, const char *text, size_t n)
{
    char word[40], *end;
    for (size_t i = 0; i < QN_COUNT(links); i++)
        if (has_name(text, n, links[i].name)) {
            set_link(t, i);
            return true;
        }
    snprintf(word, sizeof word, "%.*s", (int)QN_MIN(n, sizeof word - 1), text);
    double x = strtod(word, &end);
    if (*end || !(x > 0 && x < 1e6)) return false;
    t->bandwidth_gbs = x;
    return true;
}

static int unknown(const char *spec, struct qn_err *e)
{
    char names[200] = "";
    for (size_t i = 0; i < QN_COUNT(cards); i++)
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? ", " : "", cards[i].name);
    return qn_err_set(e, QN_INVAL, __FILE__, __LINE__,
                      "--machine %.60s: like 4x96G:pcie5 or h200, or a file; links are pcie3 to pcie5 and "
                      "nvlink, cards: %.160s",
                      spec, names);
}

static int read_spec(struct qn_target *t, const char *spec, struct qn_err *e)
{
    char *end;
    const char *at = spec;
    long n = strtol(spec, &end, 10);
    if (end != spec && (*end == 'x' || *end == 'X')) {
        if (n < 1 || n > 64) return unknown(spec, e);
        t->cards = (int)n;
        at = end + 1;
    }
    set_link(t, 0);
    for (bool is_first = true; at; is_first = false) {
        size_t len = strcspn(at, ":");
        if (!(is_first ? set_card(t, at, len) : set_word(t, at, len))) return unknown(spec, e);
        at = at[len] ? at + len + 1 : NULL;
    }
    return QN_OK;
}

static double number(const struct qn_json *v, const char *name, double otherwise)
{
    const struct qn_json *x = qn_json_get(v, name);
    return x && (x->type == QN_JSON_INT || x->type == QN_JSON_REAL) ? qn_json_num(x) : otherwise;
}

static int read_file(struct qn_target *t, const char *path, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *arena = qn_arena_create(1 << 20);
    struct qn_json *v;
    int64_t bytes = 0;
    QN_TRY(qn_json_read_file(&v, arena, path, 1 << 16, e));
    QN_FAIL_IF(!qn_json_is(v, QN_JSON_OBJECT), e, QN_FORMAT, "%s: a JSON object is needed", path);
    const struct qn_json *memory = qn_json_get(v, "memory"), *name = qn_json_get(v, "name");
    if (qn_json_is(memory, QN_JSON_STRING)) QN_TRY(qn_opt_bytes(memory->text, &bytes));
    if (!bytes) bytes = (int64_t)number(v, "memory", 0);
    QN_FAIL_IF(bytes < (int64_t)GIB, e, QN_FORMAT, "%s: memory of a card is missing, like \"96G\"", path);
    t->cards = (int)number(v, "cards", 1);
    QN_FAIL_IF(t->cards < 1 || t->cards > 64, e, QN_FORMAT, "%s: cards: 1 to 64", path);
    t->memory = (uint64_t)bytes;
    guess_card(t);
    set_link(t, 0);
    t->bandwidth_gbs = number(v, "bandwidth_gbs", t->bandwidth_gbs);
    t->link_gbs = number(v, "link_gbs", t->link_gbs);
    t->reduce_us = number(v, "reduce_us", t->reduce_us);
    t->launch_us = number(v, "launch_us", t->launch_us);
    QN_FAIL_IF(!(t->bandwidth_gbs > 0 && t->link_gbs > 0 && t->reduce_us >= 0 && t->launch_us >= 0), e,
               QN_FORMAT, "%s: rates must be over 0", path);
    if (qn_json_is(name, QN_JSON_STRING)) snprintf(t->card, sizeof t->card, "%s", name->text);
out:
    qn_arena_free(arena);
    return rc;
}

int qn_target_read(struct qn_target *out, const char *spec, struct qn_err *e)
{
    *out = (struct qn_target){.cards = 1, .launch_us = 1.1};
    FILE *f = strchr(spec, '/') || strstr(spec, ".json") ? fopen(spec, "r") : NULL;
    if (!f) return read_spec(out, spec, e);
    fclose(f);
    return read_file(out, spec, e);
}

double qn_target_reduce_us(const struct qn_target *t, double n_byte)
{
    if (t->cards == 1) return 0;
    /* each card reads what the others have: four on PCIe 5 move 512 KB in 45 us */
    return t->reduce_us + n_byte * (t->cards - 1) / 3 * 4.4 / (t->link_gbs * 1000);
}
