/* test_precopy.c: the page stream, and both ends of a pre-copy over socket pairs. */
#include "migrate/precopy.h"
#include "tests/unit/unit.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
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

static void *serve(void *ctx)
{
	struct serve *s = ctx;
	struct conn *c = conn_new(s->w->fds[s->i][1], NULL, &s->error);

	s->result = c ? receiver_serve(s->w->receiver, c, &s->error) : -1;
	conn_free(c);
	return NULL;
}

static void open_world(struct world *w)
{
	struct precopy_extent all = {0, PAGES * STREAM_PAGE};
	struct error e;

	memset(w, 0, sizeof(*w));
	w->random = 1234567;
	w->from = make_memory(&w->a);
	w->to = make_memory(&w->b);
	for (uint64_t p = 0; p < PAGES; p += p % 7 == 3 ? 20 : 1) /* with holes */
		write_page(w, p, NULL);
	memset(w->a + 5 * STREAM_PAGE, 0, 3 * STREAM_PAGE);
	w->receiver = receiver_create(w->to, PAGES * STREAM_PAGE, &all, 1, CONNECTIONS);
	for (unsigned int i = 0; i < CONNECTIONS; i++) {
		cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, w->fds[i]), 0);
		w->conns[i] = conn_new(w->fds[i][0], NULL, &e);
		cr_assert(w->conns[i], "%s", e.text);
		w->serve[i] = (struct serve){.w = w, .i = i};
		cr_assert_eq(pthread_create(&w->serve[i].thread, NULL, serve, &w->serve[i]), 0);
	}
}

static void free_world(struct world *w)
{
	receiver_free(w->receiver);
	munmap(w->a, PAGES * STREAM_PAGE);
	munmap(w->b, PAGES * STREAM_PAGE);
	close(w->from);
	close(w->to);
}

/* How many connections ended well at the receiver. */
static unsigned int close_world(struct world *w)
{
	unsigned int good = 0;

	for (unsigned int i = 0; i < CONNECTIONS; i++) {
		conn_free(w->conns[i]);
		pthread_join(w->serve[i].thread, NULL);
		good += !w->serve[i].result;
	}
	free_world(w);
	return good;
}

static int send_world(struct world *w, struct precopy_options *o, struct precopy_result *r, struct error *e)
{
	struct precopy_source source = {w->from, PAGES * STREAM_PAGE, collect, stop, w};

	return precopy_send(w->conns, CONNECTIONS, &source, o, r, e);
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
