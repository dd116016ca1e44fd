/* destination.c: how a vmm process begins in a handover: it builds the VM beside the running one,
 * waits for the captured state, and takes the VM over.
 *
 * Who is dead decides what is to be done, and is known from pidfds; whether the capture is complete
 * is known from the state memfd's seals, whoever is left to ask:
 *   sealed, word can be taken     restore, commit, run
 *   sealed, word says otherwise   the source runs on: nothing to do here
 *   not sealed, source alive      the handover was given up: nothing to do here
 *   not sealed, source dead       the VM has crashed; its memory is kept here for a dump
 */
#include "vmm/client.h"
#include "zerocopy/fault.h"
#include "zerocopy/zerocopy.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct incoming {
	const Vmb__IncomingRequest *req;
	int driver, state, link, source_pidfd; /* link, source_pidfd: -1 in a recovery */
	uint16_t instance, source;
	struct vm *vm;
	int guard; /* userfaultfd, the VM's; -1: no post-copy */
	uint64_t memory_base;
	struct owner *owner;
	struct wire_fds clients; /* console clients, with Link.captured */
	Vmb__HandoverResult result;
	struct phases phases;
};

static void reply(struct incoming *in, Vmb__Reply__KindCase kind)
{
	Vmb__Reply r = VMB__REPLY__INIT;
	Vmb__Prepared prepared = VMB__PREPARED__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;

	r.kind_case = kind;
	if (kind == VMB__REPLY__KIND_PREPARED) {
		prepared.memory_base = in->memory_base;
		r.prepared = &prepared;
	} else if (kind == VMB__REPLY__KIND_RESULT)
		r.result = &in->result;
	else
		r.warmed = &empty;
	wire_send(in->driver, &r.base, &in->guard, kind == VMB__REPLY__KIND_PREPARED && in->guard >= 0, NULL);
}

/* Tells source and driver how it went; either may be gone. */
static void tell_result(struct incoming *in, const char *phase, const struct error *e)
{
	Vmb__Link msg = VMB__LINK__INIT;
	char text[sizeof(e->text)];

	if (e) {
		snprintf(text, sizeof(text), "%s", e->text);
		in->result.error = text;
	}
	in->result.cpu_ns = process_cpu_ns();
	in->result.phases = in->phases.list;
	in->result.n_phases = in->phases.n;
	in->result.phase = (char *)(uintptr_t)phase;
	msg.kind_case = VMB__LINK__KIND_RESTORED;
	msg.restored = &in->result;
	if (in->link >= 0)
		wire_send(in->link, &msg.base, NULL, 0, NULL);
	reply(in, VMB__REPLY__KIND_RESULT);
	in->result.error = (char *)(uintptr_t)protobuf_c_empty_string;
}

static int take_files(struct incoming *in, struct wire_fds *fds, struct vm_files *files,
		      struct error *e)
{
	const Vmb__IncomingRequest *r = in->req;
	size_t first = r->recover ? 1 : 3;

	vm_files_init(files);
	if (!r->provisional || !r->provisional->config || fds->count != first + r->n_fd_names)
		return error_set(e, "handover: an incomplete message");
	in->state = wire_take_fd(fds, 0);
	if (!r->recover) {
		in->link = wire_take_fd(fds, 1);
		in->source_pidfd = wire_take_fd(fds, 2);
	}
	for (size_t i = 0; i < r->n_fd_names; i++) {
		int fd = wire_take_fd(fds, first + i);

		if (vm_files_set(files, r->fd_names[i], fd)) {
			close(fd);
			return error_set(e, "handover: unknown descriptor '%s'", r->fd_names[i]);
		}
	}
	return vm_config_validate(r->provisional->config, e) ||
			       vm_files_check(files, r->provisional->config, e)
		       ? -1
		       : 0;
}

static void set_placement(Vmb__VmConfig *c, const char *placement)
{
	if (c->placement != protobuf_c_empty_string) /* what an absent one points to */
		free(c->placement);
	c->placement = xstrdup(placement);
}

