/* machine.c: the table of machine.h: total, every state answers every event. */
#include "rejuv/daemon/machine.h"

#include <string.h>

/* While a process is at a step all but its end is put off or ignored; a user's wish to cancel takes the place of that end. */
static const enum rejuv_action actions[REJUV_STATES][REJUV_EVENTS] = {
	/*                      wanted        allowed        done          failed           cancelled        gone          retry         restarted */
	[REJUV_IDLE]         = {REJUV_WAIT,   REJUV_IGNORE,  REJUV_IGNORE, REJUV_IGNORE,    REJUV_IGNORE,    REJUV_FORGET, REJUV_IGNORE, REJUV_IGNORE},
	[REJUV_DUE]          = {REJUV_IGNORE, REJUV_PREPARE, REJUV_IGNORE, REJUV_IGNORE,    REJUV_ABANDON,   REJUV_FORGET, REJUV_IGNORE, REJUV_IGNORE},
	[REJUV_PREPARING]    = {REJUV_IGNORE, REJUV_IGNORE,  REJUV_NEXT,   REJUV_FALL_BACK, REJUV_ROLL_BACK, REJUV_IGNORE, REJUV_IGNORE, REJUV_AGAIN},
	[REJUV_MOVING]       = {REJUV_IGNORE, REJUV_IGNORE,  REJUV_VERIFY, REJUV_FALL_BACK, REJUV_ROLL_BACK, REJUV_IGNORE, REJUV_IGNORE, REJUV_AGAIN},
	[REJUV_VERIFYING]    = {REJUV_IGNORE, REJUV_IGNORE,  REJUV_NEXT,   REJUV_ROLL_BACK, REJUV_ROLL_BACK, REJUV_IGNORE, REJUV_IGNORE, REJUV_AGAIN},
	[REJUV_RETIRING]     = {REJUV_IGNORE, REJUV_IGNORE,  REJUV_FINISH, REJUV_BLOCK,     REJUV_IGNORE,    REJUV_IGNORE, REJUV_IGNORE, REJUV_AGAIN},
	[REJUV_REPLACING]    = {REJUV_IGNORE, REJUV_IGNORE,  REJUV_FINISH, REJUV_BLOCK,     REJUV_IGNORE,    REJUV_IGNORE, REJUV_IGNORE, REJUV_AGAIN},
	[REJUV_ROLLING_BACK] = {REJUV_IGNORE, REJUV_IGNORE,  REJUV_SETTLE, REJUV_BLOCK,     REJUV_IGNORE,    REJUV_IGNORE, REJUV_IGNORE, REJUV_AGAIN},
	[REJUV_BLOCKED]      = {REJUV_WAIT,   REJUV_IGNORE,  REJUV_IGNORE, REJUV_IGNORE,    REJUV_ROLL_BACK, REJUV_FORGET, REJUV_WAIT,   REJUV_IGNORE},
};

static const struct {
	const char *name, *step;
} states[REJUV_STATES] = {
	[REJUV_IDLE] = {"idle", NULL},		      [REJUV_DUE] = {"due", NULL},
	[REJUV_PREPARING] = {"preparing", "prepare"}, [REJUV_MOVING] = {"moving", "move"},
	[REJUV_VERIFYING] = {"verifying", "verify"},  [REJUV_RETIRING] = {"retiring", "retire"},
	[REJUV_REPLACING] = {"replacing", "replace"}, [REJUV_ROLLING_BACK] = {"rolling-back", "back"},
	[REJUV_BLOCKED] = {"blocked", NULL},
};

static const char *const events[REJUV_EVENTS] = {"wanted", "allowed", "done", "failed", "cancelled", "gone", "retry", "restarted"};

enum rejuv_action rejuv_action(enum rejuv_state s, enum rejuv_event e)
{
	return actions[s][e];
}

bool rejuv_is_working(enum rejuv_state s)
{
	return states[s].step;
}

const char *rejuv_step(enum rejuv_state s)
{
	return states[s].step;
}

const char *rejuv_state_name(enum rejuv_state s)
{
	return states[s].name;
}

int rejuv_state_of(const char *name)
{
	for (int s = 0; s < REJUV_STATES; s++)
		if (!strcmp(states[s].name, name))
			return s;
	return -1;
}

const char *rejuv_event_name(enum rejuv_event e)
{
	return events[e];
}
