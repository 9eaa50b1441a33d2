/* Inside of the Jinja interpreter: syntax tree, values, the state of one render. Included by jinja_*.c only.
 *
 * Errors inside a compile or a render leave by longjmp to the one entry point: everything allocated lies in
 * one arena (or in the sinks that the entry point frees), so nothing can leak, and hundreds of small
 * functions can return values instead of codes. Names with jj_ belong to these files alone.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_JINJA_IMPL_H
#define QN_JINJA_IMPL_H

#include <setjmp.h>

#include "base/hash.h"
#include "text/jinja.h"

struct run;
struct node;

/* ---- values ---- */

enum vtype {
    V_UNDEF, /* u.node: the expression that found nothing, or NULL; flag: type of the object it asked */
    V_NONE,
    V_BOOL,
    V_INT,
    V_BIG, /* an integer outside int64 */
    V_FLOAT,
    V_STR,
    V_LIST, /* list, tuple or range */
    V_DICT,
    V_ITER,  /* generator or dictionary view */
    V_SPACE, /* namespace */
    V_MACRO,
    V_FUNC, /* function of the library, maybe bound to a value */
    V_LOOP,
    V_JOINER,
    V_CYCLER,
    V_ABSENT = 255, /* no binding, no argument; never seen by a template */
};

enum { STR_SAFE = 1 }; /* flag of V_STR: marked by |safe or |escape */

struct val {
    uint8_t type; /* enum vtype */
    uint8_t flag;
    uint32_t spelling; /* of a number of the request: its place in run.spellings, plus one; 0: as Python
                          spells it */
    union {
        bool truth;
        int64_t i;
        double f;
        struct big *big;
        struct str *s;
        struct list *l;
        struct dict *d;
        struct iter *it;
        struct macro *m;
        struct func *fn;
        struct loop *loop;
        struct gadget *g;
        const struct node *node;
    } u;
};

/* Text. Flat bytes, or a rope of two halves that is flattened when somebody looks inside. */
struct str {
    const char *p; /* [n], NULL while a rope */
    size_t n;
    const uint8_t *origin; /* [n], or NULL: all bytes have `uniform` */
    uint8_t uniform;
    int64_t n_cp;             /* code points, -1: not counted */
    struct str *left, *right; /* rope */
};

struct big {
    bool negative;
    int n;        /* limbs, most significant not zero */
    uint32_t d[]; /* base 1e9, least significant first */
};

enum list_kind { LIST_LIST, LIST_TUPLE, LIST_RANGE };

struct list {
    struct val *items;
    size_t n, capacity;
    enum list_kind kind;
    bool is_ours;              /* made by the template: may be changed */
    bool is_group;             /* a pair of |groupby: has .grouper and .list */
    int64_t start, step, stop; /* RANGE, for its spelling */
    const struct qn_json *src; /* not yet converted; NULL when it is */
};

struct pair {
    struct val key, value;
    uint64_t hash;
};

struct dict {
    struct pair *pairs; /* in order of insertion */
    size_t n, capacity;
    uint32_t *index; /* [n_index] place + 1, or 0; NULL while small */
    size_t n_index;
    bool is_ours;
    const struct qn_json *src;
};

struct iter {
    struct list *l;
    size_t pos;
    bool is_view;     /* of a dictionary: has a length and can be walked again */
    const char *name; /* "generator", "dict_items", ... */
};

struct call {
    struct val *args;
    int n;
    struct kwarg *kw;
    int n_kw;
    int x; /* of the builtin that is called */
};

struct kwarg {
    const char *name;
    size_t n;
    struct val v;
};

#define MAX_PARAMS 10
typedef struct val (*builtin_fn)(struct run *r, struct val self, struct val *a, struct call *c);

/* A function, filter, test or method. params: names separated by blanks; after the first n_required they
 * are optional (V_ABSENT when not given). "*" accepts any further positional, "**" any further keyword
 * arguments, which the function takes from the call. */
struct builtin {
    const char *name;
    const char *params;
    int n_required;
    builtin_fn fn;
    int x; /* a parameter of the implementation */
};

struct func {
    const struct builtin *b;
    struct val self;
};

struct macro {
    const struct node *node; /* MACRO or CALLBLOCK */
    struct scope *scope;
};

struct loop {
    const struct node *node;
    struct scope *outer; /* where the for stands */
    struct list *l;
    size_t at;
    int level;
    struct val changed; /* last arguments of changed(), a tuple, or absent */
};

