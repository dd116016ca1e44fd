/* recordings.c: what `vmbeam bench` has recorded besides runs: recordings.h. */
#include "bench/recordings.h"

#include "bench/page.h"
#include "vmm/base.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RECORDED = 4096 }; /* lines of a recording, at most */

static const char *dir;

void recordings_of(const char *results_dir)
{
	dir = results_dir;
}

/* ---- recordings: their first line is "# VERSION" */

/* NULL: it is not there, or of another version. */
static FILE *open_recording(const char *kind, const char *of)
{
	char *path = xasprintf("%s/results.csv.d/%s%s", dir, kind, of), line[200] = "";
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
	double requests, failed, asked; /* asked: a second; 0: as fast as it answers */
	double longest;			/* ns, between two answers */
	size_t moves, n[3];
};

/* Writes the plot's lines "s rate" as its block `of`, and a bar for each move; whether there is anything. */
static bool read_throughput(const char *system, FILE *plot, size_t of, struct throughput *t)
{
	double foot = 0.015 * (double)(of + 1); /* of the plot's height */
	FILE *in = open_recording("throughput-", system);
	char line[200];
	double a, b;

	*t = (struct throughput){.begin = NAN, .end = NAN, .least = INFINITY};
	while (in && fgets(line, sizeof(line), in)) {
		sscanf(line, "failed %lf %lf", &t->failed, &t->requests);
		sscanf(line, "longest %lf", &t->longest);
		sscanf(line, "asked %lf", &t->asked);
		if (sscanf(line, "move %lf %lf", &a, &b) == 2) {
			t->begin = fmin(t->begin, a);
			t->end = fmax(t->end, b);
			t->moves++;
			fprintf(plot, "set arrow from first %g, graph %g to first %g, graph %g nohead lw 5 lc %zu\n", a, foot, b, foot, of + 1);
		}
	}
	if (in)
		rewind(in);
	fprintf(plot, "$d%zu << EOD\n", of);
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
	fputs("EOD\n", plot);
	if (in)
		fclose(in);
	t->before /= (double)t->n[0];
	t->while_moving /= (double)t->n[1];
	t->after /= (double)t->n[2];
	return t->moves && t->n[0] && t->n[1] && t->n[2];
}

void draw_throughput(void)
{
	static const char *const names[] = {"beam", "phys", "redis", "compile"};
	static const char *const titles[] = {"beam", "phys, 10 GbE, encrypted", "beam, redis, alone", "beam, files compiled, alone"};
	static const char *const heads[] = {"", "guests moved", "in, s", "asked/s", "answered/s before", "meanwhile", "the least", "after", "requests, all", "failed",
					     "longest wait, ms"};
	struct throughput t[ARRAY_LEN(names)];
	bool there[ARRAY_LEN(names)];
	FILE *f;

	heading("P9: requests answered a second while guests move one after another");
	say("The paper: throughput sags, step by step, while virtual machines are copied.  Here: a web service in one guest, asked over the network by "
	    "two clients as fast as it answers or, where that would only fill the CPUs of an emulated machine, at a rate; it and ten small "
	    "guests move one after another, it as the last.  And a redis, and a compiler, in a guest that moves alone; what is "
	    "compiled is counted as requests.%s", results_emulated() ? "  Emulated, a nested guest that is never idle, as this one, spends most of its CPU on its own ticks." : "");
	f = begin_plot("P9", "s", "requests a second");
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		there[i] = read_throughput(names[i], f, i, &t[i]);
	fputs("set yrange [0:]\n", f);
	if (!end_lines(f, "P9", titles, there, ARRAY_LEN(titles)))
		return;
	row(heads, ARRAY_LEN(heads));
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		char *cells[11];

		if (!there[i])
			continue;
		cells[0] = xstrdup(titles[i]);
		cells[1] = xasprintf("%zu", t[i].moves);
		cells[2] = number(t[i].end - t[i].begin);
		cells[3] = t[i].asked > 0 ? number(t[i].asked) : xstrdup("as fast as it answers");
		cells[4] = number(t[i].before);
		cells[5] = number(t[i].while_moving);
		cells[6] = number(t[i].least);
		cells[7] = number(t[i].after);
		cells[8] = number(t[i].requests);
		cells[9] = number(t[i].failed);
		cells[10] = number(t[i].longest > 0 ? t[i].longest / 1e6 : NAN);
		take_row(cells, ARRAY_LEN(cells));
	}
	row(NULL, 0);
	say("Each bar at the foot of the plot is a move, in the colour of its line.");
}

/* ---- a guest's own speed while it moves */

/* s of moving; ms for a GiB: medians before and after, the longest from its beginning to its end, the first second after that. */
struct speed {
	double took, before, worst, first, after;
};

/* Writes the plot's lines "s ms"; whether there is anything. */
static bool read_speed(const char *mode, FILE *plot, struct speed *s)
{
	FILE *in = open_recording("speed-", mode);
	char line[200];
	double began = NAN, ended = NAN, begin = NAN, total = NAN, t, tick, written, last_t = NAN, last_written = NAN, all[3][RECORDED];
	size_t n[3] = {0};

	*s = (struct speed){.worst = 0, .first = NAN};
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
				s->worst = fmax(s->worst, ms);
			if (part == 2 && isnan(s->first))
				s->first = ms;
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
	if (!n[0] || !n[1] || !n[2])
		return false;
	s->took = total / 1e9;
	qsort(all[0], n[0], sizeof(double), rising);
	qsort(all[2], n[2], sizeof(double), rising);
	s->before = all[0][n[0] / 2];
	s->after = all[2][n[2] / 2];
	return true;
}

