/* aging.h: sees a resource that runs out slowly, and tells it from what only looks so.
 *
 * A library of its own: it needs the C library, libm and nothing else of this project.  It starts no threads, opens nothing
 * and keeps no global state; an object is used by one thread at a time.
 *
 * The statistics are published ones and are checked against published figures (tests/unit/test_aging.c); the judgement on
 * them (struct aging_verdict) is ours, and `make bench-aging` says how good it is.
 *
 * Units: time in seconds (any origin, the same for all of a series), values in whatever the caller measures.
 */
#ifndef AGING_AGING_H
#define AGING_AGING_H

#include <stdbool.h>
#include <stddef.h>

/* ---- statistics
 *
 * NaN among the values is one that is missing: it is left out.  `n` of all functions is that of the array, at most
 * AGING_MOST_VALUES.
 */
#define AGING_MOST_VALUES 2048

struct aging_mk {
	size_t n;     /* values there were */
	double s;     /* Kendall's score: pairs that rise less pairs that fall */
	double var;   /* its variance if there is no trend */
	double z, p;  /* the normal deviate, and its two-sided probability */
};

/* Mann-Kendall test for a monotonic trend (H. B. Mann, Econometrica 13, 1945; M. G. Kendall, Rank Correlation Methods,
 * 1975), ties taken into account.  With `lags` > 0 the variance is corrected for the autocorrelation of the ranks of the
 * detrended values (K. H. Hamed, A. R. Rao, Journal of Hydrology 204, 1998): those of the first `lags` lags that are
 * significant at 5 %; AGING_ALL_LAGS takes every lag.  The correction may leave a variance of 0 or less: then z is 0 and p is 1.
 */
#define AGING_ALL_LAGS ((size_t)-1)
void aging_mann_kendall(const double *y, size_t n, size_t lags, struct aging_mk *r);

/* The same for each of `period` seasons apart, scores and variances added up (R. M. Hirsch, J. R. Slack, Water Resources
 * Research 20, 1984); seasons are taken as independent.  y[0] is of season 0. */
void aging_seasonal_mann_kendall(const double *y, size_t n, size_t period, struct aging_mk *r);

struct aging_line {
	size_t n;
	double slope;     /* of y per unit of t */
	double low, high; /* its confidence interval */
	double level;     /* y at the last t, on the line */
};

/* Theil-Sen estimator: the median of the slopes of all pairs (P. K. Sen, JASA 63, 1968); the interval is that of R. O. Gilbert
 * (Statistical Methods for Environmental Pollution Monitoring, 1987, 16.5) for the normal deviate `z` (1.96: 95 %) and the
 * variance `var` of Kendall's score, which aging_mann_kendall() gives.  All are NaN with less than
 * two values.  t NULL: 0, 1, 2... */
void aging_theil_sen(const double *t, const double *y, size_t n, double var, double z, struct aging_line *r);

/* Least squares of y = a + b t + c t^2 about the middle of t. */
struct aging_curve {
	size_t n;
	double slope, curve; /* b, c */
	double curve_error;  /* standard error of c, with an effective number of values by the residuals' autocorrelation at lag 1 */
	double residual;     /* their standard deviation */
};
void aging_parabola(const double *t, const double *y, size_t n, struct aging_curve *r);

/* The median, the value below which a share of `q` is (the nearest there is), and 1.4826 times the median distance from the median
 * (the standard deviation, if they are normal); NaN without values. */
double aging_median(const double *y, size_t n);
double aging_quantile(const double *y, size_t n, double q);
double aging_spread(const double *y, size_t n);

/* ---- one resource, watched
 *
 * Samples become one value a minute (their median) and what is low, high, least and most in five minutes; eight days of them are
 * kept.  A judgement looks at windows of 90 minutes to 7 days that end now, at the floor of use in each: what is used for a moment
 * only is no growth.  In a window that is evidence
 *  - Mann-Kendall with Hamed's and Rao's correction is sure;
 *  - the growth is all over it, neither in a few steps nor in one stretch: those are shifts of the load;
 *  - it is more than what has come and gone as often in windows as long before; and if as much has risen before and stayed a while
 *    (a cache, the morning), or too little is known of before, it has gone on for the whole window and does for sure not slow down;
 *  - the daily cycle explains it not: what earlier days that are alike did at that time is taken off, unless today is another, and
 *    what is left is more than those days differ by, of which few days tell little;
 *  - it does not level off before the limit, by its curvature;
 *  - at its slope the limit is near compared with the window: what is weeks away is believed only after days.
 * The limit is reached when the highest peaks above the floor reach it.
 * What is found three times running, five minutes apart, is said; it is taken back when it has not grown on for an hour.
 */
struct aging_resource {
	double capacity; /* all there is, the unit of the values; > 0 */
	bool falls;      /* the values are what is left (exhausted at 0), not what is used (exhausted at capacity) */
};

enum aging_finding {
	AGING_UNKNOWN,  /* no value yet, or none for ten minutes */
	AGING_LEARNING, /* less than two days of history, or 90 minutes of its own: only AGING_CRITICAL is said */
	AGING_STEADY,
	AGING_LEVELS,   /* it grows, and will level off */
	AGING_TREND,    /* it will be exhausted */
	AGING_CRITICAL, /* less than a twentieth is left */
};

