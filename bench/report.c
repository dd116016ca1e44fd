/* report.c: what `vmbeam bench` has measured, as tables and plots.
 *
 *   report DIR [--docs DIR]
 *
 * reads DIR/results.csv (bench.sh says what is in it) and DIR/results.csv.d, writes DIR/report.html, which needs no other file, and
 * DIR/Pn.svg and .png, drawn by gnuplot; with --docs also results.md there and its plots in results/.  Figures are medians, with
 * the quartiles (of two runs, both).  Exit 1 if a run failed or nothing was measured.
 */
#include "bench/model.h"
#include "bench/results.h"

#include "vmm/base.h"

#include <err.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { RECORDED = 4096 }; /* lines of a recording, at most */

static struct {
	const char *dir;
	FILE *html, *md; /* md: NULL */
	const char *docs;
} r;

/* ---- the report */

static void __attribute__((format(printf, 1, 2))) say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("<p>", r.html);
	vfprintf(r.html, fmt, ap);
	fputs("</p>\n", r.html);
	va_end(ap);
	if (!r.md)
		return;
	va_start(ap, fmt);
	vfprintf(r.md, fmt, ap);
	fputs("\n\n", r.md);
	va_end(ap);
}

static void heading(const char *text)
{
	fprintf(r.html, "<h2>%s</h2>\n", text);
	if (r.md)
		fprintf(r.md, "## %s\n\n", text);
}

/* A row of a table; the first of each is its heading.  n 0: the table ends. */
static void row(const char *const *cell, size_t n)
{
	static bool open;
	const char *tag = open ? "td" : "th";

	if (!n) {
		fputs(open ? "</table>\n" : "", r.html);
		if (open && r.md)
			fputs("\n", r.md);
		open = false;
		return;
	}
	fputs(open ? "<tr>" : "<table><tr>", r.html);
	for (size_t i = 0; i < n; i++) {
		fprintf(r.html, "<%s>%s</%s>", tag, cell[i], tag);
		if (r.md)
			fprintf(r.md, "| %s ", cell[i]);
	}
	fputs("</tr>\n", r.html);
	if (r.md) {
		fputs("|\n", r.md);
		for (size_t i = 0; i < n && !open; i++)
			fputs(i ? "|---:" : "|---", r.md);
		fputs(open ? "" : "|\n", r.md);
	}
	open = true;
}

static char *number(double x)
{
	return isnan(x) ? xstrdup("") : xasprintf(fabs(x) < 0.01 && x != 0 ? "%.2g" : fabs(x) < 10 ? "%.2f" : fabs(x) < 100 ? "%.1f" : "%.0f", x);
}

static char *cell_of(struct spread s)
{
	char *low = number(s.low), *median = number(s.median), *high = number(s.high), *text;

	text = s.n > 1 ? xasprintf("%s (%s to %s; %zu)", median, low, high, s.n) : xstrdup(median);
	free(low);
	free(median);
	free(high);
	return text;
}

/* ---- plots: gnuplot reads the data with the script */

static FILE *begin_plot(const char *name, const char *x, const char *y)
{
	FILE *f = popen("gnuplot", "w"); /* NOLINT(cert-env33-c): a command of our own */

	if (!f)
		err(1, "gnuplot");
	fprintf(f,
		"set terminal svg size 720,440 font 'sans,13' background 'white'\nset output '%s/%s.svg'\n"
		"set xlabel '%s'\nset ylabel '%s'\nset grid\nset key outside top horizontal\nset style data linespoints\n"
		"set style fill solid 0.6\nset boxwidth 0.6\n",
		r.dir, name, x, y);
	return f;
}

static void end_plot(FILE *f, const char *name)
{
	char *path = xasprintf("%s/%s.svg", r.dir, name), *copy = r.md ? xasprintf("%s/results/%s.svg", r.docs, name) : NULL, line[4096];
	FILE *svg, *too = NULL;

	fprintf(f, "set terminal pngcairo size 720,440\nset output '%s/%s.png'\nreplot\n", r.dir, name);
	if (pclose(f))
		errx(1, "gnuplot failed at %s", name);
	svg = fopen(path, "re");
	if (!svg)
		err(1, "%s", path);
	if (copy && !(too = fopen(copy, "we")))
		err(1, "%s", copy);
	/* Without what comes before it, it is a part of HTML. */
	for (bool begun = false; fgets(line, sizeof(line), svg);) {
		begun = begun || !strncmp(line, "<svg", 4);
		if (begun)
			fputs(line, r.html);
		if (too)
			fputs(line, too);
	}
	fclose(svg);
	if (too && fclose(too))
		err(1, "%s", copy);
	free(path);
	free(copy);
	if (r.md)
		fprintf(r.md, "![%s](results/%s.svg)\n\n", name, name);
}

struct curves {
	const char *name, *title, *y, *paper;
	figure *of;
	bool rates, log;
	unsigned int without; /* bits: systems that are left out */
};

