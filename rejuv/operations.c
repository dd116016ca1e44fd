/* operations.c: how long what was done with VMs took: operations.h. */
#include "rejuv/operations.h"

#include "rejuv/cli.h"
#include "vmm/client.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_BYTES = 64 * 1024 };

const char *const operation_names[OPERATION_KINDS] = {"create", "destroy", "migrate"};

static char *file(const char *name)
{
	return xasprintf("%s/%s", runtime_dir(), name);
}

void operation_note(enum operation what, const char *placement, uint64_t ns)
{
	char *path = file(".operations"), line[200];
	int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	struct stat st;
	int n = snprintf(line, sizeof(line), "%s %s %llu\n", operation_names[what], cli_placement(placement), (unsigned long long)ns);

	/* One write, so that lines never mix. */
	if (fd >= 0 && n < (int)sizeof(line) && !fstat(fd, &st) && st.st_size < MOST_BYTES && write(fd, line, (size_t)n) != n)
		log_line("%s: is incomplete", path);
	close_fd(&fd);
	free(path);
}

void operations_read(void (*done)(void *ctx, const char *where, enum operation what, double took), void *ctx)
{
	char *path = file(".operations"), *taken = file(".operations.read"), name[16], where[160];
	FILE *f = rename(path, taken) ? NULL : fopen(taken, "re");
	unsigned long long ns;

	while (f && fscanf(f, "%15s %159s %llu", name, where, &ns) == 3)
		for (int k = 0; k < OPERATION_KINDS; k++)
			if (!strcmp(name, operation_names[k]))
				done(ctx, where, (enum operation)k, (double)ns / 1e9);
	if (f) {
		fclose(f);
		unlink(taken);
	}
	free(path);
	free(taken);
}