struct aging_verdict {
	enum aging_finding finding;
	double left;              /* of the resource */
	/* The window with the best evidence of growth, if any was evidence (window > 0): */
	double window;            /* s */
	double slope, low, high;  /* units of the resource used up per second, and its 99 % interval */
	double exhausted_in;      /* s; INFINITY if the slope is not positive */
	double earliest, latest;  /* its interval */
	double p;                 /* of Mann-Kendall */
	bool seasonal;            /* a daily cycle was taken off */
};

struct aging_series;
/* NULL without memory.  About 100 KiB each. */
struct aging_series *aging_series_create(void);
void aging_series_destroy(struct aging_series *s);
/* A value of time t; one that is no number, or earlier than the last minute, is refused (false). */
bool aging_series_add(struct aging_series *s, double t, double value);
/* What is to be thought of it at time `now`; to be asked every few minutes (AGING_JUDGE_S). */
#define AGING_JUDGE_S 300
void aging_series_judge(struct aging_series *s, const struct aging_resource *r, double now, struct aging_verdict *v);
/* Takes over the history of a predecessor that did the same work until time `ended`, as this one has since `began`: shifted by what
 * the change has given back, from the levels of AGING_SETTLED_S before and after it, so that growth shows as going on.  What it
 * had itself before `began` is dropped.  False, and nothing is changed, if either level is not known. */
#define AGING_SETTLED_S 900
bool aging_series_succeed(struct aging_series *s, const struct aging_series *old, double ended, double began);
/* The median of the minutes that begin in [from, to), as far as they are kept, that which is going on included; NaN without any. */
double aging_series_median(const struct aging_series *s, double from, double to);

/* ---- a machine or hypervisor, watched: all its resources, and who takes its CPU
 *
 * A slow hypervisor on a crowded host is contended, not old: while something takes its CPU no latency of it counts.
 */
enum aging_kind {
	AGING_LEFT,       /* what is left of a resource: exhausted at 0; `limit` is all there is */
	AGING_USED,       /* what is used of it: exhausted at `limit` */
	AGING_PART,       /* what one of its users has of a resource, named by the prefix before ':': says who grows */
	AGING_LATENCY,    /* of an operation, s: ageing if it goes towards `limit` times what it was */
	AGING_CONTENTION, /* a share of its CPU time it waits for, 0 to 1: contended above `limit`, be it in bursts */
	AGING_FAULTS,     /* a counter of what must never happen: ageing for a day after it has risen */
	AGING_PLAIN,      /* for the eye only */
};

enum aging_state { AGING_STATE_UNKNOWN, AGING_STATE_LEARNING, AGING_STATE_HEALTHY, AGING_STATE_CONTENDED, AGING_STATE_AGEING,
		   AGING_STATE_CRITICAL };

#define AGING_NAME	 48  /* bytes of a name, its end included; printable ASCII */
#define AGING_INDICATORS 128 /* most of one subject */
#define AGING_CULPRITS	 3
#define AGING_LARGEST	 1e18 /* of a value or a limit */

struct aging_health {
	enum aging_state state;
	/* The indicator that decided, and what is thought of it (of AGEING and CRITICAL). */
	const char *indicator; /* the subject's; NULL if none did */
	struct aging_verdict verdict;
	/* Whose parts of it grew most meanwhile, and by what share of its growth. */
	struct { const char *name; double share; } culprit[AGING_CULPRITS];
	size_t culprits;
	const char *missing;   /* what was judged and is not told any more, though others are; NULL if nothing */
	const char *fault;     /* what must not have happened and has within a day, and how often; NULL if nothing */
	double faults;
	double contention;     /* the greatest share, the mean of the last ten minutes; */
	double bursts;	       /* and what a tenth of its samples exceeded */
	unsigned long refused; /* samples so far that made no sense */
	char evidence[300];    /* all that in words, one line */
};

struct aging_subject;
struct aging_subject *aging_subject_create(void);
void aging_subject_destroy(struct aging_subject *s);
/* A sample.  What makes no sense (no number, negative, out of order, a name that is none, another kind than before) is refused,
 * counted, and changes nothing.  If there are too many indicators the part or plain one that is silent for longest, an hour at
 * least, makes room; without one the sample is left out. */
bool aging_subject_add(struct aging_subject *s, const char *name, enum aging_kind kind, double limit, double t, double value);
/* As aging_series_succeed(): its resources, and parts of them.  How long things take, who waits for a CPU, and faults are its own. */
void aging_subject_succeed(struct aging_subject *s, const struct aging_subject *old, double ended, double began);
/* As aging_series_judge(). */
void aging_subject_judge(struct aging_subject *s, double now, struct aging_health *h);
const char *aging_state_name(enum aging_state state);

/* What is known of one indicator. */
struct aging_indicator {
	const char *name; /* the subject's */
	enum aging_kind kind;
	double limit;
	double value, seen;  /* the last sample, its time */
	double first, usual; /* time of the first; of a latency, what it is compared with, 0 if that is not known yet */
};
/* Of number k, in no order that means anything; false if there are not so many. */
bool aging_subject_indicator(const struct aging_subject *s, size_t k, struct aging_indicator *i);
/* aging_series_median() of it. */
double aging_subject_median(const struct aging_subject *s, size_t k, double from, double to);
/* Makes an indicator as one was that has been stored (its value and `seen` are left out): what was kept of its values is added
 * next, in the order of time.  False as aging_subject_add(). */
bool aging_subject_restore(struct aging_subject *s, const struct aging_indicator *i);

/* What the values of an indicator are, by its name: "bytes", "seconds", "ratio", or "" if they are a number of things. */
const char *aging_unit(const char *name);

#endif
