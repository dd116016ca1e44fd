/* schedule.h: when a rejuvenation is due, and when it may begin.  All in the machine's local time.
 *
 * A schedule is that of cron (POSIX crontab): minute, hour, day of month, month, day of week (0 and 7 are Sunday); *, lists, ranges, steps,
 * names of three letters; @hourly, @daily, @weekly, @monthly, @yearly.  If both days are restricted either will do.
 * A time that is left out when clocks go forward is an hour later on that day; one that comes twice when they go back is due once.
 */
#ifndef REJUV_DAEMON_SCHEDULE_H
#define REJUV_DAEMON_SCHEDULE_H

#include "vmm/base.h"

struct schedule {
	uint64_t minutes; /* a bit each */
	uint32_t hours, days;
	uint16_t months;
	uint8_t weekdays;
	bool any_day, any_weekday;
};

/* -1 with *e and, in `column`, where in the text the fault is (from 0). */
int schedule_parse(const char *text, struct schedule *s, size_t *column, struct error *e);
/* The first time after `after` at which it is due; -1: never (30 February). */
time_t schedule_next(const struct schedule *s, time_t after);

/* What of a schedule has been seen to: at most one run for a time that has come, whatever is done to the clock. */
struct due {
	char *text;	 /* the schedule of which that is said; the owner's to free */
	int64_t handled; /* all its times until then */
	time_t next;	 /* after that; 0: not known, -1: there is none */
};
/* Is there a time that has come and has not been seen to?  Then it is from now on, and so are all others before `now`.  What was missed
 * is made up for, once.  later: each time is so many s later.  *changed: `text` or `handled` are others now. */
bool schedule_is_due(struct due *d, const char *text, const struct schedule *s, time_t later, time_t now, bool *changed);

/* "Sat,Sun 01:00-05:00", "22:00-04:00" (of every day that it begins on), "Mon-Fri". */
struct window {
	uint8_t weekdays; /* on which it begins */
	int from, to;	  /* minutes of the day; to <= from: it ends the day after */
};
int window_parse(const char *text, struct window *w, size_t *column, struct error *e);
bool window_is_open(const struct window *w, time_t now);

/* "2026-12-24..2027-01-02", both days included, or one day. */
struct blackout {
	int from, to; /* YYYYMMDD */
};
int blackout_parse(const char *text, struct blackout *b, size_t *column, struct error *e);
bool blackout_is_on(const struct blackout *b, time_t now);

#endif
