/* SPDX-License-Identifier: MIT */
/*
 * The launcher's terminal: raw while a guest has it, and put back whatever happens. A crash
 * puts it back from the signal handler; against kill -9 a small guard process watches.
 * There is one terminal, so there is one state.
 */
#ifndef VMM_CLI_TERM_H
#define VMM_CLI_TERM_H

#include <stdbool.h>

/* Stdin is a terminal and this process has it in the foreground. */
bool term_present(void);

/* Start the guard and catch crashes. Call it before descriptors that the guard should not
 * hold are opened. 0 or -errno. */
int term_open(void);

/* To raw mode and back; each does nothing when it is so already. Output processing stays
 * on, so that our own messages look right. */
int term_raw(void);
void term_restore(void); /* async-signal-safe */

/* Back, and the guard is let go. */
void term_close(void);

#endif
