/* stream.c: the migration engine (migrate/precopy.c) without a VM: a sending and a receiving process, memory that is
 * filled with random bytes, loopback.  Prints a table; what it measures is said by its options:
 *
 *   --memory 8G            size
 *   --connections 1,2,4,8  a row each
 *   --tls DIR              with the certificates of `vmbeam certs DIR`; else plain TCP
 *   --write MB/S           a thread writes to random pages of all of it meanwhile (default 0)
 *   --limit MS --switch MS the downtime that is allowed, and what the switch-over takes besides pages (both ends wait
 *                          for so long)
 *   --throttle             the thread can be slowed down
 *   --runs N --timeout S   each row so often; given up after
 *   --json                 a line of JSON per run
 * With --tls a last line says what the same two CPUs encrypt and decrypt when they do nothing else.
 */
#include "migrate/sender.h"
#include "migrate/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <openssl/evp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <netinet/in.h>
#include <unistd.h>

struct bench {
	uint64_t memory, write, limit_ms, switch_ms, timeout_s;
	const char *tls;
	bool json, throttle;
	int source;
	uint8_t *base;
};

/* What each process tells of itself. */
struct report {
	double user, sys;
	uint64_t start_ns, end_ns, hash;
	struct precopy_result result;
	bool failed;
	struct error error;
};

static void die(const char *what, const struct error *e)
{
	fprintf(stderr, "stream: %s: %s\n", what, e ? e->text : strerror(errno));
	exit(1);
}

/* ---- a VM that is none: memory, and a thread that writes it */

struct toy {
	const struct bench *b;
	_Atomic uint64_t *dirty;
	uint64_t chunks;
	_Atomic bool stopped;
	_Atomic unsigned int throttle; /* percent */
	pthread_t thread;
};

