/* aging.c: how early the ageing monitor sees a leak, and how often it is wrong: simulated hypervisors of some days each, whose
 * noise is pieces of a recorded one.  `make bench-aging`.
 *
 * aging DAYS RUNS SEED NOISE...: a table for each NOISE, which holds a machine's memory and, a line each and 5 s apart, what was
 * available of it (bench/aging-noise-hypervisor.txt: a guest hypervisor of 1 GiB whose guests were started, moved and stopped all
 * the time; bench/aging-noise.txt: a machine of 24 GiB on which all tests ran, at its worst).  DAYS simulated days of each
 * look-alike, RUNS leaks of each rate.  Beside ours, on the same samples: Mann-Kendall alone (5 %, the last 100 minutes), and a
 * fixed threshold (a fifth left).
 *
 * And of hypervisors that are replaced, the successor taking over the history: leaks that go on in each successor, replaced when the
 * forecast is less than 12 h, then one without the leak; and look-alikes replaced once a day.  A fresh hypervisor fills up to a
 * twentieth of what is left, ever slower.
 *
 * Each row is a process of its own, as many at a time as there are processors (JOBS=n: n).  What is drawn is decided by the seed
 * and the row alone.
 */
#include "aging-monitor/aging.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	SAMPLE = 5, /* s */
	HOUR = 3600,
	DAY = 24 * HOUR,
	LEARN = 2 * DAY,
	RUN = 7 * DAY,  /* of a look-alike, the two days of learning included */
	PIECE = 120,	/* samples of noise in one piece */
	MINUTES = 100,	/* what Mann-Kendall alone looks at */
	REPLACED = 300, /* s: from the last sample of a hypervisor to the first of its successor */
	HORIZON = 12 * HOUR,
};
#define CAPACITY (1024. * 1048576)
#define PI	 3.14159265358979

static double *noise;
static size_t noises;
static uint64_t seed;

static double draw(void)
{
	/* S. Vigna, xorshift64*, ACM TOMS 42(4), 2016 */
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return (double)((seed * 2685821657736338717ull) >> 11) / (double)(1ull << 53);
}

static double between(double a, double b)
{
	return a + (b - a) * draw();
}

static double normal(void)
{
	return sqrt(-2 * log(1 - draw())) * cos(2 * PI * draw());
}

/* The recorded values less their median, in proportion to the capacity.  (A running median would take away what is slow in them,
 * and turn the end of a long burst of load into memory gained: bursts take, and give back.) */
static int read_noise(const char *path)
{
	FILE *f = fopen(path, "r");
	double x, capacity, middle;

	free(noise);
	noise = NULL;
	noises = 0;
	if (!f)
		return -1;
	if (fscanf(f, "%lf", &capacity) != 1 || !(capacity > 0)) {
		fclose(f);
		return -1;
	}
	while (noises < AGING_MOST_VALUES && fscanf(f, "%lf", &x) == 1) {
		noise = realloc(noise, (noises + 1) * sizeof(*noise));
		noise[noises++] = x * CAPACITY / capacity;
	}
	fclose(f);
	if (noises < 2 * PIECE)
		return -1;
	middle = aging_median(noise, noises);
	for (size_t i = 0; i < noises; i++)
		noise[i] -= middle;
	return 0;
}

/* ---- what a hypervisor's available memory does */

enum look { QUIET, CACHE, DAILY, WEEKEND, STEP, BURST, STEAL, LOOKS };
static const char *const look_name[] = {"quiet",	 "cache that fills",   "daily cycle",	 "daily, but weekends",
					"workload step", "burst of VMs, undone", "busy neighbour"};

struct world {
	enum look look;
	double left;	     /* at the beginning */
	double leak, since;  /* bytes/s from a time on */
	bool by_operations;  /* in pieces, whenever something is done there */
	double leaked, next;
	double born, warm, warming; /* a fresh hypervisor: fills so much, with a time constant */
	size_t piece, at;    /* of the noise */
	double scale;
	/* of the day */
	double event, size, rise, stay, tau, factor, phase, step, before;
	double amplitude, office;
	long day;
};

