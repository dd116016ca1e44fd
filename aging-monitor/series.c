/* series.c: one resource, watched: aging.h says how it is judged. */
#include "aging-monitor/aging.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
	MINUTE = 60,
	DAY = 1440, /* minutes, as these */
	KEPT = 8 * DAY,
	LEARNING = 2 * DAY,
	SETTLED = AGING_SETTLED_S / MINUTE,
	FORECAST = 60 * DAY,
	SILENCE = 10,
	SMOOTH = 5,   /* for the level now */
	SAMPLES = 64, /* most in a minute that count */
	BLOCK = 5,
	/* Blocks, as all below. */
	BLOCKS = KEPT / BLOCK,
	DAILY = DAY / BLOCK,
	WARM_UP = 3,
	LATE = 72,
	BIN = 3, /* of the daily cycle */
	BINS = DAILY / BIN,
	SEASON_DAYS = 7,
	EDGE = 3 * BIN, /* of a day, for its level */
	/* A point is the floor of so many steps that end with it. */
	FLOOR = 3,
	POINTS = 16, /* of a window */
	STEPS = POINTS + FLOOR - 1,
	STRETCH = 3,
	MOST_POINTS = 40,
};

/* What a window must show to be believed. */
#define LOW	    0.2    /* of blocks in order: where their floor is */
#define SURE_P	    1e-3
#define SURE_Z	    2.5758 /* of the slope's interval: 99 % */
#define EVEN	    0.4    /* of the mean growth: that of half of all stretches, and without the steps */
#define SURELY	    2      /* standard errors, of a curve */
#define SLOWER	    0.6    /* of the slope when it began */
#define ALIKE	    3        /* of what has risen before, and no more: it may be the same */
#define CLEAR	    3      /* of what comes and goes: from there on its shape says something */
#define RARE	    2      /* a day: what comes more seldom is left to the other tests */
#define SEASON	    0.85   /* correlation of two days from which on there is a daily cycle */
#define UNKNOWN	    1.0    /* of the cycle, by the days it was learnt from: by so much, at least, it may differ */
#define SEASON_FITS 0.5    /* the spread without it, of that with it */
#define CRITICAL    0.05
#define PEAK	    0.98   /* of a day's blocks in order: how far they reach above the floor */
#define GOES_ON	    0.3    /* of the slope that was found */
#define OWN	    0.125  /* of a window, before which there was a predecessor */
#define CONFIRM	    3      /* judgements */
#define TAKEN_BACK  (60 * MINUTE)

/* A window: the blocks of a step, how many minutes ahead it may see, and how many standard errors a curve has to have (a short
 * one is bent by chance). */
static const struct {
	int step, horizon;
	double curved;
} windows[] = {{1, 36 * 60, 3.5},   {2, 2 * DAY, 2.5},	 {4, 4 * DAY, 2.5},
	       {16, 16 * DAY, 2.5}, {48, 30 * DAY, 2.5}, {112, 60 * DAY, 2.5}};
enum { WINDOWS = sizeof(windows) / sizeof(windows[0]) };

struct block {
	float least, low, high, most; /* of all samples, and of the minutes the second from either end */
};

struct aging_series {
	float ring[KEPT];	    /* a value a minute, NaN where there was none */
	struct block block[BLOCKS]; /* NaN where nothing was told */
	double sample[SAMPLES];
	size_t samples;
	long first, last, begun; /* minutes: of the history, the newest whole one, the one that is being sampled; -1: none */
	unsigned int streak;
	double found, judged;	    /* times */
	struct aging_verdict trend; /* what was found last, if it has a window */
	long begin;		    /* its first block */
	double confirmed;	    /* its slope then */
	long own;		    /* the minute since which it is not a predecessor's; -1: always */
};

static const struct block untold = {NAN, NAN, NAN, NAN};

static void forget(struct aging_series *s)
{
	for (size_t i = 0; i < KEPT; i++)
		s->ring[i] = NAN;
	for (size_t i = 0; i < BLOCKS; i++)
		s->block[i] = untold;
	s->first = s->last = s->own = -1;
	s->samples = 0;
	s->streak = 0;
	s->trend.window = 0;
}

struct aging_series *aging_series_create(void)
{
	struct aging_series *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	forget(s);
	s->begun = -1;
	s->found = s->judged = -INFINITY;
	return s;
}

