/* schedule.c: cron's schedules, windows and blackouts: schedule.h. */
#include "rejuv/daemon/schedule.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { YEARS = 30, AHEAD = 2 * 86400 }; /* (29 February on a given weekday comes every 28 years, but for 2100) */

static const char *const weekday_names[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat"};
static const char *const month_names[] = {"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"};

struct field {
	const char *what;
	unsigned int least, most;
	const char *const *names; /* of `least` and what follows; or NULL */
	size_t nnames;
};

static const struct field fields[] = {{"minute", 0, 59, NULL, 0},
				      {"hour", 0, 23, NULL, 0},
				      {"day of month", 1, 31, NULL, 0},
				      {"month", 1, 12, month_names, ARRAY_LEN(month_names)},
				      {"day of week", 0, 7, weekday_names, ARRAY_LEN(weekday_names)}};

/* A number or a name at *p, behind which *p is then; -1: neither. */
static int value_at(const struct field *f, const char **p)
{
	unsigned int n = 0;
	const char *start = *p;

	for (size_t i = 0; i < f->nnames; i++)
		if (!strncasecmp(*p, f->names[i], 3) && !isalpha((unsigned char)(*p)[3])) {
			*p += 3;
			return (int)(f->least + i);
		}
	while (isdigit((unsigned char)**p) && n < 1000)
		n = n * 10 + (unsigned int)(*(*p)++ - '0');
	return *p == start || n < f->least || n > f->most ? -1 : (int)n;
}

/* "*", "*\/5", "1-5", "1-30/2", "3": bits from bit `least` on.  *p is then behind it. */
static int part_at(const struct field *f, const char **p, uint64_t *bits)
{
	int from = (int)f->least, to = (int)f->most, step = 1;
	bool star = **p == '*';

	if (star) {
		(*p)++;
	} else {
		from = to = value_at(f, p);
		if (from < 0)
			return -1;
		if (**p == '-') {
			(*p)++;
			to = value_at(f, p);
			if (to < from)
				return -1;
		} else if (**p == '/') {
			to = (int)f->most;
		}
	}
	if (**p == '/') {
		static const struct field number = {"step", 1, 59, NULL, 0};

		(*p)++;
		step = value_at(&number, p);
		if (step < 0)
			return -1;
	}
	for (int i = from; i <= to; i += step)
		*bits |= 1ull << i;
	return 0;
}

static int field_at(const struct field *f, const char **p, uint64_t *bits)
{
	*bits = 0;
	do {
		if (part_at(f, p, bits))
			return -1;
	} while (**p == ',' && (*p)++);
	return **p && !isspace((unsigned char)**p) ? -1 : 0;
}

static void skip_space(const char **p)
{
	while (isspace((unsigned char)**p))
		(*p)++;
}

static const char *long_form(const char *text)
{
	static const char *const forms[][2] = {{"@hourly", "0 * * * *"},
					       {"@daily", "0 0 * * *"},
					       {"@weekly", "0 0 * * 0"},
					       {"@monthly", "0 0 1 * *"},
					       {"@yearly", "0 0 1 1 *"}};

	for (size_t i = 0; i < ARRAY_LEN(forms); i++)
		if (!strcmp(text, forms[i][0]))
			return forms[i][1];
	return text;
}

int schedule_parse(const char *text, struct schedule *s, size_t *column, struct error *e)
{
	const char *start = long_form(text), *p = start;
	uint64_t bits[ARRAY_LEN(fields)];
	bool any[ARRAY_LEN(fields)];

	*column = 0;
	for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
		skip_space(&p);
		*column = (size_t)(p - start);
		any[i] = *p == '*';
		if (!*p || field_at(&fields[i], &p, &bits[i]))
			return error_set(e, *p || i == 0 ? "this is no %s" : "the %s is missing", fields[i].what);
	}
	skip_space(&p);
	*column = (size_t)(p - start);
	if (*p)
		return error_set(e, "there is more than a minute, hour, day, month and day of week");
	s->minutes = bits[0];
	s->hours = (uint32_t)bits[1];
	s->days = (uint32_t)bits[2];
	s->months = (uint16_t)bits[3];
	s->weekdays = (uint8_t)((bits[4] | bits[4] >> 7) & 0x7f);
	s->any_day = any[2];
	s->any_weekday = any[4];
	*column = 0;
	return schedule_next(s, time(NULL)) < 0 ? error_set(e, "that day never comes") : 0;
}

static bool day_fits(const struct schedule *s, const struct tm *day)
{
	bool by_day = s->days >> day->tm_mday & 1, by_weekday = s->weekdays >> day->tm_wday & 1;

	if (!(s->months >> (day->tm_mon + 1) & 1))
		return false;
	return s->any_day || s->any_weekday ? by_day && by_weekday : by_day || by_weekday;
}

/* The moment of a local time; if clocks leave it out, as they would have shown it. */
static time_t moment(const struct tm *local)
{
	struct tm tm = *local, check;
	time_t t;

	tm.tm_isdst = -1;
	t = mktime(&tm);
	if (localtime_r(&t, &check) && check.tm_hour == local->tm_hour && check.tm_min == local->tm_min)
		return t;
	tm = *local;
	tm.tm_isdst = 0;
	return mktime(&tm);
}