static void new_day(struct world *w, long day)
{
	w->day = day;
	w->event = between(0, DAY - 6 * HOUR);
	w->size = w->left * between(0.05, 0.3);
	w->rise = between(0, 1200);
	w->stay = between(600, 7200);
	w->tau = 600 * exp(draw() * log(12)); /* 10 minutes to 2 hours */
	w->factor = 1 + 0.1 * normal();
	w->phase = 600 * normal();
	w->before = w->step;
	w->step = between(0, 0.25) * w->left;
}

static struct world new_world(enum look look)
{
	struct world w = {.look = look, .left = CAPACITY * between(0.5, 0.8), .since = INFINITY, .day = -1};

	w.amplitude = w.left * between(0.03, 0.15);
	w.office = draw();
	w.scale = look == STEAL ? 3 : 1;
	w.at = PIECE;
	return w;
}

static double daily(const struct world *w, double t)
{
	double x = fmod(t + w->phase, DAY) / DAY;

	/* A sine, or office hours with an hour to come and to go. */
	if (w->office < 0.5)
		return w->amplitude * w->factor * (1 - cos(2 * PI * x));
	return 2 * w->amplitude * w->factor * fmin(fmax(fmin((x * 24 - 8), (19 - x * 24)), 0), 1);
}

static double used(struct world *w, double t)
{
	double of_day, u;

	if ((long)(t / DAY) != w->day)
		new_day(w, (long)(t / DAY));
	of_day = t - (double)w->day * DAY;
	u = of_day - w->event;
	switch (w->look) {
	case CACHE: /* is dropped an hour before the day ends */
		return u > 0 && of_day < DAY - HOUR ? w->size * (1 - exp(-u / w->tau)) : 0;
	case DAILY:
		return daily(w, t);
	case WEEKEND:
		return w->day % 7 >= 5 ? 0 : daily(w, t);
	case STEP:
		return u < 0 ? w->before : u < w->rise ? w->before + (w->step - w->before) * u / w->rise : w->step;
	case BURST:
		return w->size * fmin(fmax(fmin(u / (w->rise + 1), 1 - (u - w->rise - w->stay) / (w->rise + 1)), 0), 1);
	default:
		return 0;
	}
}

/* A leak that is not seen to the limit; noise, and what it looks like. */
static double available(struct world *w, double t)
{
	double x;

	if (++w->at >= PIECE) {
		w->piece = (size_t)(draw() * (double)(noises - PIECE));
		w->at = 0;
	}
	x = w->left - used(w, t) - (w->warm > 0 ? w->warm * (1 - exp((w->born - t) / w->warming)) : 0) + w->scale * noise[w->piece + w->at];
	if (t >= w->since) {
		if (!w->by_operations) {
			w->leaked = (t - w->since) * w->leak;
		} else if (t >= w->next) { /* every five minutes on average */
			w->leaked += 300 * w->leak;
			w->next = fmax(w->next, t) - 300 * log(1 - draw());
		}
	}
	return fmax(x - w->leaked, 0);
}

/* ---- the three */

struct watch {
	struct aging_series *series;
	double minute[MINUTES], sum; /* for Mann-Kendall alone */
	size_t minutes, samples;
	struct aging_verdict verdict;
	bool ours, kendall, threshold;
};

static const struct aging_resource memory = {.capacity = CAPACITY, .falls = true};

static void watch_sample(struct watch *w, double t, double value)
{
	aging_series_add(w->series, t, value);
	w->sum += value;
	if (++w->samples == 60 / SAMPLE) {
		memmove(w->minute, w->minute + 1, sizeof(w->minute) - sizeof(w->minute[0]));
		w->minute[MINUTES - 1] = w->sum / (double)w->samples;
		w->minutes++;
		w->samples = 0;
		w->sum = 0;
	}
}

static void watch_judge(struct watch *w, double t)
{
	struct aging_mk mk = {.p = 1};

	aging_series_judge(w->series, &memory, t, &w->verdict);
	w->ours = w->verdict.finding == AGING_TREND || w->verdict.finding == AGING_CRITICAL;
	if (w->minutes >= MINUTES)
		aging_mann_kendall(w->minute, MINUTES, 0, &mk);
	w->kendall = mk.p < 0.05 && mk.s < 0;
	w->threshold = w->minute[MINUTES - 1] < CAPACITY / 5;
}