static uint64_t next_random(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

static void *write_pages(void *ctx)
{
	struct toy *t = ctx;
	uint64_t x = 88172645463325252ull, n = 0, pages = t->b->memory / STREAM_PAGE, last = clock_ns();
	double allowed = 0; /* ns that it was let run */

	while (!t->stopped) {
		/* A burst each millisecond. */
		uint64_t now = clock_ns(), due;

		allowed += (double)(now - last) * (100 - t->throttle) / 100;
		last = now;
		due = (uint64_t)(allowed / 1000 * (double)t->b->write / STREAM_PAGE);

		for (; n < due && !t->stopped; n++) {
			uint64_t page = next_random(&x) % pages;

			*(volatile uint64_t *)(t->b->base + page * STREAM_PAGE + 8 * (x % 512)) = x;
			atomic_fetch_or(&t->dirty[page / 64], 1ull << page % 64);
		}
		poll(NULL, 0, 1);
	}
	return NULL;
}

static int toy_collect(void *ctx, uint64_t *dirty, struct error *e)
{
	struct toy *t = ctx;

	(void)e;
	for (uint64_t i = 0; i < t->chunks; i++)
		dirty[i] |= atomic_exchange(&t->dirty[i], 0);
	return 0;
}

static int toy_throttle(void *ctx, unsigned int percent, struct error *e)
{
	struct toy *t = ctx;

	(void)e;
	t->throttle = percent;
	return 0;
}

static int toy_stop(void *ctx, uint64_t *dirty, struct error *e)
{
	struct toy *t = ctx;

	t->stopped = true;
	pthread_join(t->thread, NULL);
	return toy_collect(t, dirty, e);
}

/* ---- the two processes */

static void usage_since(const struct rusage *a, struct report *r)
{
	struct rusage b;

	getrusage(RUSAGE_SELF, &b);
	r->user = (double)(b.ru_utime.tv_sec - a->ru_utime.tv_sec) +
		  (double)(b.ru_utime.tv_usec - a->ru_utime.tv_usec) / 1e6;
	r->sys = (double)(b.ru_stime.tv_sec - a->ru_stime.tv_sec) +
		 (double)(b.ru_stime.tv_usec - a->ru_stime.tv_usec) / 1e6;
}

static uint64_t hash_of(const uint8_t *base, uint64_t size)
{
	uint64_t h = 14695981039346656037ull;

	for (uint64_t i = 0; i < size; i += 8) {
		uint64_t v;

		memcpy(&v, base + i, 8);
		h = (h ^ v) * 1099511628211ull;
		h ^= h >> 29;
	}
	return h;
}

static struct conn *open_conn(int fd, SSL_CTX *ctx, bool server)
{
	struct error e;
	SSL *ssl = NULL;
	struct conn *c;

	if (ctx && !(ssl = tls_shake_hands(ctx, fd, server ? NULL : "localhost", &e)))
		die("handshake", &e);
	c = conn_new(fd, ssl, &e);
	if (!c)
		die("connection", &e);
	return c;
}

static void send_all(const struct bench *b, const char *address, unsigned int n, struct report *r)
{
	struct toy t = {.b = b, .chunks = b->memory / STREAM_CHUNK + 1};
	struct precopy_source source = {toy_collect, toy_stop, b->throttle ? toy_throttle : NULL, &t};
	struct precopy_options o = {.downtime_limit_ns = b->limit_ms * 1000000,
				    .switch_ns = b->switch_ms * 1000000,
				    .timeout_ns = b->timeout_s * 1000000000};
	struct conn *conns[PRECOPY_MAX_CONNECTIONS];
	struct sender *sender;
	SSL_CTX *ctx = NULL;
	struct rusage before;

	if (b->tls && !(ctx = tls_context(b->tls, false, &r->error)))
		die(b->tls, &r->error);
	for (unsigned int i = 0; i < n; i++) {
		int fd = conn_connect(address, 5000, &r->error);

		if (fd < 0)
			die("connect", &r->error);
		conns[i] = open_conn(fd, ctx, false);
	}
	t.dirty = xcalloc(t.chunks, sizeof(*t.dirty));
	if (pthread_create(&t.thread, NULL, write_pages, &t))
		die("thread", NULL);
	getrusage(RUSAGE_SELF, &before);
	r->start_ns = clock_ns();
	sender = sender_create(conns, n, b->source, b->memory, 0, &r->error);
	r->failed = !sender || precopy_send(sender, &source, &o, &r->result, &r->error);
	r->end_ns = clock_ns();
	usage_since(&before, r);
	if (!t.stopped) {
		t.stopped = true;
		pthread_join(t.thread, NULL);
	}
	r->hash = b->write ? hash_of(b->base, b->memory) : 0;
}

struct serve {
	struct receiver *receiver;
	struct conn *c;
	struct error error;
	int result;
	pthread_t thread;
};

static void *serve(void *ctx)
{
	struct serve *s = ctx;

	s->result = receiver_serve(s->receiver, s->c, &s->error);
	return NULL;
}

static void receive_all(const struct bench *b, int listener, unsigned int n, struct report *r)
{
	int memory = memfd_create("stream-destination", MFD_CLOEXEC);
	struct precopy_extent all = {0, b->memory};
	struct serve serves[PRECOPY_MAX_CONNECTIONS];
	SSL_CTX *ctx = NULL;
	struct rusage before;
	struct receiver *receiver;

	if (memory < 0 || ftruncate(memory, (off_t)b->memory))
		die("memory", NULL);
	if (b->tls && !(ctx = tls_context(b->tls, true, &r->error)))
		die(b->tls, &r->error);
	for (unsigned int i = 0; i < n; i++)
		serves[i].c = open_conn(accept(listener, NULL, NULL), ctx, true);
	getrusage(RUSAGE_SELF, &before);
	receiver = receiver_create(memory, b->memory, &all, 1, n, NULL);
	r->start_ns = clock_ns();
	for (unsigned int i = 0; i < n; i++)
		serves[i].receiver = receiver;
	for (unsigned int i = 0; i < n; i++)
		if (pthread_create(&serves[i].thread, NULL, serve, &serves[i]))
			die("thread", NULL);
	for (unsigned int i = 0; i < n; i++) {
		pthread_join(serves[i].thread, NULL);
		if (serves[i].result && !r->failed) {
			r->failed = true;
			r->error = serves[i].error;
		}
	}
	r->end_ns = clock_ns();
	usage_since(&before, r);
	receiver_free(receiver);
	if (!r->failed) {
		uint8_t *base = mmap(NULL, b->memory, PROT_READ, MAP_SHARED, memory, 0);

		if (base == MAP_FAILED)
			die("memory", NULL);
		r->hash = b->write ? hash_of(base, b->memory)
				   : (uint64_t)memcmp(base, b->base, b->memory); /* 0: the same */
	}
}

static pid_t in_child(int *pipe_end)
{
	int p[2];
	pid_t pid;

	if (pipe(p))
		die("pipe", NULL);
	pid = fork();
	if (pid < 0)
		die("fork", NULL);
	close(p[pid == 0 ? 0 : 1]);
	*pipe_end = p[pid == 0 ? 1 : 0];
	return pid;
}

static void hear(int fd, struct report *r)
{
	if (read(fd, r, sizeof(*r)) != sizeof(*r)) {
		r->failed = true;
		error_set(&r->error, "a process has ended early");
	}
	close(fd);
}

static void run(const struct bench *b, unsigned int n)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), in, out;
	socklen_t len = sizeof(a);
	struct report s = {0}, d = {0};
	char address[64];
	double took, gib;

	if (listener < 0 || bind(listener, (struct sockaddr *)&a, sizeof(a)) || listen(listener, 64) ||
	    getsockname(listener, (struct sockaddr *)&a, &len))
		die("listen", NULL);
	snprintf(address, sizeof(address), "127.0.0.1:%d", ntohs(a.sin_port));
	if (!in_child(&in)) {
		receive_all(b, listener, n, &d);
		_exit(write(in, &d, sizeof(d)) != sizeof(d));
	}
	if (!in_child(&out)) {
		send_all(b, address, n, &s);
		_exit(write(out, &s, sizeof(s)) != sizeof(s));
	}
	close(listener);
	hear(out, &s);
	hear(in, &d);
	while (wait(NULL) > 0)
		;
	took = (double)(s.end_ns - s.start_ns) / 1e9;
	gib = (double)s.result.sent_pages * STREAM_PAGE / (double)GIB;
	if (b->json)
		printf("{\"connections\":%u,\"outcome\":\"%s\",\"feasible\":%s,\"error\":\"%s\",\"seconds\":%.3f,\"gib\":%.3f,"
		       "\"rounds\":%u,\"throttle\":%u,\"dirty_rate\":%llu,\"rate\":%llu,\"predicted_ns\":%llu,\"downtime_ns\":%llu,\"last_pages\":%llu}\n",
		       n, s.failed ? "failed" : "completed", s.result.feasible ? "true" : "false", s.failed ? s.error.text : "",
		       took, gib, s.result.rounds, s.result.throttle, (unsigned long long)s.result.dirty_rate,
		       (unsigned long long)s.result.rate, (unsigned long long)s.result.predicted_ns,
		       (unsigned long long)(s.failed ? 0 : s.result.last_ns + b->switch_ms * 1000000),
		       (unsigned long long)s.result.last_pages);
	else if (s.failed)
		printf("%11u  failed: %s (receiver: %s)\n", n, s.error.text, d.failed ? d.error.text : "none");
	else
		printf("%11u %9.2f %7.3f   %5.2f + %4.2f      %5.2f + %4.2f  %6u  %s\n", n, took,
		       (double)s.result.sent_pages * STREAM_PAGE / 1e9 / took, s.user / gib, s.sys / gib, d.user / gib,
		       d.sys / gib, s.result.rounds, d.hash == s.hash ? "same" : "DIFFERENT");
	fflush(stdout);
	if (!s.failed && d.hash != s.hash)
		exit(1);
}

