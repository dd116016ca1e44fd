/* report.c: what `vmbeam bench` has measured, as tables and plots.
 *
 *   report DIR [--docs DIR] [--version VERSION]
 *
 * reads DIR/results.csv (bench.sh says what is in it) and DIR/results.csv.d, writes DIR/report.html, which needs no other file, and
 * DIR/Pn.svg and .png, drawn by gnuplot; with --docs also results.md there and its plots in results/.  Figures are medians, with
 * the quartiles and the number of runs.  Exit 1 if a run failed or nothing was measured.
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
	f = begin_plot(c->name, c->rates ? "pages that the guest is to write, MiB/s" : "memory of the guest, MiB", c->y);
	for (size_t s = 0; s < SYSTEMS; s++) {
		fprintf(f, "$d%zu << EOD\n", s);
		for (size_t i = 0; i < nx; i++) {
			struct spread v = spread_at(c, s, size, x[i]);

			if (v.n)
				fprintf(f, "%g %g %g %g\n", x[i], v.median, v.low, v.high);
			any[s] |= v.n && !(c->without & (1U << s)) && !is_rejuvenation(&systems[s]);
		}
		fputs("EOD\n", f);
	}
	if (c->log)
		fputs("set logscale y\n", f);
	if (!c->rates)
		fputs("set logscale x 2\n", f);
	if (nx == 1)
		fprintf(f, "set xrange [%g:%g]\n", x[0] / 2, x[0] > 0 ? x[0] * 2 : 1);
	n = 0;
	cells[n++] = c->rates ? "MiB/s" : "MiB";
	for (size_t s = 0; s < SYSTEMS; s++) {
		if (!any[s])
			continue;
		fprintf(f, "%s$d%zu using 1:2:3:4 with yerrorlines title '%s' lc %zu pt 7 ps 0.6", drawn++ ? ", " : "plot ", s, systems[s].title, s + 1);
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

/* Whether the guests of different systems wrote as fast as they should have. */
static void draw_rates(void)
{
	static const char *const heads[] = {"asked for, MiB/s", "beam", "host", "phys", "nest"};
	double size = rated(), x[XS];
	size_t nx = isnan(size) ? 0 : xs_of(true, size, x);

	if (!nx)
		return;
	say("What the guests really wrote before they moved, MiB/s of pages:");
	row(heads, ARRAY_LEN(heads));
	for (size_t i = 0; i < nx; i++) {
		char *cells[ARRAY_LEN(heads)] = {number(x[i])};

		for (size_t k = 1; k < ARRAY_LEN(heads); k++)
			cells[k] = cell_of(spread_of(find_system(heads[k]), size, x[i], written_mib));
		take_row(cells, ARRAY_LEN(cells));
	}
	row(NULL, 0);
}

struct bars {
	const char *name, *title, *y, *text;
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
	say("%s", b->text);
	f = begin_plot(b->name, b->y, "");
	fputs("set yrange [] reverse\nset xrange [0:]\nset rmargin 6\nunset key\n$d << EOD\n", f);
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
	fputs("EOD\nplot $d using 2:0:(0):2:($0-0.3):($0+0.3):ytic(1) with boxxyerror lc 1, $d using 2:0:3:4 with xerrorbars lc -1 pt 0\n", f);
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
	enum { EXTENTS_A_GIB = 256 };
	double bytes = scale.guests * scale.gib, extent, measured;
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
	say("A host with %g guests of %g GiB, each filled as these were (70 %%), one after another; and %g such hosts, %g at a time.  Copied: "
	    "to another machine, that this one can be started anew, which is not counted; beam: with the fresh hypervisor's start.", scale.guests,
	    scale.gib, scale.hosts, scale.concurrent);
	row(answers, ARRAY_LEN(answers));
	draw_host("beam", m.rejuvenation.n > 1 && m.beam.n > 1 ? model_host(&m, scale.guests, scale.gib) : NAN, scale.hosts, scale.concurrent);
	draw_host("copied, encrypted", model_copy(&m.tls, scale.guests, scale.gib), scale.hosts, scale.concurrent);
	draw_host("copied, not encrypted", model_copy(&m.plain, scale.guests, scale.gib), scale.hosts, scale.concurrent);
	if (!results_emulated()) /* (that is in seconds of another machine) */
		draw_host("copied at the full rate of 10 GbE", bytes * 0.7 / MODEL_LINE_RATE * 1000, scale.hosts, scale.concurrent);
	row(NULL, 0);
	measured = spread_of(find_system("rejuv_4"), MODEL_CHECK, 0, total_ms).median;
	if (!isnan(measured)) {
		double predicted = model_host(&m, 4, (double)MODEL_CHECK / 1024);

		say("The whole of it was tried where both differ from what the lines were fitted to in one call, at 4 guests of %d MiB: it says %.0f ms, "
		    "%.0f were measured: %+.0f %%.  Further off, as above, nobody has tried.", MODEL_CHECK, predicted, measured,
		    100 * (predicted / measured - 1));
	}
	extent = draw_extents();
	if (!isnan(extent))
		say("Each piece of memory more costs %.3f ms; %g GiB in the smallest pieces that free page reports leave, with 2 MiB between them, are %g: "
		    "%.3g s for each guest, which the lines above do not contain.",
		    extent, scale.gib, scale.gib * EXTENTS_A_GIB, fmax(extent, 0) * scale.gib * EXTENTS_A_GIB / 1000);
	say("What a line cannot show: hypervisors that are short of CPU.");
}

