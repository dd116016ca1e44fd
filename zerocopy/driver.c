/* driver.c: the driver's part of a handover: it brings source and destination together, waits, and
 * reports.  It holds the VM's descriptors meanwhile, and if both others die it starts a third process
 * that takes the VM over, or keeps its memory.
 */
#include "vmm/client.h"
#include "zerocopy/fault.h"
#include "zerocopy/place.h"
#include "zerocopy/zerocopy.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	DEATH_MS = 1000, /* between a broken connection and the end of a process */
	OFFER_TIMEOUT_MS = 10000,
	PREPARE_TIMEOUT_MS = 120000,
	FINISH_TIMEOUT_MS = 120000,
	REMOTE_TIMEOUT_MS = 240000, /* more than all that the sender waits for */
	RETIRE_TIMEOUT_MS = 20000,
};

/* One of the two others, as the driver sees it. */
struct party {
	int link;  /* -1: closed */
	int pidfd; /* readable: dead */
	bool dead;
	bool serves; /* the destination: the VM is in its hands for good */
	Vmb__HandoverResult *result; /* inside `reply` */
	Vmb__Reply *reply;
	struct error error;
};

struct drive {
	const struct handover_options *o;
	struct handover_report *r;
	struct party source, destination, copier;
	struct vm_files copy; /* the destination's RAM, if it is not the source's */
	pid_t destination_pid;
	int state;
	Vmb__Reply *offer;
	struct wire_fds files; /* the VM's; the source's pidfd is the last */
	uint16_t instance;
	bool prepared, warmed, copied, going;
	uint64_t start, prepared_at, warmed_at, copied_at;
};

static int fail(struct drive *d, const char *phase, const struct error *e)
{
	snprintf(d->r->phase, sizeof(d->r->phase), "%s", phase);
	if (e)
		d->r->error = *e;
	return -1;
}

static void add_phase(struct handover_report *r, const char *name, uint64_t ns)
{
	if (r->nphases == HANDOVER_MAX_PHASES)
		return;
	snprintf(r->phases[r->nphases].name, sizeof(r->phases[0].name), "%s", name);
	r->phases[r->nphases++].ns = ns;
}

static int open_pidfd(pid_t pid)
{
	return (int)syscall(SYS_pidfd_open, pid, 0);
}

/* ---- beginning */

static int get_offer(struct drive *d, const char *vm, int link, struct error *e)
{
	Vmb__Request req = VMB__REQUEST__INIT;
	Vmb__HandoverRequest h = VMB__HANDOVER_REQUEST__INIT;
	int fds[2] = {d->state, link};
	Vmb__HandoverOffer *offer;

	req.kind_case = VMB__REQUEST__KIND_HANDOVER;
	req.handover = &h;
	h.state_version = STATE_VERSION;
	h.rest = d->o->rest;
	h.fault = (char *)(uintptr_t)(d->o->fault ? d->o->fault : "");
	d->source.link = vmm_connect(vm, e);
	if (d->source.link < 0)
		return -1;
	if (vmm_request(d->source.link, &req, fds, 2, &d->offer, &d->files, OFFER_TIMEOUT_MS, e))
		return -1;
	offer = d->offer->offer;
	if (d->offer->kind_case != VMB__REPLY__KIND_OFFER || !offer->provisional ||
	    !offer->provisional->config)
		return error_set(e, "the VM's process made no sense");
	for (size_t i = 0; i < offer->n_blockers && i < HANDOVER_MAX_BLOCKERS; i++)
		snprintf(d->r->blockers[d->r->nblockers++], sizeof(d->r->blockers[0]), "%s",
			 offer->blockers[i]);
	if (d->r->nblockers)
		return error_set(e, "%s", d->r->blockers[0]);
	d->r->memory_bytes = offer->provisional->config->memory;
	snprintf(d->r->from, sizeof(d->r->from), "%s", offer->provisional->config->placement);
	if (d->r->from[0] && d->o->placement && !strcmp(d->o->placement, d->r->from))
		return error_set(e, "it is in hypervisor %s already", d->r->from);
	if (offer->n_fd_names > VM_MAX_FILES || d->files.count != offer->n_fd_names + 1)
		return error_set(e, "the VM's process made no sense");
	d->source.pidfd = d->files.fd[d->files.count - 1];
	return 0;
}

