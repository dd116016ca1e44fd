/* cmd_network.c: what goes over the network is done by another program, vmbeam-migrate, beside this one. */
#include "rejuv/cli.h"
#include "vmm/base.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int network_main(int argc, char **argv)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char **args = xcalloc((size_t)argc + 2, sizeof(*args));
	char *program;

	if (n < 0)
		return cli_fail("/proc/self/exe: %s", strerror(errno));
	self[n] = 0;
	*strrchr(self, '/') = 0;
	program = xasprintf("%s/vmbeam-migrate", self);
	args[0] = program;
	memcpy(args + 1, argv, (size_t)argc * sizeof(*args));
	execv(program, args);
	n = cli_fail("%s: %s", program, strerror(errno));
	free(program);
	free(args);
	return (int)n;
}
