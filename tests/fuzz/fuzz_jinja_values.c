/* Fuzz target: any JSON as the value of a template that does something with every type.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/jinja.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Each part is a template of its own, so that a failure of one does not hide the next. */
static const char *const parts[] = {
    "{{ v }}{{ v|string|length }}{{ v|tojson }}{{ v|tojson(indent=2, sort_keys=true, ensure_ascii=true) }}",
    "{{ v is string }}{{ v is number }}{{ v is mapping }}{{ v is sequence }}{{ v is iterable }}{{ v is none "
    "}}{{ v == v }}",
    "{% for x in v %}{{ loop.index }}{{ x }}{{ loop.previtem }}{% for y in x if y %}{{ y }}{% else %}-{% "
    "endfor %}{% endfor %}",
    "{% for k, w in v|items %}{{ k|upper }}={{ w|default('d', true) }}{% endfor %}{{ v|dictsort }}",
    "{{ v|length }}{{ v|first }}{{ v|last }}{{ v[0] }}{{ v[-1] }}{{ v[1:] }}{{ v[::-1] }}{{ v['a'] }}{{ v.a "
    "}}",
    "{{ v|sort }}{{ v|unique|list }}{{ v|min }}{{ v|max }}",
    "{{ v|sum }}{{ v|join(',') }}",
    "{{ v|trim }}{{ v|upper }}{{ v|title }}{{ v|replace('a', 'b') }}{{ v|indent }}{{ v|truncate(9) }}{{ "
    "v|escape }}{{ v|wordcount }}",
    "{{ v.split() }}{{ v.split('a') }}{{ v.splitlines() }}{{ v.strip('x') }}{{ v.find('a') }}{{ v.title() "
    "}}{{ v.center(30) }}",
    "{{ v % 3 }}",
    "{{ v.format(1, a=2) }}",
    "{{ v % {'a': 1} }}",
    "{{ v|int }}{{ v|float }}{{ v|round(2) }}{{ v|abs }}",
    "{{ v + 1 }}{{ v * 2 }}{{ v // 7 }}{{ v % 7 }}{{ v ** 2 }}{{ -v }}{{ 1 / v }}{{ v < 5 }}",
    "{{ '%s|%r|%5.2f|%d'|format(v, v, 1.5, 3) }}",
    "{{ v|groupby('a') }}{{ v|map(attribute='a.b')|list }}{{ v|selectattr('a')|list }}{{ v|batch(2)|list }}",
    "{{ v|from_json }}",
    "{% set ns = namespace(o='') %}{% for c in v|string %}{% set ns.o = c ~ ns.o %}{% endfor %}{{ ns.o }}{{ "
    "strftime_now(v) }}",
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct qn_jinja *templates[QN_COUNT(parts)];
    struct qn_err e = {0};
    for (size_t i = 0; i < QN_COUNT(parts) && !templates[i]; i++)
        QN_CHECK(!qn_jinja_compile(&templates[i], parts[i], strlen(parts[i]), "part", &e));
    struct qn_arena *arena = qn_arena_create(16 << 20);
    struct qn_json *v, *vars = qn_json_new(arena, QN_JSON_OBJECT);
    if (!qn_json_parse(&v, arena, (const char *)data, size, "value", &e) &&
        qn_json_set(arena, vars, "v", v)) {
        const struct qn_jinja_opt opt = {.now_s = 1735732800,
                                         .max_steps = 200000,
                                         .max_output_bytes = 1 << 20,
                                         .max_memory_bytes = 32 << 20};
        for (size_t i = 0; i < QN_COUNT(parts); i++) {
            struct qn_jinja_out o;
            qn_jinja_render(&o, templates[i], vars, &opt, &e);
            qn_jinja_out_free(&o);
        }
    }
    qn_arena_free(arena);
    return 0;
}
