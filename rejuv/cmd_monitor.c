/* cmd_monitor.c: `vmbeam monitor`: watches this machine and its hypervisors from now on, and says every five minutes and at its
 * end what is thought of them: a line each, with --json an object a line. */
#include "rejuv/cli.h"
#include "rejuv/watch.h"
#include "vmm/base.h"

#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

struct monitor {
	const char *name; /* NULL: all */
	uint64_t interval, length; /* s */
	bool json;
};

static volatile sig_atomic_t interrupted;

static void interrupt(int sig)
{
	interrupted = sig;
}

/* A number that JSON has no word for is null. */
static json_t *number(double x)
{
	return isfinite(x) ? json_real(x) : json_null();
}

static void print(void *ctx, const char *name, const struct aging_health *h)
{
	const struct monitor *m = ctx;
	const struct aging_verdict *v = &h->verdict;
	json_t *culprits, *object;

	if (m->name && strcmp(m->name, name))
		return;
	if (!m->json) {
		printf("%-20s %-10s %s\n", name, aging_state_name(h->state), h->evidence);
		return;
	}
	culprits = json_array();
	for (size_t i = 0; i < h->culprits; i++)
		json_array_append_new(culprits, json_pack("{s:s, s:o}", "name", h->culprit[i].name, "share", number(h->culprit[i].share)));
	object = json_pack("{s:s, s:s, s:s?, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:s}", "name", name, "state",
				 aging_state_name(h->state), "indicator", h->indicator, "slope_per_s",
				 number(h->indicator ? v->slope : NAN), "exhausted_in_s", number(h->indicator ? v->exhausted_in : NAN),
				 "earliest_s", number(h->indicator ? v->earliest : NAN), "latest_s",
				 number(h->indicator ? v->latest : NAN), "window_s", number(h->indicator ? v->window : NAN), "culprits",
				 culprits, "contention", number(h->contention), "samples_refused", (json_int_t)h->refused, "evidence",
				 h->evidence);
	json_dumpf(object, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(object);
}

static int parse(struct monitor *m, int argc, char **argv, struct error *e)
{
	static const struct option options[] = {{"interval", required_argument, NULL, 'i'},
						{"for", required_argument, NULL, 'f'},
						{"json", no_argument, NULL, 'j'},
						{NULL, 0, NULL, 0}};
	int opt;

	opterr = 0;
	optind = 1;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) >= 0)
		if (opt == 'j')
			m->json = true;
		else if ((opt != 'i' || parse_uint(optarg, 1, 60, &m->interval, e)) &&
			 (opt != 'f' || parse_uint(optarg, 1, UINT32_MAX, &m->length, e)))
			return error_set(e, "unknown option or no number");
	if (optind + 1 < argc)
		return error_set(e, "one name at most is expected");
	m->name = argv[optind];
	return 0;
}

int monitor_main(int argc, char **argv)
{
	struct monitor m = {.interval = 5};
	struct sigaction on_interrupt = {.sa_handler = interrupt};
	struct watch *w;
	uint64_t begin = clock_ns(), next = begin, judge = begin;
	struct error e;

	if (parse(&m, argc, argv, &e))
		return cli_usage("monitor: %s", e.text);
	sigaction(SIGINT, &on_interrupt, NULL);
	sigaction(SIGTERM, &on_interrupt, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	w = watch_create();
	while (!interrupted && (!m.length || clock_ns() - begin < m.length * 1000000000u)) {
		uint64_t now;

		watch_sample(w);
		now = clock_ns();
		if (now >= judge) {
			watch_judge(w, print, &m);
			judge = now + AGING_JUDGE_S * 1000000000ull;
		}
		next = MAX(next + m.interval * 1000000000u, now);
		poll(NULL, 0, (int)((next - now) / 1000000));
	}
	watch_judge(w, print, &m);
	watch_destroy(w);
	return EXIT_OK;
}
