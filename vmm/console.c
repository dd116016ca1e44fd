/* console.c: where the bytes of the serial port, or of a virtio console, go: clients of a stream
 * socket and, if asked, a file.
 *
 * vCPU threads only ring console_wake(); all writing is done on the main thread, many bytes at once.
 * A client that does not read holds the others up (the line status tells the guest to wait) for
 * SLOW_CLIENT_NS, then it is dropped: a forgotten terminal must not stop a VM.  Without clients the
 * bytes go nowhere, as on an unplugged line.
 */
#include "vmm/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { MAX_CLIENTS = 8, RECENT = 32 * 1024 };
#define SLOW_CLIENT_NS 10000000000ull

struct client {
	struct console *console;
	int fd; /* -1: free */
	struct loop_source *source;
	uint32_t watching;
	size_t sent; /* of the port's buffer */
	uint64_t blocked_since;
};

struct console {
	struct vm *vm;
	const struct console_port *ops;
	void *port;
	int listener, file; /* -1: none */
	struct loop_source *listener_source;
	int wake;
	struct loop_source *wake_source;
	int timer; /* ticks each second; watched while a client is blocked */
	struct loop_source *timer_source;
	uint32_t timer_watching;
	size_t file_sent;
	bool stopped;  /* around a handover nothing is sent or taken */
	bool inherits; /* clients added now came with the port's buffer: it is theirs */
	size_t inherit_sent[MAX_CLIENTS]; /* what each of them has had */
	struct client clients[MAX_CLIENTS];
	const struct console_sink *sink; /* the other half of the VM; NULL: it is whole */
	void *sink_ctx;
	uint8_t waiting[CONSOLE_WAITING]; /* input for which the port had no room */
	size_t waiting_len;
	uint8_t recent[RECENT]; /* what was written last; byte n of all at n % RECENT */
	uint64_t written;
};

static size_t port_room(const struct console *c)
{
	return c->waiting_len ? 0 : c->ops->room(c->port); /* in the order in which it came */
}

static void watch(struct client *c, uint32_t events)
{
	if (c->watching != events)
		loop_modify(c->source, events);
	c->watching = events;
}

static void drop(struct client *c)
{
	if (c->fd < 0)
		return;
	loop_remove(c->source);
	close_fd(&c->fd);
	c->source = NULL;
}

/* Returns false when the client cannot take all of it now. */
static bool send_to(struct client *c, const uint8_t *data, size_t len)
{
	while (c->sent < len) {
		ssize_t n = send(c->fd, data + c->sent, len - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN) {
			drop(c);
			return true;
		}
		if (n < 0) {
			uint64_t now = clock_ns();

			if (!c->blocked_since)
				c->blocked_since = now;
			if (now - c->blocked_since > SLOW_CLIENT_NS) {
				drop(c);
				return true;
			}
			watch(c, EPOLLIN | EPOLLOUT);
			return false;
		}
		c->sent += (size_t)n;
		c->blocked_since = 0;
	}
	watch(c, port_room(c->console) ? EPOLLIN : 0);
	return true;
}

/* A guest that waits for room writes nothing that would wake us: the time must. */
static void watch_time(struct console *c)
{
	uint32_t events = 0;

	for (size_t i = 0; i < MAX_CLIENTS && !c->stopped; i++)
		if (c->clients[i].fd >= 0 && c->clients[i].blocked_since)
			events = EPOLLIN;
	if (c->timer_watching != events)
		loop_modify(c->timer_source, events);
	c->timer_watching = events;
}

static void remember(struct console *c, const uint8_t *data, size_t len)
{
	for (size_t i = 0; i < len; i++)
		c->recent[c->written++ % RECENT] = data[i];
}

uint8_t *console_recent(const struct console *c, size_t *len)
{
	uint8_t *text = xcalloc(1, RECENT);

	*len = MIN(c->written, (uint64_t)RECENT);
	for (size_t i = 0; i < *len; i++)
		text[i] = c->recent[(c->written - *len + i) % RECENT];
	return text;
}

