/* steps.c: the steps of a rejuvenation with a second hypervisor: steps.h. */
#include "rejuv/steps.h"

#include "nested/hypervisor.h"
#include "rejuv/cli.h"
#include "rejuv/operations.h"
#include "vmm/client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DRAIN_S = 10, VERIFY_MS = 10000, LOOK_MS = 20, LEAVE_MS = 5000, CLEAR_MS = 20000, REQUEST_MS = 120000 };

void rejuvenation_init(struct rejuvenation *r, const char *name)
{
	memset(r, 0, sizeof(*r));
	r->name = name;
	snprintf(r->fresh, sizeof(r->fresh), "%s" FRESH, name);
	r->parallel = 1; /* shortest downtime of each */
	r->o.entry = vmm_process;
	r->o.warm = true;
	r->o.drain_timeout_ns = DRAIN_S * 1000000000ull;
	r->o.fault = getenv("VMBEAM_FAULT");
	r->moves = json_array();
}

void rejuvenation_clear_old(struct rejuvenation *r)
{
	if (r->old)
		vmb__reply__free_unpacked(r->old, NULL);
	r->old = NULL;
	r->nguests = 0;
}

void rejuvenation_clear(struct rejuvenation *r)
{
	json_decref(r->moves);
	rejuvenation_clear_old(r);
}

void rejuvenation_say(const struct rejuvenation *r, const char *fmt, ...)
{
	va_list ap;

	if (r->quiet)
		return;
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	fflush(stdout);
}

/* ---- requests to a VM's process */

int vm_ask(const char *vm, Vmb__Request *req, const int *fd, struct error *e)
{
	int link = vmm_connect(vm, e), result;

	if (link < 0)
		return -1;
	result = vmm_request(link, req, fd, fd != NULL, NULL, NULL, REQUEST_MS, e);
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
	return vm_ask(vm, &req, NULL, e);
}

/* Does that guest itself say that it is in it?  What a hypervisor's process says of guests is that process's word. */
static bool is_in(const char *guest, const struct rejuvenation *r)
{
	Vmb__Reply *reply;
	struct error e;
	bool is;

	if (vm_info(guest, &reply, &e))
		return true; /* (whatever is asked of it next fails) */
	is = !strcmp(reply->info->config->placement, r->name) || !strcmp(reply->info->config->placement, r->fresh);
	vmb__reply__free_unpacked(reply, NULL);
	return is;
}

/* Those of its guests that are; as many as a hypervisor can have. */
static size_t list_guests(const struct rejuvenation *r, const Vmb__InfoReply *i, char *guests[VM_HOST_PORTS])
{
	size_t n = 0;

	for (size_t k = 0; k < i->n_guests && n < VM_HOST_PORTS; k++)
		if (is_in(i->guests[k], r))
			guests[n++] = i->guests[k];
	return n;
}

/* Its guests know it by this name from now on. */
static int name_guests(const struct rejuvenation *r, const Vmb__InfoReply *i, const char *name, struct error *e)
{
	char *guests[VM_HOST_PORTS];
	size_t n = list_guests(r, i, guests);

	for (size_t k = 0; k < n; k++)
		if (rename_request(guests[k], "", name, e))
			return -1;
	return 0;
}

/* The guests of NAME know that it is called so. */
static int tell_guests(struct rejuvenation *r, struct error *e)
{
	Vmb__Reply *reply;
	int result;

	if (vm_info(r->name, &reply, e))
		return -1;
	result = name_guests(r, reply->info, r->name, e);
	vmb__reply__free_unpacked(reply, NULL);
	return result;
}

/* The fresh one takes the old one's name: its folder moves with all that is in it. */
static int take_name(struct rejuvenation *r, struct error *e)
{
	char *from = runtime_path(r->fresh, NULL), *to = runtime_path(r->name, NULL);
	int result;

	result = rename_request(r->fresh, r->name, "", e);
	if (!result && rename(from, to))
		result = error_set_errno(e, "%s", to);
	free(from);
	free(to);
	return result ? -1 : tell_guests(r, e);
}

