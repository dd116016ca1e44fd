/* results.c: what `vmbeam bench` has measured: results.h. */
#include "bench/results.h"

#include "vmm/base.h"

#include <err.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RUNS = 20000, FIELDS = 21, BASE_NS = 1000000000, CACHE_LINE = 64 };
/* More than that much of it used anyway: the rest is noise. */
#define BASE_SHARE 0.5

/* Copies of each byte that is sent, by what the code does with it: read from the guest, written to the socket, read there, written to
 * the guest; encryption and decryption read and write it once more each. */
enum { TOUCHED_PLAIN = 4, TOUCHED_TLS = 8 };

const struct system systems[SYSTEMS] = {
	{"beam", "beam", false, false, true},
	{"cold", "beam, not warmed", false, false, false},
	{"nest", "nest", true, true, true},
	{"plain_nest", "nest, not encrypted", true, false, false},
	{"phys", "phys, 1 GbE", true, true, true},
	{"phys10", "phys, 10 GbE", true, true, false},
	{"plain_phys", "phys, 10 GbE, not encrypted", true, false, false},
	{"warm", "warm", false, false, false},
	{"host", "host", false, false, false},
	{"qemu_cpr", "QEMU, cpr-transfer", false, false, false},
	{"qemu_tls", "QEMU, 10 GbE, TLS, multifd", true, true, false},
	{"qemu_plain", "QEMU, 10 GbE, not encrypted, multifd", true, false, false},
	{"rejuv_1", "rejuvenation, 1 guest", false, false, false},
	{"rejuv_2", "rejuvenation, 2 guests", false, false, false},
	{"rejuv_4", "rejuvenation, 4 guests", false, false, false},
	{"rejuv_8", "rejuvenation, 8 guests", false, false, false},
	{"rejuv_16", "rejuvenation, 16 guests", false, false, false},
	{"small", "beam, 4 KiB pages", false, false, false},
	{"small_cold", "beam, 4 KiB pages, not warmed", false, false, false},
};

struct results results;
static struct run *failed; /* results.failed of them */
static const char *wanted; /* version */

/* ---- reading */

const struct system *find_system(const char *name)
{
	for (size_t i = 0; i < SYSTEMS; i++)
		if (!strcmp(systems[i].name, name))
			return &systems[i];
	return NULL;
}

/* Splits a line at commas outside quotes, which go; the number of fields. */
static size_t split(char *line, char **field)
{
	size_t n = 0;
	bool quoted = false;

	line[strcspn(line, "\r\n")] = 0;
	field[n++] = line;
	for (char *to = line, *p = line;; p++) {
		if (*p == '"') {
			quoted = !quoted;
			continue;
		}
		if (*p == ',' && !quoted) {
			*to++ = 0;
			if (n < FIELDS)
				field[n++] = to;
			continue;
		}
		*to++ = *p;
		if (!*p)
			return n;
	}
}

static bool is_same(const struct run *a, const struct run *b)
{
	return a->system == b->system && a->size == b->size && a->rate == b->rate && a->round == b->round;
}

/* NaN: empty, or no number. */
static double number_of(const char *text)
{
	char *end = NULL;
	double v = text && *text ? strtod(text, &end) : NAN;

	return !end || *end ? NAN : v;
}

/* A run, if it is one of those that count; what has failed and was done again is forgotten, what was cut off has failed. */
static void read_fields(char **f, size_t n)
{
	struct run one = {.system = n < FIELDS - COLUMNS ? NULL : find_system(f[5])};
	bool ok;

	if (!one.system || results.n + results.failed == RUNS)
		return;
	if (strcmp(f[4], results.version) != 0 || strcmp(f[1], results.machine) != 0 || strcmp(f[2], results.where) != 0) {
		results.others++;
		return;
	}
	one.size = atof(f[6]);
	one.rate = atof(f[7]);
	one.round = atoi(f[8]);
	snprintf(one.lab, sizeof(one.lab), "%s %s", f[0], f[3]);
	for (size_t i = 0; i < COLUMNS; i++)
		one.v[i] = number_of(f[FIELDS - COLUMNS + i]);
	ok = n == FIELDS && !strcmp(f[9], "ok") && one.v[TOTAL] > 0 && one.v[WALL] > 0 && !isnan(one.v[DOWNTIME]);
	for (size_t i = 0; i < results.n; i++)
		if (is_same(&one, &results.run[i])) /* it is there already */
			return;
	for (size_t i = 0; i < results.failed; i++)
		if (is_same(&one, &failed[i])) {
			if (ok)
				failed[i] = failed[--results.failed];
			else
				return;
			break;
		}
	if (!ok) {
		failed[results.failed++] = one;
		return;
	}
	results.run[results.n++] = one;
	snprintf(results.call, sizeof(results.call), "%s", f[0]);
}

/* The last line's machine, and its version if none is asked for. */
static void read_version(char **f, size_t n)
{
	if (n < FIELDS - COLUMNS || !find_system(f[5]) || (wanted && strcmp(f[4], wanted) != 0))
		return;
	snprintf(results.version, sizeof(results.version), "%s", f[4]);
	snprintf(results.machine, sizeof(results.machine), "%s", f[1]);
	snprintf(results.where, sizeof(results.where), "%s", f[2]);
}