/* Of a system at one place of the x axis; `size`: that at which rates were measured. */
static struct spread spread_at(const struct curves *c, size_t system, double size, double x)
{
	return spread_of(&systems[system], c->rates ? size : x, c->rates ? x : 0, c->of);
}

/* Figures over memory size or write rate: a plot and its table. */
static void draw_curves(const struct curves *c)
{
	double size = c->rates ? rated() : 0, x[XS];
	size_t nx = xs_of(c->rates, size, x), drawn = 0;
	bool any[SYSTEMS] = {false};
	const char *cells[SYSTEMS + 1];
	size_t n;
	FILE *f;

	heading(c->title);
	if (c->paper)
		say("The paper: %s", c->paper);
	if (!nx || isnan(size)) {
		say("Not measured.");
		return;
	}
	f = begin_plot(c->name, c->rates ? "written by the guest, MiB/s" : "memory of the guest, MiB", c->y);
	for (size_t s = 0; s < SYSTEMS; s++) {
		fprintf(f, "$d%zu << EOD\n", s);
		for (size_t i = 0; i < nx; i++) {
			struct spread v = spread_at(c, s, size, x[i]);

			if (v.n)
				fprintf(f, "%g %g %g %g\n", x[i], v.median, v.low, v.high);
			any[s] |= v.n && !(c->without & (1U << s));
		}
		fputs("EOD\n", f);
	}
	if (c->log)
		fputs("set logscale y\n", f);
	if (!c->rates)
		fputs("set logscale x 2\n", f);
	if (nx == 1)
		fprintf(f, "set xrange [%g:%g]\n", x[0] / 2, x[0] > 0 ? x[0] * 2 : 1);
	fputs("plot ", f);
	n = 0;
	cells[n++] = c->rates ? "MiB/s" : "MiB";
	for (size_t s = 0; s < SYSTEMS; s++) {
		if (!any[s])
			continue;
		fprintf(f, "%s$d%zu using 1:2:3:4 with yerrorlines title '%s' lc %zu pt 7 ps 0.6", drawn++ ? ", " : "", s, systems[s].title, s + 1);
		cells[n++] = systems[s].title;
	}
	fputs("\n", f);
	if (!drawn) {
		pclose(f);
		say("Not measured.");
		return;
	}
	end_plot(f, c->name);
	row(cells, n);
	for (size_t i = 0; i < nx; i++) {
		char *text[SYSTEMS + 1];

		n = 0;
		text[n++] = number(x[i]);
		for (size_t s = 0; s < SYSTEMS; s++)
			if (any[s])
				text[n++] = cell_of(spread_at(c, s, size, x[i]));
		row((const char *const *)text, n);
		for (size_t k = 0; k < n; k++)
			free(text[k]);
	}
	row(NULL, 0);
}

struct bars {
	const char *name, *title, *y, *paper;
	figure *of;
};

/* Of all systems, at the largest size, with what each is of nest's. */
static void draw_bars(const struct bars *b)
{
	static const char *const heads[] = {"system", "median (quartiles; runs)", "of nest's, %"};
	double size = compared(), nest = median_of("nest", size, 0, b->of);
	bool drawn = false;
	FILE *f;

	heading(b->title);
	say("The paper: %s", b->paper);
	f = begin_plot(b->name, "", b->y);
	fputs("set xtics rotate by -20\nunset key\n$d << EOD\n", f);
	row(heads, ARRAY_LEN(heads));
	for (size_t s = 0; s < SYSTEMS; s++) {
		struct spread v = spread_of(&systems[s], size, 0, b->of);
		char *cells[3];

		if (!v.n)
			continue;
		drawn = true;
		fprintf(f, "\"%s\" %g %g %g\n", systems[s].title, v.median, v.low, v.high);
		cells[0] = xstrdup(systems[s].title);
		cells[1] = cell_of(v);
		cells[2] = nest > 0 ? number(100 * v.median / nest) : xstrdup("");
		row((const char *const *)cells, 3);
		for (size_t k = 0; k < 3; k++)
			free(cells[k]);
	}
	row(NULL, 0);
	if (!drawn) {
		pclose(f);
		say("Not measured.");
		return;
	}
	fputs("EOD\nplot $d using 0:2:xtic(1) with boxes lc 1, $d using 0:2:3:4 with yerrorbars lc -1 pt 0\n", f);
	end_plot(f, b->name);
}

/* ---- rejuvenations of many guests, and what they and the rest would be at other sizes */