/* ---- look-alikes */

static void look_alike(enum look look, long days)
{
	unsigned long alarms[3] = {0}, counted = 0;

	while (counted < (unsigned long)days * DAY) {
		struct watch watch = {.series = aging_series_create()};
		struct world w = new_world(look);
		bool before[3] = {false};
		/* No two begin at the same time of the day. */
		double begin = floor(between(0, DAY));

		for (double t = begin; t < begin + RUN; t += SAMPLE) {
			/* A neighbour that takes the CPU lets samples come late, or not at all. */
			if (look == STEAL && draw() < 0.3)
				continue;
			watch_sample(&watch, t, available(&w, t));
			if (fmod(t - begin, AGING_JUDGE_S) >= SAMPLE || t < begin + LEARN)
				continue;
			watch_judge(&watch, t);
			bool now[3] = {watch.ours, watch.kendall, watch.threshold};

			for (int i = 0; i < 3; i++) {
				alarms[i] += now[i] && !before[i];
				if (i == 0 && now[0] && !before[0])
					fprintf(stderr, "  %s, day %.2f: %.1f MiB/h for %.0f minutes%s, %.0f MiB left\n",
						look_name[look], (t - begin) / DAY, watch.verdict.slope * HOUR / 1048576,
						watch.verdict.window / 60, watch.verdict.seasonal ? ", less the cycle" : "",
						watch.verdict.left / 1048576);
				before[i] = now[i];
			}
		}
		counted += RUN - LEARN;
		aging_series_destroy(watch.series);
	}
	double d = (double)counted / DAY;
	printf("%-22s %6.0f   %9.4f   %9.4f   %9.4f\n", look_name[look], d, (double)alarms[0] / d, (double)alarms[1] / d,
	       (double)alarms[2] / d);
	fflush(stdout);
}

/* ---- leaks */

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double quantile(double *v, size_t n, double q)
{
	if (!n)
		return NAN;
	qsort(v, n, sizeof(*v), compare);
	return v[(size_t)(q * (double)(n - 1) + 0.5)];
}

/* `runs` leaks that begin after two days or more, each seen or not before it is over, and when. */
static void leaks(double hours, enum look look, bool by_operations, long runs)
{
	double *when[3], *wrong = malloc((size_t)runs * sizeof(*wrong));
	size_t seen[3] = {0}, soon[3] = {0}, forecasts = 0, good = 0;

	for (int i = 0; i < 3; i++)
		when[i] = malloc((size_t)runs * sizeof(**when));
	for (long run = 0; run < runs; run++) {
		struct watch watch = {.series = aging_series_create()};
		struct world w = new_world(look);
		double begin = floor(between(0, DAY)), end, half, since, expected = NAN;
		bool done[3] = {false}, asked = false;

		since = begin + LEARN + floor(between(0, DAY));
		w.since = w.next = since;
		w.leak = w.left / (hours * HOUR);
		w.by_operations = by_operations;
		end = since + 2 * hours * HOUR;
		half = since + hours * HOUR / 2;
		for (double t = begin; t < end; t += SAMPLE) {
			double value = available(&w, t);

			/* What it looks like beside its leak decides, too, when it is over. */
			if (t > since && value < CAPACITY / 1000) {
				end = t;
				break;
			}
			if (done[0] && done[1] && done[2] && asked)
				continue;
			watch_sample(&watch, t, value);
			if (fmod(t - begin, AGING_JUDGE_S) >= SAMPLE || t < since)
				continue;
			watch_judge(&watch, t);
			bool now[3] = {watch.ours, watch.kendall, watch.threshold};

			for (int i = 0; i < 3; i++)
				if (now[i] && !done[i]) {
					done[i] = true;
					soon[i] += t - since <= 2 * HOUR;
					when[i][seen[i]++] = (t - since) / HOUR;
				}
			if (t >= half && !asked) {
				asked = true;
				if (watch.verdict.finding == AGING_TREND)
					expected = t + watch.verdict.exhausted_in;
			}
		}
		if (!isnan(expected)) {
			wrong[forecasts] = fabs((expected - half) / (end - half) - 1);
			good += wrong[forecasts++] <= 0.15;
		}
		aging_series_destroy(watch.series);
	}
	printf("%6.0f h %-22s", hours, by_operations ? "quiet, by operations" : look_name[look]);
	for (int i = 0; i < 3; i++)
		printf("  %5.1f %5.1f %7.2f", 100. * (double)seen[i] / (double)runs, 100. * (double)soon[i] / (double)runs,
		       quantile(when[i], seen[i], 0.5));
	printf("  %5.1f %5.1f\n", 100. * (double)good / (double)runs, 100 * quantile(wrong, forecasts, 0.5));
	fflush(stdout);
	for (int i = 0; i < 3; i++)
		free(when[i]);
	free(wrong);
}

