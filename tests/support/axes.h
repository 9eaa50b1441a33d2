/* What a property test varied: a count for each value of each axis, printed at its end, so that a reader sees
 * that every axis was really exercised. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_AXES_H
#define QN_AXES_H

#include <stdbool.h>

#define AXIS_MAX_VALUES 10

struct axis {
    const char *name;
    const char *value[AXIS_MAX_VALUES]; /* NULL ends them */
    int n[AXIS_MAX_VALUES];
};

/* Where `wanted` stands in list[n]; n when it does not (the axis's value for "other", if it has one). */
int axis_find(const int *list, int n, int wanted);
void axis_count(struct axis *a, int value);
/* One line an axis: its name, then value: count. */
void axis_print(const struct axis *axes, int n);
/* The smallest count of all values; *which names it ("cache disk"). */
int axis_least(const struct axis *axes, int n, char which[64]);

#endif
