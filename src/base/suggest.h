/* SPDX-License-Identifier: MIT */
/* "Did you mean ...?": the known word nearest to a mistyped one. */
#ifndef BASE_SUGGEST_H
#define BASE_SUGGEST_H

#include <stddef.h>

struct suggest {
    const char *word;
    const char *best; /* points to an offered word */
    unsigned distance;
};

void suggest_start(struct suggest *suggest, const char *word);
void suggest_offer(struct suggest *suggest, const char *candidate);

/* The nearest offered word, or NULL when none is near enough to be meant. */
const char *suggest_best(const struct suggest *suggest);

#endif