/* ---- CPU over time: what `stamp` saw of one run */

#define WINDOW_MS 100.0

/* Of one run, shares of one CPU in %: what its processes use anyway, and at most in a window. */
struct use {
	double base, peak;
};

/* Writes lines "ms share" of column `which` (0: all); whether there were any. */
static bool write_trace(FILE *f, const char *system, double size, int which, struct use *use)
{
	char *path = xasprintf("%s/results.csv.d/%s-%g-0-1", dir, system, size), line[512];
	FILE *in = fopen(path, "re");
	double start = NAN, at = NAN, used = NAN;
	bool any = false;

	free(path);
	*use = (struct use){NAN, NAN};
	while (in && fgets(line, sizeof(line), in)) {
		unsigned long long ns, us[2] = {0, 0};
		int n;

		if (sscanf(line, "start %llu", &ns) == 1)
			start = (double)ns;
		if (sscanf(line, "base %llu", &ns) == 1 && !which)
			use->base = (double)ns / 1e7;
		n = sscanf(line, "at %llu %llu %llu", &ns, &us[0], &us[1]);
		if (n < 2)
			continue;
		double sum = which ? (double)us[which - 1] : (double)(us[0] + us[1]);

		if (!isnan(at) && (double)ns - at < WINDOW_MS * 1e6)
			continue;
		if (!isnan(start) && !isnan(at) && (double)ns > at) {
			double share = 100 * (sum - used) * 1000 / ((double)ns - at);

			fprintf(f, "%.1f %.1f\n", ((double)ns - start) / 1e6, share);
			use->peak = fmax(use->peak, share);
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
	static const char *const heads[] = {"% of a CPU", "used anyway", "the most in a window"};
	static const int which[] = {0, 0, 1, 2};
	bool there[ARRAY_LEN(names)];
	struct use use[ARRAY_LEN(names)];
	FILE *f;

	heading("P5: CPU use during one migration");
	say("The paper: the peak of beam and nest is twice that of phys (both ends are on one machine).  Here: one run each of %g MiB, in %% of "
	    "one CPU, all that the processes use, in windows of %g ms; the time axis is logarithmic.", compared(), WINDOW_MS);
	f = begin_plot("P5", "ms", "% of a CPU");
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		fprintf(f, "$d%zu << EOD\n", i);
		there[i] = write_trace(f, names[i], compared(), which[i], &use[i]);
		fputs("EOD\n", f);
	}
	fputs("set logscale x\n", f);
	if (!end_lines(f, "P5", titles, there, ARRAY_LEN(names)))
		return;
	row(heads, ARRAY_LEN(heads));
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		char *cells[] = {xstrdup(titles[i]), number(use[i].base), number(use[i].peak)};

		if (there[i])
			take_row(cells, ARRAY_LEN(cells));
	}
	row(NULL, 0);
}

/* ---- what it should show */

/* Which phases a figure consists of. */
enum part { ALL_OF_IT, TOTAL_OF_IT, STOPPED, NO_PHASE };

