/* subject.h: a hypervisor, as far as vmbeamd is about to do something with it: what engine.c, step.c and wanted.c share. */
#ifndef REJUV_DAEMON_SUBJECT_H
#define REJUV_DAEMON_SUBJECT_H

#include "rejuv/cli.h"
#include "rejuv/daemon/daemon.h"

struct subject {
	struct subject *next;
	struct engine *g;
	char *name;
	enum rejuv_state state;
	/* Journaled with it: */
	int64_t run;	/* of the journal; 0: none is under way */
	int64_t step;	/* grows with each state: names the output */
	char *why;	/* it is wanted */
	char *reason;	/* of the last failure */
	bool by_user, cancelled;
	bool held; /* guests are, or may be: they run nowhere, and cannot be let go */
	size_t method;	/* of its policy's */
	json_t *guests; /* {name, outcome: waiting, moved, stuck or left, by, ...}, in the order in which they are moved */
	size_t guest;	/* that is on its way */
	char identity[VM_IDENTITY]; /* of the old one */
	double retry_wait;
	unsigned int bad; /* fresh ones, one after another, that turned bad in their probation */
	struct due due;
	int64_t ended_clock; /* the last one; 0: there was none */
	/* Not: */
	double ended, retry_at, write_again, dry_run; /* boot_s(); dry_run: when it would have been done last */
	uint64_t seed; /* of its jitter */
	char *cannot; /* why the step that is under way could not be begun */
	bool written, present;
	unsigned int leftover; /* so often, one after another, the inventory has had NAME.new while nothing was under way */
	struct child *child; /* at the step */
	bool others;	     /* some process that is not our child may be at it */
	double step_begun;
};

struct engine {
	struct daemon *d;
	struct subject *first;
	const char *fault; /* tests: "STATE=kill" or "STATE.begun=kill" */
};

/* engine.c */

/* NULL: nothing is configured. */
const struct hypervisor_policy *policy_of(const struct subject *s);
void write_down(struct subject *s);
/* It is wanted, for that reason. */
void want(struct subject *s, const char *why, bool by_user);
/* Hypervisors at which a process is at work. */
size_t working(const struct engine *g);
/* What tests want to happen here, if this is where. */
void fault(const struct subject *s, const char *where);
/* The step that was under way is over; result: what it has said, NULL: nothing of use. */
void step_over(struct subject *s, const json_t *result, const char *error);
/* It was cut off without a word, and is to be done again. */
void step_cut_off(struct subject *s);

/* step.c: a step is done by a process that outlives the daemon: it holds the lock .work-NAME.lock of the runtime folder, and leaves what it
 * has to say in .work-NAME.STEP.out. */

void step_begin(struct subject *s);
/* A process that is not our child was, or may be, at the step. */
void step_look_after_others(struct subject *s);
void step_remove_output(const struct subject *s, int64_t step);
void step_remove_lock(const struct subject *s);
/* The guest that is on its way; NULL: none. */
json_t *current_guest(const struct subject *s);
/* To another machine, that is. */
bool goes_far(const json_t *guest);

/* wanted.c */

/* A number of that name on this machine: always the same. */
uint64_t seed(const char *name);
/* By schedule, forecast, threshold: then want() is called. */
void consider(struct subject *s);
/* May what is due begin now? */
bool is_allowed(const struct subject *s);
void set_text(char **text, const char *value);

#endif