/* joiner and cycler */
struct gadget {
    struct val sep;
    struct list *items;
    size_t at;
    bool is_used;
};

struct binding {
    int sym;
    struct val v;
};

struct scope {
    struct scope *parent; /* NULL: the variables of the whole template, in run->root */
    struct binding *vars;
    int n, capacity;
};

/* ---- syntax tree ---- */

enum node_kind {
    /* statements */
    N_DATA,
    N_PRINT,
    N_IF,        /* a cond, body, other */
    N_FOR,       /* a target, b iterable, c condition or NULL, body, other; op: recursive */
    N_SET,       /* a target, b value */
    N_SETBLOCK,  /* a target, b filter chain on a NULL operand or NULL, body */
    N_MACRO,     /* sym, params, body */
    N_CALLBLOCK, /* a call, params, body */
    N_FILTER,    /* a filter chain, body */
    N_WITH,      /* list: target, value, target, value...; body */
    N_SCOPE,     /* body in a scope of its own: generation, autoescape; op 1: sees the root only (block) */
    N_BREAK,
    N_CONTINUE,
    N_DO,
    /* expressions */
    E_CONST,
    E_NAME,
    E_ATTR,   /* a.text */
    E_ITEM,   /* a[b] */
    E_SLICE,  /* [a:b:c], only as b of E_ITEM */
    E_NSREF,  /* sym.text as a target */
    E_CALL,   /* a(args) */
    E_FILTER, /* a | builtin(args); a NULL: the captured text */
    E_TEST,   /* a is builtin(args) */
    E_LIST,   /* list */
    E_TUPLE,  /* list */
    E_DICT,   /* list: key, value, ... */
    E_NOT,
    E_NEG,
    E_POS,
    E_BIN, /* op: one of the characters + - * / % and F for //, P for ** */
    E_AND,
    E_OR,
    E_CONCAT,  /* list */
    E_COMPARE, /* a, list of operands, text: one operator character each: = ! < > l g i n */
    E_COND,    /* a if b else c (c may be NULL) */
};

struct body {
    struct node **items;
    int n, capacity;
};

struct params {
    int *syms;
    struct node **defaults; /* [n], NULL entries: none */
    int n, capacity;
    bool takes_varargs, takes_kwargs, takes_caller; /* the body mentions them */
};

struct args {
    struct body pos;
    struct body kw_values;
    struct kwarg *kw; /* names only */
    int n_kw, kw_capacity;
    struct node *star, *star_star;
};

struct node {
    uint8_t kind, op;
    int line;
    int sym;
    const char *text;
    size_t n;
    struct val value;
    struct node *a, *b, *c;
    struct body list, body, other;
    struct params *params;
    struct args *args;
    const struct builtin *builtin; /* NULL: unknown name, an error when evaluated */
};

/* Names that the interpreter itself binds; interned first, in this order. */
enum { SYM_LOOP, SYM_CALLER, SYM_VARARGS, SYM_KWARGS, N_SYM_FIXED };

struct qn_jinja {
    struct qn_arena *arena;
    char *name;
    char *source;
    size_t n_source;
    struct body body;
    struct qn_json_key *syms; /* [n_sym] */
    int n_sym, sym_capacity;
};

/* ---- one render ---- */

/* Bytes being collected: the output, the text of a macro, a string under construction. */
struct sink {
    char *p;
    uint8_t *origin;
    size_t n, capacity;
    uint8_t first;
    bool is_mixed; /* else every byte has the origin `first` */
};

#define MAX_SINKS       2048
#define MAX_VALUE_DEPTH 600 /* nesting that repr, ==, tojson walk; JSON itself stops at QN_JSON_MAX_DEPTH */

struct run {
    const struct qn_jinja *t;
    struct qn_arena *arena;
    struct qn_err *e;
    jmp_buf leave;
    int rc;
    int line; /* of the node being evaluated */
    char *raised;
    int64_t steps_left;
    int64_t max_steps;
    int depth, max_depth;
    size_t max_output_bytes, max_memory_bytes;
    size_t sink_bytes; /* capacity of all sinks */
    struct sink *sinks;
    int n_sink, sink_capacity, sinks_open;
    struct val *root; /* [n_sym] V_ABSENT: not set */
    struct scope root_scope;
    struct qn_map marks; /* qn_json address -> origin */
    int64_t now_s;
    const struct qn_json **spellings; /* in the arena */
    uint32_t n_spelling, cap_spelling;
};