/* ---- what the CPUs can do */

enum { CPUS = 2, RECORD = 16384 };

static void *cipher(void *ctx)
{
	double *rate = ctx;
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	uint8_t key[32] = {1}, iv[12] = {2}, in[RECORD] = {0}, out[RECORD + 16];
	uint64_t begin = clock_ns(), bytes = 0, took;
	int len;

	/* Half of it is decrypted: GCM is the same work both ways. */
	for (int direction = 1; direction >= 0; direction--)
		for (uint64_t end = clock_ns() + 1000000000; clock_ns() < end; bytes += RECORD) {
			EVP_CipherInit_ex(c, EVP_aes_256_gcm(), NULL, key, iv, direction);
			EVP_CipherUpdate(c, out, &len, in, RECORD);
		}
	took = clock_ns() - begin;
	EVP_CIPHER_CTX_free(c);
	*rate = (double)bytes / ((double)took / 1e9);
	return NULL;
}

static void print_cipher_rate(void)
{
	pthread_t threads[CPUS];
	double rates[CPUS], sum = 0;

	for (int i = 0; i < CPUS; i++)
		if (pthread_create(&threads[i], NULL, cipher, &rates[i]))
			die("thread", NULL);
	for (int i = 0; i < CPUS; i++) {
		pthread_join(threads[i], NULL);
		sum += rates[i];
	}
	printf("AES-256-GCM, two threads, nothing else: %.2f GB/s; each byte encrypted and decrypted: %.2f GB/s\n", sum / 1e9,
	       sum / 2e9);
}

