/* SPDX-License-Identifier: MIT */
/* Edit distance with transpositions, over short words. */
#include "base/suggest.h"

#include <ctype.h>
#include <limits.h>
#include <string.h>
#include <strings.h>

#include <umbra/umbra.h>

enum { SUGGEST_MAX = 32 };

static unsigned smaller(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

/* '-' and '_' are the same, so are cases: people mix them up. */
static int folded(char c)
{
    return c == '-' ? '_' : tolower((unsigned char)c);
}

static unsigned edit_distance(const char *a, size_t n, const char *b, size_t m)
{
    unsigned d[SUGGEST_MAX + 1][SUGGEST_MAX + 1];

    for (size_t i = 0; i <= n; i++) {
        d[i][0] = (unsigned)i;
    }
    for (size_t j = 0; j <= m; j++) {
        d[0][j] = (unsigned)j;
    }
    for (size_t i = 1; i <= n; i++) {
        for (size_t j = 1; j <= m; j++) {
            unsigned cost = folded(a[i - 1]) != folded(b[j - 1]);

            d[i][j] =
                smaller(smaller(d[i - 1][j], d[i][j - 1]) + 1, d[i - 1][j - 1] + cost);
            if (i > 1 && j > 1 && folded(a[i - 1]) == folded(b[j - 2]) &&
                folded(a[i - 2]) == folded(b[j - 1])) {
                d[i][j] = smaller(d[i][j], d[i - 2][j - 2] + 1);
            }
        }
    }
    return d[n][m];
}

void suggest_start(struct suggest *suggest, const char *word)
{
    *suggest = (struct suggest){ .word = word, .distance = UINT_MAX };
}

void suggest_offer(struct suggest *suggest, const char *candidate)
{
    size_t n = strlen(suggest->word), m = strlen(candidate);
    unsigned distance;

    if (n == 0 || n > SUGGEST_MAX || m > SUGGEST_MAX) {
        return;
    }
    distance = edit_distance(suggest->word, n, candidate, m);
    /* A beginning or a plural counts as near: "mem" for memory, "disk" for disks. */
    if (n >= 3 && strncasecmp(suggest->word, candidate, n) == 0) {
        distance = smaller(distance, 1);
    }
    if (distance < suggest->distance) {
        suggest->distance = distance;
        suggest->best = candidate;
    }
}

const char *suggest_best(const struct suggest *suggest)
{
    unsigned near = (unsigned)(strlen(suggest->word) + 2) / 3;

    return suggest->best != NULL && suggest->distance <= near ? suggest->best : NULL;
}

const char *umbra_nearest(const char *word, const char *const *candidates)
{
    struct suggest suggest;

    suggest_start(&suggest, word);
    for (; *candidates != NULL; candidates++) {
        suggest_offer(&suggest, *candidates);
    }
    return suggest_best(&suggest);
}
