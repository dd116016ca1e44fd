/* machine.h: the rejuvenation of one hypervisor as a state machine: pure, it does nothing itself.
 *
 *            wanted      allowed        done            done, none left        done
 *   idle ----------> due ------> preparing ----> moving ----------> retiring ------> idle
 *    ^                ^             |           ^      |                |
 *    |                |      failed |      done |      | done           | failed
 *    |          retry |             |           |      v                |
 *    |                |             |           +-- verifying           |
 *    |                |             v                  | failed         v
 *    |                +---------- blocked <---- rolling back      (blocked)
 *    |     cancelled                |
 *    +------------------------------+
 *
 * Where no second hypervisor can be had, `replacing` stands for moving, verifying and retiring (rejuv/warm.c).
 * A step that fails is done by the next method first, as long as there is one (REJUV_FALL_BACK).
 */
#ifndef REJUV_DAEMON_MACHINE_H
#define REJUV_DAEMON_MACHINE_H

#include <stdbool.h>

enum rejuv_state {
	REJUV_IDLE,
	REJUV_DUE,	  /* wanted, but for now not allowed: outside its window, or others are at it */
	REJUV_PREPARING,  /* a fresh one comes up beside it */
	REJUV_MOVING,	  /* one guest VM after the other */
	REJUV_VERIFYING,  /* the one that was moved */
	REJUV_RETIRING,	  /* the old one ends, the fresh one gets its name */
	REJUV_REPLACING,  /* in place, its guests are held meanwhile */
	REJUV_ROLLING_BACK,
	REJUV_BLOCKED,	  /* for a reason, until it is tried again */
};
enum { REJUV_STATES = 9 };

enum rejuv_event {
	REJUV_WANTED,	 /* by schedule, forecast, threshold, or a user */
	REJUV_ALLOWED,	 /* now */
	REJUV_DONE,	 /* the step that is under way: well */
	REJUV_FAILED,	 /* or not, or it was cut off */
	REJUV_CANCELLED, /* by a user */
	REJUV_GONE,	 /* the hypervisor is not there any more */
	REJUV_RETRY,	 /* it is time to try again */
	REJUV_RESTARTED, /* the daemon has been, and no step is under way */
};
enum { REJUV_EVENTS = 8 };

enum rejuv_action {
	REJUV_IGNORE,
	REJUV_WAIT,	  /* becomes due */
	REJUV_PREPARE,	  /* begins, by its first method */
	REJUV_AGAIN,	  /* the step that is under way */
	REJUV_NEXT,	  /* the next guest VM; retires if there is none, is blocked if one could not be moved */
	REJUV_VERIFY,
	REJUV_FALL_BACK,  /* by the next method, or what is left to do without one */
	REJUV_ROLL_BACK,
	REJUV_BLOCK,
	REJUV_SETTLE,	  /* after rolling back: blocked, or idle if it was cancelled */
	REJUV_FINISH,	  /* is idle again, and young */
	REJUV_ABANDON,	  /* is idle again */
	REJUV_FORGET,	  /* is nothing any more */
	REJUV_ACTIONS,
};

enum rejuv_action rejuv_action(enum rejuv_state s, enum rejuv_event e);
/* Is a step under way in that state, which a process does? */
bool rejuv_is_working(enum rejuv_state s);
/* What that process is to do: `vmbeam rejuvenate --step`; NULL: none. */
const char *rejuv_step(enum rejuv_state s);
const char *rejuv_state_name(enum rejuv_state s);
/* Of a name; -1: of none. */
int rejuv_state_of(const char *name);
const char *rejuv_event_name(enum rejuv_event e);

#endif
