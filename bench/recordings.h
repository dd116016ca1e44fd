/* recordings.h: the parts of the report (page.h) that are drawn from DIR/results.csv.d/NAME, lines that inside.sh and bench.sh have written,
 * after a first one with the version; of another than the results' (results.h) they count as not measured.  One thread.
 */
#ifndef BENCH_RECORDINGS_H
#define BENCH_RECORDINGS_H

/* Where they are; the string stays the caller's, and as it is. */
void recordings_of(const char *results_dir);

/* What it was measured on. */
void draw_machine(void);
void draw_outside(void);
void draw_throughput(void);
void draw_ageing(void);
void draw_speed(void);
void draw_overhead(void);
void draw_connections(void);
/* What the pieces of a guest's memory cost: two lines, and each piece more of one; their cost in ms, warming included (NaN: not measured). */
double draw_extents(void);

#endif
