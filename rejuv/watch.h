/* watch.h: the ageing monitor at work: this machine and its guest hypervisors, sampled and judged (aging-monitor/aging.h). */
#ifndef REJUV_WATCH_H
#define REJUV_WATCH_H

#include "aging-monitor/aging.h"

/* Names in verdicts: "host" is this machine. */
struct watch;
struct watch *watch_create(void);
void watch_destroy(struct watch *w);
/* Samples all there are; who has not been seen for an hour is forgotten.  An agent that does not answer delays it by
 * two seconds. */
void watch_sample(struct watch *w);
/* Judges all; to be called every AGING_JUDGE_S.  `each` is called with every subject; what it gets lives until the next call. */
void watch_judge(struct watch *w, void (*each)(void *ctx, const char *name, const struct aging_health *h), void *ctx);

#endif
