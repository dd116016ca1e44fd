/* sender.c: rounds of pages over connections; the contract is in sender.h. */
#include "migrate/sender.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

enum { TICK_MS = 200 };
#define NS 1000000000ull

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
	unsigned int first, n;
	size_t used = 0;

	while (stream_take_run(&left, &first, &n)) {
		uint8_t *at = buf + used;

		if (pread_all(s->memory, at, (size_t)n * STREAM_PAGE, (off_t)(base + (uint64_t)first * STREAM_PAGE)) !=
		    (ssize_t)n * STREAM_PAGE)
			return error_set_errno(e, "memory of the VM");
		for (unsigned int i = 0; i < n; i++) {
			uint8_t *page = at + (size_t)i * STREAM_PAGE;
			uint64_t bit = 1ull << (first + i);

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
static void wait_for_limit(struct sender *s, size_t len)
{
	uint64_t sent;

	if (!s->bandwidth)
		return;
	sent = atomic_fetch_add(&s->allowance, len) + len;
	while (!s->stop) {
		double due = (double)sent / (double)s->bandwidth, is = (double)(clock_ns() - s->start_ns) / NS;

		if (is >= due)
			return;
		poll(NULL, 0, (int)MIN((due - is) * 1000 + 1, TICK_MS));
	}
}

int sender_chunk(struct worker *w, uint64_t chunk, uint64_t data, struct error *e)
{
	struct sender *s = w->s;
	struct stream_record rec = {STREAM_CHUNK_RECORD, (uint32_t)chunk, data, 0};
	size_t len = 0;

	if (!data) /* somebody else has sent it */
		return 0;
	if (read_pages(s, &rec, w->buf + STREAM_HEADER, &len, e))
		return -1;
	stream_pack(&rec, w->buf);
	wait_for_limit(s, STREAM_HEADER + len);
	if (conn_write(w->c, w->buf, STREAM_HEADER + len, e))
		return -1;
	s->sent += stream_count(rec.data);
	s->zero += stream_count(rec.zero);
	s->done += stream_count(data);
	return 0;
}

static int send_mark(struct worker *w, enum stream_kind kind, uint32_t number, struct error *e)
{
	const struct stream_record rec = {kind, number, 0, 0};

	return stream_write(w->c, &rec, e) || conn_flush(w->c, e) ? -1 : 0;
}

static int send_or_announce(struct worker *w, uint64_t chunk, struct error *e)
{
	struct sender *s = w->s;
	struct stream_record rec = {STREAM_MISSING, (uint32_t)chunk, s->todo[chunk], 0};

	if (!rec.data)
		return 0;
	if (!s->announce)
		return sender_chunk(w, chunk, atomic_exchange(&s->todo[chunk], 0), e);
	return stream_write(w->c, &rec, e);
}

static int send_round(struct worker *w, uint32_t round, struct error *e)
{
	struct sender *s = w->s;
	struct stream_record rec = {0};
	uint64_t chunk;

	while (!s->stop && (chunk = s->cursor++) < s->chunks)
		if (send_or_announce(w, chunk, e))
			return -1;
	if (s->stop)
		return error_set(e, "given up");
	if (send_mark(w, STREAM_ROUND, round, e) || stream_read(w->c, s->pages, &rec, e))
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

/* ---- the caller's thread */

uint64_t sender_left(const struct sender *s)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < s->chunks; i++)
		n += stream_count(s->todo[i]);
	return n;
}

static void cut(struct sender *s)
{
	for (unsigned int i = 0; i < s->n; i++)
		conn_cut(s->workers[i].c);
}

int sender_round(struct sender *s, bool announce, const char *(*tick)(void *ctx), void *ctx, struct error *e)
{
	const char *given_up = NULL;
	bool was_cut = false;

	pthread_mutex_lock(&s->lock);
	s->cursor = s->done = 0;
	s->busy = s->n;
	s->announce = announce;
	s->round++;
	pthread_cond_broadcast(&s->changed);
	while (s->busy) {
		uint64_t due = clock_ns() + TICK_MS * 1000000ull;
		struct timespec ts = {(time_t)(due / NS), (long)(due % NS)};

		if (pthread_cond_clockwait(&s->changed, &s->lock, CLOCK_MONOTONIC, &ts) == ETIMEDOUT && !given_up) {
			pthread_mutex_unlock(&s->lock);
			given_up = tick(ctx);
			pthread_mutex_lock(&s->lock);
			if (given_up)
				s->stop = true;
		}
		if (s->stop && !was_cut)
			cut(s);
		was_cut = s->stop;
	}
	pthread_mutex_unlock(&s->lock);
	if (!s->stop)
		return 0;
	return error_set(e, "%s", given_up ? given_up : s->why ? s->why->text : "given up");
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

int sender_end(struct sender *s, bool good, struct error *e)
{
	if (!good)
		s->stop = true;
	pthread_mutex_lock(&s->lock);
	s->end = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	for (unsigned int i = 0; i < s->n; i++) {
		struct worker *w = &s->workers[i];

		pthread_join(w->thread, NULL);
		if (good && w->failed) {
			*e = w->error;
			good = false;
		}
		free(w->buf);
	}
	if (!good)
		cut(s);
	s->n = 0;
	return good ? 0 : -1;
}

struct sender *sender_create(struct conn **conns, unsigned int n, int memory, uint64_t size, uint64_t bandwidth,
			     struct error *e)
{
	struct sender *s = xcalloc(1, sizeof(*s));

	s->memory = memory;
	s->bandwidth = bandwidth;
	s->pages = size / STREAM_PAGE;
	s->chunks = (s->pages + STREAM_CHUNK_PAGES - 1) / STREAM_CHUNK_PAGES;
	s->todo = xcalloc(s->chunks, sizeof(*s->todo));
	s->start_ns = clock_ns();
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->changed, NULL);
	if (!start_workers(s, conns, n, e))
		return s;
	sender_end(s, false, e);
	sender_free(s);
	return NULL;
}

void sender_free(struct sender *s)
{
	if (!s)
		return;
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->changed);
	free(s->todo);
	free(s);
}
