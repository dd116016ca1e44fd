/* cmd_migrate.c: `vmbeam migrate`: moves a VM and reports how it went. */
#include "rejuv/cli.h"
#include "rejuv/operations.h"
#include "vmm/client.h"
#include "zerocopy/zerocopy.h"

#include <getopt.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DEFAULT_DRAIN_S = 10 };
#define LINE_NS 2000000000ull

enum { CLEAR_MS = 5000 };

struct migrate_args {
	const char *vm, *to, *mode;
	const char *tls, *connections, *downtime_limit, *bandwidth; /* to another machine; NULL: not given */
	bool json, cancel, insecure, resume;
	struct handover_options o;
	struct error fallback_reason; /* "": it has not come to that */
	uint64_t last_line_ns;
};

/* What vmbeam-migrate is called with. */
static char *send_args[24];

/* What stands for the other machine: it becomes vmbeam-migrate. */
static int send_process(void)
{
	return network_exec(send_args);
}

static size_t add_send(size_t n, const char *option, const char *value)
{
	if (!value)
		return n;
	send_args[n++] = (char *)(uintptr_t)option;
	send_args[n++] = (char *)(uintptr_t)value;
	return n;
}

/* A line that is redrawn on a terminal; elsewhere one every two seconds. */
static void show_progress(void *ctx, const Vmb__Progress *p)
{
	struct migrate_args *a = ctx;
	uint64_t now = clock_ns();
	bool tty = isatty(STDERR_FILENO);
	double left = p->rate ? (double)(p->total - MIN(p->total, p->done)) / (double)p->rate : 0;

	if (a->json || (!tty && now - a->last_line_ns < LINE_NS))
		return;
	a->last_line_ns = now;
	fprintf(stderr, "%s%s: ", tty ? "\r\033[K" : "", a->vm);
	if (p->post_copy)
		fprintf(stderr, "it runs there; the rest of its memory, %llu of %llu MiB, %.0f MB/s, %.0f s to go",
			(unsigned long long)(p->done / MIB), (unsigned long long)(p->total / MIB), (double)p->rate / 1e6, left);
	else
		fprintf(stderr, "round %u, %llu of %llu MiB, %.0f MB/s, written %.0f MB/s, expected downtime %.0f ms, %.0f s to go",
			p->round, (unsigned long long)(p->done / MIB), (unsigned long long)(p->total / MIB), (double)p->rate / 1e6,
			(double)p->dirty_rate / 1e6, p->expected_ns == UINT64_MAX ? 0.0 : (double)p->expected_ns / 1e6, left);
	if (p->throttle)
		fprintf(stderr, ", slowed down by %u %%", p->throttle);
	if (!tty)
		fputc('\n', stderr);
}

/* What copies on this machine: it becomes vmbeam-migrate. */
static char *copy_args[4];

static int copy_process(void)
{
	return network_exec(copy_args);
}

static void use_copy(struct migrate_args *a)
{
	static char timeout[32];

	snprintf(timeout, sizeof(timeout), "%llu", (unsigned long long)(a->o.timeout_ns / 1000000));
	copy_args[0] = "copy";
	copy_args[1] = (char *)(uintptr_t)(a->downtime_limit ? a->downtime_limit : "300");
	copy_args[2] = timeout;
	a->o.copy = copy_process;
	a->o.warm = false;
	a->o.progress = show_progress;
	a->o.ctx = a;
}

static void use_sender(struct migrate_args *a)
{
	a->o.entry = send_process;
	a->o.remote = true;
	a->o.warm = false;
	a->o.progress = show_progress;
	a->o.ctx = a;
}

static int set_remote(struct migrate_args *a)
{
	static char timeout[32], address[300];
	char *slash;
	bool plain = !strncmp(a->to, "tcp://", 6);
	size_t n;

	if (strncmp(a->to, "tls://", 6) && !plain)
		return cli_usage("migrate: --to %s: tls://HOST:PORT is expected", a->to);
	if (plain && !a->insecure)
		return cli_usage("migrate: tcp:// is not encrypted: use tls://, or add --insecure");
	if (!plain && !a->tls)
		return cli_usage("migrate: --tls DIR is missing");
	if (a->o.dry_run)
		return cli_usage("migrate: --dry-run is for moves on one machine");
	snprintf(timeout, sizeof(timeout), "%llu", (unsigned long long)(a->o.timeout_ns / 1000000));
	if (snprintf(address, sizeof(address), "%s", a->to + 6) >= (int)sizeof(address))
		return cli_usage("migrate: --to: too long");
	slash = strchr(address, '/'); /* a hypervisor there follows */
	if (slash)
		*slash = 0;
	send_args[0] = "send";
	n = add_send(1, "--to", address);
	n = add_send(n, "--placement", slash ? slash + 1 : NULL);
	n = add_send(n, "--tls", plain ? NULL : a->tls);
	n = add_send(n, "--connections", a->connections);
	n = add_send(n, "--downtime-limit", a->downtime_limit);
	n = add_send(n, "--bandwidth", a->bandwidth);
	n = add_send(n, "--timeout", timeout);
	n = add_send(n, "--mode", a->mode ? a->mode : "auto");
	send_args[n] = NULL;
	use_sender(a);
	return 0;
}

