/* series.c: one resource, watched: aging.h says how it is judged. */
#include "aging-monitor/aging.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
	MINUTE = 60,
	DAY = 1440, /* minutes, as all below */
	KEPT = 8 * DAY,
	WARM_UP = 15,
	FORECAST = 60 * DAY,
	LATE = 6 * 60,
	LEARNING = 2 * DAY,
	SILENCE = 10,
	SMOOTH = 5, /* for the level now */
	BIN = 15,   /* of the daily cycle */
	BINS = DAY / BIN,
	SEASON_DAYS = 7,
	SAMPLES = 64, /* most in a minute that count */
	POINTS = 100, /* of a window */
};

/* What a window must show to be believed. */
#define SURE_P	       1e-3
#define SURE_Z	       2.5758  /* of the slope's interval: 99 % */
#define EVEN	       0.4     /* of the mean growth between quarters: the least of any */
#define CURVED	       2.5     /* standard errors */
#define JUMP	       4.0     /* spreads of the changes from point to point: more is cut off */
#define JUMP_LEFT      0.01    /* of what is left: less is never cut off */
#define SEASON	       0.6     /* correlation of two days from which on there is a daily cycle */
#define SEASON_FITS    0.5     /* the spread without it, of that with it */
#define SEASON_VARIES  0.35    /* of the cycle: how much of it may be another on another day */
#define CRITICAL       0.05
#define GOES_ON	       0.3     /* of the slope that was found */
#define SAME	       0.3     /* of the slope: so much another one is the same */
#define CONFIRM	       3       /* judgements */
#define TAKEN_BACK     (60 * MINUTE)

/* A window, how far ahead it may see, and the parts from each of which to the next it must have grown. */
static const struct {
	int minutes, horizon, parts;
} windows[] = {{90, 26 * 60, 3}, {6 * 60, 4 * DAY, 4}, {DAY, 16 * DAY, 4}, {3 * DAY, 30 * DAY, 3}, {7 * DAY, 60 * DAY, 3}};
enum { WINDOWS = sizeof(windows) / sizeof(windows[0]) };

struct aging_series {
	float ring[KEPT];	 /* a value a minute, NaN where there was none */
	double sample[SAMPLES];
	size_t samples;
	long first, last, begun; /* minutes: of the history, the newest whole one, the one that is being sampled; -1: none */
	unsigned int streak;
	double found, judged;	 /* times */
	struct aging_verdict trend; /* what was found last, if it has a window */
	long begin;		    /* its first minute */
	double confirmed;	    /* its slope then */
};

struct aging_series *aging_series_create(void)
{
	struct aging_series *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	for (size_t i = 0; i < KEPT; i++)
		s->ring[i] = NAN;
	s->first = s->last = s->begun = -1;
	s->found = s->judged = -INFINITY;
	return s;
}

void aging_series_destroy(struct aging_series *s)
{
	free(s);
}

static double at(const struct aging_series *s, long minute)
{
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
	return s->last < 0 ? NAN : median_at(s, (long)fmax(ceil(from / MINUTE), (double)s->first),
					      (long)fmin(ceil(to / MINUTE), (double)s->last + 1));
}

/* The minute that was sampled is over. */
static void end_minute(struct aging_series *s)
{
	if (s->first < 0)
		s->first = s->begun;
	for (long m = s->last < 0 ? s->begun : s->last + 1; m < s->begun; m++)
		s->ring[m % KEPT] = NAN;
	s->ring[s->begun % KEPT] = (float)aging_median(s->sample, s->samples);
	s->last = s->begun;
	if (s->first < s->last - KEPT + 1)
		s->first = s->last - KEPT + 1;
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
	if (s->last >= 0 && minute > s->last + KEPT) { /* nothing that is kept is of use */
		for (size_t i = 0; i < KEPT; i++)
			s->ring[i] = NAN;
		s->first = s->last = -1;
		s->samples = 0;
		s->streak = 0;
		s->trend.window = 0;
	}
	if (s->samples && minute > s->begun)
		end_minute(s);
	s->begun = minute;
	if (s->samples < SAMPLES)
		s->sample[s->samples++] = value;
	return true;
}

/* ---- the daily cycle */

struct season {
	bool there;
	double bin[BINS]; /* of the time of day, by minutes since 0 */
};

static double correlation(const double *a, const double *b)
{
	double n = 0, ma = 0, mb = 0, aa = 0, bb = 0, ab = 0;

	for (int i = 0; i < BINS; i++)
		if (!isnan(a[i]) && !isnan(b[i])) {
			ma += a[i];
			mb += b[i];
			n++;
		}
	for (int i = 0; i < BINS && n > 0; i++)
		if (!isnan(a[i]) && !isnan(b[i])) {
			double x = a[i] - ma / n, y = b[i] - mb / n;

			aa += x * x;
			bb += y * y;
			ab += x * y;
		}
	return n >= BINS / 2. && aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : 0;
}