static bool is_part(const char *phase, enum part part)
{
	static const char *const running[] = {"prepare", "warm", "retire"};

	for (size_t i = 0; i < ARRAY_LEN(running); i++)
		if (phase && !strcmp(phase, running[i]))
			return part == ALL_OF_IT || (part == TOTAL_OF_IT && i != 1);
	return phase && part != NO_PHASE;
}

/* The phase of `system` that takes longest, by the engine's account of its first run; the caller's. */
static char *longest_phase(const char *system, double size, double rate, enum part part)
{
	char *path = xasprintf("%s/results.csv.d/%s-%g-%g-1.json", dir, system, size, rate), *text = NULL;
	json_t *move = json_load_file(path, 0, NULL), *one;
	double most = 0;
	size_t i;

	free(path);
	json_array_foreach(json_object_get(move, "phases"), i, one) {
		double ns = json_number_value(json_object_get(one, "ns"));
		const char *name = json_string_value(json_object_get(one, "name"));

		if (ns <= most || !is_part(name, part))
			continue;
		most = ns;
		free(text);
		text = xasprintf("%s, %.1f ms", name, ns / 1e6);
	}
	json_decref(move);
	return text ? text : xstrdup(part == NO_PHASE ? "" : "not known");
}

/* One figure of beam's beside the same of another system, or of itself at another size. */
struct aim {
	const char *what, *system, *other;
	figure *of, *other_of;
	double limit, factor;
	bool at_least; /* of other / system; else at most, of system / other */
	enum part part;
};

static void draw_aim(const struct aim *a, const char *what, double is, double size, double rate)
{
	char *ours = number(is), *wanted = number(a->limit);
	bool met = a->at_least ? is >= a->limit : is <= a->limit;
	char *phase = met || isnan(is) ? xstrdup("") : longest_phase(a->system, size, rate, a->part);
	char *short_of = met || isnan(is) ? xstrdup("") : xasprintf("NOT MET: %.2f times off", a->at_least ? a->limit / is : is / a->limit);
	const char *const cells[] = {what, a->at_least ? "at least" : "at most", wanted, isnan(is) ? "not measured" : ours, met ? "met" : short_of, phase};

	row(cells, ARRAY_LEN(cells));
	free(ours);
	free(wanted);
	free(phase);
	free(short_of);
}

static double ratio(const struct aim *a, double size, double rate)
{
	double own = median_of(a->system, size, rate, a->of), other = median_of(a->other, size, rate, a->other_of ? a->other_of : a->of);

	return a->factor * (a->at_least ? other / own : own / other);
}

static void draw_aims(void)
{
	static const struct aim aims[] = {
		{"whole command: nest / beam", "beam", "nest", wall_ms, NULL, 50, 1, true, ALL_OF_IT},
		{"whole command: nest, not encrypted / beam", "beam", "plain_nest", wall_ms, NULL, 50, 1, true, ALL_OF_IT},
		{"total: nest / beam not warmed", "cold", "nest", total_ms, NULL, 50, 1, true, TOTAL_OF_IT},
		{"CPU time of beam, % of nest's, all of it", "beam", "nest", cpu_ms, NULL, 2, 100, false, NO_PHASE},
		{"the same, of nest's, not encrypted", "beam", "plain_nest", cpu_ms, NULL, 2, 100, false, NO_PHASE},
		{"CPU time of beam, % of nest's, less what is used anyway", "beam", "nest", more_cpu_ms, NULL, 2, 100, false, NO_PHASE},
		{"the same, of nest's, not encrypted", "beam", "plain_nest", more_cpu_ms, NULL, 2, 100, false, NO_PHASE},
		{"bytes copied by beam, % of what nest sends", "beam", "nest", sent_mb, wire_mb, 0.1, 100, false, NO_PHASE},
		{"the same, of nest's, not encrypted", "beam", "plain_nest", sent_mb, wire_mb, 0.1, 100, false, NO_PHASE},
		{"downtime: beam / phys", "beam", "phys", downtime_ms, NULL, 1, 1, false, STOPPED},
	};
	static const struct aim flat = {"", "cold", "cold", total_ms, NULL, 1.3, 1, false, TOTAL_OF_IT};
	static const struct aim writing = {"", "beam", "phys", downtime_ms, NULL, 0.5, 1, false, STOPPED};
	static const char *const heads[] = {"", "", "aim", "is", "", "what takes longest there"};
	double size = compared(), x[XS], rates[XS], size2 = rated(), rate = NAN;
	size_t nx = xs_of(false, 0, x), nr = isnan(size2) ? 0 : xs_of(true, size2, rates);

	heading("What it should show");
	say("For a guest of %g MiB that does nothing, unless said otherwise; ratios of medians, of runs in %zu %s.", size, labs_of(size, 0),
	    labs_of(size, 0) == 1 ? "lab" : "labs: what is compared was not all taken at the same time");
	row(heads, ARRAY_LEN(heads));
	for (size_t i = 0; i < ARRAY_LEN(aims); i++)
		draw_aim(&aims[i], aims[i].what, ratio(&aims[i], size, 0), size, 0);
	while (nx > 1 && isnan(median_of("cold", x[nx - 1], 0, total_ms)))
		nx--;
	if (nx > 1) {
		char *what = xasprintf("total without warming, %g MiB / %g MiB", x[nx - 1], x[0]);

		draw_aim(&flat, what, median_of("cold", x[nx - 1], 0, total_ms) / median_of("cold", x[0], 0, total_ms), x[nx - 1], 0);
		free(what);
	}
	/* At the link's speed: the highest rate at which phys still came to an end. */
	for (size_t i = 0; i < nr; i++)
		if (rates[i] > 0 && !isnan(ratio(&writing, size2, rates[i])))
			rate = rates[i];
	if (!isnan(rate)) {
		double carried = median_of("phys", size2, 0, sent_mb) * 1e6 / 1048576 / median_of("phys", size2, 0, total_ms) * 1000;
		char *rest = isnan(carried) ? xstrdup("") : xasprintf(" (phys carries %.1f)", carried);
		char *what = xasprintf("downtime: beam / phys, %g MiB, %g MiB/s written%s", size2, rate, rest);

		free(rest);
		draw_aim(&writing, what, ratio(&writing, size2, rate), size2, rate);
		free(what);
	}
	row(NULL, 0);
}