static void fill(struct bench *b)
{
	uint64_t x = 0;

	b->source = memfd_create("stream-source", MFD_CLOEXEC);
	if (b->source < 0 || ftruncate(b->source, (off_t)b->memory))
		die("memory", NULL);
	b->base = mmap(NULL, b->memory, PROT_READ | PROT_WRITE, MAP_SHARED, b->source, 0);
	if (b->base == MAP_FAILED || getrandom(&x, sizeof(x), 0) != sizeof(x))
		die("memory", NULL);
	madvise(b->base, b->memory, MADV_HUGEPAGE);
	x |= 1;
	for (uint64_t i = 0; i < b->memory; i += 8) {
		uint64_t v = next_random(&x);

		memcpy(b->base + i, &v, 8);
	}
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"memory", required_argument, NULL, 'm'}, {"connections", required_argument, NULL, 'c'},
		{"tls", required_argument, NULL, 't'},	  {"write", required_argument, NULL, 'w'},
		{"limit", required_argument, NULL, 'l'},  {"switch", required_argument, NULL, 's'},
		{"runs", required_argument, NULL, 'r'},	  {"timeout", required_argument, NULL, 'o'},
		{"json", no_argument, NULL, 'j'},	  {"throttle", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	struct bench b = {.memory = 8 * GIB, .limit_ms = 300, .timeout_s = 60};
	uint64_t runs = 1, n;
	char *list = "1,2,4,8", *save = NULL, *copy;
	struct error e;
	int opt, bad = 0;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		uint64_t *number = opt == 'w' ? &b.write : opt == 'l' ? &b.limit_ms : opt == 's' ? &b.switch_ms
					 : opt == 'r' ? &runs : opt == 'o' ? &b.timeout_s : NULL;

		if (opt == 'm')
			bad |= parse_size(optarg, &b.memory, &e);
		else if (opt == 'c')
			list = optarg;
		else if (opt == 't')
			b.tls = optarg;
		else if (opt == 'j')
			b.json = true;
		else if (opt == 'h')
			b.throttle = true;
		else if (number)
			bad |= parse_uint(optarg, 0, 1000000, number, &e);
		else
			bad = 1;
	}
	if (bad || optind != argc)
		die("usage", &e);
	fill(&b);
	if (!b.json)
		printf("%s, %llu MiB, %s\nconnections   seconds    GB/s   CPU s/GiB: sender     receiver     rounds  memory\n",
		       b.tls ? "TLS 1.3" : "plain TCP", (unsigned long long)(b.memory / MIB),
		       b.write ? "written meanwhile" : "idle");
	copy = xstrdup(list);
	for (char *part = strtok_r(copy, ",", &save); part; part = strtok_r(NULL, ",", &save)) {
		if (parse_uint(part, 1, PRECOPY_MAX_CONNECTIONS, &n, &e))
			die("--connections", &e);
		for (uint64_t i = 0; i < runs; i++)
			run(&b, (unsigned int)n);
	}
	free(copy);
	if (b.tls && !b.json)
		print_cipher_rate();
	return 0;
}
