/* loop.c: what the parts of the loop share: daemon.h. */
#include "rejuv/daemon/daemon.h"

#include <sys/epoll.h>
#include <time.h>

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
