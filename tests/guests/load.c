/* load.c: a steady load of verified requests, for the tests that move a guest under it.  Built as
 * redisload and httpload (load.h, load_redis.c, load_http.c).
 *
 *   redisload HOST[:PORT] [--rate N/s] [--clients N] [--seconds N] [--progress] [--json]
 *
 * Open loop: request n is due at start + n / rate whatever became of those before, goes out on the
 * first connection that is free, and its latency counts from when it was due.  So a pause of the
 * server shows in all requests that fell into it.  --rate 0 is closed loop, each client as fast as
 * it gets replies.  A failure is an error, a wrong value, a reply not there REQUEST_TIMEOUT after
 * sending, or a connection that was lost or could not be made again.
 *
 * --progress prints a line per second on stderr.  SIGUSR1 prints an object about the time since
 * the last SIGUSR1, e.g. one per handover.  At the end (SIGTERM, --seconds) comes the report on it
 * all.  Exit status 1 after any failure, or without a single request.
 */
#include "tests/guests/load.h"
#include "vmm/base.h"

#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SECOND          1000000000ull
#define REQUEST_TIMEOUT (5 * SECOND)
#define RECONNECT_PAUSE (SECOND / 10)
#define FIRST_CONNECT   (60 * SECOND) /* for how long the first connection is tried */
#define MAX_CLIENTS     256

enum client_state { DOWN, CONNECTING, IDLE, BUSY };

struct client {
	enum client_state state;
	int fd;
	uint64_t due;      /* of the request under way */
	uint64_t deadline; /* CONNECTING, BUSY: failed then; DOWN: try again then */
	size_t out_len, out_done, in_len;
	char out[LOAD_REQUEST_BYTES];
	char *in;
	void *protocol;
};

enum failure { ERRORS, TIMEOUTS, WRONG, FAILURES };

/* A span of time to report on: what was counted when it began, and its longest gap. */
struct span {
	uint64_t start, longest_gap, failures[FAILURES];
	size_t first_latency;
};

static volatile sig_atomic_t stop, show;
static struct addrinfo *server;
static struct client *clients;
static unsigned client_count = 4;
static uint64_t *latencies; /* of every good reply, ns */
static size_t latency_count;
static uint64_t failures[FAILURES];
static uint64_t last_reply; /* 0 before the first */
static struct span whole, since_signal, since_second;

static void on_signal(int signal)
{
	if (signal == SIGUSR1)
		show = 1;
	else
		stop = 1;
}

static void begin_span(struct span *s)
{
	*s = (struct span){.start = clock_ns(), .first_latency = latency_count};
	memcpy(s->failures, failures, sizeof(failures));
}

