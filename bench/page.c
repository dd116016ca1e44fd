/* page.c: the report as HTML, and as Markdown, and its plots: page.h. */
#include "bench/page.h"

#include "vmm/base.h"

#include <err.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static struct {
	const char *dir;
	FILE *html, *md; /* md: NULL */
	const char *docs, *mark;
} r;

static FILE *create(const char *dir, const char *name)
{
	char *path = xasprintf("%s/%s", dir, name);
	FILE *f = fopen(path, "we");

	if (!f)
		err(1, "%s", path);
	free(path);
	return f;
}

void page_begin(const char *dir, const char *docs, const char *mark)
{
	r.dir = dir;
	r.mark = mark;
	r.html = create(r.dir, "report.html");
	if (docs) {
		char *plots = xasprintf("%s/results", docs);

		r.docs = docs;
		mkdir(plots, 0755);
		free(plots);
		r.md = create(r.docs, "results.md");
		fprintf(r.md, "# Results\n\nWritten by `vmbeam bench`; not by hand.\n\n");
	}
	fprintf(r.html, "<!doctype html><meta charset=utf-8><title>vmbeam bench</title><style>body{font:15px sans-serif;max-width:60em;"
			"margin:2em auto}table{border-collapse:collapse}td,th{padding:.2em .6em;border:1px solid #bbb;text-align:right}"
			"td:first-child,th:first-child{text-align:left}</style><h1>vmbeam bench</h1>\n");
}

void page_end(void)
{
	fclose(r.html);
	if (r.md)
		fclose(r.md);
}

/* ---- text */

void say(const char *fmt, ...)
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

void heading(const char *text)
{
	fprintf(r.html, "<h2>%s%s</h2>\n", text, r.mark);
	if (r.md)
		fprintf(r.md, "## %s%s\n\n", text, r.mark);
}

void row(const char *const *cell, size_t n)
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

void take_row(char **cell, size_t n)
{
	row((const char *const *)cell, n);
	for (size_t i = 0; i < n; i++)
		free(cell[i]);
}

char *number(double x)
{
	return isnan(x) ? xstrdup("") : xasprintf(fabs(x) < 0.01 && x != 0 ? "%.2g" : fabs(x) < 10 ? "%.2f" : fabs(x) < 100 ? "%.1f" : "%.0f", x);
}

char *cell_of(struct spread s)
{
	char *low = number(s.low), *median = number(s.median), *high = number(s.high), *text;

	text = s.n > 1 ? xasprintf("%s (%s to %s; %zu)", median, low, high, s.n) : s.n ? xasprintf("%s (1)", median) : xstrdup("");
	free(low);
	free(median);
	free(high);
	return text;
}

/* ---- plots: gnuplot reads the data with the script */

#define PLOT_SIZE "920,500"

FILE *begin_plot(const char *name, const char *x, const char *y)
{
	/* Pairs, dark and light, for what is measured with and without something. */
	static const char *const colours[] = {"1f77b4", "8cb8de", "d62728", "ff9896", "2ca02c", "17becf", "98df8a", "ff7f0e", "6a3d9a", "9467bd", "c5b0d5", "7f7f7f", "bbbbbb",
					      "8c564b", "e377c2", "bcbd22", "000000", "800080", "006d5b", "c27ba0", "666600", "00008b"};
	FILE *f = popen("gnuplot", "w"); /* NOLINT(cert-env33-c): a command of our own */

	if (!f)
		err(1, "gnuplot");
	fprintf(f,
		"set terminal svg size " PLOT_SIZE " font 'sans,13' background 'white'\nset output '%s/%s.svg'\n"
		"set xlabel '%s'\nset ylabel '%s'\nset grid\nset key outside right center vertical Left reverse\nset style data linespoints\n"
		"set style fill solid 0.6\nset boxwidth 0.6\nset label 1 '%s' at graph 0.01, graph 0.97 textcolor rgb '#c00000'\n",
		r.dir, name, x, y, r.mark);
	for (size_t i = 0; i < ARRAY_LEN(colours); i++)
		fprintf(f, "set linetype %zu lc rgb '#%s' lw 1.5\n", i + 1, colours[i]);
	return f;
}

void end_plot(FILE *f, const char *name)
{
	char *path = xasprintf("%s/%s.svg", r.dir, name), *copy = r.md ? xasprintf("%s/results/%s.svg", r.docs, name) : NULL, line[4096];
	FILE *svg, *too = NULL;

	fprintf(f, "set terminal pngcairo size " PLOT_SIZE "\nset output '%s/%s.png'\nreplot\n", r.dir, name);
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

bool end_lines(FILE *f, const char *name, const char *const *titles, const bool *there, size_t n)
{
	const char *separator = "set style data lines\nplot ";

	for (size_t i = 0; i < n; i++)
		if (there[i]) {
			fprintf(f, "%s$d%zu title '%s' lw 2 lc %zu", separator, i, titles[i], i + 1);
			separator = ", ";
		}
	if (separator[0] == ',') {
		fputs("\n", f);
		end_plot(f, name);
		return true;
	}
	pclose(f);
	say("Not measured.");
	return false;
}
