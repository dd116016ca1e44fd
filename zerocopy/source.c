/* source.c: the source's part of a handover, in the vmm process that runs the VM.
 *
 * While the guest runs, this is driven by the process's event loop; from HandoverGo on it runs
 * straight through, in one handler, with the guest stopped: nothing else is to be served meanwhile.
 * Whatever fails before the destination's commit ends in owner_abort() and the guest running on here.
 */
#include "vmm/client.h"
#include "zerocopy/fault.h"
#include "zerocopy/zerocopy.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	COMMIT_TIMEOUT_MS = 5000,  /* for the destination to restore and commit */
	LEAVE_TIMEOUT_MS = 5000,   /* for it to start, once it has committed */
};

#define DEPARTING  "it runs on another machine, which still needs memory from here"
#define UNRESOLVED "it may run on another machine: look there"

struct handover_source {
	uint16_t instance;
	int self; /* pidfd of this process, opened before the sandbox */
	struct vm *vm;
	struct control *control;
	struct owner *owner;
	/* one handover, from HandoverRequest on */
	int driver, link, state; /* -1 without */
	struct loop_source *driver_source;
	bool departing; /* it runs on another machine, which has not got all of its memory */
	bool unresolved; /* the VM may run on another machine; all of it is here still, stopped */
};

struct handover_source *handover_source_create(uint16_t instance)
{
	struct handover_source *s = xcalloc(1, sizeof(*s));

	s->instance = instance;
	s->self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	s->driver = s->link = s->state = -1;
	return s;
}

void handover_source_set_instance(struct handover_source *s, uint16_t instance)
{
	s->instance = instance;
}

static bool may_run(void *ctx)
{
	const struct handover_source *s = ctx;
	struct owner_view v = owner_read(s->owner);

	return v.owner == s->instance && v.started;
}

void handover_source_attach(struct handover_source *s, struct vm *vm, struct control *control)
{
	struct error e;

	s->vm = vm;
	s->control = control;
	s->owner = owner_map(vm_get_files(vm)->owner, &e);
	if (!s->owner)
		log_line("%s: cannot be moved: %s", vm_config(vm)->name, e.text);
	else
		vm_set_may_run(vm, may_run, s);
}

static void end_handover(struct handover_source *s, bool moved)
{
	vm_unwatch(s->driver_source);
	s->driver_source = NULL;
	close_fd(&s->driver);
	close_fd(&s->link);
	close_fd(&s->state);
	/* Once moved, nothing is answered here any more: whoever asks finds the destination. */
	if (s->control && !moved)
		control_set_moving(s->control, false);
}

void handover_source_destroy(struct handover_source *s)
{
	if (!s)
		return;
	close_fd(&s->driver);
	close_fd(&s->link);
	close_fd(&s->state);
	close_fd(&s->self);
	owner_unmap(s->owner);
	free(s);
}

/* ---- the stopped part */

struct move {
	struct handover_source *s;
	uint16_t destination;
	int destination_pidfd;
	const Vmb__HandoverGo *go;
	const char *phase;
	bool answered; /* the destination has said that it does not run there */
	Vmb__VmState *captured;
	Vmb__HandoverResult result;
	struct phases phases;
};

static int tell_captured(struct handover_source *s, struct error *e)
{
	Vmb__Link msg = VMB__LINK__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;
	int clients[WIRE_MAX_FDS];
	size_t n = vm_connections(s->vm, clients, WIRE_MAX_FDS);

	msg.kind_case = VMB__LINK__KIND_CAPTURED;
	msg.captured = &empty;
	return wire_send(s->link, &msg.base, clients, n, e);
}

