/* postcopy.c: the sending side; the contract is in postcopy.h. */
#include "migrate/postcopy.h"

#include <errno.h>
#include <stdlib.h>

struct postcopy {
	struct sender *s;
	struct worker urgent;
	_Atomic bool complete; /* the receiver has said so */
};

/* What is wanted first; then the rest of its chunk, which is likely to be wanted next. */
static int send_wanted(struct worker *w, const struct stream_record *r, struct error *e)
{
	_Atomic uint64_t *todo = &w->s->todo[r->number];

	if (sender_chunk(w, r->number, atomic_fetch_and(todo, ~r->data) & r->data, e) || conn_flush(w->c, e))
		return -1;
	return sender_chunk(w, r->number, atomic_exchange(todo, 0), e) || conn_flush(w->c, e) ? -1 : 0;
}

static void *serve_wanted(void *ctx)
{
	struct postcopy *p = ctx;
	struct worker *w = &p->urgent;
	struct stream_record r = {0};
	int result;

	while (!(result = stream_read(w->c, w->s->pages, &r, &w->error)) && r.kind != STREAM_END) {
		result = r.kind == STREAM_WANTED ? send_wanted(w, &r, &w->error)
						 : error_set(&w->error, "the receiver made no sense");
		if (result)
			break;
	}
	p->complete = !result;
	if (!result)
		return NULL;
	pthread_mutex_lock(&w->s->lock);
	w->failed = true;
	if (!w->s->stop && !w->s->why)
		w->s->why = &w->error;
	w->s->stop = true;
	pthread_cond_broadcast(&w->s->changed);
	pthread_mutex_unlock(&w->s->lock);
	return NULL;
}

struct postcopy *postcopy_begin(struct sender *s, struct conn *urgent, struct error *e)
{
	struct postcopy *p = xcalloc(1, sizeof(*p));

	p->s = s;
	p->urgent = (struct worker){.s = s, .c = urgent, .buf = xcalloc(1, STREAM_HEADER + STREAM_CHUNK)};
	s->start_ns = clock_ns(); /* what the limit would have let through before is not made up for */
	s->allowance = 0;
	conn_set_timeout(urgent, 0); /* nothing is wanted, perhaps */
	errno = pthread_create(&p->urgent.thread, NULL, serve_wanted, p);
	if (!errno)
		return p;
	error_set_errno(e, "thread");
	free(p->urgent.buf);
	free(p);
	return NULL;
}

static void join(struct postcopy *p)
{
	if (p->urgent.thread)
		pthread_join(p->urgent.thread, NULL);
	p->urgent.thread = 0;
}

int postcopy_push(struct postcopy *p, const char *(*tick)(void *ctx), void *ctx, struct error *e)
{
	int r = sender_round(p->s, false, tick, ctx, e);

	if (r)
		conn_cut(p->urgent.c);
	join(p); /* the receiver ends it when nothing is missing */
	if (p->complete) { /* its word counts, whatever has become of the other connections since */
		sender_end(p->s, !r, e);
		return 0;
	}
	if (!r)
		*e = p->urgent.error;
	return sender_end(p->s, false, e);
}

void postcopy_free(struct postcopy *p)
{
	if (!p)
		return;
	if (p->urgent.thread)
		conn_cut(p->urgent.c);
	join(p);
	free(p->urgent.buf);
	free(p);
}

int postcopy_learn(struct sender *s, struct conn *urgent, struct error *e)
{
	struct stream_record r = {0};

	for (;;) {
		if (stream_read(urgent, s->pages, &r, e))
			return -1;
		if (r.kind == STREAM_ROUND)
			return 0;
		if (r.kind != STREAM_MISSING)
			return error_set(e, "the receiver made no sense");
		s->todo[r.number] |= r.data;
	}
}
