/* test_aging.c: the statistics of aging-monitor/ against published figures and brute force. */
#include "aging-monitor/collect.h"
#include "tests/unit/unit.h"

#include <math.h>
#include <sys/stat.h>

/* Monthly rainfall at Bogra, Bangladesh, 1981 to 2010, mm: the example of pymannkendall (M. Hussain, I. Mahmud, Journal of
 * Open Source Software 4(39), 2019), whose test suite has the figures below. */
#define N NAN
static const double rain[] = {
	32, 20, 25, 189, 240, 193, 379, 278, 301, 0,   0,  82, 0,  4,  N,  N,	121, 234, 360, 262, 120, 30,  11, 1,
	7,  3,	31, 31,	 355, 102, 248, 274, 308, N,   5,  26, 11, 16, 6,  48,	388, 539, 431, 272, 404, 186, 0,  2,
	0,  4,	1,  54,	 272, 459, 235, 164, 365, 135, 2,  N,  N,  4,  0,  128, 210, 163, 446, 225, 462, 467, 19, 13,
	0,  3,	17, 132, 178, 338, 525, 623, 145, 31,  19, 3,  0,  29, 25, 87,	259, 756, 486, 180, 292, 43,  92, 1,
	0,  16, 2,  0,	 130, 253, 594, 111, 273, 30,  0,  4,  0,  27, 24, 41,	292, 378, 499, 265, 320, 227, 4,  0,
	4,  14, 8,  48,	 416, 240, 404, 207, 733, 105, 0,  112, 0, 14, 0,  30,	140, 202, 289, 159, 424, 106, 3,  0,
	65, 3,	14, 58,	 268, 466, 432, 266, 240, 95,  1,  0,  10, 26, 4,  114, 94,  289, 173, 208, 263, 156, 5,  0,
	16, 16, 14, 0,	 111, 475, 534, 432, 471, 117, 70, 1,  3,  28, 7,  401, 184, 283, 338, 171, 335, 176, 0,  0,
	10, 11, 9,  140, 102, 208, 298, 245, 220, 29,  2,  27, 10, 13, 26, 84,	143, 367, 749, 563, 283, 353, 10, 0,
	0,  0,	0,  9,	 246, 265, 343, 429, 168, 133, 17, 0,  18, 35, 76, 158, 272, 250, 190, 289, 466, 84,  0,  0,
	0,  0,	0,  22,	 217, 299, 185, 115, 344, 203, 8,  N,  N,  0,  5,  284, 123, 254, 476, 496, 326, 27,  20, 0,
	4,  53, 72, 113, 214, 364, 219, 220, 156, 264, 0,  13, 0,  0,  45, 90,	137, 638, 529, 261, 206, 251, 0,  0,
	5,  9,	58, 72,	 138, 130, 471, 328, 356, 523, 0,  1,  0,  0,  12, 143, 193, 184, 192, 138, 174, 69,  1,  0,
	0,  18, 25, 28,	 92,  732, 320, 256, 302, 131, 15, 0,  27, 0,  22, 20,	213, 393, 474, 374, 109, 159, 0,  0,
	0,  3,	3,  49,	 205, 128, 194, 570, 169, 89,  0,  0,  0,  0,  0,  26,	185, 286, 92,  225, 244, 190, 3,  20,
};
#undef N
enum { MONTHS = sizeof(rain) / sizeof(rain[0]) };

static void expect(const struct aging_mk *r, double s, double var, double z, double p)
{
	cr_expect_eq(r->s, s, "%.17g", r->s);
	cr_expect_float_eq(r->var, var, 1e-9 * var, "%.17g", r->var);
	cr_expect_float_eq(r->z, z, 1e-9, "%.17g", r->z);
	cr_expect_float_eq(r->p, p, 1e-9, "%.17g", r->p);
}

