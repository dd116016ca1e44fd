/* results.h: what `vmbeam bench` has measured (bench.sh says what a line of it holds), and figures of it.  One thread; for programs
 * that end when something is wrong.
 */
#ifndef BENCH_RESULTS_H
#define BENCH_RESULTS_H

#include <stdbool.h>
#include <stddef.h>

enum { SYSTEMS = 19, XS = 32 };

enum column { TOTAL, DOWNTIME, GAP, WIRE, BYTES, CPU, BASE, WALL, COLUMNS };

extern const struct system {
	const char *name, *title;
	bool wire, tls, paper; /* goes over a network; encrypted; as in the paper */
} systems[SYSTEMS];

struct run {
	const struct system *system;
	double size, rate, v[COLUMNS]; /* MiB, MiB/s; NaN: not known */
	int round;
};

/* Of the version of the last line: others do not count. */
extern struct results {
	struct run *run;
	size_t n, failed, others; /* runs; failed: those that have not succeeded yet; others: of another version */
	char machine[200], where[20], version[100], call[40];
} results;

/* DIR/results.csv; exit 1 if it cannot be read or nothing was measured. */
void results_read(const char *dir);
bool results_emulated(void);

/* What is shown of a run, in its unit. */
typedef double figure(const struct run *run);
figure total_ms, downtime_ms;
figure wall_ms; /* of the whole command, with what comes before the total begins: warming */
/* As the guest's own clock saw it; NaN: it did not look. */
figure gap_ms;
/* More than what its processes use anyway. */
figure cpu_ms;
figure wire_mb, sent_mb; /* by the network interfaces, by the engine */
/* No measurement: bytes sent, times how often each is read and written. */
figure memory_mb;

struct spread {
	size_t n;
	double low, median, high; /* quartiles; NaN if there is none */
};

int rising(const void *a, const void *b); /* of doubles, for qsort() */
struct spread spread_among(double *v, size_t n); /* sorts them */
const struct system *find_system(const char *name);
struct spread spread_of(const struct system *s, double size, double rate, figure *of);
double median_of(const char *system, double size, double rate, figure *of);
/* How many guests; 0: it is none. */
int is_rejuvenation(const struct system *s);
/* The sizes that were measured without writing, or the rates of a size: at most XS, rising. */
size_t xs_of(bool rates, double size, double *x);
/* The largest size at which what copies was measured, too, so that they can be compared; the largest of all if there is none. */
double compared(void);
/* The size at which rates were measured. */
double rated(void);

#endif