static void read_lines(FILE *f, void (*each)(char **field, size_t n))
{
	char *line = NULL;
	size_t size = 0;

	rewind(f);
	while (getline(&line, &size, f) >= 0) {
		char *field[FIELDS] = {NULL};

		each(field, split(line, field));
	}
	free(line);
}

void results_read(const char *dir, const char *version)
{
	char *path = xasprintf("%s/results.csv", dir);
	FILE *f = fopen(path, "re");

	if (!f)
		err(1, "%s", path);
	results.run = xcalloc(RUNS, sizeof(*results.run));
	failed = xcalloc(RUNS, sizeof(*failed));
	wanted = version;
	read_lines(f, read_version);
	read_lines(f, read_fields);
	fclose(f);
	if (!results.n)
		errx(1, "%s: nothing was measured", path);
	free(path);
}

/* ---- figures */

double total_ms(const struct run *run)
{
	return run->v[TOTAL] / 1e6;
}
double wall_ms(const struct run *run)
{
	return run->v[WALL] / 1e6;
}
double downtime_ms(const struct run *run)
{
	return run->v[DOWNTIME] / 1e6;
}
double gap_ms(const struct run *run)
{
	return run->v[GAP] > 0 ? run->v[GAP] / 1e6 : NAN; /* (an idle guest does not look) */
}
double cpu_ms(const struct run *run)
{
	return run->v[CPU] / 1e6;
}
double more_cpu_ms(const struct run *run)
{
	double anyway = run->v[BASE] * run->v[WALL] / BASE_NS;

	return anyway > BASE_SHARE * run->v[CPU] ? NAN : (run->v[CPU] - anyway) / 1e6;
}
double base_percent(const struct run *run)
{
	return 100 * run->v[BASE] / BASE_NS;
}
double written_mib(const struct run *run)
{
	return run->v[WRITTEN] / 1048576;
}
double wire_mb(const struct run *run)
{
	return run->v[WIRE] / 1e6;
}
double sent_mb(const struct run *run)
{
	return run->v[BYTES] / 1e6;
}
bool memory_counted(void)
{
	return results.n && !isnan(results.run[0].v[MISSES]);
}
double memory_mb(const struct run *run)
{
	if (memory_counted())
		return run->v[MISSES] * CACHE_LINE / 1e6;
	return run->v[BYTES] * (run->system->tls ? TOUCHED_TLS : TOUCHED_PLAIN) / 1e6;
}

int rising(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double quantile(const double *v, size_t n, double q)
{
	double at = q * (double)(n - 1);
	size_t i = (size_t)at;

	return i + 1 < n ? v[i] + (at - (double)i) * (v[i + 1] - v[i]) : v[n - 1];
}

struct spread spread_among(double *v, size_t n)
{
	if (!n)
		return (struct spread){0, NAN, NAN, NAN};
	qsort(v, n, sizeof(*v), rising);
	return (struct spread){n, quantile(v, n, 0.25), quantile(v, n, 0.5), quantile(v, n, 0.75)};
}

struct spread spread_of(const struct system *s, double size, double rate, figure *of)
{
	static double v[RUNS];
	size_t n = 0;

	for (size_t i = 0; i < results.n; i++)
		if (results.run[i].system == s && results.run[i].size == size && results.run[i].rate == rate && !isnan(of(&results.run[i])))
			v[n++] = of(&results.run[i]);
	return spread_among(v, n);
}

int is_rejuvenation(const struct system *s)
{
	return strncmp(s->name, "rejuv_", 6) != 0 ? 0 : atoi(s->name + 6);
}

double median_of(const char *system, double size, double rate, figure *of)
{
	return spread_of(find_system(system), size, rate, of).median;
}

size_t xs_of(bool rates, double size, double *x)
{
	size_t n = 0;

	for (size_t i = 0; i < results.n; i++) {
		double one = rates ? results.run[i].rate : results.run[i].size;
		bool is = !is_rejuvenation(results.run[i].system) && (rates ? results.run[i].size == size : results.run[i].rate == 0);

		for (size_t k = 0; k < n && is; k++)
			is = x[k] != one;
		if (is && n < XS)
			x[n++] = one;
	}
	qsort(x, n, sizeof(*x), rising);
	return n;
}

double compared(void)
{
	double x[XS];
	size_t n = xs_of(false, 0, x);

	for (size_t i = n; i-- > 0;)
		for (size_t s = 0; s < SYSTEMS; s++)
			if (systems[s].wire && spread_of(&systems[s], x[i], 0, total_ms).n)
				return x[i];
	return n ? x[n - 1] : NAN;
}

size_t labs_of(double size, double rate)
{
	size_t n = 0;

	for (size_t i = 0; i < results.n; i++) {
		const struct run *a = &results.run[i];
		bool is = a->size == size && a->rate == rate;

		for (size_t k = 0; k < i && is; k++) {
			const struct run *b = &results.run[k];

			is = b->size != size || b->rate != rate || strcmp(a->lab, b->lab) != 0;
		}
		n += is;
	}
	return n;
}

bool results_emulated(void)
{
	return !strcmp(results.where, "emulated");
}

double rated(void)
{
	for (size_t i = 0; i < results.n; i++)
		if (results.run[i].rate > 0)
			return results.run[i].size;
	return NAN;
}
