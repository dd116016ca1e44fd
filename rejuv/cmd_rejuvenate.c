/* cmd_rejuvenate.c: `vmbeam rejuvenate`: a fresh guest hypervisor beside the old one, every guest VM moved
 * over and looked at, the old one retired, its name given to the fresh one.
 *
 * Whatever fails, each guest VM runs where it is said to be: in the old one, in the fresh one (NAME.new), or
 * crashed with its memory kept.  The same command again goes on from there.
 *
 * --method warm, where there is no memory for two: the guests are held at L0, the host VM is started anew under
 * its name, and they go on in it (the warm-VM reboot of the literature); on the host if it does not come up.
 */
#include "nested/hypervisor.h"
#include "rejuv/cli.h"
#include "rejuv/operations.h"
#include "vmm/client.h"
#include "vmm/vmm.h"
#include "zerocopy/zerocopy.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <jansson.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DRAIN_S = 10, VERIFY_MS = 10000, LOOK_MS = 20, LEAVE_MS = 5000, CLEAR_MS = 20000, WARM_MS = 120000 };

struct rejuvenation {
	const char *name, *method;
	char fresh[72]; /* its name until the old one is gone */
	bool json, dry_run;
	uint64_t parallel; /* guest VMs on their way at a time */
	struct handover_options o;
	char *guests[VM_HOST_PORTS];
	size_t nguests;
	bool begun; /* guests may be elsewhere by now */
	Vmb__Reply *old; /* the old one's info */
	uint64_t available[2]; /* bytes, before and after */
	json_t *moves;
	char phase[32];
};

/* A line each: for somebody who watches. */
static void progress(const struct rejuvenation *r, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static void progress(const struct rejuvenation *r, const char *fmt, ...)
{
	va_list ap;

	if (r->json)
		return;
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	fflush(stdout);
}

static int parse(int argc, char **argv, struct rejuvenation *r)
{
	static const struct option options[] = {{"method", required_argument, NULL, 'm'},
						{"dry-run", no_argument, NULL, 'd'},
						{"no-warm", no_argument, NULL, 'w'},
						{"parallel", required_argument, NULL, 'p'},
						{"json", no_argument, NULL, 'j'},
						{NULL, 0, NULL, 0}};
	struct error e;
	int opt;

	r->method = "auto";
	r->parallel = 1; /* shortest downtime of each */
	r->o.entry = vmm_process;
	r->o.warm = true;
	r->o.drain_timeout_ns = DRAIN_S * 1000000000ull;
	r->o.fault = getenv("VMBEAM_FAULT");
	opterr = 0;
	optind = 1;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) >= 0)
		switch (opt) {
		case 'm':
			if (strcmp(optarg, "auto") && strcmp(optarg, "beam") && strcmp(optarg, "warm"))
				return cli_usage("rejuvenate: --method %s: auto, beam or warm is expected",
						 optarg);
			r->method = optarg;
			break;
		case 'p':
			if (parse_uint(optarg, 1, VM_HOST_PORTS, &r->parallel, &e))
				return cli_usage("rejuvenate: --parallel: %s", e.text);
			break;
		case 'd':
			r->dry_run = true;
			break;
		case 'w':
			r->o.warm = false;
			break;
		case 'j':
			r->json = true;
			break;
		default:
			return cli_usage("rejuvenate: unknown option or missing value");
		}
	if (optind + 1 != argc || strlen(argv[optind]) > 59)
		return cli_usage("rejuvenate: one hypervisor's name is expected");
	r->name = argv[optind];
	snprintf(r->fresh, sizeof(r->fresh), "%s.new", r->name);
	return 0;
}

