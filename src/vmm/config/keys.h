/* SPDX-License-Identifier: MIT */
/*
 * The one table of configuration keys. The JSON reader, the launcher's options, --help,
 * configs/schema.json and the manual pages are all derived from it.
 */
#ifndef VMM_CONFIG_KEYS_H
#define VMM_CONFIG_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How a value is written (JSON; launcher text) and kept in the struct. */
enum config_kind {
    CONFIG_KIND_BOOL,     /* true; on|off                 bool */
    CONFIG_KIND_NOT,      /* the same, kept inverted      bool */
    CONFIG_KIND_UINT,     /* 4; 4                         uint16_t, unsigned, uint64_t */
    CONFIG_KIND_INT,      /* 4; 4                         int, -1 when not given */
    CONFIG_KIND_SIZE,     /* "512M" or bytes; 512M        uint64_t */
    CONFIG_KIND_DURATION, /* "90s" or seconds; 90s        uint64_t milliseconds */
    CONFIG_KIND_STRING,   /* "x"; x                       char * */
    CONFIG_KIND_PATH,     /* as STRING, relative to the config file's folder */
    CONFIG_KIND_ENUM,     /* one of names                 unsigned or bool: its index */
    CONFIG_KIND_STRINGS,  /* ["a", "b"]; a,b              char ** and count; text adds */
    CONFIG_KIND_END,      /* "file:x"; file:x             struct config_serial */
    CONFIG_KIND_ENDS,     /* END or [END...]; END,END     array of max; text replaces */
    CONFIG_KIND_MAC,      /* "52:54:00:..."; the same     uint8_t[6] */
    CONFIG_KIND_FORWARDS, /* ["tcp:2222:22"]; one         array and count; text adds */
    CONFIG_KIND_OBJECT,   /* {...}; k=v,k=v               members of the same struct */
    CONFIG_KIND_SWITCH,   /* true or {...}; on or k=v,k=v bool, and as OBJECT */
    CONFIG_KIND_LIST,     /* [{...}]; k=v,k=v             array and count; text adds */
};

enum { CONFIG_KEYS_MAX = 64 }; /* of one table */

struct config_table;

struct config_key {
    const char *name;   /* in JSON and in "name=value" */
    const char *option; /* the launcher's, without dashes; NULL inside tables */
    enum config_kind kind;
    bool required;            /* within its object */
    const char *unless;       /* this other key is there instead */
    size_t offset, size;      /* of the member in the table's struct */
    size_t count_offset;      /* STRINGS, ENDS, FORWARDS, LIST */
    size_t count_size;        /* of the count member */
    uint64_t min, max;        /* UINT, INT, SIZE, DURATION; max elements of lists */
    const char *const *names; /* ENUM, NULL-terminated */
    const struct config_table *table; /* OBJECT, SWITCH, LIST */
    const char *value;                /* what stands for the value in --help */
    const char *help;                 /* one sentence without a full stop */
    const char *example;              /* valid launcher text */
};

struct config_table {
    const struct config_key *keys;
    size_t count;
    size_t element_size;         /* LIST: of one element */
    void (*init)(void *element); /* LIST: its defaults; NULL: zeroes */
    const char *positional;      /* key of a leading word without "=", or NULL */
};

/* The top level: offsets are in struct umbra_config. */
extern const struct config_table config_root;

/* The key of that name or launcher option (root only); NULL when there is none. */
const struct config_key *config_key_find(const struct config_table *table,
                                         const char *name);

/* With @given for each key: is the @index'th required and not there? */
bool config_key_missing(const struct config_table *table, size_t index,
                        const bool *given);

/* The key nearest to a mistyped @name, or NULL when none is near. */
const char *config_key_suggest(const struct config_table *table, const char *name);

/* The same for the names of an ENUM. */
const char *config_name_suggest(const char *const *names, const char *name);

#endif
