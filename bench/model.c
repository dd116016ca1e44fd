/* model.c: what rejuvenations would take at other sizes: model.h. */
#include "bench/model.h"

#include "bench/results.h"

#include <math.h>

enum { MIB_A_GIB = 1024 };

static void fit(const double *x, const double *y, size_t n, double *first, double *each)
{
	double w = 0, wx = 0, wy = 0, wxx = 0, wxy = 0;

	for (size_t i = 0; i < n; i++) {
		double k = 1 / (y[i] * y[i]);

		w += k;
		wx += k * x[i];
		wy += k * y[i];
		wxx += k * x[i] * x[i];
		wxy += k * x[i] * y[i];
	}
	*each = (w * wxy - wx * wy) / (w * wxx - wx * wx);
	*first = (wy - *each * wx) / w;
}

void line_fit(const double *x, const double *y, size_t n, struct line *l)
{
	double first, each;

	*l = (struct line){.n = n, .first = NAN, .each = NAN, .miss = NAN};
	if (n < 2)
		return;
	fit(x, y, n, &l->first, &l->each);
	if (n < 3)
		return;
	fit(x, y, n - 1, &first, &each);
	l->miss = (first + each * x[n - 1]) / y[n - 1] - 1;
}

static void fit_sizes(const char *system, figure *of, struct line *l)
{
	double sizes[XS], x[XS], y[XS];
	size_t all = xs_of(false, 0, sizes), n = 0;

	for (size_t i = 0; i < all; i++) {
		double total = median_of(system, sizes[i], 0, of);

		if (isnan(total))
			continue;
		x[n] = sizes[i] / MIB_A_GIB;
		y[n++] = total;
	}
	line_fit(x, y, n, l);
}

void model_fit(struct model *m)
{
	double x[SYSTEMS], y[SYSTEMS];
	size_t n = 0;

	fit_sizes("beam", wall_ms, &m->beam);
	fit_sizes("cold", total_ms, &m->cold);
	fit_sizes("phys10", wall_ms, &m->tls);
	fit_sizes("plain_phys", wall_ms, &m->plain);
	for (size_t s = 0; s < SYSTEMS; s++) {
		int guests = is_rejuvenation(&systems[s]);
		double total = guests ? spread_of(&systems[s], MODEL_GUEST, 0, total_ms).median : NAN;

		if (isnan(total))
			continue;
		x[n] = guests;
		y[n++] = total;
	}
	line_fit(x, y, n, &m->rejuvenation);
}

double model_host(const struct model *m, double guests, double gib)
{
	double larger = gib - (double)MODEL_GUEST / MIB_A_GIB;

	return m->rejuvenation.first + guests * (m->rejuvenation.each + fmax(m->beam.each, 0) * larger);
}

double model_copy(const struct line *copy, double guests, double gib)
{
	return guests * (copy->first + copy->each * gib);
}

double model_fleet(double host, double hosts, double concurrent)
{
	return host * ceil(hosts / concurrent);
}