static int look_at_old(struct rejuvenation *r, struct error *e)
{
	Vmb__AgentMessage *m;
	struct error silent;

	if (vm_info(r->name, &r->old, e))
		return -1;
	if (!r->old->info->config->window)
		return error_set(e, "it is no guest hypervisor");
	if (r->old->info->n_guests > VM_HOST_PORTS)
		return error_set(e, "its process made no sense");
	for (size_t i = 0; i < r->old->info->n_guests; i++)
		r->guests[r->nguests++] = r->old->info->guests[i];
	/* An old one may be past answering; its guests are moved without its agent. */
	m = hypervisor_health(r->name, &silent);
	if (m) {
		r->available[0] = m->health->available;
		vmb__agent_message__free_unpacked(m, NULL);
	}
	return 0;
}

/* Starts one like the old one. */
static int launch(struct rejuvenation *r, const char *name, struct error *e)
{
	Vmb__AgentMessage *m = hypervisor_launch(name, r->old->info->config, e);

	if (m)
		vmb__agent_message__free_unpacked(m, NULL);
	return m ? 0 : -1;
}

static int look_at_fresh(struct rejuvenation *r, const char *name, struct error *e)
{
	Vmb__AgentMessage *m = hypervisor_health(name, e);

	if (!m)
		return -1;
	r->available[1] = m->health->available;
	vmb__agent_message__free_unpacked(m, NULL);
	return 0;
}

static int start_fresh(struct rejuvenation *r, struct error *e)
{
	uint64_t begin = clock_ns();

	if (runtime_is_held(r->fresh)) { /* one that was interrupted */
		progress(r, "%s is there already", r->fresh);
		return look_at_fresh(r, r->fresh, e);
	}
	if (r->old->info->config->n_nets)
		return error_set(e, "it has networks of its own, which only --method warm hands on");
	runtime_clear(r->fresh, 0);
	if (launch(r, r->fresh, e))
		return -1;
	progress(r, "%s is ready for guests after %.1f s", r->fresh, (double)(clock_ns() - begin) / 1e9);
	return look_at_fresh(r, r->fresh, e);
}

/* Does it run there, and do its vCPUs get on?  One that its user has paused need only be there. */
static int verify(const char *guest, const char *place, struct error *e)
{
	uint64_t deadline = clock_ns() + VERIFY_MS * 1000000ull, first = 0;
	bool seen = false;

	do {
		Vmb__Reply *reply;
		uint64_t ran = 0;
		bool there, runs, paused;

		if (vm_info(guest, &reply, e))
			return -1;
		for (size_t i = 0; i < reply->info->n_cpu_ns; i++)
			ran += reply->info->cpu_ns[i];
		there = !strcmp(reply->info->config->placement, place);
		runs = reply->info->state == VMB__RUN_STATE__RUN_STATE_RUNNING;
		paused = reply->info->state == VMB__RUN_STATE__RUN_STATE_PAUSED;
		vmb__reply__free_unpacked(reply, NULL);
		if (!there || (!runs && !paused))
			return error_set(e, "it does not run in %s", place);
		if (paused || (seen && ran > first))
			return 0;
		if (!seen)
			first = ran;
		seen = true;
		poll(NULL, 0, LOOK_MS);
	} while (clock_ns() < deadline);
	return error_set(e, "its vCPUs have made no progress for %d s", VERIFY_MS / 1000);
}

/* ---- moving: a process for each guest VM that is on its way */

struct mover {
	pid_t pid;
	int pipe;
};

struct outcome {
	int moved, verified; /* 0, or -1 and... */
	struct handover_report report;
	struct error error;
};

static void move_one(struct rejuvenation *r, const char *guest, struct outcome *o)
{
	r->o.placement = r->fresh;
	o->moved = handover_drive(guest, &r->o, &o->report);
	if (!o->moved && !r->o.dry_run)
		operation_note(OPERATION_MIGRATE, o->report.from, o->report.total_ns); /* (the fresh one's name is to be another) */
	o->verified = o->moved ? -1 : verify(guest, r->fresh, &o->error);
	if (o->moved && o->report.held) { /* its hypervisor died under the move: it goes on on the host */
		struct handover_report again;

		r->o.placement = "";
		r->o.fault = NULL;
		handover_drive(guest, &r->o, &again); /* say_where() tells what has come of it */
	}
}

