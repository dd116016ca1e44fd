/* words.c: where the store is; times and numbers as people write and read them: monitor.h. */
#include "rejuv/monitor/monitor.h"

#include "rejuv/cli.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

char *store_path(void)
{
	return xasprintf("%s/monitor.db", state_dir());
}

struct aging_store *store_open(struct error *e)
{
	char *path = store_path();
	const char *error;
	struct aging_store *s = aging_store_open(path, 0, &error);

	if (!s)
		error_set(e, "%s%s", error, access(path, F_OK) ? " ('vmbeam monitor --record' makes it)" : "");
	free(path);
	return s;
}

int parse_since(const char *text, const struct aging_store *s, double *t, struct error *e)
{
	static const char *const forms[] = {"%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d"};
	static const struct {
		char letter;
		double s;
	} units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}, {'w', 7 * 86400}};
	double now = aging_store_now(s), n;
	char *end;

	for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
		struct tm tm = {.tm_isdst = -1};
		const char *rest = strptime(text, forms[i], &tm);

		if (rest && !*rest) {
			*t = now - (aging_store_clock(s, now) - (double)mktime(&tm));
			return 0;
		}
	}
	n = strtod(text, &end);
	for (size_t i = 0; i < ARRAY_LEN(units) && end > text && isfinite(n) && n >= 0; i++)
		if (end[0] == units[i].letter && !end[1]) {
			*t = now - n * units[i].s;
			return 0;
		}
	return error_set(e, "--since: '%s' is neither a time like 90m, 12h or 3d nor a date like 2026-11-20 13:00", text);
}

const char *when(const struct aging_store *s, double t)
{
	static char text[2][32];
	static unsigned int next;
	char *p = text[next++ % 2];
	time_t clock = (time_t)aging_store_clock(s, t);
	struct tm tm;

	strftime(p, sizeof(text[0]), "%Y-%m-%d %H:%M:%S", localtime_r(&clock, &tm));
	return p;
}

static char *human_text(void)
{
	static char text[4][32];
	static unsigned int next;

	return text[next++ % ARRAY_LEN(text)];
}

const char *human_duration(double s)
{
	char *p = human_text();

	if (!isfinite(s))
		return "never";
	if (s < 120)
		snprintf(p, 32, "%.0f s", s);
	else if (s < 7200)
		snprintf(p, 32, "%.0f min", s / 60);
	else if (s < 2 * 86400)
		snprintf(p, 32, "%.1f h", s / 3600);
	else
		snprintf(p, 32, "%.1f d", s / 86400);
	return p;
}

const char *human(double value, const char *unit)
{
	static const char *const sizes[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
	char *p = human_text();
	size_t i = 0;

	if (isnan(value)) {
		snprintf(p, 32, "-");
	} else if (!strcmp(unit, "bytes")) {
		for (; fabs(value) >= 1024 && i + 1 < ARRAY_LEN(sizes); i++)
			value /= 1024;
		snprintf(p, 32, "%.*f %s", fabs(value) < 10 && i ? 1 : 0, value, sizes[i]);
	} else if (!strcmp(unit, "ratio")) {
		snprintf(p, 32, "%.1f %%", 100 * value);
	} else if (!strcmp(unit, "seconds")) {
		if (value < 10)
			snprintf(p, 32, "%.1f ms", 1000 * value);
		else
			snprintf(p, 32, "%.0f s", value);
	} else {
		snprintf(p, 32, "%.4g", value);
	}
	return p;
}

struct json_t *json_number(double x)
{
	return isfinite(x) ? json_real(x) : json_null();
}