static void draw_rejuvenations(void)
{
	static const char *const heads[] = {"guests", "total, ms", "longest downtime of a guest, ms", "CPU time, ms"};
	bool any = false;

	heading("What a rejuvenation costs, by guests");
	say("Of %d MiB each, one after another.", MODEL_GUEST);
	for (size_t s = 0; s < SYSTEMS; s++) {
		int k = is_rejuvenation(&systems[s]);
		struct spread total = k ? spread_of(&systems[s], MODEL_GUEST, 0, total_ms) : (struct spread){.n = 0};
		char *cells[4];

		if (!total.n)
			continue;
		if (!any)
			row(heads, ARRAY_LEN(heads));
		any = true;
		cells[0] = xasprintf("%d", k);
		cells[1] = cell_of(total);
		cells[2] = cell_of(spread_of(&systems[s], MODEL_GUEST, 0, downtime_ms));
		cells[3] = cell_of(spread_of(&systems[s], MODEL_GUEST, 0, cpu_ms));
		row((const char *const *)cells, 4);
		for (size_t i = 0; i < 4; i++)
			free(cells[i]);
	}
	row(NULL, 0);
	if (!any)
		say("Not measured.");
}

static void draw_line(const char *what, const char *of, const struct line *l)
{
	char *first = number(l->first), *each = number(l->each), *miss = isnan(l->miss) ? xstrdup("not tried") : xasprintf("%+.0f %%", round(100 * l->miss) + 0.0);
	char *points = xasprintf("%zu", l->n);
	const char *const cells[] = {what, first, each, of, points, miss};

	if (l->n > 1)
		row(cells, ARRAY_LEN(cells));
	free(first);
	free(each);
	free(miss);
	free(points);
}

static void draw_host(const char *what, double ms, double hosts, double concurrent)
{
	char *host = number(ms / 1000), *fleet = number(model_fleet(ms, hosts, concurrent) / 3600e3);
	const char *const cells[] = {what, host, fleet};

	if (!isnan(ms))
		row(cells, ARRAY_LEN(cells));
	free(host);
	free(fleet);
}

/* VMs, GiB each, hosts, rejuvenated at a time; and the line rate of 10 GbE, GiB/s: no copy over it takes less. */
#define MODEL_LINE_RATE (10e9 / 8 / 1073741824)
static const struct {
	double guests, gib, hosts, concurrent;
} scale = {200, 16, 10000, 100};

static void draw_model(void)
{
	static const char *const heads[] = {"ms", "fixed", "for each", "of these", "points", "largest, predicted from the others"};
	static const char *const answers[] = {"", "one host, s", "all hosts, h"};
	double bytes = scale.guests * scale.gib;
	struct model m;

	heading("What it would take at other sizes: a model");
	say("Lines through the medians above%s.", results_emulated() ? ", emulated: what follows is worth as much as they are, as ratios" : "");
	model_fit(&m);
	row(heads, ARRAY_LEN(heads));
	draw_line("beam, with warming", "GiB", &m.beam);
	draw_line("beam, not warmed", "GiB", &m.cold);
	draw_line("copy over 10 GbE, encrypted", "GiB", &m.tls);
	draw_line("copy over 10 GbE, not encrypted", "GiB", &m.plain);
	draw_line("rejuvenation", "guests", &m.rejuvenation);
	row(NULL, 0);
	say("A host with %g guests of %g GiB, each filled as these were (70 %%), one after another; and %g such hosts, %g at a time:", scale.guests,
	    scale.gib, scale.hosts, scale.concurrent);
	row(answers, ARRAY_LEN(answers));
	draw_host("beam", m.rejuvenation.n > 1 && m.beam.n > 1 ? model_host(&m, scale.guests, scale.gib) : NAN, scale.hosts, scale.concurrent);
	draw_host("copied, encrypted", model_copy(&m.tls, scale.guests, scale.gib), scale.hosts, scale.concurrent);
	draw_host("copied, not encrypted", model_copy(&m.plain, scale.guests, scale.gib), scale.hosts, scale.concurrent);
	draw_host("copied at the full rate of 10 GbE, whatever the machine", bytes * 0.7 / MODEL_LINE_RATE * 1000, scale.hosts, scale.concurrent);
	row(NULL, 0);
	say("What a line cannot show: the cost by number of memory extents, in which these guests do not differ, and hypervisors that are short of CPU.");
}

/* ---- CPU over time: what `stamp` saw of one run */

#define SMOOTH 0.08

/* Writes lines "ms share" of column `which` (0: all), share of one CPU in %; whether there were any. */
static bool write_trace(FILE *f, const char *system, double size, int which)
{
	char *path = xasprintf("%s/results.csv.d/%s-%g-0-1", r.dir, system, size), line[512];
	FILE *in = fopen(path, "re");
	double start = NAN, at = NAN, used = NAN;
	bool any = false;

	free(path);
	while (in && fgets(line, sizeof(line), in)) {
		unsigned long long ns, us[2] = {0, 0};
		int n;

		if (sscanf(line, "start %llu", &ns) == 1)
			start = (double)ns;
		n = sscanf(line, "at %llu %llu %llu", &ns, &us[0], &us[1]);
		if (n < 2)
			continue;
		double sum = which ? (double)us[which - 1] : (double)(us[0] + us[1]);
		/* (Of a time axis that is logarithmic the end is long.) */
		if (!isnan(at) && (double)ns - at < SMOOTH * ((double)ns - start))
			continue;
		if (!isnan(start) && !isnan(at) && (double)ns > at) {
			fprintf(f, "%.1f %.1f\n", ((double)ns - start) / 1e6, 100 * (sum - used) * 1000 / ((double)ns - at));
			any = true;
		}
		at = (double)ns;
		used = sum;
	}
	if (in)
		fclose(in);
	return any;
}