/* ---- hypervisors that are replaced */

static struct watch fresh_watch(void)
{
	return (struct watch){.series = aging_series_create()};
}

/* At `t`: of what the world's next hypervisor does nothing is known yet. */
static void replace(struct world *w, double t)
{
	w->born = t + REPLACED;
	w->warm = w->left * between(0, 0.05);
	w->warming = between(600, HOUR);
	w->leaked = 0;
	if (isfinite(w->since))
		w->since = w->next = t;
}

/* A week after two of learning, in which a leak of so many hours (0: none) goes on in each successor, replaced when it is said in
 * time, or once a day; then a day without it. */
static void replaced(double hours, enum look look, long runs)
{
	size_t changes = 0, missed = 0, still = 0, alarms = 0, ends = 0;
	double *lead = malloc((size_t)runs * 100 * sizeof(*lead)), days = 0, over = 0;

	for (long run = 0; run < runs; run++) {
		struct world w = new_world(look);
		struct watch watch = fresh_watch(), old = {.series = NULL};
		double begin = floor(between(0, DAY)), ended = 0, daily_at = between(0, DAY);
		double leaks_at = begin + LEARN, fixed = leaks_at + RUN;
		bool before = false, leaking = hours > 0;

		if (leaking) {
			w.since = w.next = leaks_at;
			w.leak = w.left / (hours * HOUR);
		}
		for (double t = begin; t < fixed + (leaking ? DAY : 0); t += SAMPLE) {
			double value = available(&w, t);
			bool change = false;

			if (leaking && t >= fixed && w.leak > 0) {
				w.leak = 0; /* the last one has been mended */
				change = true;
			} else if (t >= w.born) {
				watch_sample(&watch, t, value);
			}
			if (old.series && t >= w.born + AGING_SETTLED_S) {
				aging_series_succeed(watch.series, old.series, ended, w.born);
				aging_series_destroy(old.series);
				old.series = NULL;
			}
			if (leaking && t >= leaks_at && t < fixed && value < CAPACITY / 100) {
				missed++;
				fprintf(stderr, "  %s, %.0f h: nothing left on day %.2f, %.1f h after it came: finding %d, %.1f h\n", look_name[look], hours,
					(t - begin) / DAY, (t - w.born) / HOUR, (int)watch.verdict.finding, watch.verdict.exhausted_in / HOUR);
				change = true;
			}
			if (fmod(t - begin, AGING_JUDGE_S) < SAMPLE && t >= begin + LEARN && t >= w.born) {
				watch_judge(&watch, t);
				if (leaking && t < fixed && watch.ours && watch.verdict.exhausted_in < HORIZON) {
					if (changes < (size_t)runs * 100)
						lead[changes] = value / w.leak / HOUR;
					changes++;
					change = true;
				}
				if (leaking && t >= fixed + 2 * HOUR)
					still += watch.ours && !before;
				over += leaking && t >= fixed && watch.ours ? AGING_JUDGE_S : 0;
				alarms += !leaking && watch.ours && !before;
				before = watch.ours;
			}
			if (!leaking && t >= leaks_at && fmod(t - leaks_at, DAY) < SAMPLE)
				daily_at = t + between(0, DAY - HOUR);
			if (!leaking && t >= leaks_at && t >= daily_at && t < daily_at + SAMPLE)
				change = true;
			if (!change || old.series)
				continue;
			old = watch;
			ended = t;
			watch = fresh_watch();
			replace(&w, t);
			before = false;
		}
		days += RUN / DAY;
		ends += leaking;
		aging_series_destroy(watch.series);
		aging_series_destroy(old.series);
	}
	if (hours > 0)
		printf("%6.0f h %-22s %6zu %8.2f %10.1f %14.3f %14.2f\n", hours, look_name[look], changes,
		       100. * (double)missed / (double)(changes + missed), quantile(lead, changes < (size_t)runs * 100 ? changes : (size_t)runs * 100, 0.5),
		       (double)still / (double)ends, over / (double)ends / HOUR);
	else
		printf("%-22s %6.0f   %9.4f\n", look_name[look], days, (double)alarms / days);
	fflush(stdout);
	free(lead);
}