static int start_destination(struct drive *d, int link, bool recover, struct error *e)
{
	Vmb__Request req = VMB__REQUEST__INIT;
	Vmb__IncomingRequest in = VMB__INCOMING_REQUEST__INIT;
	Vmb__HandoverOffer *offer = d->offer->offer;
	int fds[VM_MAX_FILES + 3];
	struct owner *owner;
	int ram = d->o->copy && !recover ? d->copy.ram : -1; /* -1: the source's */
	size_t n = 0;

	for (size_t i = 0; i < offer->n_fd_names; i++)
		if (!strcmp(offer->fd_names[i], "owner")) {
			owner = owner_map(d->files.fd[i], e);
			if (!owner)
				return -1;
			/* The last one to have had it was the one with memory of its own. */
			if (d->o->copy && recover && owner_read(owner).owner == d->instance)
				ram = d->copy.ram;
			d->instance = owner_next_instance(owner);
			owner_unmap(owner);
		}
	in.provisional = offer->provisional;
	in.fd_names = offer->fd_names;
	in.n_fd_names = offer->n_fd_names;
	in.instance = d->instance;
	in.source = offer->instance;
	/* In a recovery, on the host: its hypervisor may be what has failed. */
	in.placement = offer->provisional->config->placement;
	if (d->o->placement || recover)
		in.placement = (char *)(uintptr_t)(recover ? "" : d->o->placement);
	in.copied = d->o->copy && !recover;
	in.warm = d->o->warm && !d->o->dry_run && !recover;
	in.recover = recover;
	in.fault = (char *)(uintptr_t)(d->o->fault && !recover ? d->o->fault : "");
	req.kind_case = VMB__REQUEST__KIND_INCOMING;
	req.incoming = &in;
	fds[n++] = d->state;
	if (!recover) {
		fds[n++] = link;
		fds[n++] = d->source.pidfd;
	}
	for (size_t i = 0; i < offer->n_fd_names; i++)
		fds[n++] = ram >= 0 && !strcmp(offer->fd_names[i], "ram") ? ram : d->files.fd[i];
	d->destination_pid = vmm_spawn(d->o->entry, &d->destination.link, e);
	if (d->destination_pid < 0)
		return -1;
	d->destination.dead = false;
	d->destination.pidfd = open_pidfd(d->destination_pid);
	if (d->destination.pidfd < 0)
		return error_set_errno(e, "pidfd_open");
	place_like(d->source.pidfd, d->destination_pid);
	return wire_send(d->destination.link, &req.base, fds, n, e);
}

static int ram_of(const struct drive *d)
{
	for (size_t i = 0; i < d->offer->offer->n_fd_names; i++)
		if (!strcmp(d->offer->offer->fd_names[i], "ram"))
			return d->files.fd[i];
	return -1;
}

/* Between source and destination: `link` is its end of the source's, `on` of the destination's. */
static int start_copier(struct drive *d, int link, int on, struct error *e)
{
	Vmb__Request req = VMB__REQUEST__INIT;
	Vmb__IncomingRequest in = VMB__INCOMING_REQUEST__INIT;
	pid_t pid = vmm_spawn(d->o->copy, &d->copier.link, e);

	if (pid < 0)
		return -1;
	d->copier.pidfd = open_pidfd(pid);
	if (d->copier.pidfd < 0)
		return error_set_errno(e, "pidfd_open");
	in.provisional = d->offer->offer->provisional;
	req.kind_case = VMB__REQUEST__KIND_INCOMING;
	req.incoming = &in;
	return wire_send(d->copier.link, &req.base, (const int[]){link, on, ram_of(d), d->copy.ram}, 4, e);
}

/* ---- events */

/* Takes one reply from a party; a closed connection only closes our end. */
static void hear(struct drive *d, struct party *p)
{
	Vmb__Reply *reply = NULL;

	if (vmm_receive_reply(p->link, &reply, NULL, 0, &p->error)) {
		d->r->cancelled |= !strcmp(p->error.text, HANDOVER_CANCELLED);
		close_fd(&p->link);
		/* What copies would go on. */
		if (p == &d->source && !d->going && !d->o->rest) {
			close_fd(&d->copier.link);
			if (d->o->remote)
				close_fd(&d->destination.link);
		}
		return;
	}
	if (reply->kind_case == VMB__REPLY__KIND_RESULT && !p->reply) {
		p->reply = reply;
		p->result = reply->result;
		return;
	}
	if (reply->kind_case == VMB__REPLY__KIND_PROGRESS && d->o->progress) {
		d->o->progress(d->o->ctx, reply->progress);
	} else if (reply->kind_case == VMB__REPLY__KIND_READY) {
		p->serves = true;
	} else if (reply->kind_case == VMB__REPLY__KIND_PREPARED) {
		d->prepared = true;
		d->prepared_at = clock_ns();
		fault_point("driver.prepared");
	} else if (reply->kind_case == VMB__REPLY__KIND_WARMED && p == &d->copier) {
		d->copied = true;
		d->copied_at = clock_ns();
	} else if (reply->kind_case == VMB__REPLY__KIND_WARMED) {
		d->warmed = true;
		d->warmed_at = clock_ns();
		fault_point("driver.warmed");
	}
	vmb__reply__free_unpacked(reply, NULL);
}