static void draw_cpu(void)
{
	static const struct {
		const char *system, *title;
		int which;
	} lines[] = {{"beam", "beam", 0}, {"nest", "nest", 0}, {"phys", "phys, source", 1}, {"phys", "phys, destination", 2}};
	const char *separator = "";
	bool there[ARRAY_LEN(lines)];
	FILE *f;

	heading("P5: CPU use during one migration");
	say("The paper: the peak of beam and nest is twice that of phys (both ends are on one machine).  Here: one run each of %g MiB, in %% of "
	    "one CPU; the time axis is logarithmic, since the longest takes a hundred times as long as the shortest.", compared());
	f = begin_plot("P5", "ms", "% of a CPU");
	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		fprintf(f, "$d%zu << EOD\n", i);
		there[i] = write_trace(f, lines[i].system, compared(), lines[i].which);
		fputs("EOD\n", f);
	}
	fputs("set logscale x\nset style data lines\nplot ", f);
	for (size_t i = 0; i < ARRAY_LEN(lines); i++)
		if (there[i]) {
			fprintf(f, "%s$d%zu title '%s' lw 2", separator, i, lines[i].title);
			separator = ", ";
		}
	fputs("\n", f);
	if (*separator) {
		end_plot(f, "P5");
		return;
	}
	pclose(f);
	say("Not measured.");
}

/* ---- recordings: their first line is "# VERSION" */

/* NULL: it is not there, or of another version. */
static FILE *open_recording(const char *kind, const char *of)
{
	char *path = xasprintf("%s/results.csv.d/%s%s", r.dir, kind, of), line[200] = "";
	FILE *in = fopen(path, "re");

	free(path);
	if (in && (!fgets(line, sizeof(line), in) || strncmp(line, "# ", 2) || strncmp(line + 2, results.version, strlen(results.version)) ||
		   line[2 + strlen(results.version)] != '\n')) {
		fclose(in);
		return NULL;
	}
	return in;
}

/* ---- P9: requests a second while guests move */

/* Means of what was answered before the first move, while they moved, and after the last; the least in a second of these. */
struct throughput {
	double before, while_moving, after, least, begin, end; /* requests/s; s */
	size_t moves, n[3];
};

/* Writes the plot's lines "s rate"; whether there is anything. */
static bool read_throughput(const char *system, FILE *plot, struct throughput *t)
{
	FILE *in = open_recording("throughput-", system);
	char line[200];
	double a, b;

	*t = (struct throughput){.begin = NAN, .end = NAN, .least = INFINITY};
	while (in && fgets(line, sizeof(line), in))
		if (sscanf(line, "move %lf %lf", &a, &b) == 2) {
			t->begin = fmin(t->begin, a);
			t->end = fmax(t->end, b);
			t->moves++;
		}
	if (in)
		rewind(in);
	while (in && fgets(line, sizeof(line), in)) {
		double *sum;

		if (sscanf(line, "rate %lf %lf", &a, &b) != 2)
			continue;
		fprintf(plot, "%.1f %.1f\n", a, b);
		sum = a < t->begin ? &t->before : a > t->end + 1 ? &t->after : &t->while_moving;
		t->n[sum == &t->before ? 0 : sum == &t->after ? 2 : 1]++;
		*sum += b;
		if (sum == &t->while_moving)
			t->least = fmin(t->least, b);
	}
	if (in)
		fclose(in);
	t->before /= (double)t->n[0];
	t->while_moving /= (double)t->n[1];
	t->after /= (double)t->n[2];
	return t->moves && t->n[0] && t->n[1] && t->n[2];
}