static int stop_and_capture(struct move *m, struct error *e)
{
	struct handover_source *s = m->s;
	ssize_t n;

	m->phase = "pause";
	vm_pause_for_capture(s->vm);
	if (vm_pending_event(s->vm))
		return error_set(e, "%s", vm_pending_event(s->vm));
	if (vm_guest_is_leaving(s->vm))
		return error_set(e, "a guest VM is just leaving it");
	phases_end(&m->phases, m->phase);
	if (fault_point("source.paused"))
		return error_set(e, "fault injected");

	m->phase = "drain";
	if (vm_drain(s->vm, m->go->drain_timeout_ns, e))
		return -1;
	phases_end(&m->phases, m->phase);
	if (fault_point("source.drained"))
		return error_set(e, "fault injected");

	m->phase = "capture";
	m->captured = vm_capture(s->vm, e);
	if (!m->captured)
		return -1;
	if (vm_is_tracked(s->vm) && vm_collect_writes(s->vm, e))
		return -1;
	if (fault_point("source.captured"))
		return error_set(e, "fault injected");
	phases_end(&m->phases, m->phase);
	/* What is sealed may be run by whoever is left: it is out of the old hypervisor's reach first. */
	m->phase = "fence";
	if (vm_fence(s->vm, e))
		return -1;
	phases_end(&m->phases, m->phase);
	m->phase = "seal";
	n = state_write(s->state, m->captured, e);
	if (n < 0)
		return -1;
	if (m->go->remote)
		vm_files_unlock(vm_get_files(s->vm)); /* the other machine takes the locks before it is committed */
	m->result.state_bytes = (uint64_t)n;
	phases_end(&m->phases, m->phase);
	if (fault_point("source.sealed"))
		return error_set(e, "fault injected");
	m->result.sent_ns = m->phases.mark;
	m->phase = "restore";
	if (tell_captured(s, e))
		return -1;
	if (fault_point("source.sent"))
		return error_set(e, "fault injected");
	return 0;
}

/* Waits for the destination's word.  1: it runs there; 0: it has failed, as *e says. */
static int await_destination(struct move *m, int timeout_ms, struct error *e)
{
	struct pollfd p[2] = {{.fd = m->s->link, .events = POLLIN},
			      {.fd = m->destination_pidfd, .events = POLLIN}};
	uint64_t deadline = clock_ns() + (uint64_t)timeout_ms * 1000000;
	ProtobufCMessage *msg;

	for (;;) {
		uint64_t now = clock_ns();
		int n = now < deadline ? poll(p, 2, (int)((deadline - now) / 1000000 + 1)) : 0;

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			error_set(e, "the destination did not answer within %d s", timeout_ms / 1000);
			return 0;
		}
		if (p[0].revents) {
			int got = wire_recv(m->s->link, &vmb__link__descriptor, &msg, NULL, 0, e);
			Vmb__Link *l = (Vmb__Link *)msg;
			bool done;

			if (got <= 0) {
				if (got == 0)
					error_set(e, "the destination has gone");
				return 0;
			}
			m->answered = l->kind_case == VMB__LINK__KIND_RESTORED;
			done = m->answered && l->restored->completed;
			m->result.post_copy = done && l->restored->post_copy;
			if (!done)
				error_set(e, "%s", l->kind_case == VMB__LINK__KIND_RESTORED
							   ? l->restored->error
							   : "the destination made no sense");
			protobuf_c_message_free_unpacked(msg, NULL);
			return done;
		}
		if (p[1].revents) {
			error_set(e, "the destination has died");
			return 0;
		}
	}
}

/* Whoever spoke for another machine has died after it had committed, and took what it knew with it.  All of the VM is
 * still here, but it must not run twice. */
static bool is_unresolved(const struct move *m)
{
	struct owner_view v = owner_read(m->s->owner);

	return m->go->remote && !m->answered && v.owner == m->destination;
}

static void keep_unresolved(struct move *m, struct error *e)
{
	const char *name = vm_config(m->s->vm)->name;

	m->result.unresolved = m->s->unresolved = true;
	error_set(e, "it may run on the other machine: 'vmbeam resume %s' asks there, and resumes it here if it does not", name);
}

/* Its registers are lost with the destination; its memory is still held here. */
static void keep_crashed(struct move *m, struct error *e)
{
	error_set(e, "the destination died after it had started the VM");
	m->result.crashed = true;
	/* The devices stay stopped: the rings in memory have moved on without them. */
	vm_set_crashed(m->s->vm, e->text);
}

/* The guest is to run on here, if the word allows it.  False: the destination has it. */
static bool take_back(struct move *m, struct error *e)
{
	struct handover_source *s = m->s;

	if (owner_abort(s->owner, s->instance, m->destination))
		goto mine;
	/* It has committed.  Alive, it will start the guest; give it time to do so or to die. */
	for (int i = 0; i < LEAVE_TIMEOUT_MS / 10 && !process_has_ended(m->destination_pidfd, 0) &&
			!owner_read(s->owner).started;
	     i++)
		poll(NULL, 0, 10);
	if (is_unresolved(m)) {
		keep_unresolved(m, e);
		return true;
	}
	if (!process_has_ended(m->destination_pidfd, 0) && !m->go->remote)
		return false;
	if (owner_reclaim(s->owner, s->instance, m->destination))
		goto mine;
	keep_crashed(m, e);
	return true;
mine:
	if (m->go->remote && vm_files_lock(vm_get_files(s->vm), vm_config(s->vm), e)) {
		m->result.crashed = true;
		vm_set_crashed(s->vm, e->text);
		return true;
	}
	vm_uncapture(s->vm, m->captured);
	m->result.held = vm_is_held(s->vm);
	m->result.crashed = vm_crash_reason(s->vm)[0] != 0;
	if (!vm_user_paused(s->vm) && !vm_pending_event(s->vm))
		vm_resume(s->vm);
	return true;
}