void aging_series_destroy(struct aging_series *s)
{
	free(s);
}

/* The minute that is being sampled counts as far as it has got. */
static double at(const struct aging_series *s, long minute)
{
	if (s->samples && minute == s->begun)
		return aging_median(s->sample, s->samples);
	return minute < s->first || minute > s->last || minute <= s->last - KEPT ? NAN : (double)s->ring[minute % KEPT];
}

/* The median of the minutes [from, to). */
static double median_at(const struct aging_series *s, long from, long to)
{
	double v[AGING_MOST_VALUES];
	long step = (to - from) / AGING_MOST_VALUES + 1;
	size_t n = 0;

	for (long m = from; m < to; m += step)
		v[n++] = at(s, m);
	return aging_median(v, n);
}

double aging_series_median(const struct aging_series *s, double from, double to)
{
	long first = s->first < 0 ? s->begun : s->first, last = s->samples ? s->begun : s->last;

	return last < 0 ? NAN : median_at(s, (long)fmax(ceil(from / MINUTE), (double)first), (long)fmin(ceil(to / MINUTE), (double)last + 1));
}

/* What the block of minute `m` holds up to that one. */
static void tell_block(struct aging_series *s, long m)
{
	struct block *b = &s->block[m / BLOCK % BLOCKS];
	double v[BLOCK];
	size_t n = 0;

	for (size_t i = 0; i < s->samples; i++) {
		b->least = fminf(b->least, (float)s->sample[i]);
		b->most = fmaxf(b->most, (float)s->sample[i]);
	}
	for (long i = m - m % BLOCK; i <= m; i++)
		v[n++] = at(s, i);
	b->low = (float)aging_quantile(v, n, LOW);
	b->high = (float)aging_quantile(v, n, 1 - LOW);
}

/* The minute that was sampled is over. */
static void end_minute(struct aging_series *s)
{
	long from = s->last < 0 ? s->begun : s->last + 1;

	if (s->first < 0)
		s->first = s->begun;
	for (long m = from; m <= s->begun; m++) {
		s->ring[m % KEPT] = NAN;
		if (m % BLOCK == 0 || m == s->first)
			s->block[m / BLOCK % BLOCKS] = untold;
	}
	s->ring[s->begun % KEPT] = (float)aging_median(s->sample, s->samples);
	s->last = s->begun;
	if (s->first < s->last - KEPT + 1)
		s->first = s->last - KEPT + 1;
	tell_block(s, s->last);
	s->samples = 0;
}

bool aging_series_add(struct aging_series *s, double t, double value)
{
	long minute;

	if (!(fabs(value) <= FLT_MAX) || !(t >= 0) || t > 1e15)
		return false;
	minute = (long)(t / MINUTE);
	if (minute < s->begun || minute <= s->last)
		return false;
	if (s->last >= 0 && minute > s->last + KEPT) /* nothing that is kept is of use */
		forget(s);
	if (s->samples && minute > s->begun)
		end_minute(s);
	s->begun = minute;
	if (s->samples < SAMPLES)
		s->sample[s->samples++] = value;
	return true;
}

bool aging_series_succeed(struct aging_series *s, const struct aging_series *old, double ended, double began)
{
	/* Whole blocks are of one or the other. */
	long end = (long)floor(ended / MINUTE / BLOCK) * BLOCK, own = (long)ceil(began / MINUTE / BLOCK) * BLOCK, from;
	double shift = median_at(s, own, own + SETTLED) - median_at(old, end - SETTLED, end);

	if (isnan(shift) || own < end)
		return false;
	from = (long)fmax((double)old->first, (double)(s->last - KEPT + 1));
	for (long m = from; m < own; m++)
		s->ring[m % KEPT] = m < end ? (float)(at(old, m) + shift) : NAN;
	for (long b = from / BLOCK; b < own / BLOCK; b++) {
		const struct block *was = b < end / BLOCK && b <= old->last / BLOCK ? &old->block[b % BLOCKS] : &untold;
		float by = (float)shift;

		s->block[b % BLOCKS] = (struct block){was->least + by, was->low + by, was->high + by, was->most + by};
	}
	s->first = from;
	s->own = own;
	s->streak = 0;
	s->trend.window = 0;
	return true;
}

/* ---- what is used up, in blocks: the whole ones of the history are [begin_of(), end_of()) */

