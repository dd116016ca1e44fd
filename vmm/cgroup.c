/* cgroup.c: a cgroup for each VM: cgroup.h. */
#include "vmm/cgroup.h"

#include "vmm/base.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#define ROOT "/sys/fs/cgroup"

enum { TRIES = 100, LEAVE_MS = 200, LOOK_MS = 2 };

/* NULL: there is none. */
static char *parent_path(void)
{
	const char *name = getenv("VMBEAM_CGROUP");
	struct statfs fs;

	if ((name && !name[0]) || statfs(ROOT, &fs) || fs.f_type != CGROUP2_SUPER_MAGIC)
		return NULL;
	return xasprintf(ROOT "/%s", name ? name : "vmbeam");
}

static int write_file(const char *dir, const char *file, const char *text)
{
	char *path = xasprintf("%s/%s", dir, file);
	int fd = open(path, O_WRONLY | O_CLOEXEC), r = -1;

	if (fd >= 0)
		r = write(fd, text, strlen(text)) < 0 ? -1 : 0;
	close_fd(&fd);
	free(path);
	return r;
}

static void join(const char *parent, const char *vm, const char *pid)
{
	char *dir = xasprintf("%s/%s", parent, vm);

	/* (Somebody may remove it while nobody is in it yet.) */
	for (int i = 0; i < TRIES && write_file(dir, "cgroup.procs", pid); i++) {
		if (!mkdir(parent, 0755)) {
			/* Each by itself: one that the kernel lacks fails. */
			write_file(parent, "cgroup.subtree_control", "+cpu");
			write_file(parent, "cgroup.subtree_control", "+pids");
		}
		if (mkdir(dir, 0755) && errno != EEXIST)
			break;
	}
	free(dir);
}

void cgroup_join(const char *vm)
{
	char *parent = parent_path();

	if (parent)
		join(parent, vm, "0");
	free(parent);
}

void cgroup_rename(const char *from, const char *to)
{
	char *parent = parent_path(), *path, pid[24];
	FILE *f;

	if (!parent)
		return;
	path = xasprintf("%s/%s/cgroup.procs", parent, from);
	f = fopen(path, "re");
	while (f && fgets(pid, sizeof(pid), f))
		join(parent, to, pid);
	if (f)
		fclose(f);
	free(path);
	free(parent);
	cgroup_remove(from);
}

void cgroup_remove(const char *vm)
{
	char *parent = parent_path(), *dir;
	struct dirent *one;
	DIR *all;

	if (!parent)
		return;
	/* (Its last process gives its files back before it leaves.) */
	dir = xasprintf("%s/%s", parent, vm);
	for (int ms = 0; ms < LEAVE_MS && rmdir(dir) && errno == EBUSY; ms += LOOK_MS)
		poll(NULL, 0, LOOK_MS);
	free(dir);
	all = opendir(parent);
	while (all && (one = readdir(all)))
		if (one->d_name[0] != '.' && one->d_type == DT_DIR)
			unlinkat(dirfd(all), one->d_name, AT_REMOVEDIR);
	if (all)
		closedir(all);
	free(parent);
}
