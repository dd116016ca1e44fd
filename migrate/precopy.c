/* precopy.c: rounds while the VM runs, and when to stop it; the contract is in precopy.h.
 *
 * What is left after a round, at the rate of the rounds before, and the cost of the switch-over give the expected
 * downtime.  How far the same reckoning was off for the rounds that have been sent is its margin.
 *
 * A round that leaves nearly as much as it has sent will not get better by being repeated: the VM writes too fast.  Then
 * it is slowed down, to half of what the connections take at first; or what is left is sent after it has been started
 * there.
 */
#include "migrate/precopy.h"
#include "migrate/sender.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

enum { MARGINS = 4, SHORT_MS = 20, MAX_THROTTLE = 99, THROTTLE_STEP = 10 };
#define NS 1000000000ull
#define MIN_MARGIN 1.1
/* What is left of a round's pages when it does not get better. */
#define STUCK 0.7

struct precopy {
	struct sender *s;
	const struct precopy_source *source;
	const struct precopy_options *o;
	struct precopy_result *result;
	uint64_t *next; /* written since this round began */
	uint64_t round_pages;
	double rate; /* bytes a second */
	double margins[MARGINS];
	unsigned int nmargins;
};

static uint64_t expected_ns(const struct precopy *p, uint64_t pages)
{
	double margin = MIN_MARGIN;

	if (!p->rate)
		return UINT64_MAX;
	for (unsigned int i = 0; i < MIN(p->nmargins, (unsigned int)MARGINS); i++)
		margin = MAX(margin, p->margins[i]);
	return p->o->switch_ns + (uint64_t)((double)(pages * STREAM_PAGE) / p->rate * margin * NS);
}

static bool is_late(const struct precopy *p)
{
	return p->o->timeout_ns && clock_ns() - p->s->start_ns > p->o->timeout_ns;
}

static const char *tick(void *ctx)
{
	struct precopy *p = ctx;
	struct precopy_progress told = {
		.round = p->s->round,
		.sent_pages = p->s->sent,
		.zero_pages = p->s->zero,
		.round_pages = p->round_pages,
		.round_done = p->s->done,
		.rate = (uint64_t)p->rate,
		.dirty_rate = p->result->dirty_rate,
		.throttle = p->result->throttle,
		.expected_ns = expected_ns(p, p->round_pages - MIN(p->round_pages, p->s->done)),
	};

	if (p->o->progress && !p->o->progress(p->o->ctx, &told)) {
		p->result->cancelled = true;
		return "cancelled";
	}
	return is_late(p) && !p->result->stop_ns ? "it took too long" : NULL;
}

/* Sends what is in the bitmap, and learns from the time it takes. */
static int run_round(struct precopy *p, struct error *e)
{
	uint64_t begin = clock_ns(), took;
	double rate;

	if (sender_round(p->s, false, tick, p, e))
		return -1;
	took = clock_ns() - begin;
	if (!p->round_pages)
		return 0;
	rate = (double)(p->round_pages * STREAM_PAGE) * NS / (double)took;
	if (p->rate)
		p->margins[p->nmargins++ % MARGINS] = p->rate / rate;
	/* A short round says little of the rate, and much of what every round costs. */
	p->rate = p->rate && p->round_pages * STREAM_PAGE < p->rate / 10 ? (3 * p->rate + rate) / 4 : rate;
	return 0;
}

/* The pages written meanwhile are the next round's. */
static void turn(struct precopy *p)
{
	for (uint64_t i = 0; i < p->s->chunks; i++) {
		p->s->todo[i] |= p->next[i];
		p->next[i] = 0;
	}
	p->round_pages = sender_left(p->s);
}

static void mark_existing(struct sender *s)
{
	uint64_t start, end = 0;

	while (next_extent(s->memory, &start, &end))
		for (uint64_t i = start / STREAM_PAGE; i < MIN(s->pages, (end + STREAM_PAGE - 1) / STREAM_PAGE); i++)
			s->todo[i / 64] |= 1ull << i % 64;
}

