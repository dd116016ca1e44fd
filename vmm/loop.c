/* loop.c: the event loop of a vmm process: epoll, one thread, handlers called under the VM's lock.
 *
 * A handler may remove any source, its own included: removed sources are freed after the round in
 * which they went, so that an event already fetched for one finds it marked, not gone.
 */
#include "vmm/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

struct loop_source {
	struct loop *loop;
	int fd; /* -1: removed */
	loop_fn *fn;
	void *ctx;
	struct loop_source *next_dead;
};

struct loop {
	int epoll;
	bool stopped;
	pthread_mutex_t *lock;
	struct loop_source *dead;
	uint64_t timer_ns; /* when it is due; 0: never */
	void (*timer)(void *ctx);
	void *timer_ctx;
};

struct loop *loop_create(pthread_mutex_t *lock, struct error *e)
{
	struct loop *l = xcalloc(1, sizeof(*l));

	l->lock = lock;
	l->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll < 0) {
		error_set_errno(e, "epoll_create1");
		free(l);
		return NULL;
	}
	return l;
}

static void free_dead(struct loop *l)
{
	while (l->dead) {
		struct loop_source *s = l->dead;

		l->dead = s->next_dead;
		free(s);
	}
}

void loop_destroy(struct loop *l)
{
	if (!l)
		return;
	free_dead(l);
	close(l->epoll);
	free(l);
}

static void set_events(struct loop_source *s, int op, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = s};

	if (epoll_ctl(s->loop->epoll, op, s->fd, &ev)) {
		log_line("epoll_ctl on descriptor %d: error %d", s->fd, errno);
		abort(); /* a descriptor of ours that cannot be polled is a bug of ours */
	}
}

struct loop_source *loop_add(struct loop *l, int fd, uint32_t events, loop_fn *fn, void *ctx)
{
	struct loop_source *s = xcalloc(1, sizeof(*s));

	s->loop = l;
	s->fd = fd;
	s->fn = fn;
	s->ctx = ctx;
	set_events(s, EPOLL_CTL_ADD, events);
	return s;
}

void loop_modify(struct loop_source *s, uint32_t events)
{
	set_events(s, EPOLL_CTL_MOD, events);
}

void loop_remove(struct loop_source *s)
{
	if (!s)
		return;
	epoll_ctl(s->loop->epoll, EPOLL_CTL_DEL, s->fd, NULL);
	s->fd = -1;
	s->next_dead = s->loop->dead;
	s->loop->dead = s;
}

void loop_set_timer(struct loop *l, uint64_t due_ns, void (*fn)(void *ctx), void *ctx)
{
	l->timer_ns = due_ns;
	l->timer = fn;
	l->timer_ctx = ctx;
}

static int until_timer(const struct loop *l, int timeout_ms)
{
	uint64_t now = clock_ns(), left;

	if (!l->timer_ns)
		return timeout_ms;
	left = l->timer_ns > now ? (l->timer_ns - now + 999999) / 1000000 : 0;
	return timeout_ms < 0 ? (int)MIN(left, 1000000ull) : (int)MIN(left, (uint64_t)timeout_ms);
}

void loop_once(struct loop *l, int timeout_ms)
{
	struct epoll_event ev[32];
	int n = epoll_wait(l->epoll, ev, ARRAY_LEN(ev), until_timer(l, timeout_ms));

	pthread_mutex_lock(l->lock);
	if (l->timer_ns && clock_ns() >= l->timer_ns) {
		l->timer_ns = 0;
		l->timer(l->timer_ctx);
	}
	for (int i = 0; i < n; i++) {
		struct loop_source *s = ev[i].data.ptr;

		if (s->fd >= 0)
			s->fn(s->ctx, ev[i].events);
	}
	free_dead(l);
	pthread_mutex_unlock(l->lock);
}

void loop_run(struct loop *l)
{
	while (!l->stopped)
		loop_once(l, -1);
}

void loop_stop(struct loop *l)
{
	l->stopped = true;
}
