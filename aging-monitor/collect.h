/* collect.h: samples of a machine (a host, or a guest hypervisor from the inside) and of a process, as aging.h takes them.
 * Like that a library of its own: it reads /proc (Documentation/filesystems/proc.rst, accounting/psi.rst) and file systems.
 */
#ifndef AGING_COLLECT_H
#define AGING_COLLECT_H

#include "aging-monitor/aging.h"

struct aging_sample {
	char name[AGING_NAME];
	enum aging_kind kind;
	double limit, value;
};

struct aging_samples {
	size_t n;
	struct aging_sample sample[AGING_INDICATORS];
};

/* Adds one, cutting its name, if there is room and the value is a number. */
void aging_sample_add(struct aging_samples *out, enum aging_kind kind, double limit, double value, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));

struct aging_collector;
/* `proc` is /proc or, for tests, a folder like it; `disk` a path on the file system that is watched, NULL for none.  NULL
 * without memory.  What is not there is not sampled. */
struct aging_collector *aging_collector_create(const char *proc, const char *disk);
void aging_collector_destroy(struct aging_collector *c);
/* All there is of the machine; its processes and slabs, which cost most, every third time.  Shares and rates are those since the
 * time before; t: seconds of CLOCK_MONOTONIC. */
void aging_collect(struct aging_collector *c, double t, struct aging_samples *out);

/* Is it a name that these collectors give, and no other's invention? */
bool aging_collects(const char *name);

/* What one process has: anonymous memory, descriptors, threads, and the share of time its threads waited for a CPU. */
struct aging_process {
	double delay, ran, t; /* of the time before; begin with all zero */
};
void aging_collect_process(const char *proc, int pid, struct aging_process *before, double t, struct aging_samples *out);

#endif
