/* Counts of what was varied.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/axes.h"

#include <limits.h>

#include "support/test.h"

int axis_find(const int *list, int n, int wanted)
{
    int i = 0;
    while (i < n && list[i] != wanted) i++;
    return i;
}

void axis_count(struct axis *a, int value)
{
    assert_in_range(value, 0, AXIS_MAX_VALUES - 1);
    assert_non_null(a->value[value]);
    a->n[value]++;
}

void axis_print(const struct axis *axes, int n)
{
    for (int i = 0; i < n; i++) {
        print_message("  %-12s", axes[i].name);
        for (int k = 0; k < AXIS_MAX_VALUES && axes[i].value[k]; k++)
            print_message("  %s: %d", axes[i].value[k], axes[i].n[k]);
        print_message("\n");
    }
}

int axis_least(const struct axis *axes, int n, char which[64])
{
    int least = INT_MAX;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < AXIS_MAX_VALUES && axes[i].value[k]; k++)
            if (axes[i].n[k] < least) {
                least = axes[i].n[k];
                snprintf(which, 64, "%s %s", axes[i].name, axes[i].value[k]);
            }
    return least;
}