/* Of one that runs on another machine, and lacks memory there: where that is has been written down. */
static int set_resume(struct migrate_args *a)
{
	static char text[1024];
	char *lines[4];
	size_t n = 1;

	outgoing_read(a->vm, text, sizeof(text), lines);
	if (!lines[3] || strcmp(lines[3], "post-copy"))
		return cli_fail("%s: no other machine needs memory of it", a->vm);
	a->to = lines[0];
	send_args[0] = "send";
	n = add_send(n, "--to", lines[0]);
	n = add_send(n, "--tls", lines[1][0] ? lines[1] : NULL);
	n = add_send(n, "--resume", lines[2]);
	n = add_send(n, "--connections", a->connections);
	n = add_send(n, "--bandwidth", a->bandwidth);
	send_args[n] = NULL;
	use_sender(a);
	a->o.rest = true;
	return 0;
}

static bool mode_fits(const char *mode, bool remote)
{
	if (!mode || !strcmp(mode, "auto"))
		return true;
	return !strcmp(mode, "pre-copy") || !strcmp(mode, remote ? "post-copy" : "zero-copy");
}

static int parse(int argc, char **argv, struct migrate_args *a)
{
	static const struct option options[] = {
		{"to", required_argument, NULL, 't'},	  {"json", no_argument, NULL, 'j'},
		{"dry-run", no_argument, NULL, 'd'},	  {"no-warm", no_argument, NULL, 'w'},
		{"timeout", required_argument, NULL, 's'}, {"mode", required_argument, NULL, 'm'},
		{"cancel", no_argument, NULL, 'c'},	  {"tls", required_argument, NULL, 'T'},
		{"insecure", no_argument, NULL, 'i'},	  {"connections", required_argument, NULL, 'C'},
		{"downtime-limit", required_argument, NULL, 'l'}, {"bandwidth", required_argument, NULL, 'b'},
		{"resume", no_argument, NULL, 'r'},
		{NULL, 0, NULL, 0},
	};
	uint64_t seconds = DEFAULT_DRAIN_S, n;
	bool given = false;
	struct error e;
	int opt;

	a->o.entry = vmm_process;
	a->o.warm = true;
	a->tls = getenv("VMBEAM_TLS_DIR");
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
		case 'r':
			a->resume = true;
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
			given = true;
			break;
		case 'T':
			a->tls = optarg;
			break;
		case 'i':
			a->insecure = true;
			break;
		case 'C':
			if (parse_uint(optarg, 1, 16, &n, &e))
				return cli_usage("migrate: --connections: %s", e.text);
			a->connections = optarg;
			break;
		case 'l':
			if (parse_uint(optarg, 30, 100000, &n, &e))
				return cli_usage("migrate: --downtime-limit: %s", e.text);
			a->downtime_limit = optarg;
			break;
		case 'b':
			if (parse_size(optarg, &n, &e))
				return cli_usage("migrate: --bandwidth: %s", e.text);
			a->bandwidth = optarg;
			break;
		case 'm':
			a->mode = optarg;
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
	a->o.fault = getenv("VMBEAM_FAULT");
	if (a->resume)
		return set_resume(a);
	if (!a->to)
		return cli_usage("migrate: --to is missing");
	if (!mode_fits(a->mode, strchr(a->to, ':')))
		return cli_usage("migrate: --mode %s: not to %s", a->mode, a->to);
	if (strchr(a->to, ':')) {
		/* It bounds the copying there, not the drain. */
		a->o.timeout_ns = given ? seconds * 1000000000ull : 0;
		a->o.drain_timeout_ns = DEFAULT_DRAIN_S * 1000000000ull;
		return set_remote(a);
	}
	a->o.drain_timeout_ns = seconds * 1000000000ull;
	a->o.timeout_ns = given ? seconds * 1000000000ull : 0; /* of copying, should it come to that */
	if (a->mode && !strcmp(a->mode, "pre-copy"))
		use_copy(a);
	if (!strcmp(a->to, "host"))
		a->o.placement = "";
	else if (strcmp(a->to, "fresh"))
		a->o.placement = a->to;
	return 0;
}

json_t *handover_json(const char *vm, const char *to, const struct handover_report *r, int result)
{
	const char *mode = r->post_copy ? "post-copy" : r->remote || r->copied ? "pre-copy" : "zero-copy";
	json_t *phases = json_array(), *j;

	for (size_t i = 0; i < r->nphases; i++)
		json_array_append_new(phases, json_pack("{s:s, s:I}", "name", r->phases[i].name, "ns",
							(json_int_t)r->phases[i].ns));
	j = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:o, s:I, s:I, s:{s:I, s:I}, s:n}",
		      "vm", vm, "mode", mode, "from", cli_placement(r->from), "to", to, "outcome",
		      !result ? "completed" : r->cancelled ? "cancelled" : "failed", "error",
		      result ? r->error.text : "",
		      "memory_bytes", (json_int_t)r->memory_bytes, "total_ns", (json_int_t)r->total_ns,
		      "downtime_ns", (json_int_t)r->downtime_ns, "phases", phases, "bytes_sent",
		      (json_int_t)r->state_bytes, "rounds", (json_int_t)r->rounds, "cpu_ns", "source",
		      (json_int_t)r->cpu_source_ns, "destination", (json_int_t)r->cpu_destination_ns,
		      "fallback_reason");
	if (!r->downtime_ns) /* the source died before it could say when it had paused */
		json_object_set_new(j, "downtime_ns", json_null());
	if (r->remote || r->copied)
		json_object_set_new(j, "throttle_percent", json_integer(r->throttle));
	if (result)
		json_object_set_new(j, "failed_phase", json_string(r->phase));
	return j;
}

