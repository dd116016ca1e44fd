/* precopy.c: the sending side; the contract is in precopy.h.
 *
 * The rounds' pages are a bitmap; the connections' threads take chunks of it from one cursor, so that none waits for
 * another before the round's end.  There each tells the receiver, and is answered when the receiver has all of it: a
 * round's time is that of the whole way.
 *
 * When to stop.  What is left after a round, at the rate of the rounds before, and the cost of the switch-over give the
 * expected downtime.  How far the same reckoning was off for the rounds that have been sent is its margin.
 */
#include "migrate/precopy.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TICK_MS = 200, MARGINS = 4, SHORT_MS = 20 };
#define NS 1000000000ull
#define MIN_MARGIN 1.1

struct sender;

struct worker {
	struct sender *s;
	struct conn *c;
	pthread_t thread;
	uint8_t *buf; /* header, then pages */
	struct error error;
	bool failed;
};

struct sender {
	const struct precopy_source *source;
	const struct precopy_options *o;
	struct precopy_result *result;
	uint64_t pages, chunks;
	uint64_t *todo, *next; /* of this round, of the next one */
	struct worker workers[PRECOPY_MAX_CONNECTIONS];
	unsigned int n;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint32_t round; /* that the workers are to send */
	unsigned int busy;
	bool end; /* no more rounds */
	const struct error *why; /* the first error */
	_Atomic bool stop;

	_Atomic uint64_t cursor, sent, zero, done; /* chunks; pages of all rounds; of this one */
	_Atomic uint64_t allowance; /* bytes that the limit of the bandwidth has let through */
	uint64_t start_ns;

	double rate; /* bytes a second */
	double margins[MARGINS];
	unsigned int nmargins;
};

/* ---- a round, on a worker's thread */

static bool is_zero(const uint8_t *page)
{
	uint64_t first;

	memcpy(&first, page, sizeof(first));
	return !first && !memcmp(page, page + sizeof(first), STREAM_PAGE - sizeof(first));
}

/* Reads the chunk's pages behind each other; what is zero is left out. */
static int read_pages(const struct sender *s, struct stream_record *rec, uint8_t *buf, size_t *len, struct error *e)
{
	uint64_t left = rec->data, base = (uint64_t)rec->number * STREAM_CHUNK;
	size_t used = 0;

	while (left) {
		unsigned int first = (unsigned int)__builtin_ctzll(left), n = 1;
		uint8_t *at = buf + used;

		while (first + n < STREAM_CHUNK_PAGES && left >> (first + n) & 1)
			n++;
		if (pread_all(s->source->memory, at, (size_t)n * STREAM_PAGE,
			      (off_t)(base + (uint64_t)first * STREAM_PAGE)) != (ssize_t)n * STREAM_PAGE)
			return error_set_errno(e, "memory of the VM");
		for (unsigned int i = 0; i < n; i++) {
			uint8_t *page = at + (size_t)i * STREAM_PAGE;
			uint64_t bit = 1ull << (first + i);

			left &= ~bit;
			if (is_zero(page)) {
				rec->data &= ~bit;
				rec->zero |= bit;
				continue;
			}
			if (buf + used != page)
				memmove(buf + used, page, STREAM_PAGE);
			used += STREAM_PAGE;
		}
	}
	*len = used;
	return 0;
}

/* Lets as much through as the limit allows since the beginning. */
static void limit(struct sender *s, size_t len)
{
	uint64_t sent;

	if (!s->o->bandwidth)
		return;
	sent = atomic_fetch_add(&s->allowance, len) + len;
	while (!s->stop) {
		double due = (double)sent / (double)s->o->bandwidth, is = (double)(clock_ns() - s->start_ns) / NS;

		if (is >= due)
			return;
		poll(NULL, 0, (int)MIN((due - is) * 1000 + 1, TICK_MS));
	}
}

static int send_chunk(struct worker *w, uint64_t chunk, uint64_t data, struct error *e)
{
	struct sender *s = w->s;
	struct stream_record rec = {STREAM_CHUNK_RECORD, (uint32_t)chunk, data, 0};
	size_t len = 0;

	if (read_pages(s, &rec, w->buf + STREAM_HEADER, &len, e))
		return -1;
	stream_pack(&rec, w->buf);
	limit(s, STREAM_HEADER + len);
	if (conn_write(w->c, w->buf, STREAM_HEADER + len, e))
		return -1;
	s->sent += (uint64_t)__builtin_popcountll(rec.data);
	s->zero += (uint64_t)__builtin_popcountll(rec.zero);
	s->done += (uint64_t)__builtin_popcountll(data);
	return 0;
}

static int send_mark(struct worker *w, enum stream_kind kind, uint32_t number, struct error *e)
{
	struct stream_record rec = {kind, number, 0, 0};
	uint8_t header[STREAM_HEADER];

	stream_pack(&rec, header);
	return conn_write(w->c, header, sizeof(header), e) || conn_flush(w->c, e) ? -1 : 0;
}

