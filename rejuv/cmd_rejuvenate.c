/* cmd_rejuvenate.c: `vmbeam rejuvenate`: a fresh guest hypervisor beside the old one, every guest VM moved over and looked at, the old
 * one retired, its name given to the fresh one (steps.h); the same command again goes on from where it was cut off.
 *
 * --method warm, where there is no memory for two: the host VM is started anew while its guests are held.
 * --step does one step, for vmbeamd.
 */
#include "rejuv/cli.h"
#include "rejuv/client.h"
#include "rejuv/steps.h"
#include "vmm/client.h"

#include <getopt.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct command {
	const char *method, *step, *guest, *place, *identity;
	bool json, dry_run;
	bool alone; /* as vmbeamd, if it looks after that hypervisor, would not do it */
	bool begun; /* guests may be elsewhere by now */
	const char *phase;
	struct rejuvenation r;
};

static int parse(int argc, char **argv, struct command *c)
{
	static const struct option options[] = {{"method", required_argument, NULL, 'm'},
						{"dry-run", no_argument, NULL, 'd'},
						{"no-warm", no_argument, NULL, 'w'},
						{"parallel", required_argument, NULL, 'p'},
						{"json", no_argument, NULL, 'j'},
						{"step", required_argument, NULL, 's'},
						{"guest", required_argument, NULL, 'g'},
						{"to", required_argument, NULL, 't'},
						{"identity", required_argument, NULL, 'i'},
						{"probe", required_argument, NULL, 'P'},
						{NULL, 0, NULL, 0}};
	struct rejuvenation *r = &c->r;
	struct error e;
	int opt;

	c->method = "auto";
	rejuvenation_init(r, "");
	opterr = 0;
	optind = 1;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) >= 0)
		switch (opt) {
		case 'm':
			if (strcmp(optarg, "auto") && strcmp(optarg, "beam") && strcmp(optarg, "warm"))
				return cli_usage("rejuvenate: --method %s: auto, beam or warm is expected", optarg);
			c->method = optarg;
			c->alone = strcmp(optarg, "auto");
			break;
		case 'p':
			if (parse_uint(optarg, 1, VM_HOST_PORTS, &r->parallel, &e))
				return cli_usage("rejuvenate: --parallel: %s", e.text);
			c->alone = true;
			break;
		case 'd':
			c->dry_run = true;
			break;
		case 'w':
			r->o.warm = false;
			break;
		case 'j':
			c->json = r->quiet = true;
			break;
		case 's':
			c->step = optarg;
			break;
		case 'g':
			c->guest = optarg;
			break;
		case 't':
			c->place = optarg;
			break;
		case 'i':
			c->identity = optarg;
			break;
		case 'P':
			r->probe = optarg;
			break;
		default:
			return cli_usage("rejuvenate: unknown option or missing value");
		}
	if (optind + 1 != argc || strlen(argv[optind]) > REJUVENATION_MOST_NAME)
		return cli_usage("rejuvenate: one hypervisor's name is expected");
	r->name = argv[optind];
	snprintf(r->fresh, sizeof(r->fresh), "%s" FRESH, r->name);
	return 0;
}

static int move_all(struct command *c, struct error *e)
{
	struct rejuvenation *r = &c->r;

	c->phase = "move";
	c->begun = true;
	if (rejuvenation_move(r, NULL, r->fresh, e))
		return -1;
	for (size_t i = 0; i < r->nguests; i++) {
		struct error why;

		if (rejuvenation_verify(r, r->guests[i], r->fresh, &why))
			return error_set(e, "%s: it moved, but: %.300s", r->guests[i], why.text);
	}
	return 0;
}

static int replace(struct command *c, struct error *e)
{
	c->method = "warm";
	c->phase = "replace";
	c->begun = true;
	return rejuvenation_replace(&c->r, e);
}

static int run(struct command *c, struct error *e)
{
	struct rejuvenation *r = &c->r;

	c->phase = "look";
	if (is_replacing(r->name) && !c->dry_run)
		return replace(c, e);
	if (rejuvenation_mend(r, e) || rejuvenation_look(r, e))
		return -1;
	c->phase = "admit";
	if (strcmp(c->method, "warm") && rejuvenation_admit(r, e)) {
		if (!strcmp(c->method, "beam"))
			return -1;
		rejuvenation_say(r, "%s: no second hypervisor: %s", r->name, e->text);
		c->method = "warm";
	}
	if (strcmp(c->method, "warm"))
		c->method = "beam";
	if (c->dry_run) {
		rejuvenation_say(r, "%s: nothing blocks it: %zu guest VMs would be moved, method %s", r->name, r->nguests, c->method);
		return 0;
	}
	rejuvenation_say(r, "%s: %zu guest VMs, %llu MiB available", r->name, r->nguests,
			 (unsigned long long)(r->available[0] / MIB));
	if (!strcmp(c->method, "warm"))
		return replace(c, e);
	c->phase = "start";
	if (rejuvenation_prepare(r, e) || move_all(c, e))
		return -1;
	c->phase = "retire";
	return rejuvenation_retire(r, NULL, e);
}

static int run_alone(struct command *c, struct error *e)
{
	struct rejuvenation *r = &c->r;
	int lock, result;

	c->phase = "look";
	if (!runtime_is_held(r->name) && !runtime_is_held(r->fresh) && !is_replacing(r->name))
		return run(c, e); /* which says so */
	lock = rejuvenation_lock(r->name, e);
	if (lock < 0)
		return -1;
	result = run(c, e);
	close(lock);
	return result;
}

