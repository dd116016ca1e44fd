/* cmd_migrate.c: `vmbeam migrate`: moves a VM and reports how it went. */
#include "rejuv/cli.h"
#include "vmm/client.h"
#include "zerocopy/zerocopy.h"

#include <getopt.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_DRAIN_S = 10 };

struct migrate_args {
	const char *vm, *to;
	bool json, cancel;
	struct handover_options o;
};

static int parse(int argc, char **argv, struct migrate_args *a)
{
	static const struct option options[] = {
		{"to", required_argument, NULL, 't'},	  {"json", no_argument, NULL, 'j'},
		{"dry-run", no_argument, NULL, 'd'},	  {"no-warm", no_argument, NULL, 'w'},
		{"timeout", required_argument, NULL, 's'}, {"mode", required_argument, NULL, 'm'},
		{"cancel", no_argument, NULL, 'c'},	  {NULL, 0, NULL, 0},
	};
	uint64_t seconds = DEFAULT_DRAIN_S;
	struct error e;
	int opt;

	a->o.entry = vmm_process;
	a->o.warm = true;
	opterr = 0;
	optind = 1;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (opt) {
		case 't':
			a->to = optarg;
			break;
		case 'c':
			a->cancel = true;
			break;
		case 'j':
			a->json = true;
			break;
		case 'd':
			a->o.dry_run = true;
			break;
		case 'w':
			a->o.warm = false;
			break;
		case 's':
			if (parse_uint(optarg, 1, 3600, &seconds, &e))
				return cli_usage("migrate: --timeout: %s", e.text);
			break;
		case 'm':
			if (strcmp(optarg, "auto") && strcmp(optarg, "zero-copy"))
				return cli_usage("migrate: --mode %s: only zero-copy is there yet", optarg);
			break;
		default:
			return cli_usage("migrate: unknown option or missing value");
		}
	}
	if (optind + 1 != argc)
		return cli_usage("migrate: one VM's name is expected");
	a->vm = argv[optind];
	if (a->cancel)
		return 0;
	if (!a->to)
		return cli_usage("migrate: --to is missing");
	if (strchr(a->to, ':'))
		return cli_usage("migrate: --to %s: other machines are not there yet", a->to);
	if (!strcmp(a->to, "host"))
		a->o.placement = "";
	else if (strcmp(a->to, "fresh"))
		a->o.placement = a->to;
	a->o.drain_timeout_ns = seconds * 1000000000ull;
	a->o.fault = getenv("VMBEAM_FAULT");
	return 0;
}

json_t *handover_json(const char *vm, const char *to, const struct handover_report *r, int result)
{
	json_t *phases = json_array(), *j;

	for (size_t i = 0; i < r->nphases; i++)
		json_array_append_new(phases, json_pack("{s:s, s:I}", "name", r->phases[i].name, "ns",
							(json_int_t)r->phases[i].ns));
	j = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:o, s:I, s:i, s:{s:I, s:I}, s:n}",
		      "vm", vm, "mode", "zero-copy", "from", cli_placement(r->from), "to", to, "outcome",
		      !result ? "completed" : r->cancelled ? "cancelled" : "failed", "error",
		      result ? r->error.text : "",
		      "memory_bytes", (json_int_t)r->memory_bytes, "total_ns", (json_int_t)r->total_ns,
		      "downtime_ns", (json_int_t)r->downtime_ns, "phases", phases, "bytes_sent",
		      (json_int_t)r->state_bytes, "rounds", 0, "cpu_ns", "source",
		      (json_int_t)r->cpu_source_ns, "destination", (json_int_t)r->cpu_destination_ns,
		      "fallback_reason");
	if (!r->downtime_ns) /* the source died before it could say when it had paused */
		json_object_set_new(j, "downtime_ns", json_null());
	if (result)
		json_object_set_new(j, "failed_phase", json_string(r->phase));
	return j;
}

static void print_json(const struct migrate_args *a, const struct handover_report *r, int result)
{
	json_t *j = handover_json(a->vm, a->to, r, result), *blockers = json_array();

	for (size_t i = 0; i < r->nblockers; i++)
		json_array_append_new(blockers, json_string(r->blockers[i]));
	if (a->o.dry_run) {
		json_object_set_new(j, "dry_run", json_true());
		json_object_set(j, "blockers", blockers);
	}
	json_decref(blockers);
	cli_print_json(j);
}

static double ms(uint64_t ns)
{
	return (double)ns / 1e6;
}

int migrate_main(int argc, char **argv)
{
	struct migrate_args a = {0};
	struct handover_report r;
	int result = parse(argc, argv, &a);

	if (result)
		return result;
	if (a.cancel)
		return vm_simple(a.vm, a.json, VMB__REQUEST__KIND_CANCEL);
	result = handover_drive(a.vm, &a.o, &r);
	if (a.json)
		print_json(&a, &r, result);
	if (a.o.dry_run && result && !a.json)
		for (size_t i = 0; i < r.nblockers; i++)
			printf("blocked: %s\n", r.blockers[i]);
	if (result)
		return cli_fail("%s: handover failed in phase %s: %s", a.vm, r.phase, r.error.text);
	if (a.json)
		return EXIT_OK;
	if (a.o.dry_run) {
		printf("%s: nothing blocks it\n", a.vm);
		return EXIT_OK;
	}
	printf("%s: moved from %s to %s: %llu MiB, total %.1f ms, downtime %.2f ms, copied %llu "
	       "bytes\n",
	       a.vm, cli_placement(r.from), strcmp(a.to, "fresh") ? a.to : "a fresh process",
	       (unsigned long long)(r.memory_bytes / MIB), ms(r.total_ns), ms(r.downtime_ns),
	       (unsigned long long)r.state_bytes);
	for (size_t i = 0; i < r.nphases; i++)
		printf("  %-9s %9.3f ms\n", r.phases[i].name, ms(r.phases[i].ns));
	return EXIT_OK;
}
