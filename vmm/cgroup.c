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

enum { TRIES = 100, LEAVE_MS = 2000, LOOK_MS = 2 };

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

void cgroup_join(const char *name)
{
	char *parent = parent_path(), *dir;

	if (!parent)
		return;
	dir = xasprintf("%s/%s", parent, name);
	/* (Somebody may remove it while nobody is in it yet.) */
	for (int i = 0; i < TRIES && write_file(dir, "cgroup.procs", "0"); i++) {
		if (mkdir(parent, 0755) && errno != EEXIST)
			break;
		/* Each by itself: one that the kernel lacks, or that is not switched on above, fails. */
		write_file(parent, "cgroup.subtree_control", "+cpu");
		write_file(parent, "cgroup.subtree_control", "+pids");
		if (mkdir(dir, 0755) && errno != EEXIST)
			break;
	}
	free(dir);
	free(parent);
}

/* PF_EXITING of linux/sched.h, the ninth field of proc_pid_stat(5).  One that is gone already is none that is alive. */
static bool is_exiting(const char *pid)
{
	enum { EXITING = 4 };
	char *path = xasprintf("/proc/%s/stat", pid), text[512], state;
	const char *after;
	unsigned int flags;

	read_text(path, text, sizeof(text));
	free(path);
	after = strrchr(text, ')');
	return !after || sscanf(after, ") %c %*d %*d %*d %*d %*d %u", &state, &flags) != 2 || flags & EXITING;
}

/* One that ends keeps its cgroup for as long as the kernel takes to close what it had (a KVM VM: 100 ms and more), and a
 * moment longer, when it is not told of any more. */
static bool is_in_use(const char *dir)
{
	char *path = xasprintf("%s/cgroup.procs", dir), text[512], *rest = NULL;
	bool alive = false;

	read_text(path, text, sizeof(text));
	free(path);
	for (char *pid = strtok_r(text, "\n", &rest); pid && !alive; pid = strtok_r(NULL, "\n", &rest))
		alive = !is_exiting(pid);
	return alive;
}

void cgroup_remove(const char *name)
{
	char *parent = parent_path(), *dir;
	struct dirent *one;
	DIR *all;

	if (!parent)
		return;
	dir = xasprintf("%s/%s", parent, name);
	for (int ms = 0; ms < LEAVE_MS && rmdir(dir) && errno == EBUSY && !is_in_use(dir); ms += LOOK_MS)
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
