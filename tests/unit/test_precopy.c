/* test_precopy.c: the page stream, and both ends of a pre-copy over socket pairs. */
#include "migrate/postcopy.h"
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGES = 1000, CHUNKS = PAGES / STREAM_CHUNK_PAGES + 1, CONNECTIONS = 3, ROUNDS = 3 };

/* ---- records */

static int unpack(uint32_t kind, uint32_t number, uint64_t data, uint64_t zero, uint64_t pages)
{
	struct stream_record r = {kind, number, data, zero}, back;
	uint8_t header[STREAM_HEADER];
	struct error e;

	stream_pack(&r, header);
	if (stream_unpack(header, pages, &back, &e))
		return -1;
	cr_assert(back.kind == kind && back.number == number && back.data == data && back.zero == zero);
	return 0;
}

UNIT(precopy, a_record_is_what_the_memory_can_hold)
{
	cr_expect_eq(unpack(STREAM_CHUNK_RECORD, 0, 1, 2, 64), 0);
	cr_expect_eq(unpack(STREAM_CHUNK_RECORD, 1, 1, 0, 65), 0);
	cr_expect_eq(unpack(STREAM_ROUND, 7, 0, 0, 64), 0);
	cr_expect_eq(unpack(STREAM_END, 0, 0, 0, 64), 0);
	cr_expect_eq(unpack(STREAM_CHUNK_RECORD, 1, 2, 0, 65), -1, "behind the last page");
	cr_expect_eq(unpack(STREAM_CHUNK_RECORD, 1, 0, 2, 65), -1);
	cr_expect_eq(unpack(STREAM_CHUNK_RECORD, UINT32_MAX, 1, 0, 65), -1);
	cr_expect_eq(unpack(STREAM_CHUNK_RECORD, 0, 3, 2, 64), -1, "data and zero at once");
	cr_expect_eq(unpack(STREAM_CHUNK_RECORD, 0, 0, 0, 64), -1, "nothing");
	cr_expect_eq(unpack(STREAM_ROUND, 1, 1, 0, 64), -1);
	cr_expect_eq(unpack(0, 0, 0, 0, 64), -1);
	cr_expect_eq(unpack(4, 0, 0, 0, 64), -1);
	cr_expect_eq(unpack(6, 0, 0, 0, 64), -1);
	for (uint32_t kind = STREAM_MISSING; kind <= STREAM_WANTED; kind++) {
		cr_expect_eq(unpack(kind, 1, 1, 0, 65), 0);
		cr_expect_eq(unpack(kind, 1, 2, 0, 65), -1, "behind the last page");
		cr_expect_eq(unpack(kind, 0, 1, 2, 64), -1, "zeros are neither missing nor wanted");
		cr_expect_eq(unpack(kind, 0, 0, 0, 64), -1, "nothing");
	}
}

/* ---- both ends */

struct world {
	int from, to, fds[CONNECTIONS][2];
	uint8_t *a, *b;
	struct conn *conns[CONNECTIONS];
	struct receiver *receiver;
	struct serve {
		struct world *w;
		unsigned int i;
		pthread_t thread;
		struct error error;
		int result;
	} serve[CONNECTIONS];
	/* what the "VM" does */
	unsigned int collected;
	bool stopped, stop_fails;
	uint64_t random;
	unsigned int throttle;
	/* post-copy */
	struct sender *sender;
	struct faults *faults;
	struct conn *urgent;
	int uffd, missing, urgent_fds[2];
};