static int send_round(struct worker *w, uint32_t round, struct error *e)
{
	struct sender *s = w->s;
	uint8_t header[STREAM_HEADER];
	struct stream_record rec;
	uint64_t chunk;
	int got;

	while (!s->stop && (chunk = s->cursor++) < s->chunks)
		if (s->todo[chunk] && send_chunk(w, chunk, s->todo[chunk], e))
			return -1;
	if (s->stop)
		return error_set(e, "given up");
	if (send_mark(w, STREAM_ROUND, round, e))
		return -1;
	got = conn_read(w->c, header, sizeof(header), e);
	if (got)
		return got < 0 ? -1 : error_set(e, "the receiver has closed the connection");
	if (stream_unpack(header, s->pages, &rec, e))
		return -1;
	return rec.kind == STREAM_ROUND && rec.number == round ? 0 : error_set(e, "the receiver made no sense");
}

static void *work(void *ctx)
{
	struct worker *w = ctx;
	struct sender *s = w->s;
	bool end;

	for (uint32_t round = 1;; round++) {
		pthread_mutex_lock(&s->lock);
		while (s->round < round && !s->end)
			pthread_cond_wait(&s->changed, &s->lock);
		end = s->end;
		pthread_mutex_unlock(&s->lock);
		if (end)
			break;
		w->failed = w->failed || send_round(w, round, &w->error);
		pthread_mutex_lock(&s->lock);
		if (w->failed && !s->stop && !s->why)
			s->why = &w->error; /* the others fail because of it */
		if (w->failed)
			s->stop = true;
		s->busy--;
		pthread_cond_broadcast(&s->changed);
		pthread_mutex_unlock(&s->lock);
	}
	if (!w->failed && !s->stop)
		w->failed = send_mark(w, STREAM_END, 0, &w->error);
	return NULL;
}

/* ---- rounds, on the caller's thread */

static uint64_t count(const struct sender *s, const uint64_t *bitmap)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < s->chunks; i++)
		n += (uint64_t)__builtin_popcountll(bitmap[i]);
	return n;
}

/* All that exists. */
static void mark_existing(struct sender *s)
{
	uint64_t start, end = 0;

	while (next_extent(s->source->memory, &start, &end))
		for (uint64_t p = start / STREAM_PAGE; p < MIN(s->pages, (end + STREAM_PAGE - 1) / STREAM_PAGE); p++)
			s->todo[p / 64] |= 1ull << p % 64;
}

static uint64_t expected_ns(const struct sender *s, uint64_t pages)
{
	double margin = MIN_MARGIN;

	if (!s->rate)
		return UINT64_MAX;
	for (unsigned int i = 0; i < MIN(s->nmargins, (unsigned int)MARGINS); i++)
		margin = MAX(margin, s->margins[i]);
	return s->o->switch_ns + (uint64_t)((double)(pages * STREAM_PAGE) / s->rate * margin * NS);
}

static void tell(struct sender *s, uint64_t round_pages)
{
	struct precopy_progress p = {
		.round = s->round,
		.sent_pages = s->sent,
		.zero_pages = s->zero,
		.round_pages = round_pages,
		.round_done = s->done,
		.rate = (uint64_t)s->rate,
		.dirty_rate = s->result->dirty_rate,
		.expected_ns = expected_ns(s, round_pages - MIN(round_pages, s->done)),
	};

	if (s->o->progress && !s->o->progress(s->o->ctx, &p)) {
		s->result->cancelled = true;
		s->stop = true;
	}
}

static void cut(struct sender *s)
{
	for (unsigned int i = 0; i < s->n; i++)
		conn_cut(s->workers[i].c);
}

static bool is_late(const struct sender *s)
{
	return s->o->timeout_ns && clock_ns() - s->start_ns > s->o->timeout_ns;
}

/* Sends what is in `todo`, and learns from the time it takes. */
static int run_round(struct sender *s, uint64_t pages, struct error *e)
{
	uint64_t begin = clock_ns(), took;
	bool was_cut = false;

	pthread_mutex_lock(&s->lock);
	s->cursor = s->done = 0;
	s->busy = s->n;
	s->round++;
	pthread_cond_broadcast(&s->changed);
	while (s->busy) {
		uint64_t due = clock_ns() + TICK_MS * 1000000ull;
		struct timespec ts = {(time_t)(due / NS), (long)(due % NS)};

		if (pthread_cond_clockwait(&s->changed, &s->lock, CLOCK_MONOTONIC, &ts) == ETIMEDOUT) {
			pthread_mutex_unlock(&s->lock);
			tell(s, pages);
			pthread_mutex_lock(&s->lock);
		}
		if (is_late(s) && !s->result->stop_ns)
			s->stop = true;
		if (s->stop && !was_cut)
			cut(s);
		was_cut = s->stop;
	}
	pthread_mutex_unlock(&s->lock);
	took = clock_ns() - begin;
	if (s->stop) {
		error_set(e, "%s", s->result->cancelled ? "cancelled" : s->why ? s->why->text : "it took too long");
		return -1;
	}
	if (pages) {
		double rate = (double)(pages * STREAM_PAGE) * NS / (double)took;

		if (s->rate)
			s->margins[s->nmargins++ % MARGINS] = s->rate / rate;
		/* A short round says little of the rate, and much of what every round costs. */
		s->rate = s->rate && pages * STREAM_PAGE < s->rate / 10 ? (3 * s->rate + rate) / 4 : rate;
	}
	return 0;
}