/* ---- rows */

enum table { LOOK_ALIKES, LEAKS, REPLACED_LOOK_ALIKES, REPLACED_LEAKS };

static const struct row {
	enum table table;
	enum look look;
	double hours; /* that it takes to leak what is left; 0: it does not */
	bool by_operations;
} rows[] = {
	{LOOK_ALIKES, QUIET, 0, false}, {LOOK_ALIKES, CACHE, 0, false}, {LOOK_ALIKES, DAILY, 0, false},
	{LOOK_ALIKES, WEEKEND, 0, false}, {LOOK_ALIKES, STEP, 0, false}, {LOOK_ALIKES, BURST, 0, false},
	{LOOK_ALIKES, STEAL, 0, false}, {LEAKS, QUIET, 6, false}, {LEAKS, QUIET, 12, false}, {LEAKS, QUIET, 24, false},
	{LEAKS, QUIET, 48, false}, {LEAKS, QUIET, 168, false}, {LEAKS, QUIET, 720, false}, {LEAKS, QUIET, 24, true},
	{LEAKS, CACHE, 24, false}, {LEAKS, DAILY, 24, false}, {LEAKS, WEEKEND, 24, false}, {LEAKS, STEP, 24, false},
	{LEAKS, BURST, 24, false}, {LEAKS, STEAL, 24, false}, {REPLACED_LOOK_ALIKES, QUIET, 0, false},
	{REPLACED_LOOK_ALIKES, CACHE, 0, false}, {REPLACED_LOOK_ALIKES, DAILY, 0, false},
	{REPLACED_LOOK_ALIKES, WEEKEND, 0, false}, {REPLACED_LOOK_ALIKES, STEP, 0, false},
	{REPLACED_LOOK_ALIKES, BURST, 0, false}, {REPLACED_LOOK_ALIKES, STEAL, 0, false}, {REPLACED_LEAKS, QUIET, 15, false},
	{REPLACED_LEAKS, QUIET, 24, false}, {REPLACED_LEAKS, QUIET, 48, false}, {REPLACED_LEAKS, CACHE, 24, false},
	{REPLACED_LEAKS, DAILY, 24, false}, {REPLACED_LEAKS, STEP, 24, false}, {REPLACED_LEAKS, BURST, 24, false},
	{REPLACED_LEAKS, STEAL, 24, false},
};
enum { ROWS = sizeof(rows) / sizeof(rows[0]) };

static void do_row(size_t i, long days, long runs, uint64_t from)
{
	const struct row *r = &rows[i];

	/* S. Vigna's splitmix64: seeds that are near give draws that are not. */
	seed = from + 0x9e3779b97f4a7c15ull * (i + 1);
	seed = (seed ^ (seed >> 30)) * 0xbf58476d1ce4e5b9ull;
	seed = (seed ^ (seed >> 27)) * 0x94d049bb133111ebull;
	seed = (seed ^ (seed >> 31)) | 1;
	switch (r->table) {
	case LOOK_ALIKES:
		look_alike(r->look, days);
		break;
	case LEAKS:
		leaks(r->hours, r->look, r->by_operations, r->hours > 100 ? runs / 5 + (runs % 5 > 0) : runs);
		break;
	case REPLACED_LOOK_ALIKES:
		replaced(0, r->look, days * DAY / RUN + 1);
		break;
	case REPLACED_LEAKS:
		replaced(r->hours, r->look, runs / 10 + (runs % 10 > 0));
		break;
	}
}

