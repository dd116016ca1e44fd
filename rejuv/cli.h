/* cli.h: the commands of the vmbeam program; each gets argv with argv[0] its own name. */
#ifndef REJUV_CLI_H
#define REJUV_CLI_H

/* Exit statuses of the command line (DESIGN: 0 only on success). */
enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/* "vmbeam: what: why" on stderr; returns EXIT_FAILED. */
int cli_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The same for a wrong call; returns EXIT_USAGE. */
int cli_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
