/* child.h: programs that vmbeamd has run, each in a session of its own: they outlive it.  One thread only; signals are the caller's:
 * children_reap() after SIGCHLD. */
#ifndef REJUV_DAEMON_CHILD_H
#define REJUV_DAEMON_CHILD_H

#include "vmm/base.h"

struct children;
struct child;

struct child_options {
	char *const *argv; /* [0] is a program of ours, beside this one */
	int in, out, err;  /* the caller's; -1: /dev/null */
	int keep;	   /* a descriptor that it inherits, e.g. a lock; -1: none */
	bool writes_on;	   /* that nobody reads `out` and `err` any more does not end it */
	double timeout;	   /* s, then it is killed; 0: never */
	/* It has ended, `status` as of waitpid(), or (timed_out) was killed; the child is gone after this. */
	void (*ended)(void *ctx, int status, bool timed_out);
	void *ctx;
};

struct children *children_create(void);
/* They go on, and nobody is told of their end. */
void children_destroy(struct children *c);
/* NULL with *e set. */
struct child *child_start(struct children *c, const struct child_options *o, struct error *e);
pid_t child_pid(const struct child *c);
/* Kills it and what it has started in its session; `ended` follows. */
void child_kill(struct child *c);
/* Nobody is told of its end. */
void child_forget(struct child *c);
/* Tells of all that have ended, and kills those whose time is up. */
void children_reap(struct children *c);
/* CLOCK_MONOTONIC ns at which the next one's time is up; UINT64_MAX: none. */
uint64_t children_deadline(const struct children *c);

#endif