/* ---- jinja_eval.c ---- */
QN_NORETURN void jj_fail(struct run *r, const char *fmt, ...) QN_PRINTF(2, 3);
QN_NORETURN void jj_fail_raised(struct run *r, struct val message);
QN_NORETURN void jj_fail_cap(struct run *r, const char *fmt, ...) QN_PRINTF(2, 3);
QN_NORETURN void jj_fail_undef(struct run *r, struct val v);
void jj_tick(struct run *r, size_t n_byte); /* charges 1 + n_byte / 64 steps */
void jj_enter(struct run *r);               /* one level deeper; leave with r->depth-- */
struct val jj_call_value(struct run *r, struct val f, struct call *c);
struct val jj_call_builtin(struct run *r, const struct builtin *b, struct val self, struct call *c);
struct val jj_get_attr(struct run *r, struct val v, const char *name, size_t n, const struct node *node);
struct val jj_get_item(struct run *r, struct val v, struct val key, const struct node *node);

/* ---- jinja_value.c ---- */
void *jj_alloc(struct run *r, size_t n_byte);
void jj_sink_begin(struct run *r);
struct val jj_sink_end(struct run *r); /* what was put since sink_begin, as a string */
void jj_put(struct run *r, const char *p, size_t n, uint8_t origin);
void jj_puts_lit(struct run *r, const char *s);
void jj_put_slice(struct run *r, const struct str *s, size_t from, size_t n); /* bytes of a flat string */
void jj_put_str(struct run *r, struct str *s);
uint8_t jj_origin_at(const struct str *s, size_t i);

struct val jj_none_value(void);
struct val jj_bool_value(bool truth);
struct val jj_int_value(int64_t i);
struct val jj_float_value(double f);
struct val jj_undef_value(const struct node *node, uint8_t asked);
struct val jj_str_value(struct run *r, const char *p, size_t n, uint8_t origin); /* bytes are not copied */
struct val jj_lit_value(struct run *r, const char *s);
struct val jj_slice_value(struct run *r, const struct str *s, size_t from, size_t n);
struct val jj_concat_value(struct run *r, struct val a, struct val b);
struct val jj_to_str(struct run *r, struct val v); /* str(v); a string stays itself */
struct str *jj_flat(struct run *r, struct val v);  /* v is a V_STR */
const struct str *jj_want_str(struct run *r, struct val v, const char *what);
int64_t jj_count_cp(struct str *s);
size_t jj_cp_offset(const struct str *s, int64_t i); /* byte offset of code point i of a flat string */
bool jj_str_is(const struct str *s, const char *text);

struct list *jj_list_new(struct run *r, enum list_kind kind, size_t capacity);
void jj_list_push(struct run *r, struct list *l, struct val v);
struct val jj_list_value(struct list *l);
struct val jj_gen_value(struct run *r, struct list *l); /* a generator over l */
struct dict *jj_dict_new(struct run *r);
void jj_dict_set(struct run *r, struct dict *d, struct val key, struct val value);
bool jj_dict_get(struct run *r, struct dict *d, struct val key, struct val *out);
bool jj_dict_get_str(struct run *r, struct dict *d, const char *key, size_t n, struct val *out);
bool jj_dict_remove(struct run *r, struct dict *d, struct val key, struct val *out);
struct val jj_dict_value(struct dict *d);
struct list *jj_list_copy(struct run *r, struct val v);             /* a new list of what v iterates over */
struct list *jj_dict_items(struct run *r, struct dict *d);          /* (key, value) tuples */
void jj_dict_merge(struct run *r, struct dict *d, struct val from); /* from a mapping or pairs */
void jj_dict_merge_kwargs(struct run *r, struct dict *d, const struct call *c);
struct list *jj_list_of(struct run *r, struct val v);  /* the list behind a V_LIST, converted */
struct dict *jj_dict_of(struct run *r, struct val v);  /* the dict behind a V_DICT or V_SPACE, converted */
struct list *jj_to_items(struct run *r, struct val v); /* iterates: a list that must not be changed */
struct list *jj_walk_iter(struct run *r, struct iter *it);
struct val jj_from_json(struct run *r, const struct qn_json *v);
bool jj_iterable(struct val v);