UNIT(aging, mann_kendall_has_the_published_figures)
{
	struct aging_mk r;
	struct aging_line line;

	cr_assert_eq(MONTHS, 360);
	aging_mann_kendall(rain, MONTHS, 0, &r);
	expect(&r, -1959, 4889800.333333333, -0.8854562842589916, 0.37591058740506833);
	aging_mann_kendall(rain, MONTHS, AGING_ALL_LAGS, &r);
	expect(&r, -1959, 257403.38678662413, -3.859273515045842, 0.00011372459883540742);
	aging_mann_kendall(rain, MONTHS, 3, &r);
	expect(&r, -1959, 14226812.425138814, -0.5191093899188985, 0.603684460662274);
	aging_seasonal_mann_kendall(rain, MONTHS, 12, &r);
	expect(&r, -399, 34702.333333333336, -2.136504114534638, 0.03263834596177739);
	/* (There the values that are missing are left out before they are numbered.) */
	double there[MONTHS];
	size_t k = 0;
	for (size_t i = 0; i < MONTHS; i++)
		if (!isnan(rain[i]))
			there[k++] = rain[i];
	aging_theil_sen(NULL, there, k, 0, 0, &line);
	cr_expect_float_eq(line.slope, -0.0064516129032258064, 1e-15, "%.17g", line.slope);
}