static void draw_throughput(void)
{
	static const char *const names[] = {"beam", "phys"}, *const titles[] = {"beam", "phys, 10 GbE, encrypted"};
	static const char *const heads[] = {"", "guests moved", "in, s", "requests/s before", "meanwhile", "the least", "after"};
	const char *separator = "";
	struct throughput t[ARRAY_LEN(names)];
	bool there[ARRAY_LEN(names)];
	FILE *f;

	heading("P9: requests answered a second while guests move one after another");
	say("The paper: throughput sags, step by step, while virtual machines are copied.  Here: a web service in one guest, asked over the network by "
	    "two clients as fast as it answers; it and ten small guests move one after another, it as the last.");
	f = begin_plot("P9", "s", "requests a second");
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		fprintf(f, "$d%zu << EOD\n", i);
		there[i] = read_throughput(names[i], f, &t[i]);
		fputs("EOD\n", f);
	}
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		for (double at = t[i].begin, k = 0; there[i] && k < 2; at = t[i].end, k++)
			fprintf(f, "set arrow from first %g, graph 0 to first %g, graph 1 nohead dt %zu lc %zu\n", at, at, i + 2, i + 1);
	fputs("set yrange [0:]\nset style data lines\nplot ", f);
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (there[i]) {
			fprintf(f, "%s$d%zu title '%s' lw 2 lc %zu", separator, i, titles[i], i + 1);
			separator = ", ";
		}
	fputs("\n", f);
	if (!*separator) {
		pclose(f);
		say("Not measured.");
		return;
	}
	end_plot(f, "P9");
	row(heads, ARRAY_LEN(heads));
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		char *cells[] = {xstrdup(titles[i]), xasprintf("%zu", t[i].moves), number(t[i].end - t[i].begin), number(t[i].before),
				 number(t[i].while_moving), number(t[i].least), number(t[i].after)};

		if (there[i])
			row((const char *const *)cells, ARRAY_LEN(cells));
		for (size_t k = 0; k < ARRAY_LEN(cells); k++)
			free(cells[k]);
	}
	row(NULL, 0);
	say("Between the two lines of a colour its guests move.");
}

/* ---- a guest's own speed while it moves */

static const struct {
	const char *name, *title;
} modes[] = {{"beam", "beam"}, {"cold", "beam, not warmed"}, {"host", "host"}, {"phys", "pre-copy, encrypted"}, {"post", "post-copy, encrypted"}};

/* s of moving; ms for a GiB: medians before and after, the longest from its beginning to its end, the first second after that. */
struct speed {
	double took, before, worst, first, after;
	bool there;
};

static struct speed read_speed(const char *mode, FILE *plot)
{
	FILE *in = open_recording("speed-", mode);
	char line[200];
	double began = NAN, ended = NAN, begin = NAN, total = NAN, t, tick, written, last_t = NAN, last_written = NAN, all[3][RECORDED];
	size_t n[3] = {0};
	struct speed s = {.worst = 0, .first = NAN};

	while (in && fgets(line, sizeof(line), in)) {
		double ms;
		int part;

		if (sscanf(line, "move %lf %lf %lf", &began, &ended, &total) == 3 || sscanf(line, "tick %lf %lf %lf", &tick, &t, &written) != 3)
			continue;
		begin = tick == began ? t : begin;
		if (!isnan(last_t) && written > last_written) {
			ms = (t - last_t) / 1e6 / ((written - last_written) / 1073741824);
			part = tick <= began ? 0 : tick <= ended + 1 ? 1 : 2;
			if (n[part] < RECORDED)
				all[part][n[part]++] = ms;
			if (part == 1)
				s.worst = fmax(s.worst, ms);
			if (part == 2 && isnan(s.first))
				s.first = ms;
			if (!isnan(begin))
				fprintf(plot, "%.2f %.1f\n", (t - begin) / 1e9, ms);
		}
		if (isnan(last_t) || written > last_written) {
			last_t = t;
			last_written = written;
		}
	}
	if (in)
		fclose(in);
	s.there = n[0] && n[1] && n[2];
	if (!s.there)
		return s;
	s.took = total / 1e9;
	qsort(all[0], n[0], sizeof(double), rising);
	qsort(all[2], n[2], sizeof(double), rising);
	s.before = all[0][n[0] / 2];
	s.after = all[2][n[2] / 2];
	return s;
}

static void draw_speed(void)
{
	static const char *const heads[] = {"ms for each GiB written", "before", "the slowest while it moves", "right after", "median after", "total of the move, s"};
	struct speed s[ARRAY_LEN(modes)];
	const char *separator = "";
	FILE *f;

	heading("A guest's own speed around its move");
	say("A guest of 256 MiB writes 128 MiB over and over, as fast as it can; each quarter of a second it says how far it is.");
	f = begin_plot("speed", "s since the move began", "ms for each GiB written");
	for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
		fprintf(f, "$d%zu << EOD\n", i);
		s[i] = read_speed(modes[i].name, f);
		fputs("EOD\n", f);
	}
	fputs("set logscale y\nset style data lines\nplot ", f);
	for (size_t i = 0; i < ARRAY_LEN(modes); i++)
		if (s[i].there) {
			fprintf(f, "%s$d%zu title '%s' lw 2 lc %zu", separator, i, modes[i].title, i + 1);
			separator = ", ";
		}
	fputs("\n", f);
	if (!*separator) {
		pclose(f);
		say("Not measured.");
		return;
	}
	end_plot(f, "speed");
	row(heads, ARRAY_LEN(heads));
	for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
		char *cells[] = {xstrdup(modes[i].title), number(s[i].before), number(s[i].worst), number(s[i].first), number(s[i].after), number(s[i].took)};

		if (s[i].there)
			row((const char *const *)cells, ARRAY_LEN(cells));
		for (size_t k = 0; k < ARRAY_LEN(cells); k++)
			free(cells[k]);
	}
	row(NULL, 0);
}