static int by_value(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static void print_span(const struct span *s, FILE *to, bool json)
{
	size_t n = latency_count - s->first_latency;
	uint64_t *sorted = xcalloc(n + 1, sizeof(*sorted)), lost[FAILURES], all = 0, p50, p99, max;
	double seconds = (double)(clock_ns() - s->start) / 1e9;

	if (n)
		memcpy(sorted, latencies + s->first_latency, n * sizeof(*sorted));
	qsort(sorted, n, sizeof(*sorted), by_value);
	p50 = sorted[n / 2];
	p99 = sorted[n * 99 / 100];
	max = sorted[n ? n - 1 : 0];
	free(sorted);
	for (unsigned i = 0; i < FAILURES; i++)
		all += lost[i] = failures[i] - s->failures[i];
	fprintf(to,
		json ? "{\"seconds\":%.3f,\"requests\":%zu,\"failures\":%llu,\"errors\":%llu,"
		       "\"timeouts\":%llu,\"wrong\":%llu,"
		     : "%.1f s: %zu requests, %llu failed (%llu errors, %llu timeouts, %llu wrong)",
		seconds, n, (unsigned long long)all, (unsigned long long)lost[ERRORS],
		(unsigned long long)lost[TIMEOUTS], (unsigned long long)lost[WRONG]);
	if (json)
		fprintf(to,
			"\"p50_ns\":%llu,\"p99_ns\":%llu,\"max_ns\":%llu,\"longest_gap_ns\":%llu}"
			"\n",
			(unsigned long long)p50, (unsigned long long)p99, (unsigned long long)max,
			(unsigned long long)s->longest_gap);
	else
		fprintf(to, ", latency p50 %.2f p99 %.2f max %.2f ms, longest gap %.2f ms\n",
			(double)p50 / 1e6, (double)p99 / 1e6, (double)max / 1e6,
			(double)s->longest_gap / 1e6);
	fflush(to);
}

static void note_reply(const struct client *c, uint64_t now)
{
	struct span *spans[] = {&whole, &since_signal, &since_second};

	if (latency_count % 65536 == 0)
		latencies = xrealloc(latencies, (latency_count + 65536) * sizeof(*latencies));
	latencies[latency_count++] = now - c->due;
	for (unsigned i = 0; last_reply && i < ARRAY_LEN(spans); i++)
		spans[i]->longest_gap = MAX(spans[i]->longest_gap, now - last_reply);
	last_reply = now;
}

static void start_connect(struct client *c, uint64_t now)
{
	c->fd = socket(server->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		err(1, "socket");
	c->out_len = c->in_len = 0;
	c->state = CONNECTING;
	c->deadline = now + REQUEST_TIMEOUT;
	connect(c->fd, server->ai_addr, server->ai_addrlen); /* the result comes with POLLOUT */
}

static void fail(struct client *c, enum failure kind, const char *why, uint64_t now)
{
	failures[kind]++;
	fprintf(stderr, "%sload: client %td: %s\n", load_protocol.name, c - clients, why);
	if (c->state == BUSY)
		load_protocol.lost(c->protocol);
	close_fd(&c->fd);
	c->state = DOWN;
	c->deadline = now + RECONNECT_PAUSE;
}

static void send_more(struct client *c, uint64_t now)
{
	ssize_t n = send(c->fd, c->out + c->out_done, c->out_len - c->out_done, MSG_NOSIGNAL);

	if (n > 0)
		c->out_done += (size_t)n;
	else if (errno != EAGAIN)
		fail(c, ERRORS, strerror(errno), now);
}

static void start_request(struct client *c, uint64_t due, uint64_t now)
{
	c->out_len = load_protocol.request(c->protocol, c->out);
	c->out_done = 0;
	c->due = due;
	c->deadline = now + REQUEST_TIMEOUT;
	c->state = BUSY;
	send_more(c, now);
}

static void receive(struct client *c, uint64_t now)
{
	ssize_t n = recv(c->fd, c->in + c->in_len, LOAD_REPLY_BYTES - c->in_len, 0);
	ssize_t used;

	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0 || c->state != BUSY) {
		fail(c, ERRORS, n < 0 ? strerror(errno) : n ? "not asked for" : "closed", now);
		return;
	}
	c->in_len += (size_t)n;
	used = load_protocol.reply(c->protocol, c->in, c->in_len);
	if (used == REPLY_WRONG || (used > 0 && (size_t)used != c->in_len)) {
		fail(c, WRONG, "wrong reply", now);
	} else if (used > 0) {
		note_reply(c, now);
		c->in_len = 0;
		c->state = IDLE;
	}
}

static void finish_connect(struct client *c, uint64_t now)
{
	int error = 0;
	socklen_t len = sizeof(error);

	getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len);
	if (error)
		fail(c, ERRORS, strerror(error), now);
	else
		c->state = IDLE;
}

/* Waits until something can be done, at most until `wake`, and does what the sockets allow. */
static void serve_sockets(uint64_t wake)
{
	struct pollfd fds[MAX_CLIENTS];
	uint64_t now = clock_ns(), wait = wake > now ? wake - now : 0;
	struct timespec timeout = {.tv_sec = (time_t)(wait / SECOND),
				   .tv_nsec = (long)(wait % SECOND)};

	for (unsigned i = 0; i < client_count; i++) {
		struct client *c = &clients[i];
		bool out = c->state == CONNECTING || c->out_done < c->out_len;

		fds[i] = (struct pollfd){.fd = c->fd, .events = (short)(out ? POLLOUT : POLLIN)};
	}
	ppoll(fds, client_count, &timeout, NULL);
	now = clock_ns();
	for (unsigned i = 0; i < client_count; i++) {
		struct client *c = &clients[i];

		if (c->fd < 0 || !fds[i].revents)
			continue;
		if (c->state == CONNECTING)
			finish_connect(c, now);
		else if (fds[i].events & POLLOUT)
			send_more(c, now);
		else
			receive(c, now);
	}
}

