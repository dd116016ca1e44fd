/* show.c: `vmbeam monitor` and `vmbeam events`: what is thought of this machine, its hypervisors and VMs, and what has happened. */
#include "rejuv/monitor/monitor.h"

#include "rejuv/cli.h"

#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

enum { RECENT = 3 * AGING_JUDGE_S, LOOK_MS = 1000 };

struct show_args {
	const char *name, *since, *plot, *indicator;
	struct record_options record;
	bool json, follow, records;
};

struct listing {
	struct aging_store *store;
	json_t *array; /* NULL: in words */
	size_t n;
	int64_t last; /* number of an event */
	bool times;
	/* In words: shown once the store has been read, since who reads slowly would hold up its writer. */
	FILE *out;
	char *text;
	size_t size;
};

static void listing_begin(struct listing *l, bool json)
{
	l->array = json ? json_array() : NULL;
	l->out = open_memstream(&l->text, &l->size);
	if (!l->out)
		abort();
}

static void listing_show(struct listing *l)
{
	fclose(l->out);
	fwrite(l->text, 1, l->size, stdout);
	free(l->text);
}

static void print_verdict(void *ctx, const struct aging_stored *v)
{
	struct listing *l = ctx;

	l->n++;
	if (!l->array) {
		if (l->times)
			fprintf(l->out, "%s  ", when(l->store, v->t));
		fprintf(l->out, "%-20s %-10s %s\n", v->name, aging_state_name(v->state), v->evidence);
		return;
	}
	json_array_append_new(
		l->array,
		json_pack("{s:s, s:s, s:o, s:s, s:s?, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s, s:o, s:o, s:I, s:s}", "name", v->name,
			  "time", when(l->store, v->t), "clock_s", json_number(aging_store_clock(l->store, v->t)), "state",
			  aging_state_name(v->state), "indicator", v->indicator, "left", json_number(v->left), "slope_per_s", json_number(v->slope),
			  "slope_low_per_s", json_number(v->low), "slope_high_per_s", json_number(v->high), "exhausted_in_s",
			  json_number(v->exhausted_in), "earliest_s", json_number(v->earliest), "latest_s", json_number(v->latest), "window_s",
			  json_number(v->window), "p", json_number(v->p), "culprits", v->culprits, "contention", json_number(v->contention),
			  "contention_bursts", json_number(v->bursts), "samples_refused", (json_int_t)v->refused, "evidence", v->evidence));
}

static void print_event(void *ctx, const struct aging_event *e)
{
	struct listing *l = ctx;

	l->n++;
	l->last = e->id;
	if (!l->array)
		fprintf(l->out, "%s  %-20s %-10s %s\n", when(l->store, e->t), e->name ? e->name : "monitor", e->kind, e->text);
	else
		json_array_append_new(l->array, json_pack("{s:I, s:s, s:o, s:s?, s:s, s:s}", "id", (json_int_t)e->id, "time",
							  when(l->store, e->t), "clock_s", json_number(aging_store_clock(l->store, e->t)),
							  "name", e->name, "kind", e->kind, "text", e->text));
}

static int parse_option(struct show_args *a, int opt, struct error *e)
{
	struct record_options *r = &a->record;
	uint64_t seconds;

	switch (opt) {
	case 'j':
		a->json = true;
		return 0;
	case 's':
		a->since = optarg;
		return 0;
	case 'F':
		a->follow = true;
		return 0;
	case 'p':
		a->plot = optarg;
		return 0;
	case 'I':
		a->indicator = optarg;
		return 0;
	case 'r':
		a->records = true;
		return 0;
	case 'l':
		r->listen = optarg;
		return 0;
	case 'i':
		if (parse_uint(optarg, 1, 60, &seconds, e))
			return -1;
		r->interval_ms = seconds * 1000;
		return 0;
	case 'f':
		return parse_uint(optarg, 1, UINT32_MAX, &r->length, e);
	case 'm':
		return parse_size(optarg, &r->limit, e);
	case 'S':
		return parse_uint(optarg, 1, 10000, &r->speed, e);
	case 'M':
		return parse_uint(optarg, 10, 60000, &r->interval_ms, e);
	default:
		return error_set(e, "unknown option or missing value");
	}
}