static int make_memory(uint8_t **base)
{
	int fd = memfd_create("memory", MFD_CLOEXEC);

	cr_assert(fd >= 0 && !ftruncate(fd, PAGES * STREAM_PAGE));
	*base = mmap(NULL, PAGES * STREAM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	cr_assert(*base != MAP_FAILED);
	return fd;
}

static void write_page(struct world *w, uint64_t page, uint64_t *dirty)
{
	for (size_t i = 0; i < STREAM_PAGE; i += 8) {
		uint64_t v = next_random(&w->random);

		memcpy(w->a + page * STREAM_PAGE + i, &v, 8);
	}
	if (dirty)
		dirty[page / 64] |= 1ull << page % 64;
}

/* Some pages are written, one becomes zero. */
static void live(struct world *w, uint64_t *dirty)
{
	uint64_t zero = next_random(&w->random) % PAGES;

	for (int i = 0; i < 50; i++)
		write_page(w, next_random(&w->random) % PAGES, dirty);
	memset(w->a + zero * STREAM_PAGE, 0, STREAM_PAGE);
	dirty[zero / 64] |= 1ull << zero % 64;
}

static int collect(void *ctx, uint64_t *dirty, struct error *e)
{
	struct world *w = ctx;

	(void)e;
	if (w->collected++ < ROUNDS)
		live(w, dirty);
	return 0;
}

static int stop(void *ctx, uint64_t *dirty, struct error *e)
{
	struct world *w = ctx;

	w->stopped = true;
	if (w->stop_fails)
		return error_set(e, "it does not stop");
	live(w, dirty);
	return 0;
}

static int throttle(void *ctx, unsigned int percent, struct error *e)
{
	struct world *w = ctx;

	(void)e;
	w->throttle = percent;
	return 0;
}

static void *serve(void *ctx)
{
	struct serve *s = ctx;
	struct conn *c = conn_new(s->w->fds[s->i][1], NULL, &s->error);

	s->result = c ? receiver_serve(s->w->receiver, c, &s->error) : -1;
	conn_free(c);
	return NULL;
}

static void start_serving(struct world *w)
{
	struct precopy_extent all = {0, PAGES * STREAM_PAGE};
	struct error e;

	w->receiver = receiver_create(w->to, PAGES * STREAM_PAGE, &all, 1, CONNECTIONS, w->faults);
	for (unsigned int i = 0; i < CONNECTIONS; i++) {
		cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, w->fds[i]), 0);
		w->conns[i] = conn_new(w->fds[i][0], NULL, &e);
		cr_assert(w->conns[i], "%s", e.text);
		w->serve[i] = (struct serve){.w = w, .i = i};
		cr_assert_eq(pthread_create(&w->serve[i].thread, NULL, serve, &w->serve[i]), 0);
	}
}

/* How many connections ended well at the receiver. */
static unsigned int end_serving(struct world *w)
{
	unsigned int good = 0;

	for (unsigned int i = 0; i < CONNECTIONS; i++) {
		conn_free(w->conns[i]);
		pthread_join(w->serve[i].thread, NULL);
		good += !w->serve[i].result;
	}
	return good;
}

static void open_world_with(struct world *w, bool guarded)
{
	memset(w, 0, sizeof(*w));
	w->random = 1234567;
	w->from = make_memory(&w->a);
	w->to = make_memory(&w->b);
	for (uint64_t p = 0; p < PAGES; p += p % 7 == 3 ? 20 : 1) /* with holes */
		write_page(w, p, NULL);
	memset(w->a + 5 * STREAM_PAGE, 0, 3 * STREAM_PAGE);
	if (guarded)
		w->missing = sealed_memfd("missing", 4096, 0, NULL);
	else
		start_serving(w);
}

static void open_world(struct world *w)
{
	open_world_with(w, false);
}

static void free_world(struct world *w)
{
	receiver_free(w->receiver);
	sender_free(w->sender);
	munmap(w->a, PAGES * STREAM_PAGE);
	munmap(w->b, PAGES * STREAM_PAGE);
	close(w->from);
	close(w->to);
}

static unsigned int close_world(struct world *w)
{
	unsigned int good = end_serving(w);

	free_world(w);
	return good;
}

static int send_world(struct world *w, struct precopy_options *o, struct precopy_result *r, struct error *e)
{
	struct precopy_source source = {collect, stop, throttle, w};

	w->sender = sender_create(w->conns, CONNECTIONS, w->from, PAGES * STREAM_PAGE, 0, e);
	return !w->sender || precopy_send(w->sender, &source, o, r, e) ? -1 : 0;
}

UNIT(precopy, all_pages_arrive_and_the_last_of_each_wins)
{
	struct precopy_options o = {.downtime_limit_ns = 10000000000};
	struct precopy_result r;
	struct world w;
	struct error e = {""};

	open_world(&w);
	cr_assert_eq(send_world(&w, &o, &r, &e), 0, "%s", e.text);
	cr_expect(w.stopped && r.feasible && !r.cancelled);
	cr_expect_eq(r.rounds, 2, "the limit allows to stop after the first");
	cr_expect_geq(r.zero_pages, 4);
	cr_expect_eq(memcmp(w.a, w.b, PAGES * STREAM_PAGE), 0);
	cr_expect_eq(close_world(&w), CONNECTIONS);
}

UNIT(precopy, it_goes_on_until_the_rest_fits_the_limit)
{
	/* No time at all: only nothing can be sent in it. */
	struct precopy_options o = {.downtime_limit_ns = 0};
	struct precopy_result r;
	struct world w;
	struct error e = {""};

	open_world(&w);
	cr_assert_eq(send_world(&w, &o, &r, &e), 0, "%s", e.text);
	cr_expect_eq(r.rounds, ROUNDS + 1, "%u rounds", r.rounds);
	cr_expect_eq(memcmp(w.a, w.b, PAGES * STREAM_PAGE), 0);
	cr_expect_eq(close_world(&w), CONNECTIONS);
}

static bool say_no(void *ctx, const struct precopy_progress *p)
{
	(void)ctx;
	(void)p;
	return false;
}