static void look(struct drive *d, int timeout_ms)
{
	struct party *parties[3] = {&d->source, &d->destination, &d->copier};
	struct pollfd p[6];

	for (int i = 0; i < 3; i++) {
		p[2 * i] = (struct pollfd){.fd = parties[i]->link, .events = POLLIN};
		p[2 * i + 1] = (struct pollfd){
			.fd = parties[i]->dead ? -1 : parties[i]->pidfd, .events = POLLIN};
	}
	if (poll(p, 6, timeout_ms) <= 0)
		return;
	for (int i = 0; i < 3; i++) {
		if (p[2 * i].revents)
			hear(d, parties[i]);
		else if (p[2 * i + 1].revents)
			parties[i]->dead = true; /* nothing more to hear */
	}
}

static bool is_over(const struct drive *d)
{
	const struct party *s = &d->source, *t = &d->destination;

	if (t->result && t->result->crashed)
		return true;
	if (d->going && s->result && !s->result->completed)
		return true;
	/* If the source is what has ended first, the destination will, too, and its memory is to be kept. */
	if (d->o->copy && !d->going && d->copier.dead && !d->copier.result)
		return t->dead || !process_has_ended(s->pidfd, DEATH_MS);
	if (d->going)
		return (s->result || s->dead) && (t->result || t->dead);
	/* Before the go a destination that ends, or a source that closes, is the end; but a source
	 * that dies leaves the destination to keep what there is. */
	return (t->dead || (s->link < 0 && !s->dead && t->link < 0));
}

static int send_go(struct drive *d, struct error *e)
{
	Vmb__Request req = VMB__REQUEST__INIT;
	Vmb__HandoverGo go = VMB__HANDOVER_GO__INIT;

	req.kind_case = VMB__REQUEST__KIND_GO;
	req.go = &go;
	go.instance = d->instance;
	go.drain_timeout_ns = d->o->drain_timeout_ns;
	go.remote = d->o->remote;
	go.commit_timeout_ns = d->o->remote ? REMOTE_TIMEOUT_MS * 1000000ull : d->o->copy ? FINISH_TIMEOUT_MS * 1000000ull : 0;
	return wire_send(d->source.link, &req.base, &d->destination.pidfd, 1, e);
}

/* Copying, and what post-copy has left, take as long as they take. */
static bool may_take_long(const struct drive *d)
{
	const Vmb__HandoverResult *s = d->source.result;

	return ((d->o->remote || d->o->copy) && d->prepared && !d->o->timeout_ns && !d->going) || (s && s->post_copy);
}

static void wait_for_both(struct drive *d)
{
	uint64_t deadline = clock_ns() + PREPARE_TIMEOUT_MS * 1000000ull + d->o->timeout_ns;
	struct error e;

	while (!is_over(d)) {
		uint64_t now = clock_ns();

		if (now >= deadline && !may_take_long(d))
			return;
		look(d, now < deadline ? (int)MIN((deadline - now) / 1000000 + 1, 1000ull) : 1000);
		if (d->warmed && (d->copied || !d->o->copy) && !d->going && d->source.link >= 0 && !d->source.dead) {
			deadline = clock_ns() + d->o->drain_timeout_ns +
				   (FINISH_TIMEOUT_MS + (d->o->remote ? REMOTE_TIMEOUT_MS : 0)) * 1000000ull;
			if (!send_go(d, &e)) {
				d->going = true;
				fault_point("driver.going");
			}
		}
	}
}

/* A dry run is a handover up to the go: what would stop one shows in the destination's building, while
 * the guest runs on.  Then both are let go. */
static int rehearse(struct drive *d)
{
	uint64_t deadline = clock_ns() + PREPARE_TIMEOUT_MS * 1000000ull;
	struct error e;

	while (!d->warmed && !is_over(d) && clock_ns() < deadline)
		look(d, PREPARE_TIMEOUT_MS);
	close_fd(&d->source.link);
	process_has_ended(d->destination.pidfd, RETIRE_TIMEOUT_MS); /* it ends after the source has let go */
	if (d->warmed) {
		add_phase(d->r, "prepare", d->prepared_at - d->start);
		return 0;
	}
	e = d->destination.error.text[0] ? d->destination.error : d->source.error;
	snprintf(d->r->blockers[d->r->nblockers++], sizeof(d->r->blockers[0]), "%.*s",
		 (int)sizeof(d->r->blockers[0]) - 1, e.text);
	return fail(d, "prepare", &e);
}