static int parse(struct show_args *a, bool events, int argc, char **argv, struct error *e)
{
	static const struct option all[] = {{"json", no_argument, NULL, 'j'},
					    {"since", required_argument, NULL, 's'},
					    {"follow", no_argument, NULL, 'F'},
					    {"plot", required_argument, NULL, 'p'},
					    {"indicator", required_argument, NULL, 'I'},
					    {"record", no_argument, NULL, 'r'},
					    {"interval", required_argument, NULL, 'i'},
					    {"for", required_argument, NULL, 'f'},
					    {"max-size", required_argument, NULL, 'm'},
					    {"listen", required_argument, NULL, 'l'},
					    {"test-speed", required_argument, NULL, 'S'}, /* tests only: not in the usage */
					    {"test-interval-ms", required_argument, NULL, 'M'},
					    {NULL, 0, NULL, 0}};
	bool recording = false;
	int opt;

	a->record = (struct record_options){.interval_ms = 5000, .limit = 512 * MIB, .speed = 1};
	opterr = 0;
	optind = 1;
	while ((opt = getopt_long(argc, argv, "", all, NULL)) >= 0) {
		if (parse_option(a, strchr(events ? "jsF" : "jspIrifmlSM", opt) ? opt : '?', e))
			return -1;
		recording |= strchr("ifmlSM", opt) != NULL;
	}
	if (optind + 1 < argc)
		return error_set(e, "one name at most is expected");
	a->name = argv[optind];
	if (recording && !a->records)
		return error_set(e, "--interval, --for, --max-size and --listen are those of --record");
	a->record.json = a->records && a->json;
	if (a->records && (a->name || a->since || a->plot || a->indicator))
		return error_set(e, "--record: no name and nothing to show is expected");
	if ((a->plot || a->indicator) && (!a->plot || !a->name))
		return error_set(e, "--plot: a name is expected");
	if (a->record.limit < AGING_STORE_LEAST)
		return error_set(e, "--max-size: at least %llu MiB", (unsigned long long)(AGING_STORE_LEAST / MIB));
	return 0;
}

static bool is_recorded(void)
{
	char *path = store_path();
	bool r = aging_store_is_written(path);

	free(path);
	return r;
}

static int print_verdicts(struct aging_store *s, const struct show_args *a, double since)
{
	struct listing l = {.store = s, .times = a->since};
	const char *error;
	int r;

	listing_begin(&l, a->json);
	r = aging_store_each_verdict(s, a->name, since, !a->since, print_verdict, &l, &error);
	listing_show(&l);
	if (r) {
		json_decref(l.array);
		return cli_fail("%s", error);
	}
	if (l.array)
		cli_print_json(l.array);
	if (!is_recorded())
		log_line("warning: nobody records just now: 'vmbeam monitor --record'");
	if (l.n)
		return EXIT_OK;
	if (a->name)
		return cli_fail("%s: nothing is known of it%s", a->name, a->since ? " since then" : " as of now; --since shows what was");
	return a->json ? EXIT_OK : cli_fail("nothing is known%s", a->since ? " since then" : " as of now; --since shows what was");
}

int monitor_main(int argc, char **argv)
{
	struct show_args a = {0};
	struct aging_store *s;
	struct error e;
	double since;
	int r;

	if (parse(&a, false, argc, argv, &e))
		return cli_usage("monitor: %s", e.text);
	if (a.records)
		return record(&a.record);
	s = store_open(&e);
	if (!s)
		return cli_fail("%s", e.text);
	since = aging_store_now(s) - (a.plot ? 2 * 86400 : RECENT);
	if (a.since && parse_since(a.since, s, &since, &e))
		r = cli_usage("monitor: %s", e.text);
	else if (!a.plot)
		r = print_verdicts(s, &a, since);
	else
		r = plot(s, a.name, a.indicator, since, a.plot, &e) ? cli_fail("%s", e.text) : EXIT_OK;
	aging_store_close(s);
	return r;
}

/* Those after the last one; as JSON an object a line, so that each is there at once. */
static int show_new(struct listing *l, const struct show_args *a, double since)
{
	const char *error;
	size_t i;
	json_t *j;
	int r;

	listing_begin(l, a->json);
	r = aging_store_each_event(l->store, a->name, l->last, since, print_event, l, &error);
	listing_show(l);
	if (l->array && !a->follow) {
		cli_print_json(l->array);
	} else {
		json_array_foreach(l->array, i, j) {
			json_dumpf(j, stdout, JSON_COMPACT);
			putchar('\n');
		}
		json_decref(l->array);
	}
	return r ? cli_fail("%s", error) : EXIT_OK;
}

int events_main(int argc, char **argv)
{
	struct show_args a = {0};
	struct listing l = {.last = 0};
	double since = -INFINITY;
	struct error e;
	int r;

	if (parse(&a, true, argc, argv, &e))
		return cli_usage("events: %s", e.text);
	l.store = store_open(&e);
	if (!l.store)
		return cli_fail("%s", e.text);
	if (a.since && parse_since(a.since, l.store, &since, &e)) {
		aging_store_close(l.store);
		return cli_usage("events: %s", e.text);
	}
	/* (Nobody reads any more: that is its end.) */
	while (!(r = show_new(&l, &a, since)) && a.follow && !fflush(stdout))
		poll(NULL, 0, LOOK_MS);
	aging_store_close(l.store);
	return r;
}