void draw_speed(void)
{
	static const char *const heads[] = {"ms for each GiB of pages written", "before", "the slowest while it moves", "right after", "median after", "whole command, s"};
	static const char *const names[] = {"beam", "cold", "warm", "host", "phys", "post", "nest", "cpr", "qemu"};
	static const char *const titles[] = {"beam", "beam, not warmed", "warm", "host", "pre-copy, encrypted", "post-copy, encrypted", "nest", "QEMU, cpr-transfer",
					     "QEMU, pre-copy, encrypted"};
	struct speed s[ARRAY_LEN(names)];
	bool there[ARRAY_LEN(names)];
	FILE *f;

	heading("A guest's own speed around its move");
	say("A guest of 256 MiB writes 128 MiB over and over, as fast as it can; %s it says how far it is.",
	    results_emulated() ? "each second" : "each quarter of a second");
	f = begin_plot("speed", "s since the move began", "ms for each GiB of pages written");
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		fprintf(f, "$d%zu << EOD\n", i);
		there[i] = read_speed(names[i], f, &s[i]);
		fputs("EOD\n", f);
	}
	fputs("set logscale y\n", f);
	if (!end_lines(f, "speed", titles, there, ARRAY_LEN(titles)))
		return;
	row(heads, ARRAY_LEN(heads));
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		char *cells[6];

		if (!there[i])
			continue;
		cells[0] = xstrdup(titles[i]);
		cells[1] = number(s[i].before);
		cells[2] = number(s[i].worst);
		cells[3] = number(s[i].first);
		cells[4] = number(s[i].after);
		cells[5] = number(s[i].took);
		take_row(cells, ARRAY_LEN(cells));
	}
	row(NULL, 0);
}

void draw_machine(void)
{
	FILE *in = open_recording("machine", "");
	char line[400];

	while (in && fgets(line, sizeof(line), in)) {
		line[strcspn(line, "\n")] = 0;
		if (*line && *line != '#')
			say("%s", line);
	}
	if (in)
		fclose(in);
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

void draw_outside(void)
{
	static const char *const names[] = {"beam", "warm", "host", "phys", "qemu", "nest"};
	static const char *const titles[] = {"beam", "warm", "host", "phys, 10 GbE, encrypted", "QEMU, 10 GbE, encrypted", "nest"};
	static const char *const heads[] = {"ms", "longest gap, moved", "the same time, not moved", "downtime, by the engine"};
	bool any = false;

	heading("P3, as it is seen from outside");
	say("The longest time between two answers of an idle guest of 128 MiB to UDP pings%s.",
	    results_emulated() ? ", one every 20 ms: emulated, more would take all of the machine" : ", one a millisecond");
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		char *name = xasprintf("outside-%s", names[i]);
		struct spread s[3] = {recorded(name, "gap"), recorded(name, "still"), recorded(name, "downtime")};
		char *cells[4];

		free(name);
		if (!s[0].n)
			continue;
		cells[0] = xstrdup(titles[i]);
		for (size_t k = 0; k < 3; k++)
			cells[k + 1] = cell_of((struct spread){s[k].n, s[k].low / 1e6, s[k].median / 1e6, s[k].high / 1e6});
		if (!any)
			row(heads, ARRAY_LEN(heads));
		any = true;
		take_row(cells, ARRAY_LEN(cells));
	}
	row(NULL, 0);
	if (!any)
		say("Not measured.");
}

void draw_overhead(void)
{
	static const struct {
		const char *job, *title;
	} jobs[] = {{"cpu", "computing"}, {"mem", "reads all over its memory"}, {"touch", "a write to each page of it"}, {"exit", "exits to KVM"}, {"io", "exits to the VMM"}};
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
		take_row(cells, 4);
	}
	row(NULL, 0);
	if (!any)
		say("Not measured.");
}

double draw_extents(void)
{
	static const char *const heads[] = {"a guest of 1 GiB, ms", "pieces", "warming", "total"}, *const guests[] = {"few", "many"};
	double median[2][3];

	for (size_t g = 0; g < 2; g++) {
		static const char *const of[] = {"extents", "warm", "total"};

		for (size_t i = 0; i < ARRAY_LEN(of); i++) {
			char *key = xasprintf("%s %s", of[i], guests[g]);

			median[g][i] = recorded("extents", key).median;
			free(key);
		}
	}
	if (isnan(median[0][1] + median[0][2]) || isnan(median[1][1]) || isnan(median[1][2]) || median[1][0] <= median[0][0])
		return NAN;
	row(heads, ARRAY_LEN(heads));
	for (size_t g = 0; g < 2; g++) {
		char *cells[4] = {xasprintf("memory in %s pieces", guests[g]), number(median[g][0]), number(median[g][1] / 1e6), number(median[g][2] / 1e6)};

		take_row(cells, ARRAY_LEN(cells));
	}
	row(NULL, 0);
	return (median[1][1] + median[1][2] - median[0][1] - median[0][2]) / 1e6 / (median[1][0] - median[0][0]);
}

void draw_connections(void)
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

		take_row(cells, 3);
		free(keys[0]);
		free(keys[1]);
	}
	row(NULL, 0);
}

/* ---- P10: what the ageing monitor recorded */

void draw_ageing(void)
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
