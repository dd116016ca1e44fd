/* page.h: what report.c and recordings.c write: a page of HTML that needs no other file, the same as Markdown, and plots, by gnuplot.  There
 * is one page; one thread; for programs that end when something is wrong.
 */
#ifndef BENCH_PAGE_H
#define BENCH_PAGE_H

#include "bench/results.h"

#include <stdio.h>

/* DIR/report.html; with `docs` also DOCS/results.md.  `mark` is at each heading and in each plot.  All strings stay the caller's, and as
 * they are, until page_end(). */
void page_begin(const char *dir, const char *docs, const char *mark);
void page_end(void);

/* A paragraph. */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void heading(const char *text);
/* A row of a table; the first of each is its heading.  n 0: the table ends. */
void row(const char *const *cell, size_t n);
/* The same of strings, which it frees. */
void take_row(char **cell, size_t n);
/* Texts for it, the caller's: a number, "" if it is none; a median with its quartiles and the number of runs. */
char *number(double x);
char *cell_of(struct spread s);

/* A plot DIR/NAME.svg and .png, by commands for gnuplot, which reads the data with them. */
FILE *begin_plot(const char *name, const char *x, const char *y);
void end_plot(FILE *f, const char *name);
/* Ends one of lines, $d0, $d1... as far as they are there; says so, and false, if none is. */
bool end_lines(FILE *f, const char *name, const char *const *titles, const bool *there, size_t n);

#endif
