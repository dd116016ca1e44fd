/* operations.c: how long what was done with VMs took: operations.h. */
#include "rejuv/operations.h"

#include "rejuv/cli.h"
#include "vmm/client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_BYTES = 64 * 1024 };

const char *const operation_names[OPERATION_KINDS] = {"create", "destroy", "migrate"};

/* Opens the file and locks it: who adds and who takes away exclude each other.  -1: there is none. */
static int open_locked(int flags)
{
	char *path = xasprintf("%s/.operations", runtime_dir());
	int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW, 0600);

	free(path);
	if (fd >= 0 && flock(fd, LOCK_EX))
		close_fd(&fd);
	return fd;
}

void operation_note(enum operation what, const char *placement, uint64_t ns)
{
	int fd = open_locked(O_WRONLY | O_APPEND | O_CREAT);
	struct stat st;

	if (fd >= 0 && !fstat(fd, &st) && st.st_size < MOST_BYTES)
		dprintf(fd, "%s %s %llu\n", operation_names[what], cli_placement(placement), (unsigned long long)ns);
	close_fd(&fd);
}

void operations_read(void (*done)(void *ctx, const char *where, enum operation what, double took), void *ctx)
{
	int fd = open_locked(O_RDWR);
	char line[256], name[16], where[160];
	unsigned long long ns;
	FILE *f = fd < 0 ? NULL : fdopen(fd, "r+");

	if (!f) {
		close_fd(&fd);
		return;
	}
	while (fgets(line, sizeof(line), f))
		for (int k = 0; k < OPERATION_KINDS; k++)
			if (sscanf(line, "%15s %159s %llu", name, where, &ns) == 3 && !strcmp(name, operation_names[k]))
				done(ctx, where, (enum operation)k, (double)ns / 1e9);
	if (ftruncate(fd, 0))
		log_line("what operations took cannot be cleared: %s", strerror(errno));
	fclose(f);
}