/* The median of those of up to seven days before minute `to` that are like another one, each less its own median: working
 * days, for example. */
static void find_season(const struct aging_series *s, long to, struct season *out)
{
	double day[SEASON_DAYS][BINS], v[SEASON_DAYS];
	bool like[SEASON_DAYS] = {false};
	int days = 0;

	out->there = false;
	to -= to % BIN;
	/* Of the first one half is enough. */
	for (; days < SEASON_DAYS && to - days * DAY - DAY / 2 >= s->first; days++) {
		double middle = median_at(s, to - (days + 1) * DAY, to - days * DAY);

		for (int i = 0; i < BINS; i++) {
			long m = to - (days + 1) * DAY + i * BIN;

			day[days][(m + KEPT) / BIN % BINS] = m < s->first ? NAN : median_at(s, m, m + BIN) - middle;
		}
	}
	for (int a = 0; a < days; a++)
		for (int b = a + 1; b < days; b++)
			if (correlation(day[a], day[b]) > SEASON)
				out->there = like[a] = like[b] = true;
	for (int i = 0; i < BINS && out->there; i++) {
		size_t n = 0;

		for (int d = 0; d < days; d++)
			if (like[d])
				v[n++] = day[d][i];
		out->bin[i] = aging_median(v, n);
		if (isnan(out->bin[i]))
			out->bin[i] = 0;
	}
}

/* Between the middles of two bins, in proportion. */
static double season_at(const struct season *season, double minute)
{
	double x = (minute - BIN / 2.) / BIN, part = x - floor(x);
	long i = (long)floor(x);

	return season->bin[i % BINS] * (1 - part) + season->bin[(i + 1) % BINS] * part;
}

/* What the cycle does within the last `minutes`, from its least to its most. */
static double season_range(const struct aging_series *s, int minutes, const struct season *season)
{
	double least = INFINITY, most = -INFINITY;

	for (long m = s->last + 1 - minutes; m <= s->last; m += BIN) {
		least = fmin(least, season_at(season, (double)m));
		most = fmax(most, season_at(season, (double)m));
	}
	return most - least;
}

/* Did the half day before minute `to` follow the cycle? */
static bool fits(const struct aging_series *s, long to, const struct season *season)
{
	double raw[BINS / 2], less[BINS / 2];

	for (int i = 0; i < BINS / 2; i++) {
		long m = to - (i + 1) * BIN;

		raw[i] = median_at(s, m, m + BIN);
		less[i] = raw[i] - season_at(season, (double)m + BIN / 2.);
	}
	return aging_spread(less, BINS / 2) < SEASON_FITS * aging_spread(raw, BINS / 2);
}

/* ---- judgement */

struct points {
	double t[POINTS], y[POINTS]; /* y: what is used up */
	size_t n, there;
};

/* The window's values, POINTS medians of equal length or less. */
static void take_points(const struct aging_series *s, const struct aging_resource *r, int minutes, const struct season *season,
			struct points *p)
{
	long block = (minutes + POINTS - 1) / POINTS, from = s->last + 1 - minutes;

	p->n = p->there = 0;
	for (long m = from; m + block <= s->last + 1; m += block) {
		double y = median_at(s, m, m + block);

		if (season->there)
			y -= season_at(season, (double)m + (double)block / 2);
		p->t[p->n] = ((double)m + (double)block / 2) * MINUTE;
		p->y[p->n++] = r->falls ? -y : y;
		p->there += !isnan(y);
	}
}

/* Changes from one point to the next that stand out are shifts of the level, not growth: what they stand out by is taken off.
 * Returns how much that was, all in all. */
static double cut_jumps(struct points *p, double left)
{
	double v[POINTS], middle, most, before = NAN, off = 0;
	size_t n = 0;

	for (size_t i = 0; i < p->n; i++)
		if (!isnan(p->y[i])) {
			if (!isnan(before))
				v[n++] = p->y[i] - before;
			before = p->y[i];
		}
	middle = aging_median(v, n);
	most = fmax(JUMP * aging_spread(v, n), JUMP_LEFT * left);
	before = NAN;
	for (size_t i = 0; i < p->n; i++)
		if (!isnan(p->y[i])) {
			double x = p->y[i] - before - middle, now = p->y[i];

			if (x > most)
				off += x - most;
			if (x < -most)
				off += x + most;
			p->y[i] -= off;
			before = now;
		}
	return off;
}