/* ---- looking */

int rejuvenation_mend(struct rejuvenation *r, struct error *e)
{
	if (runtime_is_held(r->name) || !runtime_is_held(r->fresh))
		return 0;
	rejuvenation_say(r, "%s has taken the guests already, and gets its name", r->fresh);
	runtime_clear(r->name, 0);
	return take_name(r, e);
}

int rejuvenation_look(struct rejuvenation *r, struct error *e)
{
	Vmb__AgentMessage *m;
	struct error silent;

	if (vm_info(r->name, &r->old, e))
		return -1;
	if (!r->old->info->config->window)
		return error_set(e, "it is no guest hypervisor");
	if (r->old->info->n_guests > VM_HOST_PORTS)
		return error_set(e, "its process made no sense");
	r->nguests = list_guests(r, r->old->info, r->guests);
	/* An old one may be past answering; its guests are moved without its agent. */
	m = hypervisor_health(r->name, &silent);
	if (m) {
		r->available[0] = m->health->available;
		vmb__agent_message__free_unpacked(m, NULL);
	}
	return name_guests(r, r->old->info, r->name, e);
}

int rejuvenation_admit(struct rejuvenation *r, struct error *e)
{
	return runtime_is_held(r->fresh) ? 0 : memory_admit(r->old->info->config, e);
}

/* Starts one like the old one. */
int rejuvenation_launch(struct rejuvenation *r, const char *name, struct error *e)
{
	Vmb__AgentMessage *m = hypervisor_launch(name, r->old->info->config, e);

	if (m)
		vmb__agent_message__free_unpacked(m, NULL);
	return m ? 0 : -1;
}

int rejuvenation_look_at_fresh(struct rejuvenation *r, const char *name, struct error *e)
{
	Vmb__AgentMessage *m = hypervisor_health(name, e);

	if (!m)
		return -1;
	r->available[1] = m->health->available;
	vmb__agent_message__free_unpacked(m, NULL);
	return 0;
}

/* Guests it has; -1: nobody answers. */
static int guests_of(const char *name)
{
	Vmb__Reply *reply;
	struct error e;
	int n;

	if (vm_info(name, &reply, &e))
		return -1;
	n = (int)reply->info->n_guests;
	vmb__reply__free_unpacked(reply, NULL);
	return n;
}

/* What NAME.new says of itself; it may be the name of anything. */
static int fresh_info(const struct rejuvenation *r, Vmb__Reply **reply, struct error *e)
{
	if (vm_info(r->fresh, reply, e))
		return -1;
	if ((*reply)->info->config->window)
		return 0;
	vmb__reply__free_unpacked(*reply, NULL);
	return error_set(e, "%s is no guest hypervisor, and has the name that a fresh one needs", r->fresh);
}

int rejuvenation_end(const char *name, struct error *e)
{
	vm_stop_now(name);
	return runtime_clear(name, CLEAR_MS) ? 0 : error_set(e, "the process of %s does not end", name);
}

int rejuvenation_prepare(struct rejuvenation *r, struct error *e)
{
	uint64_t begin = clock_ns();
	Vmb__Reply *reply;

	if (runtime_is_held(r->fresh)) { /* one that was interrupted */
		if (fresh_info(r, &reply, e))
			return -1;
		vmb__reply__free_unpacked(reply, NULL);
		rejuvenation_say(r, "%s is there already", r->fresh);
		if (!rejuvenation_look_at_fresh(r, r->fresh, e))
			return 0;
		if (guests_of(r->fresh) > 0)
			return -1;
		if (rejuvenation_end(r->fresh, e)) /* it was cut off while it came up: another one */
			return -1;
	}
	if (r->old->info->config->n_nets)
		return error_set(e, "it has networks of its own, which only --method warm hands on");
	runtime_clear(r->fresh, 0);
	if (rejuvenation_launch(r, r->fresh, e))
		return -1;
	rejuvenation_say(r, "%s is ready for guests after %.1f s", r->fresh, (double)(clock_ns() - begin) / 1e9);
	return rejuvenation_look_at_fresh(r, r->fresh, e);
}