static int build(struct incoming *in, struct wire_fds *fds,
		 int (*start)(struct vm *vm, struct error *e), struct error *e)
{
	struct vm_files files;

	if (take_files(in, fds, &files, e)) {
		vm_files_close(&files);
		return -1;
	}
	in->owner = owner_map(files.owner, e);
	if (!in->owner) {
		vm_files_close(&files);
		return -1;
	}
	/* Where both are dead, whoever had it last. */
	in->source = in->req->recover ? owner_read(in->owner).owner : (uint16_t)in->req->source;
	set_placement(in->req->provisional->config, in->req->placement);
	in->vm = vm_create(in->req->provisional->config, &files, false, e);
	if (!in->vm)
		return -1;
	if (in->req->post_copy && (in->guard = vm_guard_memory(in->vm, &in->memory_base, e)) < 0)
		log_line("%s: %s", vm_config(in->vm)->name, e->text); /* the sender is told, and decides */
	vm_lock(in->vm);
	if (vm_load_provisional(in->vm, in->req->provisional, e)) {
		vm_unlock(in->vm);
		return -1;
	}
	vm_unlock(in->vm);
	return start(in->vm, e);
}

enum { DEATH_MS = 1000 };
enum news { NEWS_CAPTURED, NEWS_GIVEN_UP, NEWS_SOURCE_DEAD };

/* Waits until the source has captured, has given up or has died. */
static enum news await_capture(struct incoming *in)
{
	struct pollfd p[2] = {{.fd = in->link, .events = POLLIN},
			      {.fd = in->source_pidfd, .events = POLLIN}};
	ProtobufCMessage *msg;
	struct error e;

	if (in->req->recover)
		return NEWS_SOURCE_DEAD;
	while (poll(p, 2, -1) < 0 && errno == EINTR)
		;
	/* A message first: the source may have died right after it had sent one. */
	if (p[0].revents && wire_recv(in->link, &vmb__link__descriptor, &msg, &in->clients, 0, &e) == 1) {
		bool captured = ((Vmb__Link *)msg)->kind_case == VMB__LINK__KIND_CAPTURED;

		protobuf_c_message_free_unpacked(msg, NULL);
		return captured ? NEWS_CAPTURED : NEWS_GIVEN_UP;
	}
	/* The link closes a moment before the process is dead. */
	return process_has_ended(in->source_pidfd, DEATH_MS) ? NEWS_SOURCE_DEAD : NEWS_GIVEN_UP;
}

static int restore(struct incoming *in, struct error *e)
{
	Vmb__VmState *s = state_read(in->state, e);
	int r;

	if (!s)
		return -1;
	r = vm_restore(in->vm, s, e);
	vmb__vm_state__free_unpacked(s, NULL);
	if (!r)
		r = vm_inherit_connections(in->vm, &in->clients, e);
	return r;
}

/* The source is another machine: it commits first, and says so.  What has not been said was not done. */
static int await_go(struct incoming *in, struct error *e)
{
	Vmb__Link msg = VMB__LINK__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;
	ProtobufCMessage *answer;
	bool go;

	msg.kind_case = VMB__LINK__KIND_READY;
	msg.ready = &empty;
	if (wire_send(in->link, &msg.base, NULL, 0, e))
		return -1;
	if (wire_recv(in->link, &vmb__link__descriptor, &answer, NULL, -1, e) != 1)
		return error_set(e, "the source has not committed");
	go = ((Vmb__Link *)answer)->kind_case == VMB__LINK__KIND_GO;
	if (go && !((Vmb__Link *)answer)->go->post_copy)
		vm_set_arriving(in->vm, false);
	protobuf_c_message_free_unpacked(answer, NULL);
	return go ? 0 : error_set(e, "the source has not committed");
}

/* Restores, commits and starts.  0: runs here; -1: it does not, *e says why. */
static int take_over(struct incoming *in, const char **phase, struct error *e)
{
	in->phases.mark = clock_ns();
	*phase = "restore";
	if (fault_point("destination.captured"))
		return error_set(e, "fault injected");
	if (in->guard >= 0)
		vm_set_arriving(in->vm, true);
	if (restore(in, e))
		return -1;
	phases_end(&in->phases, "restore");
	if (fault_point("destination.restored"))
		return error_set(e, "fault injected");

	*phase = "commit";
	if (in->req->confirm && await_go(in, e))
		return -1;
	if (in->req->recover ? !owner_recover(in->owner, in->instance)
			     : !owner_commit(in->owner, in->source, in->instance))
		return error_set(e, "the source has taken the VM back");
	phases_end(&in->phases, "commit");
	fault_point("destination.committed");

	*phase = "resume";
	if (!owner_start(in->owner, in->instance))
		return error_set(e, "somebody else has taken the VM");
	if (!vm_user_paused(in->vm))
		vm_resume(in->vm);
	if (in->req->confirm)
		vm_announce(in->vm);
	phases_end(&in->phases, "resume");
	in->result.resume_ns = in->phases.mark;
	in->result.completed = true;
	return 0;
}