/* The next round's pages become this one's. */
static uint64_t turn(struct sender *s)
{
	uint64_t *t = s->todo;

	s->todo = s->next;
	s->next = t;
	memset(s->next, 0, s->chunks * sizeof(*s->next));
	return count(s, s->todo);
}

static int send_last(struct sender *s, uint64_t expected, struct error *e)
{
	struct precopy_result *r = s->result;

	r->predicted_ns = expected;
	r->stop_ns = clock_ns();
	if (s->source->stop(s->source->ctx, s->todo, e))
		return -1;
	r->last_pages = count(s, s->todo);
	if (run_round(s, r->last_pages, e))
		return -1;
	r->last_ns = clock_ns() - r->stop_ns;
	return 0;
}

static int send_rounds(struct sender *s, struct error *e)
{
	struct precopy_result *r = s->result;
	uint64_t pages, since = clock_ns();

	mark_existing(s);
	if (s->source->collect(s->source->ctx, s->next, e)) /* tracking has begun: these are sent now */
		return -1;
	for (uint64_t i = 0; i < s->chunks; i++) {
		s->todo[i] |= s->next[i];
		s->next[i] = 0;
	}
	pages = count(s, s->todo);
	for (;;) {
		uint64_t begin = clock_ns(), now, expected;

		if (run_round(s, pages, e))
			return -1;
		if (s->source->collect(s->source->ctx, s->next, e))
			return -1;
		pages = turn(s);
		now = clock_ns();
		r->dirty_rate = pages * STREAM_PAGE * 1000 / ((now - since) / 1000000 + 1);
		since = now;
		expected = expected_ns(s, pages);
		if (expected <= s->o->downtime_limit_ns) {
			r->feasible = true;
			return send_last(s, expected, e);
		}
		if (is_late(s))
			return error_set(e, "it writes %llu MB/s, the connection takes %llu MB/s: the downtime would be %llu ms",
					 (unsigned long long)(r->dirty_rate / 1000000), (unsigned long long)(s->rate / 1e6),
					 (unsigned long long)(expected / 1000000));
		tell(s, pages);
		/* A short round that did not help: another at once would only cost the guest. */
		if (clock_ns() - begin < SHORT_MS * 1000000ull)
			poll(NULL, 0, SHORT_MS);
	}
}

static int start_workers(struct sender *s, struct conn **conns, unsigned int n, struct error *e)
{
	for (; s->n < n; s->n++) {
		struct worker *w = &s->workers[s->n];

		*w = (struct worker){.s = s, .c = conns[s->n], .buf = xcalloc(1, STREAM_HEADER + STREAM_CHUNK)};
		errno = pthread_create(&w->thread, NULL, work, w);
		if (errno) {
			free(w->buf);
			return error_set_errno(e, "thread");
		}
	}
	return 0;
}

static int end_workers(struct sender *s, int r, struct error *e)
{
	if (r)
		s->stop = true;
	pthread_mutex_lock(&s->lock);
	s->end = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	for (unsigned int i = 0; i < s->n; i++) {
		struct worker *w = &s->workers[i];

		pthread_join(w->thread, NULL);
		if (!r && w->failed) {
			*e = w->error;
			r = -1;
		}
		free(w->buf);
	}
	if (r)
		cut(s);
	return r;
}

int precopy_send(struct conn **conns, unsigned int n, const struct precopy_source *source,
		 const struct precopy_options *options, struct precopy_result *result, struct error *e)
{
	struct sender *s = xcalloc(1, sizeof(*s));
	int r;

	memset(result, 0, sizeof(*result));
	s->source = source;
	s->o = options;
	s->result = result;
	s->pages = source->size / STREAM_PAGE;
	s->chunks = (s->pages + STREAM_CHUNK_PAGES - 1) / STREAM_CHUNK_PAGES;
	s->todo = xcalloc(s->chunks, sizeof(*s->todo));
	s->next = xcalloc(s->chunks, sizeof(*s->next));
	s->start_ns = clock_ns();
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->changed, NULL);
	r = start_workers(s, conns, n, e);
	if (!r)
		r = send_rounds(s, e);
	r = end_workers(s, r, e);
	result->rounds = s->round;
	result->sent_pages = s->sent;
	result->zero_pages = s->zero;
	result->rate = (uint64_t)s->rate;
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->changed);
	free(s->todo);
	free(s->next);
	free(s);
	return r;
}