/* ---- verifying */

/* How it is: the CPU time of its vCPUs, and whether it runs there or is paused there. */
struct sight {
	uint64_t ran;
	bool runs, paused;
};

static int look_at_guest(const char *guest, const char *place, struct sight *s, struct error *e)
{
	Vmb__Reply *reply;
	bool there;

	if (vm_info(guest, &reply, e))
		return -1;
	s->ran = 0;
	for (size_t i = 0; i < reply->info->n_cpu_ns; i++)
		s->ran += reply->info->cpu_ns[i];
	there = !strcmp(reply->info->config->placement, place);
	s->runs = there && reply->info->state == VMB__RUN_STATE__RUN_STATE_RUNNING;
	s->paused = there && reply->info->state == VMB__RUN_STATE__RUN_STATE_PAUSED;
	vmb__reply__free_unpacked(reply, NULL);
	return s->runs || s->paused ? 0 : error_set(e, "it does not run in %s", cli_placement(place));
}

/* By /bin/sh; what it prints goes to our standard error: our output is a report.  One that hangs is ended. */
static bool probe_succeeds(const char *command, uint64_t deadline)
{
	int status = -1;
	pid_t pid, ended;

	fflush(NULL);
	pid = fork();
	if (!pid) {
		setpgid(0, 0);
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* it ends with the step, and does not hold its lock */
		close_range(STDERR_FILENO + 1, ~0u, 0);
		dup2(STDERR_FILENO, STDOUT_FILENO);
		execl("/bin/sh", "sh", "-c", command, NULL);
		_exit(127);
	}
	if (pid < 0)
		return false;
	while (!(ended = waitpid(pid, &status, WNOHANG)) && clock_ns() < deadline)
		poll(NULL, 0, LOOK_MS);
	if (!ended) {
		kill(-pid, SIGKILL);
		kill(pid, SIGKILL);
		ended = waitpid(pid, &status, 0);
	}
	return ended == pid && status == 0;
}

int rejuvenation_verify(const struct rejuvenation *r, const char *guest, const char *place, struct error *e)
{
	uint64_t deadline = clock_ns() + VERIFY_MS * 1000000ull, first = 0;
	bool seen = false;
	struct sight s;

	error_set(e, "it has not answered in time");
	do {
		if (look_at_guest(guest, place, &s, e))
			return -1;
		if (s.paused)
			return 0;
		if (seen && s.ran > first) {
			if (!r->probe || probe_succeeds(r->probe, deadline))
				return 0;
			error_set(e, "its probe fails: %.200s", r->probe);
		} else if (seen) {
			error_set(e, "its vCPUs have made no progress for %d s", VERIFY_MS / 1000);
		} else {
			first = s.ran;
		}
		seen = true;
		poll(NULL, 0, LOOK_MS);
	} while (clock_ns() < deadline);
	return -1;
}

/* ---- moving: a process for each guest VM that is on its way */

struct mover {
	pid_t pid;
	int pipe;
};

struct outcome {
	int moved;
	struct handover_report report;
};

static void move_one(struct rejuvenation *r, const char *guest, const char *place, struct outcome *o)
{
	r->o.placement = place;
	o->moved = handover_drive(guest, &r->o, &o->report);
	if (!o->moved && !r->o.dry_run)
		operation_note(OPERATION_MIGRATE, o->report.from, o->report.total_ns); /* (the fresh one's name is to be another) */
	if (o->moved && o->report.held) { /* its hypervisor died under the move: it goes on on the host */
		struct handover_report again;

		r->o.placement = "";
		r->o.fault = NULL;
		handover_drive(guest, &r->o, &again); /* who asks where it is sees what has come of it */
	}
}