struct part {
	double middle, least;
};

static void take_part(const struct points *p, int w, int i, struct part *out)
{
	size_t parts = (size_t)windows[w].parts, from = p->n * (size_t)i / parts, to = p->n * ((size_t)i + 1) / parts;

	out->middle = aging_median(p->y + from, to - from);
	out->least = INFINITY;
	for (size_t k = from; k < to; k++)
		if (p->y[k] < out->least) /* no NaN is */
			out->least = p->y[k];
}

/* Does it grow from part to part of the window, never by less than a share of the mean?  What fills and is emptied again comes
 * back to where it was: in windows of a day and more the least of each part has to grow, too, and in the others, if something
 * has been emptied, what there really was. */
static bool is_even(const struct points *cut, const struct points *real, double off, int w)
{
	struct part a[4], b[4];
	int last = windows[w].parts - 1;
	double share;

	for (int i = 0; i <= last; i++) {
		take_part(cut, w, i, &a[i]);
		take_part(real, w, i, &b[i]);
	}
	share = EVEN * (a[last].middle - a[0].middle) / last;
	for (int i = 1; i <= last; i++)
		if (!(a[i].middle - a[i - 1].middle > share) ||
		    (windows[w].minutes >= DAY && !(b[i].least - b[i - 1].least > share)) ||
		    (off < -share && !(b[i].middle - b[i - 1].middle > share)))
			return false;
	return true;
}

/* Does the last part of the window level off before the limit?  Its slope halves every so often: what is still to come is
 * finite. */
static bool levels_off(const struct points *p, size_t from, double left)
{
	struct aging_curve curve;
	double end;

	aging_parabola(p->t + from, p->y + from, p->n - from, &curve);
	if (!(curve.curve < -CURVED * curve.curve_error))
		return false;
	end = curve.slope + curve.curve * (p->t[p->n - 1] - p->t[from]);
	return end <= 0 || end * end / (-2 * curve.curve) * 1.5 < left;
}

/* When growth of so much a minute, and the cycle, will have used up what is left. */
static double used_up(double left, double slope, const struct aging_resource *r, const struct season *season, long now)
{
	double sign = r->falls ? -1 : 1;

	if (!(slope > 0))
		return INFINITY;
	for (long m = 0; m < FORECAST && season->there; m += BIN)
		if (slope * (double)m + sign * (season_at(season, (double)(now + m)) - season_at(season, (double)now)) >= left)
			return (double)m * MINUTE;
	return left / slope * MINUTE;
}

static void forecast(struct aging_verdict *v, const struct aging_line *line, const struct aging_resource *r,
		     const struct season *season, long now)
{
	v->slope = line->slope;
	v->low = line->low;
	v->high = line->high;
	v->seasonal = season->there;
	v->exhausted_in = used_up(v->left, line->slope * MINUTE, r, season, now);
	v->earliest = used_up(v->left, line->high * MINUTE, r, season, now);
	v->latest = used_up(v->left, line->low * MINUTE, r, season, now);
}

enum evidence { NONE, LEVELS, GROWS };

static enum evidence look_at(const struct aging_series *s, const struct aging_resource *r, int w, const struct season *season,
			     struct aging_verdict *v)
{
	struct aging_line line;
	struct aging_mk mk;
	struct points p, real;
	double off;

	take_points(s, r, windows[w].minutes, season, &p);
	if (p.there * 10 < p.n * 8)
		return NONE;
	real = p;
	off = cut_jumps(&p, v->left);
	aging_mann_kendall(p.y, p.n, AGING_ALL_LAGS, &mk);
	if (!(mk.s > 0) || !(mk.p < SURE_P))
		return NONE;
	aging_theil_sen(p.t, p.y, p.n, mk.var, SURE_Z, &line);
	if (!(line.low > 0) || v->left > line.slope * windows[w].horizon * MINUTE)
		return NONE;
	/* No day is quite like another. */
	if (season->there && line.slope * windows[w].minutes * MINUTE < SEASON_VARIES * season_range(s, windows[w].minutes, season))
		return NONE;
	/* It may have begun within the window. */
	for (size_t k = 0; k < 3; k++)
		if (levels_off(&p, p.n * k / 4, v->left))
			return LEVELS;
	if (!is_even(&p, &real, off, w))
		return NONE;
	v->window = windows[w].minutes * MINUTE;
	v->p = mk.p;
	forecast(v, &line, r, season, s->last + 1);
	return GROWS;
}

static enum evidence look_at_all(const struct aging_series *s, const struct aging_resource *r, struct aging_verdict *v)
{
	enum evidence best = NONE;