static long begin_of(const struct aging_series *s)
{
	return (s->first + BLOCK - 1) / BLOCK;
}

static long end_of(const struct aging_series *s)
{
	return (s->last + 1) / BLOCK;
}

/* Low in the block: what is used for a moment only is no growth. */
static double use_of(const struct aging_series *s, const struct aging_resource *r, long b)
{
	if (b < begin_of(s) || b >= end_of(s) || b < end_of(s) - BLOCKS + 1)
		return NAN;
	return r->falls ? -(double)s->block[b % BLOCKS].high : (double)s->block[b % BLOCKS].low;
}

/* The daily cycle: up to seven days, which of them are like another, and what those have in common. */
struct season {
	bool there;
	int days;
	bool like[SEASON_DAYS];
	double day[SEASON_DAYS][BINS]; /* by time of the day */
	double bin[BINS];
};

/* Between the middles of two bins, in proportion. */
static double season_at(const struct season *season, double block)
{
	double x = (block + 0.5 - BIN / 2.) / BIN, part = x - floor(x);
	long i = (long)floor(x);

	return season->bin[i % BINS] * (1 - part) + season->bin[(i + 1) % BINS] * part;
}

/* What is used in the blocks [from, to), less the cycle if there is one: what is low in every `by`th. */
static double used_in(const struct aging_series *s, const struct aging_resource *r, long from, long to, long by,
		      const struct season *season)
{
	double v[AGING_MOST_VALUES];
	size_t n = 0;

	for (long b = from; b < to && n < AGING_MOST_VALUES; b += by)
		v[n++] = use_of(s, r, b) - (season && season->there ? season_at(season, (double)b) : 0);
	return aging_quantile(v, n, LOW);
}

static double floor_of(const struct aging_series *s, const struct aging_resource *r, long from, long to)
{
	return used_in(s, r, from, to, 1, NULL);
}

/* What few days have shown at most is soon exceeded: by how much it is taken for more. */
static double trust(double days)
{
	return 1 + 2 / days;
}

/* ---- the daily cycle */

static double correlation(const double *a, const double *b)
{
	double n = 0, sa = 0, sb = 0, aa = 0, bb = 0, ab = 0;

	for (int i = 0; i < BINS; i++)
		if (!isnan(a[i]) && !isnan(b[i])) {
			n++;
			sa += a[i];
			sb += b[i];
			aa += a[i] * a[i];
			bb += b[i] * b[i];
			ab += a[i] * b[i];
		}
	aa -= sa * sa / n;
	bb -= sb * sb / n;
	return n >= BINS / 2. && aa > 0 && bb > 0 ? (ab - sa * sb / n) / sqrt(aa * bb) : 0;
}

/* The median of those of up to seven days before block `to` that are like another one, each less its own median: working days,
 * for example. */
static void find_season(const struct aging_series *s, const struct aging_resource *r, long to, struct season *out)
{
	double v[SEASON_DAYS];

	*out = (struct season){.there = false};
	to -= to % BIN;
	/* Of the first one half is enough. */
	for (; out->days < SEASON_DAYS && to - out->days * DAILY - DAILY / 2 >= begin_of(s); out->days++) {
		double *day = out->day[out->days], middle, grown;

		for (int i = 0; i < BINS; i++) {
			long b = to - (out->days + 1) * DAILY + i * BIN;

			day[(b + BLOCKS) / BIN % BINS] = floor_of(s, r, b, b + BIN);
		}
		/* What has grown from one day to the next is no part of a cycle: as a ramp a day each would look like one. */
		grown = (floor_of(s, r, to - out->days * DAILY - EDGE, to - out->days * DAILY) -
			 floor_of(s, r, to - (out->days + 1) * DAILY - EDGE, to - (out->days + 1) * DAILY)) / BINS;
		for (int i = 0; i < BINS && !isnan(grown); i++)
			day[(to - (out->days + 1) * DAILY + i * BIN + BLOCKS) / BIN % BINS] -= i * grown;
		middle = aging_median(day, BINS);
		for (int i = 0; i < BINS; i++)
			day[i] -= middle;
	}
	for (int a = 0; a < out->days; a++)
		for (int b = a + 1; b < out->days; b++)
			if (correlation(out->day[a], out->day[b]) > SEASON)
				out->there = out->like[a] = out->like[b] = true;
	for (int i = 0; i < BINS && out->there; i++) {
		size_t n = 0;

		for (int d = 0; d < out->days; d++)
			if (out->like[d])
				v[n++] = out->day[d][i];
		out->bin[i] = aging_median(v, n);
		if (isnan(out->bin[i]))
			out->bin[i] = 0;
	}
}