static int start_move(struct rejuvenation *r, const char *guest, const char *place, struct mover *m, struct error *e)
{
	static struct outcome o;
	int pipes[2];

	if (pipe2(pipes, O_CLOEXEC))
		return error_set_errno(e, "pipe");
	m->pid = fork();
	if (!m->pid) {
		close(pipes[0]);
		move_one(r, guest, place, &o);
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

static int finish_move(struct rejuvenation *r, const char *guest, const char *place, struct mover *m, struct error *e)
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
	json_array_append_new(r->moves, handover_json(guest, cli_placement(place), &o.report, o.moved));
	if (o.moved)
		return error_set(e, "%s: in phase %s: %.300s", guest, o.report.phase, o.report.error.text);
	rejuvenation_say(r, "%s: moved, total %.1f ms, downtime %.2f ms, copied %llu bytes", guest, (double)o.report.total_ns / 1e6,
			 (double)o.report.downtime_ns / 1e6, (unsigned long long)o.report.state_bytes);
	return 0;
}

/* Has it been moved before, by who was cut off then? */
bool rejuvenation_is_there(const char *guest, const char *place)
{
	struct error e;
	struct sight s;

	return !look_at_guest(guest, place, &s, &e);
}

/* At most r->parallel at a time; after one that fails no more are begun. */
static int move_all(struct rejuvenation *r, char **guests, size_t n, const char *place, struct error *e)
{
	struct mover m[VM_HOST_PORTS];
	int result = 0;

	for (size_t done = 0, begun = 0; !result && done < n;) {
		while (!result && begun < n && begun - done < r->parallel) {
			result = start_move(r, guests[begun], place, &m[begun], e);
			begun += !result;
		}
		for (; done < begun; done++) {
			struct error why;

			if (!finish_move(r, guests[done], place, &m[done], &why))
				continue;
			if (!result)
				*e = why;
			result = -1;
		}
	}
	return result;
}

int rejuvenation_move(struct rejuvenation *r, const char *guest, const char *place, struct error *e)
{
	char *one[1] = {(char *)(uintptr_t)guest};

	if (!guest)
		return move_all(r, r->guests, r->nguests, place, e);
	return rejuvenation_is_there(guest, place) ? 0 : move_all(r, one, 1, place, e);
}

/* ---- the end */

int rejuvenation_retire_old(struct rejuvenation *r, struct error *e)
{
	uint64_t deadline = clock_ns() + LEAVE_MS * 1000000ull;
	int left;

	/* The last of them may be about to leave. */
	while ((left = guests_of(r->name)) > 0 && clock_ns() < deadline)
		poll(NULL, 0, LOOK_MS);
	if (left) /* one that was started there meanwhile */
		return left < 0 ? error_set(e, "its process does not say what is still in it")
				: error_set(e, "%d guest VMs are still in it", left);
	remains_keep(r->name);
	return rejuvenation_end(r->name, e);
}

int rejuvenation_retire(struct rejuvenation *r, const char *identity, struct error *e)
{
	char now[VM_IDENTITY];

	vm_identity(r->name, now, sizeof(now));
	if (!runtime_is_held(r->fresh)) {
		/* Done, unless the old one still bears the name. */
		if (identity && runtime_is_held(r->name) && strcmp(identity, now))
			return tell_guests(r, e);
		return error_set(e, "%s has gone", r->fresh);
	}
	if (runtime_is_held(r->name) && rejuvenation_retire_old(r, e))
		return -1;
	runtime_clear(r->name, 0);
	return take_name(r, e);
}

int rejuvenation_back(struct rejuvenation *r, struct error *e)
{
	const char *place = runtime_is_held(r->name) ? r->name : "";
	char *guests[VM_HOST_PORTS];
	Vmb__Reply *reply;
	int result;

	if (!runtime_is_held(r->fresh)) {
		runtime_clear(r->fresh, 0);
		return 0;
	}
	if (fresh_info(r, &reply, e))
		return -1;
	result = name_guests(r, reply->info, r->fresh, e);
	if (!result)
		result = move_all(r, guests, list_guests(r, reply->info, guests), place, e);
	vmb__reply__free_unpacked(reply, NULL);
	if (result)
		return -1;
	remains_keep(r->fresh);
	return rejuvenation_end(r->fresh, e);
}