/* ---- lines "KEY... NUMBER" of a recording */

/* Its figures in the lines that begin with `key`. */
static struct spread recorded(const char *name, const char *key)
{
	FILE *in = open_recording(name, "");
	char line[200];
	double v[RECORDED];
	size_t n = 0, len = strlen(key);

	while (in && fgets(line, sizeof(line), in) && n < RECORDED)
		if (!strncmp(line, key, len) && line[len] == ' ')
			v[n++] = atof(line + len);
	if (in)
		fclose(in);
	return spread_among(v, n);
}

static void draw_outside(void)
{
	static const char *const names[] = {"beam", "host", "phys"}, *const titles[] = {"beam", "host", "phys, 10 GbE, encrypted"};
	static const char *const heads[] = {"ms", "longest gap, moved", "the same time, not moved", "downtime, by the engine"};
	bool any = false;

	heading("P3, as it is seen from outside");
	say("The longest time between two answers of an idle guest of 64 MiB to UDP pings%s.",
	    results_emulated() ? ", one every 20 ms: emulated, more would take all of the machine" : ", one a millisecond");
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		char *name = xasprintf("outside-%s", names[i]);
		struct spread s[3] = {recorded(name, "gap"), recorded(name, "still"), recorded(name, "downtime")};
		char *cells[4] = {xstrdup(titles[i])};

		free(name);
		for (size_t k = 0; k < 3; k++) {
			s[k] = (struct spread){s[k].n, s[k].low / 1e6, s[k].median / 1e6, s[k].high / 1e6};
			cells[k + 1] = cell_of(s[k]);
		}
		if (s[0].n && !any)
			row(heads, ARRAY_LEN(heads));
		any = any || s[0].n;
		if (s[0].n)
			row((const char *const *)cells, 4);
		for (size_t k = 0; k < 4; k++)
			free(cells[k]);
	}
	row(NULL, 0);
	if (!any)
		say("Not measured.");
}

static void draw_overhead(void)
{
	static const struct {
		const char *job, *title;
	} jobs[] = {{"cpu", "computing"}, {"mem", "memory that is there"}, {"touch", "memory that is fresh"}, {"exit", "exits"}, {"io", "a disk's requests"}};
	static const char *const heads[] = {"job, ms", "on the host", "in a guest hypervisor", "times"};
	bool any = false;

	heading("What nesting costs while nothing moves");
	say("The paper cites 6 to 8 %% as what can be reached.  Jobs that a guest times itself; on the host it is de-virtualised: no hypervisor is "
	    "under it but the host's.%s", results_emulated() ? "  Emulated, an exit of a nested guest costs far more than it would." : "");
	for (size_t i = 0; i < ARRAY_LEN(jobs); i++) {
		char *keys[2] = {xasprintf("job plain %s", jobs[i].job), xasprintf("job nested %s", jobs[i].job)};
		struct spread plain = recorded("overhead", keys[0]), nested = recorded("overhead", keys[1]);
		char *cells[4];

		free(keys[0]);
		free(keys[1]);
		if (!plain.n || !nested.n)
			continue;
		if (!any)
			row(heads, ARRAY_LEN(heads));
		any = true;
		cells[0] = xstrdup(jobs[i].title);
		cells[1] = number(plain.median / 1e6);
		cells[2] = number(nested.median / 1e6);
		cells[3] = number(nested.median / plain.median);
		row((const char *const *)cells, 4);
		for (size_t k = 0; k < 4; k++)
			free(cells[k]);
	}
	row(NULL, 0);
	if (!any)
		say("Not measured.");
}

static void draw_connections(void)
{
	static const char *const heads[] = {"connections", "TLS 1.3, GB/s", "plain TCP, GB/s"};
	struct spread cipher = recorded("connections", "cipher 1");

	heading("The engine over several connections");
	if (!cipher.n) {
		say("Not measured.");
		return;
	}
	say("Memory of 2 GiB from one process to another over loopback, without a VM; not emulated.  Encrypting and decrypting alone, the same two CPUs "
	    "would do %.2f GB/s.", cipher.median);
	row(heads, ARRAY_LEN(heads));
	for (int n = 1; n <= 8; n *= 2) {
		char *keys[2] = {xasprintf("tls %d", n), xasprintf("plain %d", n)};
		char *cells[3] = {xasprintf("%d", n), cell_of(recorded("connections", keys[0])), cell_of(recorded("connections", keys[1]))};

		row((const char *const *)cells, 3);
		for (size_t k = 0; k < 3; k++)
			free(cells[k]);
		free(keys[0]);
		free(keys[1]);
	}
	row(NULL, 0);
}

