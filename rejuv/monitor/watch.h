/* watch.h: the ageing monitor at work: this machine, its guest hypervisors and its VMs, sampled, judged (aging-monitor/aging.h)
 * and stored (aging-monitor/store.h).  Of the main thread only.
 */
#ifndef REJUV_MONITOR_WATCH_H
#define REJUV_MONITOR_WATCH_H

#include "aging-monitor/store.h"

#include <stdio.h>

struct watch;
/* The store is the caller's.  What happens becomes a line in `lines` (NULL: none). */
struct watch *watch_create(struct aging_store *store, FILE *lines);
void watch_destroy(struct watch *w);
/* Samples all there are, stores each minute that is over, judges every AGING_JUDGE_S; who has not been seen for an hour is
 * forgotten.  Each agent or VM that does not answer delays it by two seconds, and that every half minute.  What happens becomes an
 * event.  Returns whether it has judged. */
bool watch_tick(struct watch *w);
/* What somebody else has seen happen. */
void watch_event(struct watch *w, const char *name, const char *kind, const char *text);
/* Judges all now. */
void watch_judge(struct watch *w);

struct watched {
	const char *name;			      /* "host" is this machine */
	const char *identity;			      /* vm_identity(); of this machine its boot's */
	const struct aging_subject *inside, *outside; /* by what it says of itself, by what is seen of it from here; or NULL */
	const struct aging_health *health;	      /* NULL before the first judgement */
	double silent;				      /* its agent, for so many s */
};
void watch_each(const struct watch *w, void (*each)(void *ctx, const struct watched *s), void *ctx);
/* How often the store could not be written. */
unsigned long watch_store_failures(const struct watch *w);

#endif