static int start_move(struct rejuvenation *r, const char *guest, struct mover *m, struct error *e)
{
	static struct outcome o;
	int pipes[2];

	if (pipe2(pipes, O_CLOEXEC))
		return error_set_errno(e, "pipe");
	m->pid = fork();
	if (!m->pid) {
		close(pipes[0]);
		move_one(r, guest, &o);
		_exit(write(pipes[1], &o, sizeof(o)) != sizeof(o));
	}
	close(pipes[1]);
	m->pipe = pipes[0];
	if (m->pid < 0) {
		close(m->pipe);
		return error_set_errno(e, "fork");
	}
	return 0;
}

static int finish_move(struct rejuvenation *r, const char *guest, struct mover *m, struct error *e)
{
	static struct outcome o;
	size_t have = 0;
	ssize_t n;

	while (have < sizeof(o) && (n = read(m->pipe, (char *)&o + have, sizeof(o) - have)) > 0)
		have += (size_t)n;
	close(m->pipe);
	waitpid(m->pid, NULL, 0);
	if (have < sizeof(o))
		return error_set(e, "%s: the process that moved it has died", guest);
	json_array_append_new(r->moves, handover_json(guest, r->fresh, &o.report, o.moved));
	if (o.moved)
		return error_set(e, "%s: in phase %s: %.300s", guest, o.report.phase, o.report.error.text);
	progress(r, "%s: moved, total %.1f ms, downtime %.2f ms, copied %llu bytes", guest,
		 (double)o.report.total_ns / 1e6, (double)o.report.downtime_ns / 1e6,
		 (unsigned long long)o.report.state_bytes);
	if (!o.verified)
		return 0;
	return error_set(e, "%s: it moved, but: %.300s", guest, o.error.text);
}

/* At most r->parallel at a time; after one that fails no more are begun. */
static int move_all(struct rejuvenation *r, struct error *e)
{
	struct mover m[VM_HOST_PORTS];
	int result = 0;

	for (size_t done = 0, begun = 0; !result && done < r->nguests;) {
		while (!result && begun < r->nguests && begun - done < r->parallel) {
			result = start_move(r, r->guests[begun], &m[begun], e);
			begun += !result;
		}
		for (; done < begun; done++) {
			struct error why;

			if (!finish_move(r, r->guests[done], &m[done], &why))
				continue;
			if (!result)
				*e = why;
			result = -1;
		}
	}
	return result;
}

static int request(const char *vm, Vmb__Request *req, const int *fd, struct error *e)
{
	int link = vmm_connect(vm, e), result;

	if (link < 0)
		return -1;
	result = vmm_request(link, req, fd, fd != NULL, NULL, NULL, WARM_MS, e);
	close(link);
	return result;
}

static int rename_request(const char *vm, const char *name, const char *placement, struct error *e)
{
	Vmb__Request req = VMB__REQUEST__INIT;
	Vmb__RenameRequest rename = VMB__RENAME_REQUEST__INIT;

	rename.name = (char *)(uintptr_t)name;
	rename.placement = (char *)(uintptr_t)placement;
	req.kind_case = VMB__REQUEST__KIND_RENAME;
	req.rename = &rename;
	return request(vm, &req, NULL, e);
}

/* Its guests know it by this name from now on. */
static int name_guests(const Vmb__InfoReply *i, const char *name, struct error *e)
{
	for (size_t k = 0; k < i->n_guests; k++)
		if (rename_request(i->guests[k], "", name, e))
			return -1;
	return 0;
}

/* The fresh one takes the old one's name: its folder moves with all that is in it. */
static int take_name(struct rejuvenation *r, struct error *e)
{
	char *from = runtime_path(r->fresh, NULL), *to = runtime_path(r->name, NULL);
	Vmb__Reply *reply = NULL;
	int result;

	result = rename_request(r->fresh, r->name, "", e);
	if (!result && rename(from, to))
		result = error_set_errno(e, "%s", to);
	free(from);
	free(to);
	if (result || vm_info(r->name, &reply, e))
		return -1;
	result = name_guests(reply->info, r->name, e);
	vmb__reply__free_unpacked(reply, NULL);
	return result;
}

