/* cmd_other.c: what other programs beside this one do: vmbeam-migrate what goes over the network, vmbeam-monitor what needs
 * SQLite, HTTP or a screen, and in a source tree bench/bench.sh the measurements. */
#include "rejuv/cli.h"
#include "vmm/base.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Becomes the program with these arguments; returns only if that fails. */
static int become(const char *name, char *const *argv)
{
	char *program = cli_program(name), **args;
	size_t argc = 0;
	int r;

	while (argv[argc])
		argc++;
	args = xcalloc(argc + 2, sizeof(*args));
	args[0] = program;
	memcpy(args + 1, argv, argc * sizeof(*args));
	execv(program, args);
	r = cli_fail("%s: %s", program, strerror(errno));
	free(program);
	free(args);
	return r;
}

int network_exec(char *const *argv)
{
	return become("vmbeam-migrate", argv);
}

int watch_main(int argc, char **argv)
{
	(void)argc;
	return become("vmbeam-monitor", argv);
}

int network_main(int argc, char **argv)
{
	(void)argc; /* argv ends with NULL */
	return network_exec(argv);
}

int bench_main(int argc, char **argv)
{
	char *build = cli_program(".."), *script = xasprintf("%s/bench/bench.sh", build);
	int r;

	(void)argc;
	free(build);
	argv[0] = script;
	execv(script, argv);
	r = cli_fail("bench: %s: %s%s", script, strerror(errno), errno == ENOENT ? " (it is only there in a source tree)" : "");
	free(script);
	return r;
}