/* ---- P10: what the ageing monitor recorded */

static void draw_ageing(void)
{
	static const char *const names[] = {"memory_available", "disk_available"}, *const titles[] = {"memory", "disk"};
	FILE *in = open_recording("ageing", ""), *f;
	char line[200], name[64];
	double hours, value;

	heading("P10: what is free in an ageing hypervisor");
	say("The paper: both fall steadily.  Here the leaks are made: of the memory of a process and of files, while guests come and go; time is "
	    "compressed 60 times.");
	if (!in) {
		say("Not measured.");
		return;
	}
	f = begin_plot("P10", "hours", "available, MiB");
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		rewind(in);
		fprintf(f, "$d%zu << EOD\n", i);
		while (fgets(line, sizeof(line), in))
			if (sscanf(line, "%lf,%63[^,],%lf", &hours, name, &value) == 3 && !strcmp(name, names[i]))
				fprintf(f, "%g %g\n", hours, value);
		fputs("EOD\n", f);
	}
	fclose(in);
	fprintf(f, "set yrange [0:]\nset style data lines\nplot $d0 title '%s' lw 2, $d1 title '%s' lw 2\n", titles[0], titles[1]);
	end_plot(f, "P10");
}

/* ---- what it should show */

/* The phase of `system` that takes longest, by the engine's account of its first run; the caller's. */
static char *longest_phase(const char *system, double size, double rate)
{
	char *path = xasprintf("%s/results.csv.d/%s-%g-%g-1.json", r.dir, system, size, rate), *text = NULL;
	json_t *move = json_load_file(path, 0, NULL), *one;
	double most = 0;
	size_t i;

	free(path);
	json_array_foreach(json_object_get(move, "phases"), i, one) {
		double ns = json_number_value(json_object_get(one, "ns"));

		if (ns <= most)
			continue;
		most = ns;
		free(text);
		text = xasprintf("%s, %.1f ms", json_string_value(json_object_get(one, "name")), ns / 1e6);
	}
	json_decref(move);
	return text ? text : xstrdup("not known");
}

static void aim(const char *what, double is, double limit, bool at_least, const char *blame, double size, double rate)
{
	char *ours = number(is), *wanted = number(limit);
	bool met = at_least ? is >= limit : is <= limit;
	char *phase = met || isnan(is) ? xstrdup("") : longest_phase(blame, size, rate);
	const char *const cells[] = {what, at_least ? "at least" : "at most", wanted, isnan(is) ? "not measured" : ours,
				     isnan(is) ? "" : met ? "met" : "NOT MET", phase};

	row(cells, ARRAY_LEN(cells));
	free(ours);
	free(wanted);
	free(phase);
}

static void draw_aims(void)
{
	static const char *const heads[] = {"", "", "aim", "is", "", "what takes longest there"};
	double size = compared(), x[XS], rates[XS], size2 = rated();
	size_t nx = xs_of(false, 0, x), nr = isnan(size2) ? 0 : xs_of(true, size2, rates);
	double rate = nr ? rates[nr - 1] : 0;

	heading("What it should show");
	say("For a guest of %g MiB that does nothing, unless said otherwise; ratios of medians.", size);
	row(heads, ARRAY_LEN(heads));
	aim("total: nest / beam", median_of("nest", size, 0, total_ms) / median_of("beam", size, 0, total_ms), 50, true, "beam", size, 0);
	aim("total: nest, not encrypted / beam", median_of("plain_nest", size, 0, total_ms) / median_of("beam", size, 0, total_ms), 50, true,
	    "beam", size, 0);
	aim("CPU time of beam, % of nest's", 100 * median_of("beam", size, 0, cpu_ms) / median_of("nest", size, 0, cpu_ms), 2, false, "beam", size, 0);
	aim("CPU time of beam, % of that of nest, not encrypted",
	    100 * median_of("beam", size, 0, cpu_ms) / median_of("plain_nest", size, 0, cpu_ms), 2, false, "beam", size, 0);
	aim("bytes copied by beam, % of what nest sends",
	    100 * median_of("beam", size, 0, sent_mb) / median_of("nest", size, 0, wire_mb), 0.1, false, "beam", size, 0);
	while (nx > 1 && isnan(median_of("cold", x[nx - 1], 0, total_ms)))
		nx--;
	if (nx > 1) {
		char *what = xasprintf("total without warming, %g MiB / %g MiB", x[nx - 1], x[0]);

		aim(what, median_of("cold", x[nx - 1], 0, total_ms) / median_of("cold", x[0], 0, total_ms), 1.3, false, "cold", x[nx - 1], 0);
		free(what);
	}
	aim("downtime: beam / phys", median_of("beam", size, 0, downtime_ms) / median_of("phys", size, 0, downtime_ms), 1, false, "beam", size, 0);
	if (rate > 0) {
		char *what = xasprintf("downtime: beam / phys, %g MiB, %g MiB/s written", size2, rate);

		aim(what, median_of("beam", size2, rate, downtime_ms) / median_of("phys", size2, rate, downtime_ms), 0.5, false, "beam", size2, rate);
		free(what);
	}
	row(NULL, 0);
}