void console_flush(struct console *c)
{
	size_t len, done;
	const uint8_t *data = c->ops->tx(c->port, &len);

	if (c->stopped)
		return;
	done = len;
	if (c->file >= 0 && c->file_sent < len) {
		/* A file takes all or the disk is full: then the bytes are lost, the VM runs on. */
		if (write_all(c->file, data + c->file_sent, len - c->file_sent) < 0)
			log_line("%s: serial file: %s", c->vm->config->name, strerror(errno));
		c->file_sent = len;
	}
	for (size_t i = 0; i < MAX_CLIENTS; i++) {
		struct client *cl = &c->clients[i];

		if (cl->fd >= 0 && !send_to(cl, data, len))
			done = MIN(done, cl->sent);
	}
	watch_time(c);
	if (c->sink)
		done = c->sink->take(c->sink_ctx, data, len); /* it has no clients and no file */
	if (!done)
		return;
	if (!c->sink)
		remember(c, data, done);
	c->ops->tx_taken(c->port, done);
	c->file_sent -= MIN(done, c->file_sent);
	for (size_t i = 0; i < MAX_CLIENTS; i++)
		c->clients[i].sent -= MIN(done, c->clients[i].sent);
}

static void on_wake(void *ctx, uint32_t events)
{
	struct console *c = ctx;
	uint64_t n;

	(void)events;
	if (read(c->wake, &n, sizeof(n)) == sizeof(n)) {
		console_flush(c);
		console_rx_ready(c);
	}
}

static void on_tick(void *ctx, uint32_t events)
{
	struct console *c = ctx;
	uint64_t n;

	(void)events;
	if (read(c->timer, &n, sizeof(n)) == sizeof(n))
		console_flush(c);
}

void console_wake(struct console *c)
{
	uint64_t one = 1;

	if (write(c->wake, &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_line("console: %s", strerror(errno));
}

void console_set_sink(struct console *c, const struct console_sink *sink, void *ctx)
{
	c->sink = sink;
	c->sink_ctx = ctx;
}

static void give_waiting(struct console *c)
{
	size_t n = c->stopped ? 0 : c->ops->receive(c->port, c->waiting, c->waiting_len);

	if (!n)
		return;
	c->waiting_len -= n;
	memmove(c->waiting, c->waiting + n, c->waiting_len);
	if (c->sink)
		c->sink->consumed(c->sink_ctx, n);
}

size_t console_input(struct console *c, const uint8_t *data, size_t len)
{
	size_t n = MIN(len, CONSOLE_WAITING - c->waiting_len);

	if (!n)
		return 0;
	memcpy(c->waiting + c->waiting_len, data, n);
	c->waiting_len += n;
	give_waiting(c);
	return n;
}

const uint8_t *console_waiting(const struct console *c, size_t *len)
{
	*len = c->waiting_len;
	return c->waiting;
}

void console_rx_ready(struct console *c)
{
	if (c->waiting_len)
		give_waiting(c);
	for (size_t i = 0; i < MAX_CLIENTS; i++)
		if (c->clients[i].fd >= 0 && !c->stopped)
			watch(&c->clients[i], c->clients[i].watching | EPOLLIN);
}

static void on_client(void *ctx, uint32_t events)
{
	struct client *c = ctx;
	struct console *con = c->console;
	uint8_t buf[256];
	size_t room = port_room(con);

	if (con->stopped && !(events & (EPOLLHUP | EPOLLERR)))
		return; /* in the same round: the bytes are the destination's */
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		ssize_t n;

		if (!room && !(events & (EPOLLHUP | EPOLLERR))) {
			watch(c, c->watching & ~(uint32_t)EPOLLIN);
			return;
		}
		n = recv(c->fd, buf, MIN(room ? room : 1, sizeof(buf)), MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
			drop(c);
			console_flush(con); /* the others may have waited for this one */
			return;
		}
		if (n > 0)
			con->ops->receive(con->port, buf, (size_t)n);
	}
	if (events & EPOLLOUT)
		console_flush(con);
}

void console_add_client(struct console *c, int fd)
{
	for (size_t i = 0; i < MAX_CLIENTS; i++) {
		struct client *cl = &c->clients[i];

		if (cl->fd >= 0)
			continue;
		*cl = (struct client){.console = c, .fd = fd, .watching = c->stopped ? 0 : EPOLLIN};
		/* Earlier bytes were not meant for it. */
		c->ops->tx(c->port, &cl->sent);
		if (c->inherits)
			cl->sent = c->inherit_sent[i];
		cl->source = loop_add(c->vm->loop, fd, cl->watching, on_client, cl);
		return;
	}
	close(fd); /* enough clients */
}

static void on_connect(void *ctx, uint32_t events)
{
	struct console *c = ctx;
	int fd = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC);

	(void)events;
	if (fd >= 0)
		console_add_client(c, fd);
}