/* The VM runs on the other machine; the source keeps what is missing there until the sender has sent it. */
static int send_rest(struct drive *d)
{
	struct party *t = &d->destination;

	while (!t->serves && t->link >= 0)
		look(d, FINISH_TIMEOUT_MS);
	d->r->completed = t->result != NULL;
	if (!t->result)
		return fail(d, "rest", &t->error);
	d->r->post_copy = true;
	d->r->total_ns = clock_ns() - d->start;
	d->r->state_bytes = t->result->bytes_sent;
	return 0;
}

/* ---- the end */

static void forget(struct party *p)
{
	close_fd(&p->link);
	if (p->reply)
		vmb__reply__free_unpacked(p->reply, NULL);
	p->reply = NULL;
	p->result = NULL;
}

/* Both are dead: a third process takes the VM from the memfds, or keeps its memory. */
static int recover(struct drive *d)
{
	struct error e = {""};

	forget(&d->destination);
	close_fd(&d->destination.pidfd);
	d->prepared = d->warmed = false;
	d->going = true; /* nothing is to be said to the source any more */
	if (start_destination(d, -1, true, &e))
		return fail(d, "recover", &e);
	while (!d->destination.result && !d->destination.dead && d->destination.link >= 0)
		look(d, FINISH_TIMEOUT_MS);
	if (!d->destination.result)
		return fail(d, "recover", &d->destination.error);
	return 0;
}

/* Waits for the destination to serve what it has started.  True: it has died instead. */
static bool await_service(struct drive *d)
{
	struct party *t = &d->destination;
	uint64_t deadline = clock_ns() + FINISH_TIMEOUT_MS * 1000000ull;

	while (!t->serves && t->link >= 0 && clock_ns() < deadline)
		look(d, FINISH_TIMEOUT_MS);
	/* The link of one that is killed closes a moment before it is dead. */
	t->dead = process_has_ended(t->pidfd, !t->serves && t->link < 0 ? FINISH_TIMEOUT_MS : 0);
	return t->dead;
}

static void add_phases(struct handover_report *r, const Vmb__HandoverResult *res)
{
	for (size_t i = 0; res && i < res->n_phases; i++)
		add_phase(r, res->phases[i]->name, res->phases[i]->ns);
}

static int report(struct drive *d)
{
	const Vmb__HandoverResult *s = d->source.result, *t = d->destination.result, *c = d->copier.result;
	struct handover_report *r = d->r;
	uint64_t now;

	r->nphases = 0;
	r->completed = false;
	if (t && t->completed && !(s && s->crashed)) {
		process_has_ended(d->source.pidfd, RETIRE_TIMEOUT_MS);
		now = clock_ns();
		r->completed = true;
		add_phase(r, "prepare", d->prepared_at ? d->prepared_at - d->start : 0);
		if (d->copied_at)
			add_phase(r, "copy", d->copied_at - d->prepared_at);
		else if (d->warmed_at && (d->o->warm || d->o->remote))
			add_phase(r, d->o->remote ? "copy" : "warm", d->warmed_at - d->prepared_at);
		add_phases(r, s);
		if (s)
			/* From the sealed state to the destination's first look at it. */
			add_phase(r, "notify",
				  t->resume_ns - s->sent_ns -
					  (t->n_phases >= 3 ? t->phases[0]->ns + t->phases[1]->ns +
								      t->phases[2]->ns
							    : 0));
		add_phases(r, t);
		/* (What post-copy has sent after the start is a phase of its own.) */
		add_phase(r, "retire", now - t->resume_ns - (t->n_phases > 3 ? t->phases[3]->ns : 0));
		r->total_ns = now - d->start;
		if (d->o->warm && d->warmed_at && !d->o->copy)
			r->total_ns -= d->warmed_at - d->prepared_at;
		r->cpu_destination_ns = t->cpu_ns;
		r->rounds = c ? c->rounds : t->rounds;
		r->post_copy = t->post_copy;
		r->throttle = c ? c->throttle : t->throttle;
		if (s) {
			r->downtime_ns = t->resume_ns - s->pause_ns;
			r->state_bytes = d->o->remote ? t->bytes_sent : s->state_bytes + (c ? c->bytes_sent : 0);
			r->cpu_source_ns = s->cpu_ns;
		}
		fault_point("driver.done");
		return 0;
	}
	if (s && !s->completed) {
		struct error e;

		error_set(&e, "%s%s", s->error,
			  s->unresolved ? ""
			  : s->crashed ? "; its memory is kept by the source"
			  : s->held  ? "; it is held: migrate it to host"
				     : "; it runs on at the source");
		r->crashed = s->crashed;
		r->held = s->held;
		return fail(d, s->phase, &e);
	}
	if (t && t->crashed) {
		struct error e;

		error_set(&e, "%s", t->error);
		r->crashed = true;
		return fail(d, t->phase, &e);
	}
	if (s && s->completed && s->post_copy) {
		struct error e;

		error_set(&e, "it runs on the other machine, which still needs memory from here: "
			      "'vmbeam migrate %s --resume' goes on", d->offer->offer->provisional->config->name);
		return fail(d, "rest", &e);
	}
	if (s && s->completed) {
		struct error e;

		error_set(&e, "the destination ended after it had taken the VM over");
		return fail(d, "resume", &e);
	}
	if (d->copier.error.text[0] && !r->cancelled)
		return fail(d, "copy", &d->copier.error);
	return fail(d, !d->prepared ? "prepare" : d->o->remote || d->o->copy ? "copy" : "warm",
		    d->destination.error.text[0] && !r->cancelled ? &d->destination.error : &d->source.error);
}