/* By how much the days it was learnt from differ from it between the blocks `from` and `to`: how far one of them, a little earlier
 * or later, strays.  Of few days little is known. */
static double season_varies(const struct season *season, long from, long to)
{
	double most = 0, days = 0, least = INFINITY, highest = -INFINITY;

	for (long i = from / BIN; i < to / BIN; i++) {
		least = fmin(least, season->bin[i % BINS]);
		highest = fmax(highest, season->bin[i % BINS]);
	}
	for (int d = 0; d < season->days; d++) {
		if (!season->like[d])
			continue;
		days++;
		for (long shift = -1; shift <= 1; shift++) {
			double low = INFINITY, high = -INFINITY;

			for (long i = from / BIN; i < to / BIN; i++) {
				double x = season->day[d][(i + BINS + shift) % BINS] - season->bin[i % BINS];

				low = fmin(low, x);
				high = fmax(high, x);
			}
			most = fmax(most, high - low);
		}
	}
	return fmax(most * trust(days), (highest - least) * UNKNOWN / days);
}

/* Did the half day before block `to` follow the cycle? */
static bool fits(const struct aging_series *s, const struct aging_resource *r, long to, const struct season *season)
{
	double raw[BINS / 2], less[BINS / 2];

	for (int i = 0; i < BINS / 2; i++) {
		long b = to - (i + 1) * BIN;

		raw[i] = floor_of(s, r, b, b + BIN);
		less[i] = raw[i] - season_at(season, (double)b + 1);
	}
	return aging_spread(less, BINS / 2) < SEASON_FITS * aging_spread(raw, BINS / 2);
}

/* ---- judgement */

struct points {
	double t[MOST_POINTS], y[MOST_POINTS];
	size_t n, there;
};

/* The floors that end with the last `n` steps before block `to`, without the cycle. */
static void take_points(const struct aging_series *s, const struct aging_resource *r, long to, long step, size_t n,
			const struct season *season, struct points *p)
{
	p->n = p->there = 0;
	for (size_t i = 0; i < n && i < MOST_POINTS; i++) {
		long end = to - (long)(n - 1 - i) * step;
		/* Of many blocks some are enough. */
		double y = used_in(s, r, end - FLOOR * step, end, step / 16 + 1, season);

		p->t[i] = (double)end * BLOCK * MINUTE;
		p->y[i] = y;
		p->n++;
		if (!isnan(y))
			p->there++;
	}
}

