/* plot.c: an indicator over time with the forecast of its exhaustion, drawn by gnuplot: monitor.h. */
#include "rejuv/monitor/monitor.h"

#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AHEAD 0.5 /* of the time that is shown: so far the forecast is drawn at most */

struct plot {
	struct aging_store *store;
	FILE *out;
	char indicator[AGING_NAME]; /* "": not chosen yet */
	enum aging_kind kind;
	double divisor; /* values are drawn in units of so much */
	double first, last, value;
	size_t n;
	/* of the last verdict on that indicator */
	double t, left, slope, low, high;
};

static void take_indicator(void *ctx, const char *indicator, enum aging_kind kind, double limit)
{
	struct plot *p = ctx;

	(void)limit;
	if (!strcmp(indicator, p->indicator))
		p->kind = kind;
}

static void choose(void *ctx, const struct aging_stored *v)
{
	struct plot *p = ctx;

	if (v->indicator)
		snprintf(p->indicator, sizeof(p->indicator), "%s", v->indicator);
}

static void take_verdict(void *ctx, const struct aging_stored *v)
{
	struct plot *p = ctx;

	if (!v->indicator || strcmp(v->indicator, p->indicator) || isnan(v->slope))
		return;
	p->t = v->t;
	p->slope = v->slope;
	p->low = v->low;
	p->high = v->high;
}

static void put(const struct plot *p, double t, double value)
{
	fprintf(p->out, "%.0f %.6g\n", aging_store_clock(p->store, t), value / p->divisor);
}

static void take_value(void *ctx, double t, double value)
{
	struct plot *p = ctx;

	if (!p->n++)
		p->first = t;
	else if (t - p->last > 2 * 900)
		fputc('\n', p->out); /* a gap: no line over it */
	p->last = t;
	p->value = value;
	put(p, t, value);
}

/* From the last value on, at that slope, until it is exhausted or far enough. */
static void forecast(const struct plot *p, const char *name, double slope, double limit)
{
	double left = p->kind == AGING_LEFT ? p->value : limit - p->value, ahead = AHEAD * (p->last - p->first);
	double sign = p->kind == AGING_LEFT ? -1 : 1;

	if (slope > 0)
		ahead = fmin(ahead, left / slope);
	fprintf(p->out, "$%s << EOD\n", name);
	put(p, p->last, p->value);
	put(p, p->last + ahead, p->value + sign * slope * ahead);
	fputs("EOD\n", p->out);
}

static void quote(FILE *f, const char *text)
{
	fputc('\'', f);
	for (; *text; text++) {
		if (*text == '\'')
			fputc('\'', f);
		fputc(*text, f);
	}
	fputc('\'', f);
}

static void draw(struct plot *p, const char *name, const char *unit, double limit, bool png, const char *out)
{
	FILE *f = p->out;
	bool foreseen = p->slope > 0 && (p->kind == AGING_LEFT || p->kind == AGING_USED);

	if (foreseen) {
		forecast(p, "expected", p->slope, limit);
		forecast(p, "earliest", p->high, limit);
		forecast(p, "latest", p->low, limit);
	}
	fprintf(f, "set terminal %s size 1000,500 font 'sans,11'\nset output ", png ? "pngcairo" : "svg background 'white'");
	quote(f, out);
	fputs("\nset title ", f);
	quote(f, name);
	fputs(" noenhanced\nset ylabel ", f);
	quote(f, unit);
	fprintf(f, " noenhanced\nset xdata time\nset timefmt '%%s'\nset format x \"%%d %%b\\n%%H:%%M\"\nset grid lc rgb '#dddddd'\n"
		   "set border 3 lc rgb '#666666'\nset xtics nomirror\nset ytics nomirror\nset yrange [0:*]\n"
		   "set key outside below horizontal noenhanced\nplot $values using (timecolumn(1,'%%s')+%ld):2 with lines lw 1.5 lc rgb"
		   " '#1f77b4' title ",
		-timezone);
	quote(f, p->indicator);
	if (p->kind == AGING_LEFT || p->kind == AGING_USED)
		fprintf(f, ", %.6g with lines dt 2 lc rgb '#888888' title 'all there is'", limit / p->divisor);
	if (foreseen)
		fprintf(f,
			", $expected using (timecolumn(1,'%%s')+%ld):2 with lines lw 2 lc rgb '#d62728' title 'forecast'"
			", $earliest using (timecolumn(1,'%%s')+%ld):2 with lines dt 3 lc rgb '#d62728' title '99 %% of forecasts'"
			", $latest using (timecolumn(1,'%%s')+%ld):2 with lines dt 3 lc rgb '#d62728' notitle",
			-timezone, -timezone, -timezone);
	fputc('\n', f);
}

/* "MiB" for bytes, and what to divide them by. */
static const char *scale(const char *unit, double limit, double *divisor)
{
	*divisor = 1;
	if (!strcmp(unit, "bytes")) {
		*divisor = limit > 0 && limit < 64. * (double)MIB ? (double)KIB : (double)MIB;
		return *divisor == (double)KIB ? "KiB" : "MiB";
	}
	if (!strcmp(unit, "ratio")) {
		*divisor = 0.01;
		return "%";
	}
	return unit[0] ? unit : "number";
}

int plot(struct aging_store *s, const char *name, const char *indicator, double since, const char *out, struct error *e)
{
	struct plot p = {.store = s, .slope = NAN, .kind = AGING_PLAIN};
	const char *error, *unit, *end = strrchr(out, '.');
	bool png = end && !strcmp(end, ".png");
	char *text = NULL;
	double limit = 0;
	size_t size;
	char part[PATH_MAX];
	FILE *gnuplot;
	int r, fd;

	if (!png && (!end || strcmp(end, ".svg")))
		return error_set(e, "--plot: %s: a name that ends with .svg or .png is expected", out);
	snprintf(part, sizeof(part), "%s.part", out);
	tzset();
	snprintf(p.indicator, sizeof(p.indicator), "%s", indicator ? indicator : "");
	if (!indicator && aging_store_each_verdict(s, name, since, true, choose, &p, &error))
		return error_set(e, "%s", error);
	if (!p.indicator[0])
		snprintf(p.indicator, sizeof(p.indicator), "memory_available");
	p.out = open_memstream(&text, &size);
	if (!p.out)
		return error_set_errno(e, "%s", out);
	unit = scale(aging_unit(p.indicator), 0, &p.divisor);
	fputs("$values << EOD\n", p.out);
	r = aging_store_each_indicator(s, name, take_indicator, &p, &error) ||
	    aging_store_each_verdict(s, name, since, true, take_verdict, &p, &error) ||
	    aging_store_each_value(s, name, p.indicator, since, take_value, &p, &limit, &error);
	fputs("EOD\n", p.out);
	if (!r && !p.n) {
		error = "nothing is stored of that time";
		r = -1;
	}
	if (!r)
		draw(&p, name, unit, limit, png, part);
	fclose(p.out);
	if (r) {
		free(text);
		return error_set(e, "%s: %s", name, error);
	}
	fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		error_set_errno(e, "%s", out);
	gnuplot = fd < 0 ? NULL : popen("gnuplot >/dev/null 2>&1", "we");
	r = !gnuplot || fwrite(text, 1, size, gnuplot) != size;
	r = (gnuplot && pclose(gnuplot)) || r || lseek(fd, 0, SEEK_END) <= 0 || rename(part, out);
	free(text);
	if (fd < 0)
		return -1;
	close(fd);
	if (r)
		unlink(part);
	return r ? error_set(e, "%s: gnuplot cannot draw it (is it installed?)", out) : 0;
}