UNIT(precopy, what_does_not_get_better_is_slowed_down)
{
	/* As much is written in each round as has been sent in the one before. */
	struct precopy_options o = {.downtime_limit_ns = 0};
	struct precopy_result r;
	struct world w;
	struct error e = {""};

	open_world(&w);
	cr_assert_eq(send_world(&w, &o, &r, &e), 0, "%s", e.text);
	cr_expect(w.throttle >= 10 && w.throttle == r.throttle && w.throttle <= 99, "%u", w.throttle);
	cr_expect_eq(close_world(&w), CONNECTIONS);
}

UNIT(precopy, cancelled_late_or_failed_it_runs_on)
{
	struct precopy_options cancel = {.progress = say_no}, late = {.timeout_ns = 1, .switch_ns = 1},
			       fails = {.downtime_limit_ns = 10000000000};
	struct precopy_options *all[] = {&cancel, &late, &fails};
	struct precopy_result r;
	struct world w;
	struct error e;

	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		open_world(&w);
		w.stop_fails = true;
		e.text[0] = 0;
		cr_expect_eq(send_world(&w, all[i], &r, &e), -1);
		cr_expect(e.text[0]);
		cr_expect_eq(w.stopped, all[i] == &fails);
		cr_expect_eq(r.cancelled, all[i] == &cancel);
		cr_expect_lt(close_world(&w), CONNECTIONS);
	}
}

UNIT(precopy, a_connection_that_breaks_ends_all)
{
	struct precopy_options o = {.downtime_limit_ns = 0};
	struct precopy_result r;
	struct world w;
	struct error e = {""};

	open_world(&w);
	conn_cut(w.conns[1]);
	cr_expect_eq(send_world(&w, &o, &r, &e), -1);
	cr_expect(!w.stopped);
	cr_expect_eq(close_world(&w), 0);
}

/* ---- post-copy: this process is the VM's, too */

struct guest {
	struct world *w;
	uint8_t *base; /* guarded */
	uint64_t seen; /* pages that were as they should be when they were touched */
	pthread_t thread, urgent;
	struct conn *urgent_conn;
	struct error error;
	bool tell;
	int result;
};

/* Touches all pages, some of them twice, from the end on. */
static void *touch(void *ctx)
{
	struct guest *v = ctx;

	for (uint64_t p = PAGES; p--;)
		v->seen += !memcmp(v->base + p * STREAM_PAGE, v->w->a + p * STREAM_PAGE, STREAM_PAGE);
	return NULL;
}

static void *serve_urgent(void *ctx)
{
	struct guest *v = ctx;

	v->result = faults_serve(v->w->faults, v->urgent_conn, v->tell, &v->error);
	return NULL;
}

static void open_urgent(struct guest *v, bool tell)
{
	struct error e = {""};

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, v->w->urgent_fds), 0);
	v->w->urgent = conn_new(v->w->urgent_fds[0], NULL, &e);
	v->urgent_conn = conn_new(v->w->urgent_fds[1], NULL, &e);
	v->tell = tell;
	cr_assert_eq(faults_arm(v->w->faults, &e), 0, "%s", e.text);
	cr_assert_eq(pthread_create(&v->urgent, NULL, serve_urgent, v), 0);
}

static void close_urgent(struct guest *v)
{
	pthread_join(v->urgent, NULL);
	conn_free(v->w->urgent);
	conn_free(v->urgent_conn);
}

static const char *no_tick(void *ctx)
{
	(void)ctx;
	return NULL;
}

static void open_guarded(struct world *w, struct guest *v)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM};
	struct error e = {""};

	*v = (struct guest){.w = w};
	open_world_with(w, true);
	w->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	cr_assert(w->uffd >= 0 && !ioctl(w->uffd, UFFDIO_API, &api));
	v->base = mmap(NULL, PAGES * STREAM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, w->to, 0);
	cr_assert(v->base != MAP_FAILED);
	w->faults = faults_create(w->uffd, (uintptr_t)v->base, w->to, PAGES * STREAM_PAGE, w->missing, &e);
	cr_assert(w->faults, "%s", e.text);
	start_serving(w);
}

static unsigned int close_guarded(struct world *w, struct guest *v)
{
	unsigned int good;

	pthread_join(v->thread, NULL); /* all that it touches has come */
	good = close_world(w);
	faults_free(w->faults);
	close(w->uffd);
	close(w->missing);
	munmap(v->base, PAGES * STREAM_PAGE);
	return good;
}