/* ---- beside the paper */

static void draw_paper_row(const char *plot, const char *what, const char *paper, double theirs, double ours)
{
	char *is = number(ours), *of = number(ours / theirs);
	const char *const cells[] = {plot, what, paper, isnan(ours) ? "not measured" : is, theirs > 0 ? of : ""};

	row(cells, ARRAY_LEN(cells));
	free(is);
	free(of);
}

static void draw_paper(void)
{
	static const char *const heads[] = {"", "", "the paper's", "ours", "ours / the paper's"};
	double size = compared(), x[XS], least = NAN, most = NAN;
	size_t nx = xs_of(false, 0, x);
	double down = median_of("beam", size, 0, downtime_ms);

	for (size_t i = 0; i < nx; i++) {
		double times = median_of("phys", x[i], 0, wall_ms) / median_of("beam", x[i], 0, wall_ms);

		least = fmin(least, times);
		most = fmax(most, times);
	}
	heading("Beside the paper's figures");
	say("Which it took on Xen 4.2, a Xeon E5 of 2.4 GHz and gigabit Ethernet.%s", results_emulated() ? "  Ours are emulated: its milliseconds are not to be compared with ours." : "");
	row(heads, ARRAY_LEN(heads));
	draw_paper_row("P1", "migration time: phys / beam, the least of all sizes", "1.1", 1.1, least);
	draw_paper_row("P1", "migration time: phys / beam, the most", "5.8", 5.8, most);
	draw_paper_row("P3", "downtime of beam, ms", "600", 600, down);
	draw_paper_row("P3", "downtime of beam less that of phys, ms", "200", 0, down - median_of("phys", size, 0, downtime_ms));
	draw_paper_row("P6", "CPU time of beam, % of nest's (the paper: beam lowest, 29 %)", "29", 29,
		       100 * median_of("beam", size, 0, cpu_ms) / median_of("nest", size, 0, cpu_ms));
	draw_paper_row("P7", "bytes over the network: beam, % of nest's", "about 0", 0,
		       100 * median_of("beam", size, 0, wire_mb) / median_of("nest", size, 0, wire_mb));
	draw_paper_row("P8", "memory traffic: beam, % of nest's", "about 0", 0,
		       100 * median_of("beam", size, 0, memory_mb) / median_of("nest", size, 0, memory_mb));
	row(NULL, 0);
}

/* ---- all of it */

