/* stats.c: the statistics of aging.h. */
#include "aging-monitor/aging.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* What is there, in order; how many. */
static size_t present(const double *y, size_t n, double *out)
{
	size_t k = 0;

	for (size_t i = 0; i < n && i < AGING_MOST_VALUES; i++)
		if (!isnan(y[i]))
			out[k++] = y[i];
	return k;
}

/* The k-th smallest; the array is rearranged, all smaller ones before it (C. A. R. Hoare, CACM 4, 1961). */
static double nth(double *v, size_t n, size_t k)
{
	size_t from = 0, to = n;

	while (to - from > 1) {
		double pivot = v[from + (to - from) / 2];
		size_t less = from, more = to;

		for (size_t i = from; i < more;) {
			double x = v[i];

			if (x < pivot) {
				v[i++] = v[less];
				v[less++] = x;
			} else if (x > pivot) {
				v[i] = v[--more];
				v[more] = x;
			} else {
				i++;
			}
		}
		if (k < less)
			to = less;
		else if (k >= more)
			from = more;
		else
			return pivot;
	}
	return v[from];
}

static double median_of(double *v, size_t n)
{
	double upper;

	if (!n)
		return NAN;
	upper = nth(v, n, n / 2);
	if (n % 2)
		return upper;
	/* All below the middle are before it now. */
	for (size_t i = 1; i < n / 2; i++)
		if (v[i] > v[0])
			v[0] = v[i];
	return (v[0] + upper) / 2;
}

double aging_median(const double *y, size_t n)
{
	double v[AGING_MOST_VALUES];

	return median_of(v, present(y, n, v));
}

double aging_quantile(const double *y, size_t n, double q)
{
	double v[AGING_MOST_VALUES];
	size_t k = present(y, n, v);

	return k ? nth(v, k, (size_t)(q * (double)(k - 1) + 0.5)) : NAN;
}

double aging_spread(const double *y, size_t n)
{
	double v[AGING_MOST_VALUES];
	size_t k = present(y, n, v);
	double middle = median_of(v, k);

	for (size_t i = 0; i < k; i++)
		v[i] = fabs(v[i] - middle);
	return 1.4826 * median_of(v, k);
}

/* ---- Mann-Kendall */

static double score(const double *v, size_t n)
{
	long s = 0;

	for (size_t i = 0; i + 1 < n; i++)
		for (size_t j = i + 1; j < n; j++)
			s += (v[j] > v[i]) - (v[j] < v[i]);
	return (double)s;
}

static double variance(const double *v, size_t n)
{
	double sorted[AGING_MOST_VALUES], m = (double)n, var = m * (m - 1) * (2 * m + 5);

	memcpy(sorted, v, n * sizeof(*v));
	qsort(sorted, n, sizeof(*sorted), compare);
	for (size_t i = 0, j; i < n; i = j) {
		double ties;

		for (j = i + 1; j < n && sorted[j] == sorted[i]; j++)
			;
		ties = (double)(j - i);
		var -= ties * (ties - 1) * (2 * ties + 5);
	}
	return var / 18;
}

static void test(struct aging_mk *r)
{
	r->z = r->var > 0 ? (r->s - (r->s > 0) + (r->s < 0)) / sqrt(r->var) : 0;
	r->p = erfc(fabs(r->z) / M_SQRT2);
}

static double rank_of(const double *sorted, size_t n, double x)
{
	size_t from = 0, to = n, first;

	while (from < to) {
		size_t middle = (from + to) / 2;

		if (sorted[middle] < x)
			from = middle + 1;
		else
			to = middle;
	}
	for (first = from; to < n && sorted[to] == x; to++)
		;
	return ((double)first + (double)to + 1) / 2;
}

/* How much the variance of the score grows by autocorrelation. */
static double hamed_rao(const double *v, size_t n, size_t lags)
{
	double rest[AGING_MOST_VALUES], sorted[AGING_MOST_VALUES];
	double mean = ((double)n + 1) / 2, bound = 1.959963984540054 / sqrt((double)n), all = 0, sum = 0, m = (double)n;
	struct aging_line line;

	aging_theil_sen(NULL, v, n, 0, 0, &line);
	for (size_t i = 0; i < n; i++)
		sorted[i] = rest[i] = v[i] - line.slope * (double)(i + 1);
	qsort(sorted, n, sizeof(*sorted), compare);
	for (size_t i = 0; i < n; i++) {
		rest[i] = rank_of(sorted, n, rest[i]) - mean;
		all += rest[i] * rest[i];
	}
	if (all <= 0)
		return 1;
	for (size_t lag = 1; lag < n && lag <= lags; lag++) {
		double l = (double)lag, r = 0;

		for (size_t i = 0; i + lag < n; i++)
			r += rest[i] * rest[i + lag];
		r /= all;
		if (fabs(r) > bound)
			sum += (m - l) * (m - l - 1) * (m - l - 2) * r;
	}
	return 1 + 2 / (m * (m - 1) * (m - 2)) * sum;
}

