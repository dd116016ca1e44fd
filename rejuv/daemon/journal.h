/* journal.h: what vmbeamd was about, kept so that it goes on after any crash: an SQLite file, each change of it on the disk before what
 * it says is begun (synchronous=FULL).
 *
 * Of a hypervisor: its state (machine.h), and `data`, an object of whoever keeps it.  Of a rejuvenation: when, why, how it ended.
 * Errors: -1 and *e, and nothing has changed.  One thread only; no other process may write it.
 */
#ifndef REJUV_DAEMON_JOURNAL_H
#define REJUV_DAEMON_JOURNAL_H

#include "rejuv/daemon/machine.h"
#include "vmm/base.h"

#include <jansson.h>

struct journal;
/* Made if it is not there; what is none is put aside as PATH.bad, and said. */
struct journal *journal_open(const char *path, struct error *e);
void journal_close(struct journal *j);

/* Its state from now on. */
int journal_set(struct journal *j, const char *hypervisor, enum rejuv_state s, const json_t *data, struct error *e);
int journal_forget(struct journal *j, const char *hypervisor, struct error *e);
int journal_each(struct journal *j, void (*each)(void *ctx, const char *hypervisor, enum rejuv_state s, json_t *data), void *ctx,
		 struct error *e);

/* A rejuvenation, begun now (wall clock): its number, or -1. */
int64_t journal_begin(struct journal *j, const char *hypervisor, const char *why, struct error *e);
/* It has ended now; error: NULL if there was none; `report` is whatever is known of it. */
int journal_report(struct journal *j, int64_t run, const char *outcome, const char *error, const json_t *report, struct error *e);
/* Those past and under way, newest first, at most `most`: a new array. */
json_t *journal_runs(struct journal *j, const char *hypervisor, int64_t most, struct error *e);

#endif