static void draw_all_bars(void)
{
	const struct bars bars[] = {
		{"P6", "P6: CPU time of one migration", "ms", "The paper: beam lowest: 29 %.  Here: all that the processes used while the command ran, with what their "
		 "guests use anyway.", cpu_ms},
		{"P6a", "P6, what they use anyway", "% of a CPU", "While nothing moves: their guests tick.", base_percent},
		{"P6b", "P6, less what they use anyway", "ms", "Left out where that is more than half of it.  What a guest that is not warmed needs later is in neither.",
		 more_cpu_ms},
		{"P7", "P7: bytes over the network", "MB", "The paper: beam about 0 %; the others the guest's memory size.  Here: what all network interfaces of "
		 "the system's side carried meanwhile; for those that need none, all interfaces.", wire_mb},
		{"P8", "P8: memory traffic of one migration", "MB",
		 memory_counted() ? "The paper: beam about 0 %.  Here: misses of the last-level cache, by the hardware's counters, of the system's processes, of "
				    "64 bytes each; with what their guests need anyway."
				  : "The paper: beam about 0 %.  Here it is no measurement, since this machine has no counters for it: the bytes that the engine "
				    "sent, times how often its code reads and writes each; what the kernels and virtual networks between them copy besides is "
				    "not in it.",
		 memory_mb},
	};

	for (size_t i = 0; i < ARRAY_LEN(bars); i++)
		draw_bars(&bars[i]);
}

int main(int argc, char **argv)
{
	static const struct curves curves[] = {
		{"P1", "P1: migration time over memory size, guest idle", "whole command, ms",
		 "beam shortest, 1.1 to 5.8 times shorter than phys, and grows least.  Here: whole commands, with warming.", wall_ms, false, true, 0},
		{"P1b", "P1, without nest", "whole command, ms", NULL, wall_ms, false, false, 1U << 2 | 1U << 3 | 1U << 7},
		{"P1c", "P1, by the engine's own account, without warming", "total, ms", NULL, total_ms, false, true, 0},
		{"P2", "P2: migration time over write rate", "whole command, ms", "beam unaffected; phys and nest grow.", wall_ms, true, true, 0},
		{"P3", "P3: downtime over memory size, guest idle", "downtime, ms, as the engine accounts for it",
		 "beam about 600 ms, 200 ms more than phys.  Here QEMU's is what its source knows: what the destination does after that is not in it.",
		 downtime_ms, false, true, 0},
		{"P4", "P4: downtime over write rate", "downtime, ms, as the engine accounts for it", "phys becomes longer than beam at high rates.",
		 downtime_ms, true, true, 0},
		{"P4b", "P4, as the guest's own clock saw it", "longest pause, ms", NULL, gap_ms, true, true, 0},
	};
	const char *docs = NULL, *version = NULL;

	for (int i = 2; i + 1 < argc; i += 2)
		*(!strcmp(argv[i], "--docs") ? &docs : &version) = argv[i + 1];
	if (argc < 2 || argc % 2)
		errx(2, "usage: report DIR [--docs DIR] [--version VERSION]");
	dir = argv[1];
	results_read(dir, version);
	recordings_of(dir);
	page_begin(dir, docs, results_emulated() ? " (emulated)" : "");
	say("vmbeam %s, %s; %zu runs, the last begun %s; %zu that failed and %zu of other versions or machines are left out.", results.version, results.machine, results.n, results.call,
	    results.failed, results.others);
	draw_machine();
	if (results_emulated())
		say("EMULATED: taken in the lab, where QEMU emulates AMD SVM: only ratios mean anything, and encryption costs far more than it "
		    "would, which flatters beam: see what is not encrypted beside it.");
	say("beam: zero-copy move between two guest hypervisors; not warmed: without having memory mapped at the destination beforehand; nest: "
	    "encrypted pre-copy between two host VMs of one machine; phys: encrypted pre-copy between two network namespaces that stand for two "
	    "machines, over a link of 1 or 10 Gbit/s, no nesting; QEMU 10.0: the same, and its cpr-transfer, total as seen from outside; warm: the hypervisor is replaced under its held guests; host: handover between "
	    "two processes, no nesting.  Medians, with quartiles and the number of runs.");
	draw_aims();
	draw_paper();
	for (size_t i = 0; i < ARRAY_LEN(curves); i++)
		draw_curves(&curves[i]);
	draw_rates();
	draw_outside();
	draw_cpu();
	draw_all_bars();
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