/* Did the source end because its VM did, by a shutdown or a stop?  The record is its last act. */
static bool vm_has_ended(struct incoming *in)
{
	struct stat st;

	return !fstat(vm_get_files(in->vm)->exit_record, &st) && st.st_size > 0;
}

/* Everybody who could have run the VM is dead and its registers with them: keep what is left.  Returns
 * whether there is anything to keep. */
static bool keep_crashed(struct incoming *in, struct error *why)
{
	struct error e;

	if (vm_has_ended(in)) {
		error_set(why, "the VM has ended");
		return false;
	}
	error_set(&e, "its VMM was killed %s; its memory is kept (vmbeam dump %s --out FILE, then "
		      "vmbeam stop %s)",
		  state_is_sealed(in->state) ? "while it ran" : "before its state was captured",
		  vm_config(in->vm)->name, vm_config(in->vm)->name);
	vm_set_crashed(in->vm, e.text);
	in->result.crashed = true;
	tell_result(in, "capture", &e);
	return true;
}

/* Returns whether there is a VM to serve here. */
static bool receive(struct incoming *in, struct error *e)
{
	enum news news = await_capture(in);
	const char *phase = "restore";
	bool served = false;

	/* What is here of its memory may be only a part. */
	if (in->req->copied && news != NEWS_CAPTURED)
		return false;
	/* (The memory of another machine's VM is there.) */
	if ((news == NEWS_GIVEN_UP || (in->req->confirm && news == NEWS_SOURCE_DEAD)) && !state_is_sealed(in->state))
		return false;
	vm_lock(in->vm);
	if (state_is_sealed(in->state)) {
		if (!take_over(in, &phase, e)) {
			tell_result(in, phase, NULL);
			served = true;
		} else if (!in->req->confirm && process_has_ended(in->source_pidfd, 0) &&
			   owner_read(in->owner).owner == in->source) {
			served = keep_crashed(in, e); /* it had taken the VM back, and died then */
		} else {
			tell_result(in, phase, e);
		}
		fault_point("destination.started");
	} else if (owner_read(in->owner).owner == in->source) {
		served = keep_crashed(in, e);
	} else {
		error_set(e, "the VM has gone to another process meanwhile");
		tell_result(in, phase, e);
	}
	vm_unlock(in->vm);
	return served;
}

struct vm *handover_incoming(int driver, const Vmb__IncomingRequest *req, struct wire_fds *fds,
			     struct handover_source *self, void (*become)(const char *name),
			     int (*start)(struct vm *vm, struct error *e), struct error *e)
{
	struct incoming in = {
		.req = req,
		.driver = driver,
		.state = -1,
		.link = -1,
		.source_pidfd = -1,
		.guard = -1,
		.instance = (uint16_t)req->instance,
	};
	bool served = false;

	vmb__handover_result__init(&in.result);
	fault_arm(req->fault);
	if (req->provisional && req->provisional->config &&
	    !vm_config_validate(req->provisional->config, NULL))
		become(req->provisional->config->name);
	if (fault_point("destination.received")) {
		error_set(e, "fault injected");
		goto out;
	}
	if (build(&in, fds, start, e))
		goto out;
	if (fault_point("destination.built")) {
		error_set(e, "fault injected");
		goto out;
	}
	reply(&in, VMB__REPLY__KIND_PREPARED);
	if (req->warm) {
		vm_lock(in.vm);
		if (vm_warm(in.vm, e))
			log_line("%s: not warmed: %s", vm_config(in.vm)->name, e->text);
		e->text[0] = 0;
		vm_unlock(in.vm);
	}
	fault_point("destination.warmed");
	reply(&in, VMB__REPLY__KIND_WARMED);
	served = receive(&in, e);
	if (served) {
		handover_source_set_instance(self, in.instance);
		e->text[0] = 0;
	}
out:
	close_fd(&in.state);
	close_fd(&in.link);
	close_fd(&in.source_pidfd);
	wire_close_fds(&in.clients);
	owner_unmap(in.owner);
	if (!served) {
		vm_destroy(in.vm);
		in.vm = NULL;
	}
	return in.vm;
}