static void send_result(struct move *m)
{
	Vmb__Reply reply = VMB__REPLY__INIT;

	m->result.phases = m->phases.list;
	m->result.n_phases = m->phases.n;
	reply.kind_case = VMB__REPLY__KIND_RESULT;
	reply.result = &m->result;
	wire_send(m->s->driver, &reply.base, NULL, 0, NULL);
}

static void move(struct handover_source *s, const Vmb__HandoverGo *go, int pidfd)
{
	struct move m = {
		.s = s,
		.destination = (uint16_t)go->instance,
		.destination_pidfd = pidfd,
		.go = go,
		.phase = "begin",
	};
	struct error e = {""};
	/* Where both are in one hypervisor, that stands still until the memory is out of the old place. */
	int timeout_ms = go->commit_timeout_ns ? (int)MIN(go->commit_timeout_ns / 1000000, (uint64_t)INT_MAX)
					       : COMMIT_TIMEOUT_MS + (int)(vm_config(s->vm)->memory / GIB) * 200;
	uint64_t cpu = process_cpu_ns();
	char text[sizeof(e.text)];

	vmb__handover_result__init(&m.result);
	m.result.pause_ns = m.phases.mark = clock_ns();
	if (!owner_begin(s->owner, s->instance, m.destination)) {
		error_set(&e, "the owner word does not say that this process runs the VM");
	} else if (fault_point("source.begun")) {
		error_set(&e, "fault injected");
		take_back(&m, &e);
	} else if (!stop_and_capture(&m, &e) && await_destination(&m, timeout_ms, &e)) {
		m.result.completed = !process_has_ended(m.destination_pidfd, 0);
		/* The end of one that spoke for another machine means nothing. */
		m.result.completed |= go->remote;
		if (!m.result.completed)
			keep_crashed(&m, &e);
	} else {
		m.result.completed = !take_back(&m, &e);
	}
	m.result.cpu_ns = process_cpu_ns() - cpu;
	m.result.phase = (char *)(uintptr_t)m.phase;
	if (!m.result.completed) {
		snprintf(text, sizeof(text), "%s", e.text);
		m.result.error = text;
		log_line("%s: handover failed in phase %s: %s", vm_config(s->vm)->name, m.phase,
			 e.text);
	}
	send_result(&m);
	s->departing = m.result.completed && m.result.post_copy;
	if (s->departing || s->unresolved)
		control_set_note(s->control, s->departing ? DEPARTING : UNRESOLVED);
	if (m.result.completed && !s->departing)
		vm_leave(s->vm, go->remote);
	if (m.captured)
		vmb__vm_state__free_unpacked(m.captured, NULL);
	close_fd(&pidfd);
	end_handover(s, m.result.completed && !s->departing);
}

/* ---- the running part */

static void on_driver(void *ctx, uint32_t events)
{
	struct handover_source *s = ctx;
	ProtobufCMessage *msg;
	struct wire_fds fds;
	struct error e;
	Vmb__Request *r;

	(void)events;
	if (wire_recv(s->driver, &vmb__request__descriptor, &msg, &fds, 0, &e) <= 0) {
		end_handover(s, false); /* the driver has gone, and nothing has begun: the VM runs on */
		return;
	}
	r = (Vmb__Request *)msg;
	if (r->kind_case == VMB__REQUEST__KIND_GO && fds.count == 1) {
		move(s, r->go, wire_take_fd(&fds, 0));
	} else {
		control_reply_error(s->driver, "handover: an unexpected message");
		end_handover(s, false);
	}
	wire_close_fds(&fds);
	protobuf_c_message_free_unpacked(msg, NULL);
}

static void send_offer(struct handover_source *s, int fd, const char *blocker)
{
	Vmb__Reply reply = VMB__REPLY__INIT;
	Vmb__HandoverOffer offer = VMB__HANDOVER_OFFER__INIT;
	char names[VM_MAX_FILES][16], *name_ptrs[VM_MAX_FILES];
	char *blockers[1] = {(char *)(uintptr_t)blocker};
	int fds[VM_MAX_FILES + 1];
	size_t n = 0;

	reply.kind_case = VMB__REPLY__KIND_OFFER;
	reply.offer = &offer;
	if (blocker) {
		offer.blockers = blockers;
		offer.n_blockers = 1;
	} else {
		n = vm_files_list(vm_get_files(s->vm), fds, names);
		for (size_t i = 0; i < n; i++)
			name_ptrs[i] = names[i];
		offer.fd_names = name_ptrs;
		offer.n_fd_names = n;
		fds[n++] = s->self;
	}
	offer.instance = s->instance;
	offer.provisional = vm_provisional(s->vm);
	wire_send(fd, &reply.base, fds, n, NULL);
	vmb__vm_state__free_unpacked(offer.provisional, NULL);
}