static int retire_old(struct rejuvenation *r, struct error *e)
{
	uint64_t deadline = clock_ns() + LEAVE_MS * 1000000ull;
	size_t left;

	do { /* the last of them may be about to leave */
		Vmb__Reply *reply;

		if (vm_info(r->name, &reply, e))
			return -1;
		left = reply->info->n_guests;
		vmb__reply__free_unpacked(reply, NULL);
	} while (left && clock_ns() < deadline && !poll(NULL, 0, LOOK_MS));
	if (left) /* one that was started there meanwhile */
		return error_set(e, "%zu guest VMs are still in it", left);
	vm_stop_now(r->name);
	if (!runtime_clear(r->name, CLEAR_MS))
		return error_set(e, "the old one's process does not end");
	return 0;
}

/* ---- the other method: the host VM is started anew in place, while its guests are held at L0 */

struct held {
	bool is_held;
	uint64_t since;
};

static int suspend(const char *guest, struct error *e)
{
	Vmb__Request req = VMB__REQUEST__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;

	req.kind_case = VMB__REQUEST__KIND_SUSPEND;
	req.suspend = &empty;
	return request(guest, &req, NULL, e);
}

static int reattach(const char *guest, const char *place, struct error *e)
{
	Vmb__Request req = VMB__REQUEST__INIT;
	Vmb__ReattachRequest re = VMB__REATTACH_REQUEST__INIT;
	int lease = vmm_connect(place, e), result;

	if (lease < 0)
		return -1;
	re.placement = (char *)(uintptr_t)place;
	req.kind_case = VMB__REQUEST__KIND_REATTACH;
	req.reattach = &re;
	result = request(guest, &req, &lease, e);
	close(lease);
	return result;
}

/* In its hypervisor if that is there, on the host otherwise: somewhere. */
static int let_go(struct rejuvenation *r, size_t i, struct held *h, struct error *e)
{
	struct handover_report report;
	struct error why;
	bool there = !reattach(r->guests[i], r->name, &why);
	uint64_t now;

	if (!there) {
		progress(r, "%s: %s; it goes on on the host", r->guests[i], why.text);
		r->o.placement = "";
		if (handover_drive(r->guests[i], &r->o, &report))
			return error_set(e, "%s: it is held and does not run: %.300s", r->guests[i],
					 report.error.text);
	}
	now = clock_ns();
	h->is_held = false;
	json_array_append_new(r->moves,
			      json_pack("{s:s, s:s, s:s, s:s, s:s, s:I}", "vm", r->guests[i], "mode", "warm",
					"from", r->name, "to", there ? r->name : "host", "outcome", "completed",
					"downtime_ns", (json_int_t)(now - h->since)));
	progress(r, "%s: runs %s, downtime %.2f ms", r->guests[i], there ? "in the fresh one" : "on the host",
		 (double)(now - h->since) / 1e6);
	return there ? verify(r->guests[i], r->name, e)
		     : error_set(e, "%s: could not go back: %.300s", r->guests[i], why.text);
}

/* The old one is gone from here on, whether or not a new one comes. */
static int start_again(struct rejuvenation *r, struct error *e)
{
	return retire_old(r, e) || launch(r, r->name, e) || look_at_fresh(r, r->name, e) ? -1 : 0;
}

static int run_warm(struct rejuvenation *r, struct error *e)
{
	struct held held[VM_HOST_PORTS] = {{.is_held = false}};
	int result = 0;

	r->begun = true;
	snprintf(r->phase, sizeof(r->phase), "suspend");
	for (size_t i = 0; i < r->nguests && !result; i++) {
		held[i].since = clock_ns();
		result = suspend(r->guests[i], e);
		held[i].is_held = !result;
	}
	if (!result) {
		progress(r, "%zu guest VMs are held", r->nguests);
		snprintf(r->phase, sizeof(r->phase), "start");
		result = start_again(r, e);
	}
	for (size_t i = 0; i < r->nguests; i++) {
		struct error why;

		if (!held[i].is_held || !let_go(r, i, &held[i], &why))
			continue;
		if (!result) {
			snprintf(r->phase, sizeof(r->phase), "resume");
			*e = why;
		}
		result = -1;
	}
	return result;
}

