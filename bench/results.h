/* results.h: what `vmbeam bench` has measured (bench.sh says what a line of it holds), and figures of it.  One thread; for programs
 * that end when something is wrong.
 */
#ifndef BENCH_RESULTS_H
#define BENCH_RESULTS_H

#include <stdbool.h>
#include <stddef.h>

enum { SYSTEMS = 19, XS = 32 };

enum column { TOTAL, DOWNTIME, GAP, WIRE, BYTES, CPU, BASE, WALL, WRITTEN, MISSES, COLUMNS };

extern const struct system {
	const char *name, *title;
	bool wire, tls, paper; /* goes over a network; encrypted; as in the paper */
} systems[SYSTEMS];

struct run {
	const struct system *system;
	double size, rate, v[COLUMNS]; /* MiB, MiB/s; NaN: not known */
	int round;
	char lab[48]; /* in which it was taken: the call and the lab's number */
};

/* Of one version, one machine, and either emulated or not: others do not count. */
extern struct results {
	struct run *run;
	size_t n, failed, others; /* runs; failed: those that have not succeeded yet; others: of another version or machine */
	char machine[200], where[20], version[100], call[40];
} results;

/* DIR/results.csv; of that version, or if it is NULL of the last line's.  Exit 1 if it cannot be read or nothing was measured. */
void results_read(const char *dir, const char *version);
bool results_emulated(void);

/* What is shown of a run, in its unit. */
typedef double figure(const struct run *run);
figure wall_ms;		    /* of the whole command, with all that belongs to it */
figure total_ms, downtime_ms; /* by the engine's own account; the total is without warming */
/* As the guest's own clock saw it; NaN: it did not look. */
figure gap_ms;
figure cpu_ms;	 /* all that its processes used meanwhile */
figure more_cpu_ms; /* more than what they use anyway; NaN: that is too much of it for the difference to mean anything */
figure base_percent; /* of a CPU, that they use anyway */
figure written_mib;	/* by the guest, a second, before it moved */
figure wire_mb, sent_mb; /* by the network interfaces, by the engine */
/* By the cache's misses where they were counted; else no measurement: bytes sent, times how often each is read and written. */
figure memory_mb;
bool memory_counted(void);

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
/* How many labs the runs of that size and rate were taken in. */
size_t labs_of(double size, double rate);
/* The size at which rates were measured. */
double rated(void);

#endif