static const char *find_blocker(const struct handover_source *s, const Vmb__HandoverRequest *r,
				struct error *e)
{
	/* Only its memory is wanted; whoever asks knows that it runs there. */
	if (r->rest && (s->departing || s->unresolved) && s->driver < 0)
		return NULL;
	if (s->driver >= 0)
		error_set(e, "it is being moved already");
	else if (r->rest)
		error_set(e, "no other machine needs memory of it");
	else if (s->departing)
		error_set(e, DEPARTING);
	else if (vm_is_arriving(s->vm))
		error_set(e, "some of its memory has yet to come from another machine");
	else if (s->unresolved)
		error_set(e, UNRESOLVED);
	else if (!s->owner)
		error_set(e, "its owner word cannot be used");
	else if (vm_crash_reason(s->vm)[0])
		error_set(e, "it has crashed: %s", vm_crash_reason(s->vm));
	else if (vm_pending_event(s->vm))
		error_set(e, "%s", vm_pending_event(s->vm));
	else if (vm_guest_is_leaving(s->vm))
		error_set(e, "a guest VM is just leaving it");
	else if (r->state_version + 1 < STATE_VERSION + 1)
		error_set(e, "its state has version %d; the destination reads up to %u",
			  STATE_VERSION, r->state_version);
	else
		return NULL;
	return e->text;
}

/* By order of a user, who has looked: the other machine does not run it. */
static int take_back_unresolved(struct handover_source *s, struct error *e)
{
	if (!s->unresolved)
		return error_set(e, "no migration of it is unresolved");
	if (vm_files_lock(vm_get_files(s->vm), vm_config(s->vm), e))
		return -1;
	if (!owner_reclaim(s->owner, s->instance, owner_read(s->owner).owner)) {
		vm_files_unlock(vm_get_files(s->vm));
		return error_set(e, "it runs on the other machine");
	}
	s->unresolved = false;
	control_set_note(s->control, "");
	vm_uncapture(s->vm, NULL);
	if (!vm_user_paused(s->vm) && !vm_pending_event(s->vm))
		vm_resume(s->vm);
	return 0;
}

bool handover_source_request(void *source, int fd, const Vmb__Request *r, struct wire_fds *fds,
			     struct error *e)
{
	struct handover_source *s = source;
	struct error why;
	const char *blocker;

	if (r->kind_case == VMB__REQUEST__KIND_CANCEL) {
		if (s->driver < 0) {
			error_set(e, "no handover is under way");
			return false;
		}
		control_reply_error(s->driver, HANDOVER_CANCELLED);
		end_handover(s, false);
		control_reply_ready(fd, NULL, 0);
		close(fd);
		return true;
	}
	if (r->kind_case == VMB__REQUEST__KIND_DEPART) {
		if (!s->departing && !s->unresolved) {
			error_set(e, "it has not gone anywhere");
			return false;
		}
		control_reply_ready(fd, NULL, 0);
		close(fd);
		vm_leave(s->vm, true);
		return true;
	}
	if (r->kind_case == VMB__REQUEST__KIND_TAKE_BACK) {
		if (take_back_unresolved(s, e))
			return false;
		control_reply_ready(fd, NULL, 0);
		close(fd);
		return true;
	}
	if (r->kind_case != VMB__REQUEST__KIND_HANDOVER) {
		error_set(e, "unknown request");
		return false;
	}
	blocker = find_blocker(s, r->handover, &why);
	if (blocker || r->handover->rest) {
		send_offer(s, fd, blocker);
		close(fd);
		return true;
	}
	if (fds->count != 2) {
		error_set(e, "handover: state memfd and link are missing");
		return false;
	}
	fault_arm(r->handover->fault);
	s->driver = fd;
	s->state = wire_take_fd(fds, 0);
	s->link = wire_take_fd(fds, 1);
	s->driver_source = vm_watch(s->vm, fd, EPOLLIN, on_driver, s);
	control_set_moving(s->control, true);
	send_offer(s, fd, NULL);
	fault_point("source.offered");
	return true;
}