/* The VM is stopped: the rest is sent, or it is said what the rest is. */
static int send_last(struct precopy *p, bool post_copy, uint64_t expected, struct error *e)
{
	struct precopy_result *r = p->result;
	uint64_t begin;

	r->predicted_ns = expected;
	r->stop_ns = clock_ns();
	if (p->source->stop(p->source->ctx, p->next, e))
		return -1;
	turn(p);
	r->last_pages = p->round_pages;
	r->post_copy = post_copy && r->last_pages;
	begin = clock_ns();
	if (r->post_copy ? sender_round(p->s, true, tick, p, e) : run_round(p, e))
		return -1;
	r->last_round_ns = clock_ns() - begin;
	r->last_ns = clock_ns() - r->stop_ns;
	return 0;
}

/* So that it writes half of what can be sent. */
static int slow_down(struct precopy *p, struct error *e)
{
	struct precopy_result *r = p->result;
	double written = (double)r->dirty_rate * 100 / (100 - r->throttle), wanted = p->rate / 2;
	unsigned int by_model = written > wanted ? (unsigned int)(100 - 100 * wanted / written) : 0;

	if (!p->source->throttle || r->throttle == MAX_THROTTLE)
		return 0;
	r->throttle = MIN(MAX(by_model, r->throttle + THROTTLE_STEP), (unsigned int)MAX_THROTTLE);
	return p->source->throttle(p->source->ctx, r->throttle, e);
}

static int too_fast(const struct precopy *p, uint64_t expected, struct error *e)
{
	return error_set(e, "it writes %llu MB/s, the connection takes %llu MB/s: the downtime would be %llu ms",
			 (unsigned long long)(p->result->dirty_rate / 1000000), (unsigned long long)(p->rate / 1e6),
			 (unsigned long long)(expected / 1000000));
}

static int send_rounds(struct precopy *p, struct error *e)
{
	struct precopy_result *r = p->result;
	uint64_t since = clock_ns();

	mark_existing(p->s);
	if (p->source->collect(p->source->ctx, p->next, e)) /* tracking has begun: these are sent now */
		return -1;
	turn(p);
	for (;;) {
		uint64_t begin = clock_ns(), sent = p->round_pages, now, expected;
		bool stuck;

		if (run_round(p, e) || p->source->collect(p->source->ctx, p->next, e))
			return -1;
		turn(p);
		now = clock_ns();
		r->dirty_rate = p->round_pages * STREAM_PAGE * 1000 / ((now - since) / 1000000 + 1);
		since = now;
		expected = expected_ns(p, p->round_pages);
		if (p->o->post_copy == PRECOPY_THEN_POST_COPY)
			return send_last(p, true, expected, e);
		if (expected <= p->o->downtime_limit_ns) {
			r->feasible = true;
			return send_last(p, false, expected, e);
		}
		if (is_late(p))
			return too_fast(p, expected, e);
		/* The first round's are all that exist, which says nothing. */
		stuck = p->s->round > 1 && (double)p->round_pages > STUCK * (double)sent;
		if (stuck && p->o->post_copy == PRECOPY_OR_POST_COPY)
			return send_last(p, true, expected, e);
		if (stuck && slow_down(p, e))
			return -1;
		if (tick(p))
			return error_set(e, "cancelled");
		/* A short round that did not help: another at once would only cost the guest. */
		if (now - begin < SHORT_MS * 1000000ull)
			poll(NULL, 0, SHORT_MS);
	}
}

int precopy_send(struct sender *s, const struct precopy_source *source, const struct precopy_options *options,
		 struct precopy_result *result, struct error *e)
{
	struct precopy p = {
		.s = s, .source = source, .o = options, .result = result, .next = xcalloc(s->chunks, sizeof(*p.next))};
	int r;

	memset(result, 0, sizeof(*result));
	r = send_rounds(&p, e);
	if (r || !result->post_copy)
		r = sender_end(s, !r, e);
	free(p.next);
	result->rounds = s->round;
	result->sent_pages = s->sent;
	result->zero_pages = s->zero;
	result->rate = (uint64_t)p.rate;
	return r;
}
