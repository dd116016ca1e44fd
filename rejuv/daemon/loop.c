/* loop.c: what the parts of the loop share: daemon.h. */
#include "rejuv/daemon/daemon.h"

#include <dirent.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MOST_BYTES = 16 << 20 };

double boot_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

int watch_source(struct daemon *d, struct source *s, struct error *e)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = s};

	return epoll_ctl(d->epoll, EPOLL_CTL_ADD, s->fd, &ev) ? error_set_errno(e, "epoll") : 0;
}

void unwatch_source(struct daemon *d, struct source *s)
{
	epoll_ctl(d->epoll, EPOLL_CTL_DEL, s->fd, NULL);
}

enum { LEAST_WAIT_S = 1, MOST_WAIT_S = 300, STABLE_S = 600 };

bool backoff_is_over(const struct backoff *b)
{
	return boot_s() >= b->next;
}

void backoff_begin(struct backoff *b)
{
	b->begun = boot_s();
}

double backoff_ended(struct backoff *b)
{
	bool stable = boot_s() - b->begun > STABLE_S;

	b->wait = stable || b->wait <= 0 ? LEAST_WAIT_S : MIN(b->wait * 2, (double)MOST_WAIT_S);
	b->next = boot_s() + b->wait;
	return b->wait;
}

json_t *read_json(int fd)
{
	struct stat st;
	json_t *j = NULL;
	char *text;

	if (fstat(fd, &st) || st.st_size <= 0 || st.st_size > MOST_BYTES)
		return NULL;
	text = xcalloc(1, (size_t)st.st_size);
	if (pread_all(fd, text, (size_t)st.st_size, 0) == st.st_size)
		j = json_loadb(text, (size_t)st.st_size, 0, NULL);
	free(text);
	return j;
}

bool process_holds(int pid, const char *path)
{
	char *dir = xasprintf("/proc/%d/fd", pid);
	bool found = false;
	struct dirent **names;
	int n = scandir(dir, &names, NULL, NULL);

	for (int i = 0; i < n; i++) {
		char *fd = xasprintf("%s/%s", dir, names[i]->d_name), target[PATH_MAX];
		ssize_t len = readlink(fd, target, sizeof(target) - 1);

		if (len > 0) {
			target[len] = 0;
			found = found || !strcmp(target, path);
		}
		free(fd);
		free(names[i]);
	}
	if (n >= 0)
		free(names);
	free(dir);
	return found;
}