struct console *console_create(struct vm *vm, const struct console_port *ops, void *port,
			       int listener, int file, struct error *e)
{
	struct console *c = xcalloc(1, sizeof(*c));
	/* Set once: the sandbox lets nobody change it.  While nobody reads it it does not tick on. */
	const struct itimerspec tick = {.it_interval = {1, 0}, .it_value = {1, 0}};

	c->vm = vm;
	c->ops = ops;
	c->port = port;
	c->listener = listener;
	c->file = file;
	c->stopped = true;
	for (size_t i = 0; i < MAX_CLIENTS; i++)
		c->clients[i].fd = -1;
	c->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	c->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (c->wake < 0 || c->timer < 0 || timerfd_settime(c->timer, 0, &tick, NULL)) {
		error_set_errno(e, "console");
		close_fd(&c->wake);
		close_fd(&c->timer);
		free(c);
		return NULL;
	}
	c->timer_source = loop_add(vm->loop, c->timer, 0, on_tick, c);
	c->wake_source = loop_add(vm->loop, c->wake, EPOLLIN, on_wake, c);
	if (listener >= 0)
		c->listener_source = loop_add(vm->loop, listener, 0, on_connect, c);
	return c;
}

void console_destroy(struct console *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < MAX_CLIENTS; i++)
		drop(&c->clients[i]);
	loop_remove(c->listener_source);
	loop_remove(c->wake_source);
	loop_remove(c->timer_source);
	close(c->wake);
	close(c->timer);
	free(c);
}

/* Around a handover: what is not sent yet is part of the port's state. */
void console_stop(struct console *c)
{
	console_flush(c);
	c->stopped = true;
	watch_time(c);
	if (c->listener_source)
		loop_modify(c->listener_source, 0);
	for (size_t i = 0; i < MAX_CLIENTS; i++)
		if (c->clients[i].fd >= 0)
			watch(&c->clients[i], 0);
}

void console_start(struct console *c)
{
	c->stopped = false;
	c->inherits = false;
	if (c->listener_source)
		loop_modify(c->listener_source, EPOLLIN);
	for (size_t i = 0; i < MAX_CLIENTS; i++)
		if (c->clients[i].fd >= 0)
			watch(&c->clients[i], EPOLLIN);
	give_waiting(c);
	console_flush(c);
}

Vmb__ConsoleSent *console_sent(const struct console *c)
{
	Vmb__ConsoleSent *s = xcalloc(1, sizeof(*s));

	vmb__console_sent__init(s);
	s->file = c->file_sent;
	s->clients = xcalloc(MAX_CLIENTS, sizeof(*s->clients));
	for (size_t i = 0; i < MAX_CLIENTS; i++)
		if (c->clients[i].fd >= 0)
			s->clients[s->n_clients++] = c->clients[i].sent;
	return s;
}

void console_inherit(struct console *c, const Vmb__ConsoleSent *sent)
{
	size_t len;

	c->ops->tx(c->port, &len);
	c->inherits = true;
	c->file_sent = sent ? MIN(sent->file, len) : 0;
	for (size_t i = 0; i < MAX_CLIENTS; i++)
		c->inherit_sent[i] = sent && i < sent->n_clients ? MIN(sent->clients[i], len) : 0;
}

size_t console_clients(struct console *c, int *fds, size_t max)
{
	size_t n = 0;

	for (size_t i = 0; i < MAX_CLIENTS && n < max; i++)
		if (c->clients[i].fd >= 0)
			fds[n++] = c->clients[i].fd;
	return n;
}