int handover_drive(const char *vm, const struct handover_options *o, struct handover_report *r)
{
	struct drive d = {
		.o = o,
		.r = r,
		.source = {.link = -1, .pidfd = -1},
		.destination = {.link = -1, .pidfd = -1},
		.copier = {.link = -1, .pidfd = -1},
		.state = -1,
	};
	int link[2] = {-1, -1}, on[2] = {-1, -1}, result;
	struct error e = {""};

	memset(r, 0, sizeof(*r));
	r->remote = o->remote;
	r->copied = o->copy != NULL;
	vm_files_init(&d.copy);
	fault_arm(o->fault);
	d.start = clock_ns();
	d.state = state_create(&e);
	if (d.state < 0 || wire_pair(link, &e) || get_offer(&d, vm, link[0], &e)) {
		result = fail(&d, "begin", &e);
		goto out;
	}
	close_fd(&link[0]);
	fault_point("driver.offered");
	if (o->copy && (vm_files_make_ram(&d.copy, d.offer->offer->provisional->config, &e) || wire_pair(on, &e) ||
			start_copier(&d, link[1], on[0], &e))) {
		result = fail(&d, "prepare", &e);
		goto out;
	}
	close_fd(&on[0]);
	if (start_destination(&d, o->copy ? on[1] : link[1], false, &e)) {
		result = fail(&d, "prepare", &e);
		goto out;
	}
	close_fd(&link[1]); /* or its end would never be seen */
	close_fd(&on[1]);
	if (o->dry_run) {
		result = rehearse(&d);
		goto out;
	}
	if (o->rest) {
		result = send_rest(&d);
		goto out;
	}
	wait_for_both(&d);
	look(&d, 0);
	/* (It has relayed the destination's word, and has one of its own.) */
	for (int i = 0; i < RETIRE_TIMEOUT_MS / 100 && d.going && d.copier.link >= 0 && !d.copier.result; i++)
		look(&d, 100);
	if (d.destination.result && d.destination.result->completed) {
		result = report(&d);
		/* Dead right after it had started: a crash like any other, but the memory is here. */
		if (!await_service(&d) || (d.source.result && d.source.result->crashed))
			goto out; /* (then the source has kept it) */
		d.source.dead = true;
	}
	/* A source that has left is as good as dead: it may only be slow to end. */
	if (d.source.result && d.source.result->completed)
		d.source.dead = true;
	if (d.source.dead && d.destination.dead && !o->remote && recover(&d)) {
		result = -1;
		goto out;
	}
	result = report(&d);
out:
	close_fd(&link[0]);
	close_fd(&link[1]);
	forget(&d.source);
	forget(&d.destination);
	forget(&d.copier);
	close_fd(&d.copier.pidfd);
	close_fd(&on[0]);
	close_fd(&on[1]);
	vm_files_close(&d.copy);
	if (d.destination_pid > 0)
		waitpid(d.destination_pid, NULL, WNOHANG);
	close_fd(&d.destination.pidfd);
	close_fd(&d.state);
	wire_close_fds(&d.files);
	if (d.offer)
		vmb__reply__free_unpacked(d.offer, NULL);
	return result;
}