void aging_mann_kendall(const double *y, size_t n, size_t lags, struct aging_mk *r)
{
	double v[AGING_MOST_VALUES] = {0};

	*r = (struct aging_mk){.n = present(y, n, v), .p = 1};
	if (r->n < 3)
		return;
	r->s = score(v, r->n);
	r->var = variance(v, r->n);
	if (lags)
		r->var *= hamed_rao(v, r->n, lags);
	test(r);
}

void aging_seasonal_mann_kendall(const double *y, size_t n, size_t period, struct aging_mk *r)
{
	double v[AGING_MOST_VALUES];

	*r = (struct aging_mk){.p = 1};
	for (size_t season = 0; season < period; season++) {
		size_t k = 0;

		for (size_t i = season; i < n; i += period)
			if (!isnan(y[i]) && k < AGING_MOST_VALUES)
				v[k++] = y[i];
		r->n += k;
		r->s += score(v, k);
		r->var += variance(v, k);
	}
	test(r);
}

/* ---- lines and curves */

void aging_theil_sen(const double *t, const double *y, size_t n, double var, double z, struct aging_line *r)
{
	double x[AGING_MOST_VALUES], v[AGING_MOST_VALUES], *slopes, m;
	size_t k = 0, pairs = 0;

	*r = (struct aging_line){.slope = NAN, .low = NAN, .high = NAN, .level = NAN};
	for (size_t i = 0; i < n && i < AGING_MOST_VALUES; i++)
		if (!isnan(y[i])) {
			x[k] = t ? t[i] : (double)i;
			v[k++] = y[i];
		}
	r->n = k;
	slopes = k < 2 ? NULL : malloc(k * (k - 1) / 2 * sizeof(*slopes));
	if (!slopes)
		return;
	for (size_t i = 0; i + 1 < k; i++)
		for (size_t j = i + 1; j < k; j++)
			if (x[j] != x[i])
				slopes[pairs++] = (v[j] - v[i]) / (x[j] - x[i]);
	if (pairs) {
		double c = z * sqrt(fmax(var, 0)), low, high;

		m = (double)pairs;
		low = fmax(floor((m - c) / 2) - 1, 0);
		high = fmin(ceil((m + c) / 2), m - 1);
		r->low = nth(slopes, pairs, (size_t)low);
		r->high = nth(slopes, pairs, (size_t)high);
		r->slope = median_of(slopes, pairs);
		for (size_t i = 0; i < k; i++)
			v[i] -= r->slope * (x[i] - x[k - 1]);
		r->level = median_of(v, k);
	}
	free(slopes);
}

void aging_parabola(const double *t, const double *y, size_t n, struct aging_curve *r)
{
	double x[AGING_MOST_VALUES], v[AGING_MOST_VALUES];
	double middle, s2 = 0, s3 = 0, s4 = 0, sy = 0, sxy = 0, sx2y = 0, m, det, sum = 0, lag = 0, a, d2, before = 0;
	size_t k = 0;

	*r = (struct aging_curve){.slope = NAN, .curve = NAN, .curve_error = NAN, .residual = NAN};
	for (size_t i = 0; i < n && i < AGING_MOST_VALUES; i++)
		if (!isnan(y[i])) {
			x[k] = t[i];
			v[k++] = y[i];
		}
	r->n = k;
	if (k < 5)
		return;
	m = (double)k;
	middle = 0;
	for (size_t i = 0; i < k; i++)
		middle += x[i] / m;
	for (size_t i = 0; i < k; i++) {
		double u = x[i] -= middle;

		s2 += u * u;
		s3 += u * u * u;
		s4 += u * u * u * u;
		sy += v[i];
		sxy += u * v[i];
		sx2y += u * u * v[i];
	}
	/* Normal equations of 1, x, x^2, with the sum of x being 0. */
	det = s2 * (s4 - s2 * s2 / m) - s3 * s3;
	if (!(det > 0))
		return;
	d2 = sx2y - s2 * sy / m;
	r->slope = (sxy * (s4 - s2 * s2 / m) - s3 * d2) / det;
	r->curve = (s2 * d2 - s3 * sxy) / det;
	a = (sy - r->curve * s2) / m;
	for (size_t i = 0; i < k; i++) {
		double e = v[i] - a - r->slope * x[i] - r->curve * x[i] * x[i];

		sum += e * e;
		lag += e * before;
		before = e;
	}
	r->residual = sqrt(sum / (m - 3));
	lag = sum > 0 ? fmin(fmax(lag / sum, 0), 0.95) : 0;
	r->curve_error = r->residual * sqrt(s2 / det) * sqrt((1 + lag) / (1 - lag));
}