static int rising(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Does it, by a share of the mean, from the points about the `i`th to those a stretch later? */
static bool grows_from(const struct points *p, size_t i, double slope)
{
	return aging_median(p->y + i + STRETCH, STRETCH) - aging_median(p->y + i, STRETCH) > EVEN * slope * (p->t[STRETCH] - p->t[0]);
}

/* Growth is all over the window; a shift of the load, however slow, or some of them, are not.  Half of all stretches grow by a
 * share of the mean, and so does what is left without the steps that stand out. */
static bool is_even(const struct points *p, double slope)
{
	double v[MOST_POINTS], sum = 0;
	size_t n = 0, out;

	for (size_t i = 0; i + STRETCH < p->n; i++)
		v[n++] = (p->y[i + STRETCH] - p->y[i]) / (p->t[i + STRETCH] - p->t[i]);
	if (!(aging_median(v, n) > EVEN * slope))
		return false;
	n = 0;
	for (size_t i = 0; i + 1 < p->n; i++)
		if (!isnan(p->y[i + 1] - p->y[i]))
			v[n++] = (p->y[i + 1] - p->y[i]) / (p->t[i + 1] - p->t[i]);
	qsort(v, n, sizeof(*v), rising);
	out = n / 5;
	for (size_t i = out; i < n - out; i++)
		sum += v[i];
	return sum > EVEN * slope * (double)(n - 2 * out);
}

/* Does the last part of the window level off before the limit?  Its slope halves every so often: what is still to come is
 * finite. */
static bool levels_off(const struct points *p, size_t from, double left, double curved)
{
	struct aging_curve curve;
	double end;

	aging_parabola(p->t + from, p->y + from, p->n - from, &curve);
	if (!(curve.curve < -curved * curve.curve_error))
		return false;
	end = curve.slope + curve.curve * (p->t[p->n - 1] - p->t[from]);
	return end <= 0 || end * end / (-2 * curve.curve) * 1.5 < left;
}

/* What the points before a window did: how much came and went again within a window's time, more often than RARE a day, and the
 * most that they rose in it, whatever became of that. */
struct past {
	double bump, rise;
};

static void look_back(const struct aging_series *s, const struct aging_resource *r, int step, struct past *out)
{
	double y[BLOCKS], top[BLOCKS];
	long to = end_of(s) - STEPS * step, n = (to - begin_of(s)) / step - FLOOR + 1, tops = 0, rare = RARE * n * step / DAILY;

	*out = (struct past){0, n < POINTS ? INFINITY : 0};
	if (n <= 0)
		return;
	for (long i = 0; i < n; i++) {
		long end = to - (n - 1 - i) * step;

		y[i] = floor_of(s, r, end - FLOOR * step, end);
	}
	for (long i = 0; i < n; i++) {
		double before = INFINITY, after = INFINITY;

		for (long k = i - 1; k >= 0 && k > i - STEPS && !(y[k] >= y[i]); k--)
			before = fmin(before, y[k]);
		for (long k = i + 1; k < n && k < i + STEPS && !(y[k] > y[i]); k++)
			after = fmin(after, y[k]);
		if (before < y[i])
			out->rise = fmax(out->rise, y[i] - before);
		if (before < y[i] && after < y[i])
			top[tops++] = y[i] - fmax(before, after);
	}
	qsort(top, (size_t)tops, sizeof(*top), rising);
	if (rare < tops)
		out->bump = top[tops - 1 - rare];
}

/* Had it begun before, and does it, for sure, not get slower, even if what comes and goes has come at its end? */
static bool keeps_up(const struct points *p, double slope, double comes)
{
	struct aging_curve curve;
	double span = p->t[p->n - 1] - p->t[0], change;

	if (!grows_from(p, 0, slope))
		return false;
	aging_parabola(p->t, p->y, p->n, &curve);
	change = (curve.curve - SURELY * curve.curve_error) * span - comes / span;
	return curve.slope + change > SLOWER * (curve.slope - change);
}

/* What comes and goes may have come now: it is no part of the growth, and without it there has to be enough.  And from what has
 * risen as much before, and was none, or may have, it has to be told by its shape. */
static bool is_unheard_of(const struct aging_series *s, const struct aging_resource *r, int w, const struct points *p, double slope,
			  double room)
{
	long before = end_of(s) - STEPS * windows[w].step - begin_of(s);
	double span = (double)STEPS * windows[w].step * BLOCK * MINUTE, rise;
	struct past past;

	look_back(s, r, windows[w].step, &past);
	rise = slope * span - past.bump;
	if (room * span > rise * windows[w].horizon * MINUTE)
		return false;
	if (rise > ALIKE * trust((double)before / DAILY) * (past.rise - past.bump))
		return true;
	return rise > CLEAR * past.bump && keeps_up(p, slope, past.bump);
}

/* What is left for growth: use for a moment comes on top of it. */
static double room_of(const struct aging_series *s, const struct aging_resource *r, double left)
{
	long to = end_of(s);
	double v[DAILY], now = floor_of(s, r, to - FLOOR, to);
	size_t n = 0;

	if (!isnan(now))
		left = (r->falls ? 0 : r->capacity) - now;
	for (long b = to - DAILY; b < to; b++)
		if (!isnan(use_of(s, r, b)))
			v[n++] = (r->falls ? -(double)s->block[b % BLOCKS].least : (double)s->block[b % BLOCKS].most) -
				 floor_of(s, r, b - FLOOR + 1, b + 1);
	return fmax(left - (n ? aging_quantile(v, n, PEAK) : 0), 0);
}

/* When growth of so much a minute, and the cycle, will have used up what is left. */
static double used_up(double room, double slope, const struct season *season, long now)
{
	if (!(slope > 0))
		return INFINITY;
	for (long b = 0; b * BLOCK < FORECAST && season->there; b += BIN)
		if (slope * (double)b * BLOCK + season_at(season, (double)(now + b)) - season_at(season, (double)now) >= room)
			return (double)b * BLOCK * MINUTE;
	return room / slope * MINUTE;
}

static void forecast(struct aging_verdict *v, const struct aging_line *line, double room, const struct season *season, long now)
{
	v->slope = line->slope;
	v->low = line->low;
	v->high = line->high;
	v->seasonal = season->there;
	v->exhausted_in = used_up(room, line->slope * MINUTE, season, now);
	v->earliest = used_up(room, line->high * MINUTE, season, now);
	v->latest = used_up(room, line->low * MINUTE, season, now);
}

enum evidence { NONE, LEVELS, GROWS };

static enum evidence look_at(const struct aging_series *s, const struct aging_resource *r, int w, const struct season *season,
			     double room, struct aging_verdict *v)
{
	int step = windows[w].step;
	long to = end_of(s), from = to - STEPS * step;
	struct aging_line line;
	struct aging_mk mk;
	struct points p;
	double span = (double)(to - from) * BLOCK * MINUTE;

	take_points(s, r, to, step, POINTS, season, &p);
	if (p.there * 10 < p.n * 8)
		return NONE;
	aging_mann_kendall(p.y, p.n, AGING_ALL_LAGS, &mk);
	if (!(mk.s > 0) || !(mk.p < SURE_P))
		return NONE;
	aging_theil_sen(p.t, p.y, p.n, mk.var, SURE_Z, &line);
	if (!(line.low > 0) || room > line.slope * windows[w].horizon * MINUTE)
		return NONE;
	/* No day is quite like another. */
	if ((season->there && line.slope * span < season_varies(season, from, to)) || !is_even(&p, line.slope))
		return NONE;
	/* Long ones are in no hurry: what has begun, or ended, within one is for another. */
	if (step * STEPS >= DAILY && (!grows_from(&p, 0, line.slope) || !grows_from(&p, POINTS - 2 * STRETCH, line.slope)))
		return NONE;
	/* It may have begun within the window. */
	for (size_t k = 0; k < 3; k++)
		if (levels_off(&p, p.n * k / 4, room, windows[w].curved))
			return LEVELS;
	if (!is_unheard_of(s, r, w, &p, line.slope, room))
		return NONE;
	v->window = span;
	v->p = mk.p;
	forecast(v, &line, room, season, to);
	return GROWS;
}

/* The line of the last `blocks`. */
static void line_of(const struct aging_series *s, const struct aging_resource *r, long blocks, const struct season *season,
		    struct aging_line *line)
{
	struct aging_mk mk, plain;
	struct points p;
	long step = blocks / (MOST_POINTS + FLOOR - 1) + 1, n = blocks / step - FLOOR + 1;

	take_points(s, r, end_of(s), step, (size_t)(n < 2 ? 2 : n), season, &p);
	aging_mann_kendall(p.y, p.n, 0, &plain);
	aging_mann_kendall(p.y, p.n, AGING_ALL_LAGS, &mk);
	aging_theil_sen(p.t, p.y, p.n, fmax(mk.var, plain.var), SURE_Z, line);
}

/* What a predecessor did does not show that its successor does it, too: in a window that began before it that has to be seen, for a
 * share of the window at least (each one that is fresh fills for a while, which adds up over many of them). */
static bool grows_itself(const struct aging_series *s, const struct aging_resource *r, const struct aging_verdict *v)
{
	long since = end_of(s) - s->own / BLOCK, window = (long)(v->window / MINUTE / BLOCK);
	struct aging_line line;

	if (s->own < 0 || since >= window)
		return true;
	if (since < window * OWN)
		return false;
	line_of(s, r, since, NULL, &line);
	return line.slope > GOES_ON * v->slope;
}

static enum evidence look_at_all(const struct aging_series *s, const struct aging_resource *r, double room, struct aging_verdict *v)
{
	enum evidence best = NONE;

	for (int w = 0; w < WINDOWS; w++) {
		struct season season = {.there = false};
		struct aging_verdict found = *v;
		long from = end_of(s) - STEPS * windows[w].step;
		enum evidence e;

		if (from < begin_of(s) + WARM_UP)
			break;
		e = look_at(s, r, w, &season, room, &found);
		/* Windows of several days have the whole cycle in them.  In the others growth is none if the cycle explains
		 * it, and if only the cycle does, which may not be today's, it is none either. */
		if (STEPS * windows[w].step <= DAILY) {
			find_season(s, r, from, &season);
			if (season.there) {
				struct aging_verdict less = *v;
				enum evidence f = look_at(s, r, w, &season, room, &less);

				if (e != GROWS ? fits(s, r, from, &season) : f != GROWS) {
					found = less;
					e = f;
				}
			}
		}
		if (e == GROWS && !grows_itself(s, r, &found))
			continue;
		/* The longest that sees it: its slope is the surest. */
		if (e == GROWS || (e == LEVELS && best == NONE)) {
			best = e;
			*v = found;
		}
	}
	return best;
}

/* What was found goes on as long as it grows by a share of what it did, and has not been given back.  Its slope is that since it
 * began, or, if that is not the same any more, that of the half since. */
static bool goes_on(const struct aging_series *s, const struct aging_resource *r, double room, struct aging_verdict *v, bool *back)
{
	const long least = STEPS * windows[0].step, to = end_of(s);
	long since = to - s->begin > BLOCKS ? BLOCKS : to - s->begin;
	struct aging_verdict found = s->trend;
	struct aging_line all, half, late;
	struct season season;
	double grown;

	find_season(s, r, to - since, &season);
	line_of(s, r, since, &season, &all);
	grown = used_in(s, r, to - FLOOR, to, 1, &season) -
		used_in(s, r, to - since, to - since + (since > 8 * FLOOR ? since / 8 : FLOOR), 1, &season);
	*back = !(all.slope > 0) || grown <= GOES_ON * all.slope * (double)since * BLOCK * MINUTE;
	if (*back)
		return false;
	line_of(s, r, (long)fmin(fmax((double)since / 4, (double)least), LATE), &season, &late);
	if (!(late.slope > GOES_ON * s->confirmed) || room > late.slope * FORECAST * MINUTE)
		return false;
	line_of(s, r, (long)fmax((double)since / 2, (double)least), &season, &half);
	found.left = v->left;
	found.window = (double)since * BLOCK * MINUTE;
	forecast(&found, half.low > all.slope || half.high < all.slope ? &half : &all, room, &season, to);
	*v = found;
	return true;
}

void aging_series_judge(struct aging_series *s, const struct aging_resource *r, double now, struct aging_verdict *v)
{
	enum evidence e;
	double level, room;
	bool back, known;

	*v = (struct aging_verdict){.finding = AGING_UNKNOWN, .exhausted_in = INFINITY, .earliest = INFINITY, .latest = INFINITY,
				    .left = NAN, .p = 1};
	if (s->samples && now >= (double)(s->begun + 1) * MINUTE)
		end_minute(s);
	if (s->last < 0 || now / MINUTE - (double)s->last > SILENCE)
		return;
	level = median_at(s, s->last - SMOOTH + 1, s->last + 1);
	if (isnan(level))
		return;
	v->left = r->falls ? level : r->capacity - level;
	if (v->left < CRITICAL * r->capacity) {
		v->finding = AGING_CRITICAL;
		return;
	}
	v->finding = AGING_LEARNING;
	if (s->last + 1 - s->first < LEARNING || (s->own >= 0 && end_of(s) - s->own / BLOCK < STEPS * windows[0].step))
		return;
	room = room_of(s, r, v->left);
	e = look_at_all(s, r, room, v);
	if (now - s->judged > 2.5 * AGING_JUDGE_S)
		s->streak = 0;
	if (e != GROWS)
		s->streak = 0;
	else if (now - s->judged >= AGING_JUDGE_S / 2.)
		s->streak++;
	if (now - s->judged >= AGING_JUDGE_S / 2.)
		s->judged = now;
	v->finding = e == LEVELS ? AGING_LEVELS : AGING_STEADY;
	known = s->trend.window > 0;
	if (s->streak >= CONFIRM && !known) {
		s->begin = end_of(s) - (long)(v->window / MINUTE / BLOCK);
		s->confirmed = v->slope;
	}
	if (s->streak >= CONFIRM)
		s->trend = *v;
	if (!(s->trend.window > 0))
		return;
	if (goes_on(s, r, room, v, &back)) {
		s->trend = *v;
		s->found = now;
	} else if (back || !known || now - s->found > TAKEN_BACK) { /* a long window sees for long what has been */
		s->trend.window = 0;
		return;
	} else {
		double left = v->left;

		*v = s->trend;
		v->left = left;
	}
	v->finding = AGING_TREND;
}