	for (int w = 0; w < WINDOWS; w++) {
		struct season season = {.there = false};
		struct aging_verdict found = *v;
		enum evidence e;

		if (s->last + 1 - windows[w].minutes < s->first + WARM_UP)
			break;
		e = look_at(s, r, w, &season, &found);
		/* Windows of several days have the whole cycle in them.  In the others growth is none if the cycle explains
		 * it, and if only the cycle does, which may not be today's, it is none either. */
		if (windows[w].minutes <= DAY) {
			find_season(s, s->last + 1 - windows[w].minutes, &season);
			if (season.there) {
				struct aging_verdict less = *v;
				enum evidence f = look_at(s, r, w, &season, &less);

				if (e != GROWS ? fits(s, s->last + 1 - windows[w].minutes, &season) : f != GROWS) {
					found = less;
					e = f;
				}
			}
		}
		/* The longest that sees it: its slope is the surest. */
		if (e == GROWS || (e == LEVELS && best == NONE)) {
			best = e;
			*v = found;
		}
	}
	return best;
}

static void line_of(const struct aging_series *s, const struct aging_resource *r, int minutes, const struct season *season,
		    double left, struct aging_line *line)
{
	struct aging_mk mk, plain;
	struct points p;

	take_points(s, r, minutes, season, &p);
	cut_jumps(&p, left);
	aging_mann_kendall(p.y, p.n, 0, &plain);
	aging_mann_kendall(p.y, p.n, AGING_ALL_LAGS, &mk);
	aging_theil_sen(p.t, p.y, p.n, fmax(mk.var, plain.var), SURE_Z, line);
}

/* Has what was used up since it began been given back? */
static bool given_back(const struct aging_series *s, const struct aging_resource *r, const struct season *season, double slope)
{
	long since = s->last + 1 - s->begin;
	double grown = median_at(s, s->last + 1 - BIN, s->last + 1) - median_at(s, s->begin, s->begin + BIN);

	if (season->there)
		grown -= season_at(season, (double)s->last) - season_at(season, (double)s->begin);
	return (r->falls ? -grown : grown) < GOES_ON * slope * (double)since * MINUTE;
}

/* What was found goes on as long as it grows by a share of what it did.  Its slope is that since it began, or, if that is not the
 * same any more, that of late. */
static bool goes_on(const struct aging_series *s, const struct aging_resource *r, struct aging_verdict *v, bool *back)
{
	long since = s->last + 1 - s->begin;
	struct aging_verdict found = s->trend;
	struct aging_line all, late;
	struct season season;

	if (since > KEPT)
		since = KEPT;
	find_season(s, s->last + 1 - since, &season);
	line_of(s, r, (int)since, &season, v->left, &all);
	*back = !(all.slope > 0) || given_back(s, r, &season, all.slope);
	if (*back)
		return false;
	line_of(s, r, (int)fmin(fmax((double)since / 4, windows[0].minutes), LATE), &season, v->left, &late);
	if (!(late.slope > GOES_ON * s->confirmed) || v->left > late.slope * FORECAST * MINUTE)
		return false;
	found.left = v->left;
	found.window = (double)since * MINUTE;
	forecast(&found, fabs(late.slope / all.slope - 1) < SAME ? &all : &late, r, &season, s->last + 1);
	*v = found;
	return true;
}

void aging_series_judge(struct aging_series *s, const struct aging_resource *r, double now, struct aging_verdict *v)
{
	enum evidence e;
	double level;
	bool back;

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
	if (s->last + 1 - s->first < LEARNING)
		return;
	e = look_at_all(s, r, v);
	if (now - s->judged > 2.5 * AGING_JUDGE_S)
		s->streak = 0;
	if (e != GROWS)
		s->streak = 0;
	else if (now - s->judged >= AGING_JUDGE_S / 2.)
		s->streak++;
	if (now - s->judged >= AGING_JUDGE_S / 2.)
		s->judged = now;
	v->finding = e == LEVELS ? AGING_LEVELS : AGING_STEADY;
	if (s->streak >= CONFIRM && !(s->trend.window > 0)) {
		s->begin = s->last + 1 - (long)(v->window / MINUTE);
		s->confirmed = v->slope;
	}
	if (s->streak >= CONFIRM)
		s->trend = *v;
	if (!(s->trend.window > 0))
		return;
	if (goes_on(s, r, v, &back) || s->streak >= CONFIRM) {
		s->trend = *v;
		s->found = now;
	} else if (back || now - s->found > TAKEN_BACK) {
		s->trend.window = 0;
		return;
	} else {
		double left = v->left;

		*v = s->trend;
		v->left = left;
	}
	v->finding = AGING_TREND;
}