static void print_heading(enum table table, long runs)
{
	switch (table) {
	case LOOK_ALIKES:
		printf("false alarms per simulated day on what only looks like ageing\n%-22s %6s   %9s   %9s   %9s\n", "", "days", "vmbeam",
		       "MK alone", "threshold");
		break;
	case LEAKS:
		printf("\nleaks that exhaust what is left, %ld each (a fifth of it of a week and more): %% seen before that,\n"
		       "%% seen within 2 h, median hours until seen; and the forecast at half-life: %% within 15 %% (of all),\n"
		       "median error %%\n%-31s  %-19s  %-19s  %-19s  %s\n",
		       runs, "", "vmbeam", "MK alone", "threshold", "forecast");
		break;
	case REPLACED_LOOK_ALIKES:
		printf("\nfalse alarms per simulated day if it is replaced once a day, the successor taking over the history\n%-22s %6s   %9s\n",
		       "", "days", "vmbeam");
		break;
	case REPLACED_LEAKS:
		printf("\na leak that goes on in each successor, replaced when %d h are left by the forecast, a week, %ld each: replacements,\n"
		       "%% that came too late, median hours that were left; then one without the leak, a day: how often that is said to leak\n"
		       "after its first two hours, and for how many hours in all\n",
		       HORIZON / HOUR, runs / 10 + (runs % 10 > 0));
		break;
	}
}

static void print(FILE *f)
{
	int c;

	if (!f)
		return;
	rewind(f);
	while ((c = getc(f)) != EOF)
		putchar(c);
	fclose(f);
	fflush(stdout);
}

static int do_rows(long days, long runs, uint64_t from, long jobs)
{
	FILE *out[ROWS];
	pid_t pid[ROWS];
	bool done[ROWS] = {false};
	size_t started = 0, printed = 0, ended = 0;
	int status;

	while (printed < ROWS) {
		for (; started < ROWS && started - ended < (size_t)jobs; started++) {
			out[started] = tmpfile();
			fflush(stdout);
			pid[started] = out[started] ? fork() : -1;
			if (pid[started] < 0)
				return -1;
			if (!pid[started]) {
				if (dup2(fileno(out[started]), STDOUT_FILENO) < 0)
					_exit(1);
				do_row(started, days, runs, from);
				_exit(fflush(stdout) != 0);
			}
		}
		if (isatty(STDERR_FILENO))
			fprintf(stderr, "\r%zu of %d rows \r", ended, ROWS);
		pid_t p = wait(&status);
		if (p < 0 || status)
			return -1;
		for (size_t i = 0; i < started; i++)
			done[i] = done[i] || pid[i] == p;
		ended++;
		for (; printed < started && done[printed]; printed++) {
			if (!printed || rows[printed].table != rows[printed - 1].table)
				print_heading(rows[printed].table, runs);
			print(out[printed]);
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	long days = argc > 4 ? atol(argv[1]) : 0, runs = argc > 4 ? atol(argv[2]) : 0;
	long jobs = getenv("JOBS") ? atol(getenv("JOBS")) : sysconf(_SC_NPROCESSORS_ONLN);

	if (days < 1 || runs < 1) {
		fprintf(stderr, "aging: days, runs, a seed and files of noise are expected\n");
		return 2;
	}
	for (int i = 4; i < argc; i++) {
		if (read_noise(argv[i])) {
			fprintf(stderr, "aging: %s holds no noise\n", argv[i]);
			return 2;
		}
		printf("%s%s: %zu values of noise, spread %.0f KiB, from %.0f to %.0f MiB, seed %s\n\n",
		       i > 4 ? "\n" : "", argv[i], noises, aging_spread(noise, noises) / 1024,
		       aging_quantile(noise, noises, 0) / 1048576, aging_quantile(noise, noises, 1) / 1048576, argv[3]);
		if (do_rows(days, runs, strtoull(argv[3], NULL, 10), jobs > 0 ? jobs : 1)) {
			fprintf(stderr, "aging: a row failed\n");
			return 1;
		}
	}
	free(noise);
	return 0;
}