UNIT(postcopy, what_is_touched_comes_first_and_all_comes)
{
	struct precopy_options o = {.downtime_limit_ns = 0, .post_copy = PRECOPY_THEN_POST_COPY};
	struct postcopy *p;
	struct precopy_result r;
	struct world w;
	struct guest v;
	struct error e = {""};

	open_guarded(&w, &v);
	cr_assert_eq(send_world(&w, &o, &r, &e), 0, "%s", e.text);
	cr_expect(r.post_copy && r.last_pages > 0 && r.last_pages <= sender_left(w.sender));
	cr_assert(memcmp(w.a, w.b, PAGES * STREAM_PAGE), "nothing is missing");
	open_urgent(&v, false);
	p = postcopy_begin(w.sender, w.urgent, &e);
	cr_assert(p, "%s", e.text);
	cr_assert_eq(pthread_create(&v.thread, NULL, touch, &v), 0);
	cr_expect_eq(postcopy_push(p, no_tick, NULL, &e), 0, "%s", e.text);
	postcopy_free(p);
	close_urgent(&v);
	cr_expect_eq(v.result, 0, "%s", v.error.text);
	cr_expect_eq(close_guarded(&w, &v), CONNECTIONS);
	cr_expect_eq(v.seen, PAGES, "%lu of %d pages were right", (unsigned long)v.seen, PAGES);
}

/* The first connections break before anything of the rest was sent; the VM waits, and goes on with new ones. */
UNIT(postcopy, after_a_break_it_goes_on)
{
	struct precopy_options o = {.downtime_limit_ns = 0, .post_copy = PRECOPY_THEN_POST_COPY};
	struct postcopy *p;
	struct precopy_result r;
	struct world w;
	struct guest v;
	struct error e = {""};

	open_guarded(&w, &v);
	cr_assert_eq(send_world(&w, &o, &r, &e), 0, "%s", e.text);
	open_urgent(&v, false);
	cr_assert_eq(pthread_create(&v.thread, NULL, touch, &v), 0);
	poll(NULL, 0, 20); /* it waits for a page, which was asked for */
	conn_cut(w.urgent);
	receiver_abort(w.receiver);
	close_urgent(&v);
	cr_expect_eq(v.result, -1);
	cr_expect_eq(sender_end(w.sender, false, &e), -1);
	end_serving(&w);
	sender_free(w.sender);
	receiver_free(w.receiver);
	faults_free(w.faults);

	w.faults = faults_create(w.uffd, (uintptr_t)v.base, w.to, PAGES * STREAM_PAGE, w.missing, &e);
	cr_assert(w.faults, "%s", e.text);
	start_serving(&w);
	open_urgent(&v, true);
	w.sender = sender_create(w.conns, CONNECTIONS, w.from, PAGES * STREAM_PAGE, 0, &e);
	cr_assert_eq(postcopy_learn(w.sender, w.urgent, &e), 0, "%s", e.text);
	cr_expect_eq(sender_left(w.sender), r.last_pages);
	p = postcopy_begin(w.sender, w.urgent, &e);
	cr_expect_eq(postcopy_push(p, no_tick, NULL, &e), 0, "%s", e.text);
	postcopy_free(p);
	close_urgent(&v);
	cr_expect_eq(close_guarded(&w, &v), CONNECTIONS);
	cr_expect_eq(v.seen, PAGES, "%lu of %d pages were right", (unsigned long)v.seen, PAGES);
}

/* ---- a sender that lies */

static const char *why_refused(const void *bytes, size_t len)
{
	static struct world w;
	struct error e;

	open_world(&w);
	cr_assert(!conn_write(w.conns[0], bytes, len, &e) && !conn_flush(w.conns[0], &e));
	conn_cut(w.conns[0]);
	for (unsigned int i = 0; i < CONNECTIONS; i++)
		pthread_join(w.serve[i].thread, NULL); /* the others are given up with it */
	for (unsigned int i = 0; i < CONNECTIONS; i++) {
		cr_expect_eq(w.serve[i].result, -1);
		conn_free(w.conns[i]);
	}
	free_world(&w);
	return w.serve[0].error.text;
}

UNIT(precopy, a_receiver_takes_no_nonsense)
{
	struct stream_record round = {STREAM_ROUND, 5, 0, 0}, chunk = {STREAM_CHUNK_RECORD, 0, 3, 0};
	uint8_t buf[STREAM_HEADER + STREAM_PAGE] = {0};
	const char *why;

	memset(buf, 0xee, sizeof(buf));
	why = why_refused(buf, sizeof(buf));
	cr_expect(strstr(why, "no such record"), "%s", why);
	stream_pack(&round, buf);
	why = why_refused(buf, STREAM_HEADER);
	cr_expect(strstr(why, "round 5 after round 0"), "%s", why);
	stream_pack(&chunk, buf); /* two pages, of which one comes */
	why = why_refused(buf, sizeof(buf));
	cr_expect(strstr(why, "closed"), "%s", why);
	why = why_refused(buf, 7);
	cr_expect(strstr(why, "closed"), "%s", why);
}