bool jj_truthy(struct run *r, struct val v);
bool jj_equal(struct run *r, struct val a, struct val b);
int jj_compare(struct run *r, struct val a, struct val b, const char *op); /* fails when not ordered */
bool jj_contains(struct run *r, struct val container, struct val item);
size_t jj_value_len(struct run *r, struct val v); /* Python's len() */
/* Stable sort of items by keys[i] (in place, both arrays move together). */
void jj_sort_by_keys(struct run *r, struct val *items, struct val *keys, size_t n, bool reverse);

/* ---- jinja_number.c ---- */
bool jj_is_int(struct val v); /* bool, int or big */
bool jj_is_number(struct val v);
double jj_to_double(struct run *r, struct val v);
int64_t jj_want_int(struct run *r, struct val v, const char *what); /* for indices and counts */
struct val jj_arith(struct run *r, char op, struct val a, struct val b);
struct val jj_negate(struct run *r, struct val v);
bool jj_int_from_text(struct run *r, const char *p, size_t n,
                      struct val *out); /* decimal digits with a sign */
struct val jj_int_from_double(struct run *r, double f);
void jj_put_int(struct run *r, struct val v);
int jj_int_compare(struct run *r, struct val a, struct val b); /* both are integers: < 0, 0, > 0 */

/* ---- jinja_spell.c ---- */
void jj_put_value(struct run *r, struct val v); /* Python's str() */
void jj_put_repr(struct run *r, struct val v);
int jj_decimal_of_cp(int32_t cp); /* 0 to 9 of a decimal digit of any script, else -1 */
void jj_put_escaped(struct run *r, const struct str *s); /* & < > ' " as entities */
void jj_put_double(struct run *r, double f);
const char *jj_type_name(struct val v);
void jj_put_json(struct run *r, struct val v, const struct qn_json_style *style, const char *indent,
                 size_t n_indent, int level);

/* ---- jinja_format.c ---- */
struct val jj_format_percent(struct run *r, struct val fmt, struct val args);
struct val jj_format_spec(struct run *r, struct val v, const char *spec, size_t n);
struct val jj_format_fields(struct run *r, struct val self, struct call *c); /* str.format */

/* ---- jinja_str.c ---- */
extern const struct builtin jj_str_methods[];
int64_t jj_check_width(struct run *r, int64_t width); /* fails when a field would be too wide */
void jj_put_cp(struct run *r, int32_t cp, uint8_t origin);
struct val jj_str_case(struct run *r, struct val v,
                       char how); /* l u t c s f: lower upper title capital swap fold */
struct val jj_str_strip(struct run *r, struct val v, const struct str *chars,
                        int side); /* 1 left 2 right 3 both */
struct val jj_str_replace(struct run *r, struct val v, const struct str *from, const struct str *to,
                          int64_t max);
struct list *jj_str_lines(struct run *r, struct val v, bool keep_ends);
struct list *jj_str_words(struct run *r, struct val v);
bool jj_str_is_case(const struct str *s, bool upper);
size_t jj_next_cp(const char *p, size_t n, int32_t *cp); /* bytes used; a bad byte is itself, one byte */
bool jj_is_space_cp(int32_t cp);
bool jj_is_printable_cp(int32_t cp);
size_t jj_find_bytes(const char *hay, size_t n_hay, const char *needle, size_t n_needle); /* SIZE_MAX: none */

/* ---- jinja_lib.c ---- */
/* n_row SIZE_MAX: up to the row without a name. */
const struct builtin *jj_search(const struct builtin *table, size_t n_row, const char *name, size_t n);
const struct builtin *jj_find_filter(const char *name, size_t n);
const struct builtin *jj_find_test(const char *name, size_t n);
const struct builtin *jj_find_global(const char *name, size_t n);

/* ---- jinja_method.c ---- */
const struct builtin *jj_find_method(struct val v, const char *name, size_t n);

/* ---- arguments of builtins: V_ABSENT where none was given ---- */
static inline bool jj_given(struct val v)
{
    return v.type != V_ABSENT && v.type != V_NONE;
}

static inline bool jj_flag_or(struct run *r, struct val v, bool dflt)
{
    return v.type == V_ABSENT ? dflt : jj_truthy(r, v);
}

static inline struct val jj_or_none(struct val v)
{
    return v.type == V_ABSENT ? jj_none_value() : v;
}

#endif