static int run(struct rejuvenation *r, struct error *e)
{
	snprintf(r->phase, sizeof(r->phase), "look");
	if (!runtime_is_held(r->name) && runtime_is_held(r->fresh)) {
		progress(r, "%s has taken the guests already, and gets its name", r->fresh);
		snprintf(r->phase, sizeof(r->phase), "rename");
		runtime_clear(r->name, 0);
		if (take_name(r, e))
			return -1;
		snprintf(r->phase, sizeof(r->phase), "look");
	}
	if (look_at_old(r, e) || name_guests(r->old->info, r->name, e))
		return -1;
	snprintf(r->phase, sizeof(r->phase), "admit");
	if (strcmp(r->method, "warm") && !runtime_is_held(r->fresh) &&
	    memory_admit(r->old->info->config, e)) {
		if (!strcmp(r->method, "beam"))
			return -1;
		progress(r, "%s: no second hypervisor: %s", r->name, e->text);
		r->method = "warm";
	}
	if (strcmp(r->method, "warm"))
		r->method = "beam";
	if (r->dry_run) {
		progress(r, "%s: nothing blocks it: %zu guest VMs would be moved, method %s", r->name,
			 r->nguests, r->method);
		return 0;
	}
	progress(r, "%s: %zu guest VMs, %llu MiB available", r->name, r->nguests,
		 (unsigned long long)(r->available[0] / MIB));
	if (!strcmp(r->method, "warm"))
		return run_warm(r, e);
	snprintf(r->phase, sizeof(r->phase), "start");
	if (start_fresh(r, e))
		return -1;
	snprintf(r->phase, sizeof(r->phase), "move");
	r->begun = true;
	if (move_all(r, e))
		return -1;
	snprintf(r->phase, sizeof(r->phase), "retire");
	if (retire_old(r, e))
		return -1;
	snprintf(r->phase, sizeof(r->phase), "rename");
	return take_name(r, e);
}

/* Where each guest is now, whatever has happened. */
static void say_where(const struct rejuvenation *r, json_t *j)
{
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
			if (!r->json)
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

int rejuvenate_main(int argc, char **argv)
{
	struct rejuvenation r = {.moves = NULL};
	uint64_t begin = clock_ns();
	struct error e = {""};
	int result = parse(argc, argv, &r);
	json_t *j = NULL;

	if (result)
		return result;
	r.moves = json_array();
	result = run(&r, &e);
	if (r.json)
		j = json_pack("{s:s, s:s, s:s, s:s, s:s, s:b, s:I, s:I, s:I, s:O}", "hypervisor", r.name,
			      "method", r.method, "outcome", result ? "failed" : "completed", "error",
			      result ? e.text : "", "failed_phase", result ? r.phase : "", "dry_run", r.dry_run,
			      "total_ns", (json_int_t)(clock_ns() - begin), "available_before_bytes",
			      (json_int_t)r.available[0], "available_after_bytes", (json_int_t)r.available[1],
			      "guests", r.moves);
	if (result && r.begun)
		say_where(&r, j);
	if (j)
		cli_print_json(j);
	else if (!result && !r.dry_run)
		progress(&r, "%s: rejuvenated in %.1f s; %llu MiB available now, %llu MiB before", r.name,
			 (double)(clock_ns() - begin) / 1e9, (unsigned long long)(r.available[1] / MIB),
			 (unsigned long long)(r.available[0] / MIB));
	json_decref(r.moves);
	if (r.old)
		vmb__reply__free_unpacked(r.old, NULL);
	return result ? cli_fail("%s: rejuvenation failed in phase %s: %s", r.name, r.phase, e.text) : EXIT_OK;
}