/* ---- all of it */

static FILE *create(const char *dir, const char *name)
{
	char *path = xasprintf("%s/%s", dir, name);
	FILE *f = fopen(path, "we");

	if (!f)
		err(1, "%s", path);
	free(path);
	return f;
}

int main(int argc, char **argv)
{
	static const struct curves curves[] = {
		{"P1", "P1: migration time over memory size, guest idle", "total, ms",
		 "beam shortest, 1.1 to 5.8 times shorter than phys, and grows least.", total_ms, false, true, 0},
		{"P1b", "P1, without nest", "total, ms", NULL, total_ms, false, false, 1U << 2 | 1U << 3 | 1U << 7},
		{"P2", "P2: migration time over write rate", "total, ms", "beam unaffected; phys and nest grow.", total_ms, true, true, 0},
		{"P3", "P3: downtime over memory size, guest idle", "downtime, ms, as the engine accounts for it",
		 "beam about 600 ms, 200 ms more than phys.", downtime_ms, false, true, 0},
		{"P4", "P4: downtime over write rate", "downtime, ms, as the engine accounts for it", "phys becomes longer than beam at high rates.",
		 downtime_ms, true, true, 0},
		{"P4b", "P4, as the guest's own clock saw it", "longest pause, ms", NULL, gap_ms, true, true, 0},
	};
	static const struct bars bars[] = {
		{"P6", "P6: CPU time of one migration", "ms", "beam lowest: 29 %.", cpu_ms},
		{"P7", "P7: bytes over the network", "MB", "beam about 0 %; the others the guest's memory size.", wire_mb},
		{"P8", "P8: memory traffic of one migration",  "MB",
		 "beam about 0 %.  Here it is no measurement: the bytes that the engine sent, times how often its code reads and writes each.",
		 memory_mb},
	};

	if (argc != 2 && (argc != 4 || strcmp(argv[2], "--docs") != 0))
		errx(2, "usage: report DIR [--docs DIR]");
	r.dir = argv[1];
	results_read(r.dir);
	r.html = create(r.dir, "report.html");
	if (argc == 4) {
		char *plots = xasprintf("%s/results", argv[3]);

		r.docs = argv[3];
		mkdir(plots, 0755);
		free(plots);
		r.md = create(r.docs, "results.md");
		fprintf(r.md, "# Results\n\nWritten by `vmbeam bench`; not by hand.\n\n");
	}
	fprintf(r.html, "<!doctype html><meta charset=utf-8><title>vmbeam bench</title><style>body{font:15px sans-serif;max-width:60em;"
			"margin:2em auto}table{border-collapse:collapse}td,th{padding:.2em .6em;border:1px solid #bbb;text-align:right}"
			"td:first-child,th:first-child{text-align:left}</style><h1>vmbeam bench</h1>\n");
	say("vmbeam %s, %s; %zu runs, the last begun %s; %zu that failed and %zu of other versions are left out.", results.version, results.machine, results.n, results.call,
	    results.failed, results.others);
	if (results_emulated())
		say("EMULATED: taken in the lab, where QEMU emulates AMD SVM: only ratios mean anything, and encryption costs far more than it "
		    "would, which flatters beam: see what is not encrypted beside it.");
	say("beam: zero-copy move between two guest hypervisors; not warmed: without having memory mapped at the destination beforehand; nest: "
	    "encrypted pre-copy between two host VMs of one machine; phys: encrypted pre-copy between two network namespaces that stand for two "
	    "machines, over a link of 1 or 10 Gbit/s, no nesting; QEMU 10.0: the same, and its cpr-transfer, total as seen from outside; warm: the hypervisor is replaced under its held guests; host: handover between "
	    "two processes, no nesting.  Medians, with quartiles and the number of runs.");
	draw_aims();
	for (size_t i = 0; i < ARRAY_LEN(curves); i++)
		draw_curves(&curves[i]);
	draw_outside();
	draw_cpu();
	for (size_t i = 0; i < ARRAY_LEN(bars); i++)
		draw_bars(&bars[i]);
	draw_throughput();
	draw_ageing();
	draw_speed();
	draw_overhead();
	draw_connections();
	draw_rejuvenations();
	draw_model();
	fclose(r.html);
	if (r.md)
		fclose(r.md);
	printf("%s/report.html: %zu runs, %zu failed\n", r.dir, results.n, results.failed);
	return results.failed > 0;
}