/* The same numbers every time. */
static double draw(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return (double)(*state >> 11) / (double)(1ull << 53);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

UNIT(aging, medians_and_slopes_are_those_of_brute_force)
{
	uint64_t seed = 1;

	for (int round = 0; round < 300; round++) {
		size_t n = 1 + (size_t)(draw(&seed) * 40), pairs = 0;
		double t[40], y[40], all[780], sorted[40];
		struct aging_line line;
		struct aging_mk r;

		for (size_t i = 0; i < n; i++) {
			t[i] = (double)i + draw(&seed) / 2;
			y[i] = floor(draw(&seed) * (round % 2 ? 8 : 1e6)); /* with and without ties */
			sorted[i] = y[i];
		}
		qsort(sorted, n, sizeof(*sorted), by_value);
		cr_assert_eq(aging_median(y, n), (sorted[(n - 1) / 2] + sorted[n / 2]) / 2);
		for (size_t i = 0; i < n; i++)
			for (size_t j = i + 1; j < n; j++)
				all[pairs++] = (y[j] - y[i]) / (t[j] - t[i]);
		aging_mann_kendall(y, n, 0, &r);
		aging_theil_sen(t, y, n, r.var, 1.96, &line);
		if (n < 2) {
			cr_assert(isnan(line.slope));
			continue;
		}
		qsort(all, pairs, sizeof(*all), by_value);
		cr_assert_eq(line.slope, (all[(pairs - 1) / 2] + all[pairs / 2]) / 2);
		cr_assert(line.low <= line.slope && line.slope <= line.high);
	}
}

/* With independent values 5 % of the tests are wrong, and 5 % of the intervals; with autocorrelation the plain test cries
 * wolf, the corrected one less. */
UNIT(aging, the_tests_are_as_often_wrong_as_they_say)
{
	enum { ROUNDS = 1000, VALUES = 60 };
	unsigned int plain = 0, outside = 0, alarms = 0, corrected = 0;
	uint64_t seed = 7;

	for (int round = 0; round < ROUNDS; round++) {
		double y[VALUES], x = 0;
		struct aging_line line;
		struct aging_mk r;

		for (int i = 0; i < VALUES; i++)
			y[i] = draw(&seed) + draw(&seed) + draw(&seed) + 0.1 * i;
		aging_mann_kendall(y, VALUES, 0, &r);
		aging_theil_sen(NULL, y, VALUES, r.var, 1.96, &line);
		outside += line.low > 0.1 || line.high < 0.1;
		for (int i = 0; i < VALUES; i++)
			y[i] -= 0.1 * i;
		aging_mann_kendall(y, VALUES, 0, &r);
		plain += r.p < 0.05;
		for (int i = 0; i < VALUES; i++)
			y[i] = x = 0.6 * x + draw(&seed) - 0.5;
		aging_mann_kendall(y, VALUES, 0, &r);
		alarms += r.p < 0.05;
		aging_mann_kendall(y, VALUES, AGING_ALL_LAGS, &r);
		corrected += r.p < 0.05;
	}
	cr_expect(plain > 30 && plain < 72, "%u of %d", plain, ROUNDS);
	cr_expect(outside > 20 && outside < 72, "%u of %d", outside, ROUNDS);
	cr_expect(alarms > 250, "%u of %d", alarms, ROUNDS);
	cr_expect(corrected < alarms * 3 / 4, "%u and %u of %d", corrected, alarms, ROUNDS);
}

UNIT(aging, a_parabola_is_found_in_noise)
{
	struct aging_curve r;
	double t[100], y[100];
	uint64_t seed = 3;

	for (int i = 0; i < 100; i++) {
		t[i] = 1e9 + 60 * i;
		y[i] = 5 + 0.5 * (i - 49.5) - 0.01 * (i - 49.5) * (i - 49.5);
	}
	aging_parabola(t, y, 100, &r);
	cr_expect_float_eq(r.slope * 60, 0.5, 1e-6);
	cr_expect_float_eq(r.curve * 3600, -0.01, 1e-8);
	for (int i = 0; i < 100; i++)
		y[i] += draw(&seed) - 0.5;
	aging_parabola(t, y, 100, &r);
	cr_expect(fabs(r.curve * 3600 + 0.01) < 3 * r.curve_error * 3600);
	cr_expect_float_eq(r.residual, sqrt(1 / 12.), 0.05, "%g", r.residual);
}

UNIT(aging, nothing_and_constants_are_no_trend)
{
	double y[10] = {NAN, NAN, 3, NAN, NAN, NAN, NAN, NAN, NAN, NAN}, same[10] = {4, 4, 4, 4, 4, 4, 4, 4, 4, 4};
	struct aging_curve curve;
	struct aging_line line;
	struct aging_mk r;

	cr_expect(isnan(aging_median(y, 0)) && isnan(aging_spread(y, 2)));
	aging_mann_kendall(y, 10, AGING_ALL_LAGS, &r);
	cr_expect(r.n == 1 && r.p == 1 && r.z == 0);
	aging_theil_sen(NULL, y, 10, 0, 2, &line);
	cr_expect(isnan(line.slope));
	aging_parabola(y, y, 10, &curve);
	cr_expect(isnan(curve.curve));
	aging_mann_kendall(same, 10, AGING_ALL_LAGS, &r);
	cr_expect(r.p == 1 && r.s == 0);
	aging_theil_sen(NULL, same, 10, r.var, 2, &line);
	cr_expect(line.slope == 0 && line.level == 4);
}

/* ---- judgement */

enum { MINUTE = 60, HOUR = 3600, DAY = 24 * HOUR };

/* Samples a minute of what `used` says, with noise of 1; judged every five minutes of the last day.  Returns the worst finding
 * and, in *v, the last verdict. */
static enum aging_finding watch(double (*used)(double t), double until, struct aging_verdict *v)
{
	const struct aging_resource r = {.capacity = 1000};
	struct aging_series *s = aging_series_create();
	enum aging_finding worst = AGING_UNKNOWN;
	uint64_t seed = 5;

	for (double t = 0; t < until; t += MINUTE) {
		cr_assert(aging_series_add(s, t, used(t) + 2 * draw(&seed)));
		if (t < until - DAY || fmod(t, AGING_JUDGE_S) >= MINUTE)
			continue;
		aging_series_judge(s, &r, t, v);
		if (v->finding > worst)
			worst = v->finding;
	}
	aging_series_destroy(s);
	return worst;
}

static double flat(double t)
{
	return 300 + 0 * t;
}

static double leaking(double t) /* exhausted 2.9 days after it began, on the third day */
{
	return 300 + fmax(t - 2.5 * DAY, 0) * 10 / HOUR;
}

static double stepping(double t)
{
	return t < 2.5 * DAY ? 300 : 500;
}

static double filling(double t)
{
	return 300 + 250 * (1 - exp(-fmax(t - 2.5 * DAY, 0) / HOUR));
}

static double daily(double t)
{
	return 300 + 100 * sin(t / DAY * 2 * M_PI);
}

static double exhausted(double t)
{
	return t < 2.5 * DAY ? 300 : 970;
}

UNIT(aging, a_leak_is_told_from_what_only_looks_so)
{
	struct aging_verdict v;

	cr_expect_eq(watch(flat, 3 * DAY, &v), AGING_STEADY);
	cr_expect_eq(watch(stepping, 3 * DAY, &v), AGING_STEADY);
	cr_expect_leq(watch(filling, 3 * DAY, &v), AGING_LEVELS);
	cr_expect_eq(watch(daily, 4 * DAY, &v), AGING_STEADY);
	cr_expect_eq(watch(exhausted, 3 * DAY, &v), AGING_CRITICAL);
	cr_expect_eq(watch(leaking, 3 * DAY, &v), AGING_TREND);
	/* 12 hours of it: 58 are to come. */
	cr_expect_float_eq(v.slope * HOUR, 10, 0.3, "%g", v.slope * HOUR);
	cr_expect_float_eq(v.exhausted_in / HOUR, 58, 3, "%g", v.exhausted_in / HOUR);
	cr_expect(v.earliest <= v.exhausted_in && v.exhausted_in <= v.latest);
}

/* A quarter of the time something uses 84 for five minutes, or ten. */
static double bursts(double t)
{
	uint64_t seed = (uint64_t)(t / (5 * MINUTE)) + 1, before = seed - 1;

	return (draw(&seed), draw(&seed) < 0.15) || (draw(&before), draw(&before) < 0.15) ? 84 : 0;
}

static double bursting(double t)
{
	return 300 + bursts(t);
}

static double leaking_in_bursts(double t)
{
	return leaking(t) + bursts(t);
}

/* What is used for a moment is no growth, and hides none; but it will be the end of it earlier. */
UNIT(aging, the_floor_of_what_is_used_counts)
{
	struct aging_verdict v;

	cr_expect_eq(watch(bursting, 4 * DAY, &v), AGING_STEADY);
	cr_expect_eq(watch(leaking_in_bursts, 3 * DAY, &v), AGING_TREND);
	cr_expect_float_eq(v.slope * HOUR, 10, 0.5, "%g", v.slope * HOUR);
	cr_expect_float_eq(v.exhausted_in / HOUR, 58 - 8.4, 3, "%g", v.exhausted_in / HOUR);
}

/* Ten at once, every hour or so. */
static double leaking_in_pieces(double t)
{
	uint64_t seed = 9;
	double used = 300;

	for (double next = 2.5 * DAY; next < t; next -= HOUR * log(1 - draw(&seed)))
		used += 10;
	return used;
}

UNIT(aging, a_leak_in_pieces_is_one)
{
	struct aging_verdict v;

	cr_expect_eq(watch(leaking_in_pieces, 3.5 * DAY, &v), AGING_TREND);
	cr_expect_float_eq(v.exhausted_in / HOUR, (1000 - leaking_in_pieces(3.5 * DAY)) / 10, 12, "%g", v.exhausted_in / HOUR);
}

/* Each day is half again as high as the least, or less, and some minutes late or early. */
static double unlike(double t)
{
	uint64_t seed = (uint64_t)(t / DAY) + 3;
	double height = 80 + 40 * (draw(&seed), draw(&seed)), late = (draw(&seed) - 0.5) * 20 * MINUTE;

	return 300 + height * (1 - cos((fmod(t, DAY) - late) / DAY * 2 * M_PI));
}

static double unlike_and_leaking(double t)
{
	return unlike(t) + fmax(t - 5 * DAY, 0) * 10 / HOUR;
}

UNIT(aging, days_differ_and_that_is_learnt_from_them)
{
	struct aging_verdict v;

	for (int days = 3; days <= 8; days++)
		cr_expect_leq(watch(unlike, days * DAY, &v), AGING_LEVELS, "on day %d: %.1f/h for %.0f minutes", days, v.slope * HOUR,
			      v.window / MINUTE);
	cr_expect_eq(watch(unlike_and_leaking, 5.7 * DAY, &v), AGING_TREND);
}

static double leak_begin, leak_end, given_back;

static double leaked(double t)
{
	return 300 + (t < leak_end ? fmax(t - leak_begin, 0) * 20 / HOUR : given_back ? 0 : (leak_end - leak_begin) * 20 / HOUR);
}

UNIT(aging, what_is_given_back_or_stops_is_not_held_against_it)
{
	struct aging_verdict v;

	leak_begin = 3 * DAY;
	leak_end = 3 * DAY + 12 * HOUR;
	cr_expect_eq(watch(leaked, leak_end, &v), AGING_TREND);
	given_back = 1;
	watch(leaked, leak_end + HOUR, &v);
	cr_expect_lt(v.finding, AGING_TREND, "given back an hour ago: %d", v.finding);
	given_back = 0;
	watch(leaked, leak_end + 4 * HOUR, &v);
	cr_expect_lt(v.finding, AGING_TREND, "stopped four hours ago: %.1f hours are left", v.exhausted_in / HOUR);
}

UNIT(aging, two_days_are_learnt_and_silence_is_no_health)
{
	struct aging_verdict v;

	cr_expect_eq(watch(leaking, DAY, &v), AGING_LEARNING);
	cr_expect_eq(watch(flat, 30 * MINUTE, &v), AGING_LEARNING);

	struct aging_series *s = aging_series_create();
	const struct aging_resource r = {.capacity = 1000};
	aging_series_judge(s, &r, 0, &v);
	cr_expect_eq(v.finding, AGING_UNKNOWN);
	for (double t = 0; t < HOUR; t += MINUTE)
		aging_series_add(s, t, 5);
	aging_series_judge(s, &r, HOUR, &v);
	cr_expect_eq(v.finding, AGING_LEARNING);
	aging_series_judge(s, &r, 2 * HOUR, &v);
	cr_expect_eq(v.finding, AGING_UNKNOWN);
	/* Not backwards, and no nonsense; a clock that jumps far ahead begins a new history. */
	cr_expect(!aging_series_add(s, 30 * MINUTE, 5) && !aging_series_add(s, 2 * HOUR, NAN) && !aging_series_add(s, -1, 5) &&
		  !aging_series_add(s, INFINITY, 5));
	cr_expect(aging_series_add(s, 400. * DAY, 5) && aging_series_add(s, 400. * DAY + MINUTE, 5));
	aging_series_judge(s, &r, 400. * DAY + MINUTE, &v);
	cr_expect_eq(v.finding, AGING_LEARNING);
	aging_series_destroy(s);
}

/* What a hypervisor's samples look like: two days, then `then` for a day. */
static void live(struct aging_subject *s, struct aging_health *h, double leak, double steal)
{
	uint64_t seed = 11;

	for (double t = 0; t < 3 * DAY; t += MINUTE) {
		double gone = fmax(t - 2.5 * DAY, 0), noisy = draw(&seed);

		aging_subject_add(s, "memory_available", AGING_LEFT, 1000, t, 700 - gone * leak / HOUR + noisy);
		aging_subject_add(s, "memory:slab/dentry", AGING_PART, 0, t, 50 + 0.8 * gone * leak / HOUR);
		aging_subject_add(s, "memory:slab/inode", AGING_PART, 0, t, 50 + noisy);
		aging_subject_add(s, "files_open", AGING_USED, 1024, t, 100);
		aging_subject_add(s, "reply_time", AGING_LATENCY, 4, t, gone > 0 ? 0.001 + steal * gone * 1e-7 : 0.001 + noisy * 1e-5);
		aging_subject_add(s, "steal", AGING_CONTENTION, 0.1, t, gone > 0 ? steal : 0.02);
		if (fmod(t, AGING_JUDGE_S) < MINUTE)
			aging_subject_judge(s, t, h);
	}
}

UNIT(aging, an_old_hypervisor_is_told_from_a_contended_one)
{
	struct aging_health h;
	struct aging_subject *s = aging_subject_create();

	live(s, &h, 0, 0);
	cr_expect_eq(h.state, AGING_STATE_HEALTHY, "%s", h.evidence);
	aging_subject_destroy(s);

	s = aging_subject_create();
	live(s, &h, 10, 0);
	cr_expect_eq(h.state, AGING_STATE_AGEING, "%s", h.evidence);
	cr_expect_str_eq(h.indicator, "memory_available");
	cr_assert_eq(h.culprits, 1, "%s", h.evidence);
	cr_expect_str_eq(h.culprit[0].name, "slab/dentry");
	cr_expect_float_eq(h.culprit[0].share, 0.8, 0.05, "%g", h.culprit[0].share);
	cr_expect(strstr(h.evidence, "memory_available will be exhausted in"), "%s", h.evidence);
	cr_expect(strstr(h.evidence, "by slab/dentry (8"), "%s", h.evidence);
	aging_subject_destroy(s);

	s = aging_subject_create();
	live(s, &h, 0, 0.4);
	cr_expect_eq(h.state, AGING_STATE_CONTENDED, "%s", h.evidence);
	cr_expect(strstr(h.evidence, "steal: it waits for 40 %"), "%s", h.evidence);
	/* Both: it is old, and that does not pass. */
	aging_subject_destroy(s);
	s = aging_subject_create();
	live(s, &h, 10, 0.4);
	cr_expect_eq(h.state, AGING_STATE_AGEING, "%s", h.evidence);
	aging_subject_destroy(s);
}

/* Load averages hide bursts: two minutes of every ten. */
UNIT(aging, contention_is_seen_in_bursts_and_a_little_is_none)
{
	struct aging_subject *s = aging_subject_create();
	struct aging_health h;

	for (double t = 0; t < HOUR; t += 5)
		aging_subject_add(s, "steal", AGING_CONTENTION, 0.1, t, fmod(t, 600) < 120 ? 0.4 : 0);
	aging_subject_judge(s, HOUR, &h);
	cr_expect_eq(h.state, AGING_STATE_UNKNOWN, "what waits is no health: %s", h.evidence);
	for (double t = HOUR; t < 2 * HOUR; t += 5) {
		aging_subject_add(s, "memory_available", AGING_LEFT, 1000, t, 500);
		aging_subject_add(s, "steal", AGING_CONTENTION, 0.1, t, fmod(t, 600) < 120 ? 0.4 : 0);
	}
	aging_subject_judge(s, 2 * HOUR, &h);
	cr_expect_eq(h.state, AGING_STATE_CONTENDED, "%s", h.evidence);
	cr_expect(strstr(h.evidence, "steal: it waits for 8 % of its CPU time, 40 % in bursts"), "%s", h.evidence);
	/* What paravirtual I/O makes is normal; so is one burst of half a minute. */
	for (double t = 2 * HOUR; t < 3 * HOUR; t += 5) {
		aging_subject_add(s, "memory_available", AGING_LEFT, 1000, t, 500);
		aging_subject_add(s, "steal", AGING_CONTENTION, 0.1, t, fmod(t, 600) < 30 ? 0.4 : 0.05);
	}
	aging_subject_judge(s, 3 * HOUR, &h);
	cr_expect_eq(h.state, AGING_STATE_LEARNING, "%s", h.evidence);
	aging_subject_destroy(s);
}

UNIT(aging, an_indicator_is_told_and_made_anew)
{
	struct aging_subject *s = aging_subject_create(), *again = aging_subject_create();
	struct aging_indicator i;

	for (double t = 0; t < HOUR; t += MINUTE)
		aging_subject_add(s, "answer_time", AGING_LATENCY, 4, t, 0.5 + t / HOUR);
	cr_assert(aging_subject_indicator(s, 0, &i) && !aging_subject_indicator(s, 1, &i));
	cr_expect(!strcmp(i.name, "answer_time") && i.kind == AGING_LATENCY && i.limit == 4 && i.seen == HOUR - MINUTE && i.first == 0);
	cr_expect_float_eq(i.value, 1.483, 0.001);
	cr_expect_float_eq(aging_subject_median(s, 0, 0, 3 * MINUTE), 0.5 + 1. / 60, 1e-6);
	cr_expect(isnan(aging_subject_median(s, 1, 0, HOUR)));
	i.usual = 0.25;
	cr_expect(aging_subject_restore(again, &i) && aging_subject_indicator(again, 0, &i) && i.usual == 0.25);
	i.limit = NAN;
	cr_expect(!aging_subject_restore(again, &i));
	aging_subject_destroy(s);
	aging_subject_destroy(again);
	cr_expect_str_eq(aging_unit("memory:slab/x"), "bytes");
	cr_expect_str_eq(aging_unit("memory_pressure"), "ratio");
	cr_expect_str_eq(aging_unit("migrate_time"), "seconds");
	cr_expect_str_eq(aging_unit("files_open"), "");
}

UNIT(aging, what_is_not_told_any_more_is_no_health_and_faults_are_counted)
{
	struct aging_subject *s = aging_subject_create();
	struct aging_health h;
	double t = 0;

	for (; t < 3 * DAY; t += MINUTE) {
		if (t < 2.5 * DAY)
			aging_subject_add(s, "memory_available", AGING_LEFT, 1000, t, 500);
		aging_subject_add(s, "files_open", AGING_USED, 1000, t, 50);
	}
	aging_subject_judge(s, t, &h);
	cr_expect_eq(h.state, AGING_STATE_UNKNOWN, "%s", h.evidence);
	cr_expect(strstr(h.evidence, "memory_available is not told"), "%s", h.evidence);
	aging_subject_destroy(s);

	/* Nobody has moved a VM for half a day. */
	s = aging_subject_create();
	for (t = 0; t < 3 * DAY; t += MINUTE) {
		if (t < 2.5 * DAY)
			aging_subject_add(s, "migrate_time", AGING_LATENCY, 4, t, 0.1);
		aging_subject_add(s, "files_open", AGING_USED, 1000, t, 50);
	}
	aging_subject_judge(s, t, &h);
	cr_expect_eq(h.state, AGING_STATE_HEALTHY, "%s", h.evidence);
	aging_subject_destroy(s);

	s = aging_subject_create();
	for (t = 0; t < 2 * HOUR; t += MINUTE)
		aging_subject_add(s, "kernel_bug", AGING_FAULTS, 0, t, t < HOUR ? 7 : 9);
	aging_subject_add(s, "kernel_bug", AGING_FAULTS, 0, t, 1); /* booted anew */
	aging_subject_judge(s, t, &h);
	cr_expect(h.fault && h.faults == 3 && h.state == AGING_STATE_AGEING, "%s", h.evidence);
	aging_subject_judge(s, t + 2 * DAY, &h);
	cr_expect(!h.fault && h.state == AGING_STATE_UNKNOWN, "%s", h.evidence);
	aging_subject_destroy(s);
}

UNIT(aging, hostile_samples_are_counted_and_change_nothing)
{
	struct aging_subject *s = aging_subject_create();
	struct aging_health h;
	char name[AGING_NAME + 10];
	size_t added = 0;

	aging_subject_judge(s, 0, &h);
	cr_expect(h.state == AGING_STATE_UNKNOWN && !strcmp(h.evidence, "no samples yet"), "%s", h.evidence);
	for (double t = 0; t < HOUR; t += MINUTE)
		cr_assert(aging_subject_add(s, "memory_available", AGING_LEFT, 1000, t, 500));
	cr_expect(!aging_subject_add(s, "memory_available", AGING_LEFT, 1000, HOUR, NAN));
	cr_expect(!aging_subject_add(s, "memory_available", AGING_LEFT, 1000, HOUR, -1));
	cr_expect(!aging_subject_add(s, "memory_available", AGING_LEFT, 1000, HOUR, 1e300));
	cr_expect(!aging_subject_add(s, "memory_available", AGING_LEFT, NAN, HOUR, 5));
	cr_expect(!aging_subject_add(s, "memory_available", AGING_LEFT, 1000, 5, 5));
	cr_expect(!aging_subject_add(s, "memory_available", AGING_USED, 1000, HOUR, 5));
	cr_expect(!aging_subject_add(s, "steal", AGING_CONTENTION, 0.1, HOUR, 1.5));
	cr_expect(!aging_subject_add(s, "", AGING_USED, 1, HOUR, 1) && !aging_subject_add(s, "a\nb", AGING_USED, 1, HOUR, 1));
	memset(name, 'x', sizeof(name));
	name[sizeof(name) - 1] = 0;
	cr_expect(!aging_subject_add(s, name, AGING_USED, 1, HOUR, 1));
	for (int i = 0; i < 10 * AGING_INDICATORS; i++) {
		snprintf(name, sizeof(name), "memory:p%d", i);
		added += aging_subject_add(s, name, AGING_PART, 0, HOUR, 1);
	}
	cr_expect_eq(added, AGING_INDICATORS - 1);
	aging_subject_judge(s, HOUR, &h);
	cr_expect_eq(h.state, AGING_STATE_LEARNING);
	cr_expect_eq(h.refused, 10, "%lu", h.refused);
	cr_expect(strstr(h.evidence, "made no sense"), "%s", h.evidence);
	aging_subject_judge(s, 2 * HOUR, &h);
	cr_expect_eq(h.state, AGING_STATE_UNKNOWN, "%s", h.evidence);
	aging_subject_destroy(s);
	aging_subject_destroy(NULL);
}

/* ---- collectors, on a /proc of files */

static void put(const char *proc, const char *file, const char *text)
{
	char path[400];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", proc, file);
	for (char *p = path + strlen(proc) + 1; (p = strchr(p, '/')); p++) {
		*p = 0;
		mkdir(path, 0755);
		*p = '/';
	}
	f = fopen(path, "w");
	cr_assert(f);
	fputs(text, f);
	fclose(f);
}

static double value_of(const struct aging_samples *s, const char *name, enum aging_kind kind, double limit)
{
	for (size_t i = 0; i < s->n; i++)
		if (!strcmp(s->sample[i].name, name)) {
			cr_expect_eq(s->sample[i].kind, kind, "%s", name);
			cr_expect_eq(s->sample[i].limit, limit, "%s: %g", name, s->sample[i].limit);
			return s->sample[i].value;
		}
	return NAN;
}

UNIT(aging, collectors_read_what_the_kernel_writes)
{
	static struct aging_samples s;
	struct aging_process process = {0};
	struct aging_collector *c;
	char proc[] = "/tmp/aging-XXXXXX", command[100];

	cr_assert(mkdtemp(proc));
	c = aging_collector_create(proc, NULL);
	/* Nothing is there: nothing is said. */
	aging_collect(c, 100, &s);
	aging_collect_process(proc, 7, &process, 100, &s);
	cr_expect_eq(value_of(&s, "processes", AGING_PLAIN, 0), 0);
	cr_expect_eq(s.n, 1);
	put(proc, "meminfo", "MemTotal:       1000 kB\nMemFree:  100 kB\nMemAvailable:   400 kB\nSwapTotal:       0 kB\nSwapFree: 0 kB\nPageTables: 7 kB\n");
	put(proc, "sys/fs/file-nr", "96\t0\t1000\n");
	put(proc, "sys/fs/file-max", "1000\n");
	put(proc, "sys/kernel/threads-max", "500\n");
	put(proc, "stat", "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 2\nintr 50 1 2\nctxt 1000\nprocesses 10\n");
	s.n = 0;
	aging_collect(c, 105, &s);
	cr_expect(isnan(value_of(&s, "cpu_pressure", AGING_CONTENTION, 0)) && isnan(value_of(&s, "forks", AGING_PLAIN, 0)));
	s.n = 0;
	aging_collect(c, 107, &s); /* what costs most is looked at every third time */
	cr_expect(isnan(value_of(&s, "threads", AGING_USED, 500)));
	put(proc, "pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\nfull avg10=0 total=7\n");
	put(proc, "slabinfo", "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize>\ndentry 900 1000 1024 16 1 : tunables\nsmall 1 1 8 1 1 :\n");
	put(proc, "7/status", "Name:\tvmm x\nThreads:\t3\nRssAnon:\t    2048 kB\n");
	put(proc, "8/status", "Name:\tvmm x\nThreads:\t1\nRssAnon:\t    1024 kB\n");
	put(proc, "9/status", "Name:\tkworker\nThreads:\t1\n");
	put(proc, "7/limits", "Limit Soft Hard Units\nMax open files            64                 4096                 files\n");
	put(proc, "7/fd/0", "");
	put(proc, "7/task/7/schedstat", "3000 1000 5\n");
	s.n = 0;
	aging_collect(c, 110, &s);
	cr_expect_eq(value_of(&s, "memory_available", AGING_LEFT, 1000 * 1024), 400 * 1024);
	cr_expect_eq(value_of(&s, "swap_free", AGING_PLAIN, 0), 0);
	cr_expect_eq(value_of(&s, "memory:page-tables", AGING_PART, 0), 7 * 1024);
	cr_expect_eq(value_of(&s, "files_open", AGING_USED, 1000), 96);
	cr_expect_eq(value_of(&s, "threads", AGING_USED, 500), 5);
	cr_expect_eq(value_of(&s, "memory:slab/dentry", AGING_PART, 0), 1000 * 1024);
	cr_expect(isnan(value_of(&s, "memory:slab/small", AGING_PART, 0)));
	cr_expect_eq(value_of(&s, "memory:process/vmm_x", AGING_PART, 0), 3072 * 1024);
	put(proc, "stat", "cpu  140 0 110 820 0 0 0 30 0 0\nintr 150 1\nctxt 2000\nprocesses 10\n");
	put(proc, "pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=3000000\n");
	s.n = 0;
	aging_collect(c, 120, &s);
	cr_expect_float_eq(value_of(&s, "steal", AGING_CONTENTION, 0.1), 0.3, 1e-9);
	cr_expect_float_eq(value_of(&s, "cpu_pressure", AGING_CONTENTION, 0.5), 0.2, 1e-9);
	cr_expect_float_eq(value_of(&s, "context_switches", AGING_PLAIN, 0), 100, 1e-9);
	s.n = 0;
	aging_collect_process(proc, 7, &process, 120, &s);
	put(proc, "7/task/7/schedstat", "6000 2000 5\n");
	aging_collect_process(proc, 7, &process, 130, &s);
	cr_expect_eq(value_of(&s, "process_memory", AGING_PLAIN, 0), 2048 * 1024);
	cr_expect_eq(value_of(&s, "process_files", AGING_USED, 64), 1);
	cr_expect_float_eq(value_of(&s, "run_delay", AGING_CONTENTION, 0.5), 0.25, 1e-9);
	aging_collector_destroy(c);
	snprintf(command, sizeof(command), "rm -r %s", proc);
	cr_assert_eq(system(command), 0);
}