static void print_json(const struct migrate_args *a, const struct handover_report *r, int result)
{
	json_t *j = handover_json(a->vm, a->to, r, result), *blockers = json_array();

	if (a->fallback_reason.text[0])
		json_object_set_new(j, "fallback_reason", json_string(a->fallback_reason.text));
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

/* A guest in a hypervisor leaves it first, and goes back if it does not get away. */
static int drive_remote(struct migrate_args *a, struct handover_report *r)
{
	struct handover_options host = {.entry = vmm_process, .placement = "", .warm = true, .drain_timeout_ns = a->o.drain_timeout_ns};
	struct handover_report there, back;
	char *from = NULL;
	Vmb__Reply *info;
	int result;

	if (!vm_info(a->vm, &info, &r->error)) {
		from = xstrdup(info->info->config->placement);
		vmb__reply__free_unpacked(info, NULL);
	}
	if (from && from[0] && handover_drive(a->vm, &host, &there)) {
		*r = there;
		free(from);
		return -1;
	}
	result = handover_drive(a->vm, &a->o, r);
	if (from && from[0]) {
		host.placement = from;
		if (result && !r->crashed && handover_drive(a->vm, &host, &back))
			log_line("%s: it stays on the host: %s", a->vm, back.error.text);
		snprintf(r->from, sizeof(r->from), "%s", from);
	}
	free(from);
	return result;
}

/* Twice its memory is needed for a while. */
static int check_memory(const char *vm, struct error *e)
{
	Vmb__Reply *info;
	int r;

	if (vm_info(vm, &info, e))
		return -1;
	r = memory_admit(info->info->config, e);
	vmb__reply__free_unpacked(info, NULL);
	return r;
}

static int drive_copy(const struct migrate_args *a, struct handover_report *r)
{
	struct error e;

	if (!check_memory(a->vm, &e))
		return handover_drive(a->vm, &a->o, r);
	memset(r, 0, sizeof(*r));
	r->copied = true;
	r->error = e;
	snprintf(r->phase, sizeof(r->phase), "begin");
	return -1;
}

/* What has failed where the two have their memory in common may do when it is copied; the guest has run on. */
static bool may_fall_back(const struct migrate_args *a, const struct handover_report *r)
{
	static const char *const phases[] = {"prepare", "warm", "restore", "commit"};

	if ((a->mode && strcmp(a->mode, "auto")) || a->o.dry_run || r->cancelled || r->crashed || r->held || r->from[0])
		return false;
	for (size_t i = 0; i < ARRAY_LEN(phases); i++)
		if (!strcmp(r->phase, phases[i]))
			return true;
	return false;
}

static int drive_here(struct migrate_args *a, struct handover_report *r)
{
	int result = a->o.copy ? drive_copy(a, r) : handover_drive(a->vm, &a->o, r);
	struct handover_report first;

	if (!result || a->o.rest || a->o.copy || !may_fall_back(a, r))
		return result;
	a->fallback_reason = r->error;
	log_line("%s: phase %s: %s; its memory is copied instead", a->vm, r->phase, r->error.text);
	use_copy(a);
	a->o.fault = NULL; /* tests: it was the first's */
	first = *r;
	result = drive_copy(a, r);
	if (result && !strcmp(r->phase, "begin")) /* it has not even begun */
		*r = first;
	return result;
}

/* Both ends have had a part in it. */
static void note_duration(const struct migrate_args *a, const struct handover_report *r)
{
	operation_note(OPERATION_MIGRATE, r->from, r->total_ns);
	if (a->o.placement && strcmp(a->o.placement, r->from))
		operation_note(OPERATION_MIGRATE, a->o.placement, r->total_ns);
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
	result = a.o.remote && !a.resume ? drive_remote(&a, &r) : drive_here(&a, &r);
	if (a.o.progress && isatty(STDERR_FILENO) && !a.json)
		fputs("\r\033[K", stderr);
	if (a.o.remote && !result)
		runtime_clear(a.vm, CLEAR_MS);
	if (!result && !a.o.dry_run && !a.o.remote && !r.copied)
		note_duration(&a, &r);
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
	if (a.fallback_reason.text[0])
		printf("  memory was copied, because: %s\n", a.fallback_reason.text);
	for (size_t i = 0; i < r.nphases; i++)
		printf("  %-9s %9.3f ms\n", r.phases[i].name, ms(r.phases[i].ns));
	return EXIT_OK;
}
