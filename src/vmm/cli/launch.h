/* SPDX-License-Identifier: MIT */
/* Running one guest from the launcher: its terminal, its signals, its end. */
#ifndef VMM_CLI_LAUNCH_H
#define VMM_CLI_LAUNCH_H

#include <stdbool.h>

#include <umbra/umbra.h>

struct launch_options {
    const char *command; /* for messages: "run" */
    int verbosity;       /* -1 quiet, 0 warnings, 1 information, 2 everything */
    unsigned grace_ms;   /* how long a guest may take to shut down when asked to */
    bool guest_ctrl_c;   /* Ctrl-C goes to the guest */
};

enum { LAUNCH_GRACE_MS = 5000 };

/* The options --grace, --ctrl-c, --verbose, --quiet; for struct cli_parser. */
#define LAUNCH_OPTIONS                                                                   \
    { "grace", "SECONDS",                                                                \
      "how long the guest may take to shut down after Ctrl-C or SIGTERM; default 5" },   \
        { "ctrl-c", "stop|guest",                                                        \
          "what Ctrl-C in the terminal does; default stop (Ctrl-A c always reaches the " \
          "guest)" },                                                                    \
        { "verbose", NULL, "tell more; twice: everything" },                             \
    {                                                                                    \
        "quiet", NULL, "say nothing when the guest powers off"                           \
    }

/* Take one of LAUNCH_OPTIONS; false when @value is wrong or @name is another option. */
bool launch_set_option(struct launch_options *options, const char *name,
                       const char *value);

/* What to read about the terminal, for --help. */
extern const char launch_help[];

/* Run the guest of @config to its end, say why it ended, return the exit status. */
int launch(struct umbra_config *config, const struct launch_options *options);

#endif