/* Time-outs and new connections; how many requests are under way? */
static unsigned tend_clients(void)
{
	uint64_t now = clock_ns();
	unsigned busy = 0;

	for (unsigned i = 0; i < client_count; i++) {
		struct client *c = &clients[i];

		if (c->state != IDLE && now >= c->deadline) {
			if (c->state == DOWN)
				start_connect(c, now);
			else
				fail(c, TIMEOUTS, "time-out", now);
		}
		busy += c->state == BUSY;
	}
	return busy;
}

static struct client *idle_client(void)
{
	static unsigned next;

	for (unsigned i = 0; i < client_count; i++) {
		struct client *c = &clients[next++ % client_count];

		if (c->state == IDLE)
			return c;
	}
	return NULL;
}

static void run(uint64_t rate, uint64_t seconds, bool progress)
{
	uint64_t start = clock_ns(), started = 0;

	begin_span(&whole);
	since_signal = since_second = whole;
	for (;;) {
		uint64_t now = clock_ns(), due = rate ? start + started * SECOND / rate : now;
		bool ending = stop || (seconds && now > start + seconds * SECOND);
		struct client *c;

		if (tend_clients() == 0 && ending)
			break;
		while (!ending && due <= now && (c = idle_client())) {
			start_request(c, due, now);
			started++;
			due = rate ? start + started * SECOND / rate : now;
		}
		/* A request that is due waits for a connection: any reply wakes us. */
		serve_sockets(ending || due <= now ? now + SECOND / 100
						   : MIN(due, now + SECOND / 100));
		if (show) {
			show = 0;
			print_span(&since_signal, stdout, true);
			begin_span(&since_signal);
		}
		if (progress && now > since_second.start + SECOND) {
			print_span(&since_second, stderr, false);
			begin_span(&since_second);
		}
	}
}

static void find_server(const char *text)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	char *host = xstrdup(text), *port = strrchr(host, ':');
	int error;

	if (port)
		*port++ = '\0';
	error = getaddrinfo(host, port ? port : load_protocol.port, &hints, &server);
	if (error)
		errx(1, "%s: %s", text, gai_strerror(error));
	free(host);
}

/* The server may still be booting: until a connection works nothing counts. */
static void wait_for_server(const char *text)
{
	uint64_t until = clock_ns() + FIRST_CONNECT;

	for (;;) {
		int fd = socket(server->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		int failed = connect(fd, server->ai_addr, server->ai_addrlen);

		if (failed && (stop || clock_ns() > until))
			err(1, "%s", text);
		close(fd);
		if (!failed)
			return;
		usleep(RECONNECT_PAUSE / 1000);
	}
}

static void __attribute__((noreturn)) usage(void)
{
	errx(2,
	     "usage: %sload HOST[:PORT] [--rate N/s] [--clients N] [--seconds N] [--progress] "
	     "[--json]%s",
	     load_protocol.name, load_protocol.usage);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"rate", required_argument, NULL, 'r'},
						{"clients", required_argument, NULL, 'c'},
						{"seconds", required_argument, NULL, 's'},
						{"progress", no_argument, NULL, 'p'},
						{"json", no_argument, NULL, 'j'},
						{"path", required_argument, NULL, 'o'},
						{0}};
	struct sigaction action = {.sa_handler = on_signal};
	uint64_t rate = 100, seconds = 0;
	bool json = false, progress = false;

	for (int c, at; (c = getopt_long(argc, argv, "", options, &at)) != -1;) {
		if (c == 'r')
			rate = strtoull(optarg, NULL, 10);
		else if (c == 'c')
			client_count = (unsigned)strtoul(optarg, NULL, 10);
		else if (c == 's')
			seconds = strtoull(optarg, NULL, 10);
		else if (c == 'p')
			progress = true;
		else if (c == 'j')
			json = true;
		else if (c == '?' || load_protocol.option(options[at].name, optarg))
			usage();
	}
	if (optind != argc - 1 || !client_count || client_count > MAX_CLIENTS)
		usage();
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGUSR1, &action, NULL);

	find_server(argv[optind]);
	wait_for_server(argv[optind]);
	clients = xcalloc(client_count, sizeof(*clients));
	for (unsigned i = 0; i < client_count; i++) {
		clients[i] = (struct client){.fd = -1,
					     .in = xcalloc(1, LOAD_REPLY_BYTES),
					     .protocol = load_protocol.client(i)};
	}
	run(rate, seconds, progress);
	print_span(&whole, stdout, json);
	return !latency_count || failures[ERRORS] + failures[TIMEOUTS] + failures[WRONG];
}