/* ---- one step */

static int step_prepare(struct command *c, struct error *e)
{
	struct rejuvenation *r = &c->r;

	if (rejuvenation_mend(r, e) || rejuvenation_look(r, e))
		return -1;
	return !strcmp(c->method, "beam") ? rejuvenation_admit(r, e) || rejuvenation_prepare(r, e) : 0;
}

static int step_move(struct command *c, struct error *e)
{
	return rejuvenation_move(&c->r, c->guest, c->place, e);
}

static int step_verify(struct command *c, struct error *e)
{
	return rejuvenation_verify(&c->r, c->guest, c->place, e);
}

static int step_retire(struct command *c, struct error *e)
{
	return rejuvenation_retire(&c->r, c->identity, e);
}

static int step_replace(struct command *c, struct error *e)
{
	/* What an attempt by another method has left comes back first. */
	if (!is_replacing(c->r.name) && (rejuvenation_back(&c->r, e) || rejuvenation_look(&c->r, e)))
		return -1;
	return rejuvenation_replace(&c->r, e);
}

static int step_back(struct command *c, struct error *e)
{
	if (is_replacing(c->r.name) && rejuvenation_give_up(&c->r, e))
		return -1;
	return rejuvenation_back(&c->r, e);
}

static int run_step(struct command *c, struct error *e)
{
	static const struct {
		const char *name;
		int (*run)(struct command *c, struct error *e);
	} steps[] = {{"prepare", step_prepare}, {"move", step_move},   {"verify", step_verify},
		     {"retire", step_retire},	{"back", step_back}, {"replace", step_replace}};

	c->phase = c->step;
	if (!c->place)
		c->place = c->r.fresh;
	else if (!strcmp(c->place, "host"))
		c->place = "";
	for (size_t i = 0; i < ARRAY_LEN(steps); i++)
		if (!strcmp(steps[i].name, c->step))
			return steps[i].run(c, e);
	return error_set(e, "there is no such step");
}

/* ---- the report */

/* Where each guest is now, whatever has happened. */
static void say_where(const struct command *c, json_t *j)
{
	const struct rejuvenation *r = &c->r;
	json_t *where = json_object();

	for (size_t i = 0; i < r->nguests; i++) {
		Vmb__Reply *reply;
		struct error e;
		const char *place = "unknown";

		if (!vm_info(r->guests[i], &reply, &e)) {
			place = reply->info->state == VMB__RUN_STATE__RUN_STATE_CRASHED
					? "crashed"
					: cli_placement(reply->info->config->placement);
			json_object_set_new(where, r->guests[i], json_string(place));
			if (!c->json)
				fprintf(stderr, "vmbeam: %s is in: %s\n", r->guests[i], place);
			vmb__reply__free_unpacked(reply, NULL);
		} else {
			json_object_set_new(where, r->guests[i], json_string(place));
		}
	}
	if (j)
		json_object_set(j, "where", where);
	json_decref(where);
}

static json_t *report(const struct command *c, int result, uint64_t ns, const struct error *e)
{
	const struct rejuvenation *r = &c->r;
	json_t *names = json_array(), *j;
	char identity[VM_IDENTITY];

	for (size_t i = 0; i < r->nguests; i++)
		json_array_append_new(names, json_string(r->guests[i]));
	vm_identity(r->name, identity, sizeof(identity));
	j = json_pack("{s:s, s:s, s:s, s:s, s:s, s:b, s:b, s:I, s:I, s:I, s:o, s:s, s:O}", "hypervisor", r->name, "method", c->method, "outcome",
		      result ? "failed" : "completed", "error", result ? e->text : "", "failed_phase", result ? c->phase : "", "dry_run",
		      c->dry_run, "held", r->held, "total_ns", (json_int_t)ns, "available_before_bytes", (json_int_t)r->available[0],
		      "available_after_bytes", (json_int_t)r->available[1], "names", names, "identity", identity, "guests", r->moves);
	return j;
}

int rejuvenate_main(int argc, char **argv)
{
	static struct command c;
	struct rejuvenation *r = &c.r;
	uint64_t begin = clock_ns(), ns;
	struct error e = {""};
	int result = parse(argc, argv, &c);
	json_t *j = NULL;

	if (result) {
		rejuvenation_clear(r);
		return result;
	}
	if (!c.step && !c.dry_run && !c.alone && daemon_manages(r->name)) {
		result = daemon_rejuvenate(r->name, c.json);
		rejuvenation_clear(r);
		return result;
	}
	/* (Who has a step done holds the lock.) */
	result = c.step ? run_step(&c, &e) : run_alone(&c, &e);
	cli_printable(e.text);
	ns = clock_ns() - begin;
	if (c.json)
		j = report(&c, result, ns, &e);
	if (result && c.begun)
		say_where(&c, j);
	if (j)
		cli_print_json(j);
	else if (!result && !c.dry_run)
		rejuvenation_say(r, "%s: rejuvenated in %.1f s; %llu MiB available now, %llu MiB before", r->name, (double)ns / 1e9,
				 (unsigned long long)(r->available[1] / MIB), (unsigned long long)(r->available[0] / MIB));
	rejuvenation_clear(r);
	return result ? cli_fail("%s: rejuvenation failed in phase %s: %s", r->name, c.phase, e.text) : EXIT_OK;
}