time_t schedule_next(const struct schedule *s, time_t after)
{
	struct tm begin, day;

	localtime_r(&after, &begin);
	day = begin;
	for (int i = 0; i < YEARS * 366; i++) {
		if (i) { /* noon: no day is left out, whatever clocks do */
			day.tm_mday++;
			day.tm_hour = 12;
			day.tm_min = 0;
			day.tm_isdst = -1;
			mktime(&day);
		}
		if (!day_fits(s, &day))
			continue;
		for (int m = i ? 0 : begin.tm_hour * 60 + begin.tm_min + 1; m < 24 * 60; m++) {
			struct tm local = day;
			time_t t;

			if (!(s->hours >> (m / 60) & 1) || !(s->minutes >> (m % 60) & 1))
				continue;
			local.tm_hour = m / 60;
			local.tm_min = m % 60;
			local.tm_sec = 0;
			t = moment(&local);
			if (t > after)
				return t;
		}
	}
	return -1;
}

bool schedule_is_due(struct due *d, const char *text, const struct schedule *s, time_t later, time_t now, bool *changed)
{
	*changed = false;
	/* A new one; or the clock was once far ahead, and has been set right. */
	if (!d->text || strcmp(d->text, text) || d->handled > now + AHEAD) {
		free(d->text);
		d->text = xstrdup(text);
		d->handled = now;
		d->next = 0;
		*changed = true;
	}
	if (!d->next) {
		d->next = schedule_next(s, (time_t)d->handled);
		if (d->next > 0)
			d->next += later;
	}
	if (d->next < 0 || d->next > now)
		return false;
	d->handled = now;
	d->next = 0;
	*changed = true;
	return true;
}

/* ---- windows */

/* "HH:MM" at *p as a minute of the day; 24:00 too. */
static int clock_at(const char **p)
{
	int h = 0, m = 0, n = 0;

	if (sscanf(*p, "%2d:%2d%n", &h, &m, &n) != 2 || n < 4 || !isdigit((unsigned char)**p) || h < 0 || m < 0 || m > 59 ||
	    h * 60 + m > 24 * 60)
		return -1;
	*p += n;
	return h * 60 + m;
}

int window_parse(const char *text, struct window *w, size_t *column, struct error *e)
{
	const char *p = text;
	uint64_t days = 0x7f;

	w->from = 0;
	w->to = 24 * 60;
	skip_space(&p);
	*column = (size_t)(p - text);
	if (isalpha((unsigned char)*p) || *p == '*') {
		if (field_at(&fields[4], &p, &days))
			return error_set(e, "days are expected (Mon-Fri, or Sat,Sun)");
		skip_space(&p);
	}
	w->weekdays = (uint8_t)((days | days >> 7) & 0x7f);
	*column = (size_t)(p - text);
	if (!*p && p > text)
		return 0;
	w->from = clock_at(&p);
	if (w->from < 0 || *p++ != '-')
		return error_set(e, "HH:MM-HH:MM is expected");
	w->to = clock_at(&p);
	skip_space(&p);
	return w->to < 0 || *p ? error_set(e, "HH:MM-HH:MM is expected") : 0;
}

bool window_is_open(const struct window *w, time_t now)
{
	struct tm tm;
	int minute, yesterday;

	localtime_r(&now, &tm);
	minute = tm.tm_hour * 60 + tm.tm_min;
	yesterday = (tm.tm_wday + 6) % 7;
	if (w->to > w->from)
		return w->weekdays >> tm.tm_wday & 1 && minute >= w->from && minute < w->to;
	return (w->weekdays >> tm.tm_wday & 1 && minute >= w->from) || (w->weekdays >> yesterday & 1 && minute < w->to);
}

/* ---- blackouts */

static int date_at(const char **p)
{
	struct tm tm = {.tm_hour = 12, .tm_isdst = -1}, check;
	const char *end = strptime(*p, "%Y-%m-%d", &tm);

	if (!end || end - *p != 10)
		return -1;
	check = tm;
	mktime(&check);
	if (check.tm_mday != tm.tm_mday) /* 31 February */
		return -1;
	*p = end;
	return (tm.tm_year + 1900) * 10000 + (tm.tm_mon + 1) * 100 + tm.tm_mday;
}

int blackout_parse(const char *text, struct blackout *b, size_t *column, struct error *e)
{
	const char *p = text;

	*column = 0;
	b->from = b->to = date_at(&p);
	if (b->from >= 0 && !strncmp(p, "..", 2)) {
		p += 2;
		*column = (size_t)(p - text);
		b->to = date_at(&p);
	}
	if (b->from < 0 || b->to < 0 || *p)
		return error_set(e, "YYYY-MM-DD or YYYY-MM-DD..YYYY-MM-DD is expected");
	return b->to < b->from ? error_set(e, "it ends before it begins") : 0;
}

bool blackout_is_on(const struct blackout *b, time_t now)
{
	struct tm tm;
	int day;

	localtime_r(&now, &tm);
	day = (tm.tm_year + 1900) * 10000 + (tm.tm_mon + 1) * 100 + tm.tm_mday;
	return day >= b->from && day <= b->to;
}
