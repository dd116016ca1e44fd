/* model.h: what rejuvenations would take at sizes that do not fit here, from what was measured (results.h).
 *
 * Each part is a line: a fixed cost, and one for each GiB or guest; the lines are fitted to medians, all of them with the same relative
 * weight (weighted least squares).  How far a line can be believed is tried: the largest that was measured is predicted from the others.
 * Guests are rejuvenated one after another, and so are the guests of one host copied: what is shared does not get faster by that.
 */
#ifndef BENCH_MODEL_H
#define BENCH_MODEL_H

#include <stddef.h>

struct line {
	size_t n;	    /* measured points; below 2 there is no line */
	double first, each; /* ms; NaN: no line */
	double miss;	    /* relative: the largest by the others, to what it is; NaN with fewer than 3 */
};

struct model {
	struct line beam;	  /* of one guest, over GiB: the whole command, which warms it first */
	struct line cold;	  /* the same, not warmed: what the engine calls total */
	struct line tls, plain;	  /* copied over 10 GbE, encrypted and not, over GiB, of which they fill as much: whole commands */
	struct line rejuvenation; /* of a hypervisor, over guests of MODEL_GUEST MiB, with all that belongs to it */
};
enum { MODEL_GUEST = 128, MODEL_CHECK = 512 }; /* MODEL_CHECK: of four guests, at which all of it is tried */

void model_fit(struct model *m);
/* A line of the points (x, y). */
void line_fit(const double *x, const double *y, size_t n, struct line *l);
/* One host with so many guests of so many GiB: ms. */
double model_host(const struct model *m, double guests, double gib);
double model_copy(const struct line *copy, double guests, double gib);
/* So many hosts that take `host` ms each, at most `concurrent` of them at a time: ms. */
double model_fleet(double host, double hosts, double concurrent);

#endif
