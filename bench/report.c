/* report.c: what `vmbeam bench` has measured, as tables and plots.
 *
 *   report DIR [--docs DIR]
 *
 * reads DIR/results.csv (bench.sh says what is in it) and DIR/results.csv.d, writes DIR/report.html, which needs no other file, and
 * DIR/Pn.svg and .png, drawn by gnuplot; with --docs also results.md there and its plots in results/.  Figures are medians, with
 * the quartiles (of two runs, both).  Exit 1 if a run failed or nothing was measured.
 */
#include "bench/model.h"
#include "bench/page.h"
#include "bench/recordings.h"
#include "bench/results.h"
#include "vmm/base.h"

#include <err.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *dir; /* of the results */

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
		take_row(text, n);
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
		take_row(cells, 3);
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
		take_row(cells, 4);
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
	char *path = xasprintf("%s/results.csv.d/%s-%g-0-1", dir, system, size), line[512];
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
	static const char *const names[] = {"beam", "nest", "phys", "phys"}, *const titles[] = {"beam", "nest", "phys, source", "phys, destination"};
	static const int which[] = {0, 0, 1, 2};
	bool there[ARRAY_LEN(names)];
	FILE *f;

	heading("P5: CPU use during one migration");
	say("The paper: the peak of beam and nest is twice that of phys (both ends are on one machine).  Here: one run each of %g MiB, in %% of "
	    "one CPU; the time axis is logarithmic, since the longest takes a hundred times as long as the shortest.", compared());
	f = begin_plot("P5", "ms", "% of a CPU");
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		fprintf(f, "$d%zu << EOD\n", i);
		there[i] = write_trace(f, names[i], compared(), which[i]);
		fputs("EOD\n", f);
	}
	fputs("set logscale x\n", f);
	end_lines(f, "P5", titles, there, ARRAY_LEN(names));
}

/* ---- what it should show */

/* The phase of `system` that takes longest, by the engine's account of its first run; the caller's. */
static char *longest_phase(const char *system, double size, double rate)
{
	char *path = xasprintf("%s/results.csv.d/%s-%g-%g-1.json", dir, system, size, rate), *text = NULL;
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
	dir = argv[1];
	results_read(dir);
	recordings_of(dir);
	page_begin(dir, argc == 4 ? argv[3] : NULL);
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
	page_end();
	printf("%s/report.html: %zu runs, %zu failed\n", dir, results.n, results.failed);
	return results.failed > 0;
}
