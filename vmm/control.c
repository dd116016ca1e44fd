/* control.c: the control socket of a vmm process: who asks for what, and the answers.
 *
 * The socket file is 0600, and a peer of another user is refused besides.  A message that is cut
 * short or makes no sense is answered with an error and the connection closed.
 */
#include "vmm/internal.h"
#include "vmm/wire.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_SESSIONS = 32, SUSPEND_DRAIN_S = 10 };

struct session {
	struct control *control;
	int fd; /* -1: free */
	struct loop_source *source;
	bool waiting; /* for the VM's end */
	bool tracking; /* it copies the VM's memory */
};

struct control {
	struct vm *vm;
	control_other_fn *other;
	void *ctx;
	struct loop_source *listener;
	bool moving;
	const char *note; /* what `info` says besides, "": nothing */
	struct session sessions[MAX_SESSIONS];
};

int control_reply_error(int fd, const char *fmt, ...)
{
	Vmb__Reply reply = VMB__REPLY__INIT;
	char text[sizeof(((struct error *)0)->text)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	reply.error = text;
	return wire_send(fd, &reply.base, NULL, 0, NULL);
}

static void forget(struct session *s)
{
	loop_remove(s->source);
	s->source = NULL;
	s->fd = -1;
	s->waiting = false;
}

static void stop_tracking(struct session *s)
{
	if (s->tracking)
		vm_untrack_writes(s->control->vm);
	s->tracking = false;
}

static void end_session(struct session *s)
{
	int fd = s->fd;

	stop_tracking(s);
	forget(s);
	close(fd);
}

int control_reply_ready(int fd, const int *fds, size_t n)
{
	Vmb__Reply reply = VMB__REPLY__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;

	reply.kind_case = VMB__REPLY__KIND_READY;
	reply.ready = &empty;
	return wire_send(fd, &reply.base, fds, n, NULL);
}

static void reply_info(struct session *s)
{
	struct vm *vm = s->control->vm;
	Vmb__Reply reply = VMB__REPLY__INIT;
	Vmb__InfoReply info = VMB__INFO_REPLY__INIT;
	uint64_t exits[MAX_VCPUS], cpu_ns[MAX_VCPUS], delay_ns[MAX_VCPUS], pages[VM_PAGE_SIZES];
	char *guests[HOST_PORTS];
	struct stat st;

	info.config = vm->config;
	info.state = s->control->moving ? VMB__RUN_STATE__RUN_STATE_MOVING : vm_run_state(vm);
	info.pid = getpid();
	info.uptime_ns = clock_ns() - vm->created_ns;
	info.state_version = STATE_VERSION;
	if (vm->front) {
		const Vmb__BackInfo *told = front_told(vm);

		info.exits = told ? told->exits : NULL;
		info.n_exits = told ? told->n_exits : 0;
		info.cpu_ns = told ? told->cpu_ns : NULL;
		info.n_cpu_ns = told ? told->n_cpu_ns : 0;
		info.delay_ns = told ? told->delay_ns : NULL;
		info.n_delay_ns = told ? told->n_delay_ns : 0;
		info.pages = told ? told->pages : NULL;
		info.n_pages = told ? told->n_pages : 0;
	} else {
		info.exits = exits;
		info.cpu_ns = cpu_ns;
		info.delay_ns = delay_ns;
		info.n_delay_ns = vm_delay_times(vm, delay_ns, MAX_VCPUS);
		info.pages = pages;
		info.n_exits = vm_exit_counts(vm, exits, MAX_VCPUS);
		info.n_cpu_ns = vm_cpu_times(vm, cpu_ns, MAX_VCPUS);
		info.n_pages = vm_page_counts(vm, pages);
	}
	info.detail = (char *)(uintptr_t)(vm->crash[0]	     ? vm->crash
					  : vm_is_arriving(vm) ? "some of its memory has yet to come from another machine"
							       : s->control->note);
	info.first_run_ns = vm->first_run_ns;
	info.handovers = vm->handovers;
	balloon_read(vm, &info.balloon_target, &info.balloon_actual);
	info.guests = guests;
	info.n_guests = vm_guests(vm, guests, HOST_PORTS);
	info.arriving = vm_is_arriving(vm);
	info.held = vm_is_held(vm);
	info.window_faults = window_faults(vm);
	info.window_frozen_ns = window_frozen_ns(vm);
	if (!fstat(vm->memory.fd, &st))
		info.allocated = (uint64_t)st.st_blocks * 512;
	reply.kind_case = VMB__REPLY__KIND_INFO;
	reply.info = &info;
	wire_send(s->fd, &reply.base, NULL, 0, NULL);
}

static void do_pause(struct session *s, bool pause)
{
	struct vm *vm = s->control->vm;
	char *guests[1];

	if (vm->crash[0]) {
		control_reply_error(s->fd, "it has crashed: %s", vm->crash);
		return;
	}
	if (pause && vm_guests(vm, guests, 1)) {
		control_reply_error(s->fd, "guest VMs run in it: pause them");
		return;
	}
	if (!pause && vm->may_run && !vm->may_run(vm->may_run_ctx)) {
		control_reply_error(s->fd, "it may run on another machine");
		return;
	}
	if (!pause && vm_is_held(vm)) {
		control_reply_error(s->fd, "its hypervisor is gone: migrate it to host");
		return;
	}
	vm->user_paused = pause;
	if (pause)
		vm_pause(vm);
	else
		vm_resume(vm);
	control_reply_ready(s->fd, NULL, 0);
}

static void do_stop(struct session *s, bool force)
{
	struct vm *vm = s->control->vm;

	if (force || vm->crash[0])
		vm_stop(vm);
	else
		vm_power_button(vm);
	control_reply_ready(s->fd, NULL, 0);
}

static void do_dump(struct session *s, struct wire_fds *fds)
{
	int fd = wire_take_fd(fds, 0);
	struct error e;

	if (fd < 0)
		control_reply_error(s->fd, "dump: no file came with the request");
	else if (vm_dump(s->control->vm, fd, &e))
		control_reply_error(s->fd, "dump: %s", e.text);
	else
		control_reply_ready(s->fd, NULL, 0);
	close_fd(&fd);
}

static void do_console(struct session *s, struct console *console)
{
	int pair[2];

	if (!console) {
		control_reply_error(s->fd, "it has no virtio console");
		return;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) {
		control_reply_error(s->fd, "console: socketpair failed");
		return;
	}
	console_add_client(console, pair[0]);
	control_reply_ready(s->fd, &pair[1], 1);
	close(pair[1]);
}

static void do_recent(struct session *s)
{
	Vmb__Reply reply = VMB__REPLY__INIT;
	Vmb__RecentReply recent = VMB__RECENT_REPLY__INIT;

	recent.text.data = console_recent(s->control->vm->console, &recent.text.len);
	reply.kind_case = VMB__REPLY__KIND_RECENT;
	reply.recent = &recent;
	wire_send(s->fd, &reply.base, NULL, 0, NULL);
	free(recent.text.data);
}

static void do_rename(struct session *s, const Vmb__RenameRequest *r)
{
	Vmb__VmConfig *c = s->control->vm->config;
	char **at = r->name[0] ? &c->name : &c->placement, *old = *at;
	const char *name = r->name[0] ? r->name : r->placement;
	struct error e;

	if ((!r->name[0] && !s->control->vm->front) || !name[0]) {
		control_reply_error(s->fd, "rename: it is in no hypervisor");
		return;
	}
	*at = xstrdup(name);
	if (vm_config_validate(c, &e)) {
		free(*at);
		*at = old;
		control_reply_error(s->fd, "rename: %s", e.text);
		return;
	}
	free(old);
	control_reply_ready(s->fd, NULL, 0);
}

static void do_suspend(struct session *s)
{
	struct error e;

	if (!s->control->vm->front)
		control_reply_error(s->fd, "suspend: it is in no hypervisor");
	else if (front_suspend(s->control->vm, SUSPEND_DRAIN_S * 1000000000ull, &e))
		control_reply_error(s->fd, "suspend: %s", e.text);
	else
		control_reply_ready(s->fd, NULL, 0);
}

static void do_reattach(struct session *s, const Vmb__ReattachRequest *r, struct wire_fds *fds)
{
	int lease = wire_take_fd(fds, 0);
	struct error e;

	if (!s->control->vm->front || lease < 0) {
		control_reply_error(s->fd, "reattach: it is in no hypervisor, or no connection came");
		close_fd(&lease);
	} else if (front_reattach(s->control->vm, r->placement, lease, &e)) {
		control_reply_error(s->fd, "reattach: %s", e.text);
	} else {
		control_reply_ready(s->fd, NULL, 0);
	}
}

static void do_track(struct session *s, struct wire_fds *fds)
{
	int bitmap = wire_take_fd(fds, 0);
	struct error e;

	if (bitmap < 0) {
		control_reply_error(s->fd, "track: a bitmap's descriptor is missing");
	} else if (vm_track_writes(s->control->vm, bitmap, &e)) {
		control_reply_error(s->fd, "%s", e.text);
	} else {
		s->tracking = true;
		control_reply_ready(s->fd, NULL, 0);
	}
}

static void do_throttle(struct session *s, uint32_t percent)
{
	if (!s->tracking || percent > 99) {
		control_reply_error(s->fd, "throttle: %s", s->tracking ? "0 to 99 percent" : "this connection does not track");
		return;
	}
	vm_throttle(s->control->vm, percent);
	control_reply_ready(s->fd, NULL, 0);
}

static void do_collect(struct session *s)
{
	struct error e;

	if (!s->tracking)
		control_reply_error(s->fd, "collect: nothing is noted for this connection");
	else if (vm_collect_writes(s->control->vm, &e))
		control_reply_error(s->fd, "%s", e.text);
	else
		control_reply_ready(s->fd, NULL, 0);
}

static void do_balloon(struct session *s, uint64_t bytes)
{
	struct error e;

	if (balloon_set_target(s->control->vm, bytes, &e))
		control_reply_error(s->fd, "balloon: %s", e.text);
	else
		control_reply_ready(s->fd, NULL, 0);
}

/* While the VM is being moved its state must not change under the handover. */
static bool refused_while_moving(struct session *s, const Vmb__Request *r)
{
	if (!s->control->moving)
		return false;
	switch (r->kind_case) {
	case VMB__REQUEST__KIND_PAUSE:
	case VMB__REQUEST__KIND_RESUME:
	case VMB__REQUEST__KIND_HANDOVER:
	case VMB__REQUEST__KIND_BALLOON:
	case VMB__REQUEST__KIND_BEAM_IN:
	case VMB__REQUEST__KIND_RENAME:
	case VMB__REQUEST__KIND_SUSPEND:
	case VMB__REQUEST__KIND_REATTACH:
		break;
	case VMB__REQUEST__KIND_STOP:
		if (r->stop->force)
			return false;
		break;
	default:
		return false;
	}
	control_reply_error(s->fd, "it is being moved");
	return true;
}

static void dispatch(struct session *s, const Vmb__Request *r, struct wire_fds *fds)
{
	struct control *c = s->control;
	struct error e = {""};
	int fd = s->fd;

	if (refused_while_moving(s, r))
		return;
	switch (r->kind_case) {
	case VMB__REQUEST__KIND_INFO:
		reply_info(s);
		break;
	case VMB__REQUEST__KIND_PAUSE:
		do_pause(s, true);
		break;
	case VMB__REQUEST__KIND_RESUME:
		do_pause(s, false);
		break;
	case VMB__REQUEST__KIND_STOP:
		do_stop(s, r->stop->force);
		break;
	case VMB__REQUEST__KIND_WAIT:
		s->waiting = true;
		if (s->control->vm->crash[0])
			control_crashed(s->control);
		break;
	case VMB__REQUEST__KIND_DUMP:
		do_dump(s, fds);
		break;
	case VMB__REQUEST__KIND_CONSOLE:
		do_console(s, s->control->vm->console);
		break;
	case VMB__REQUEST__KIND_HVC:
		do_console(s, s->control->vm->hvc);
		break;
	case VMB__REQUEST__KIND_RECENT:
		do_recent(s);
		break;
	case VMB__REQUEST__KIND_SUSPEND:
		do_suspend(s);
		break;
	case VMB__REQUEST__KIND_REATTACH:
		do_reattach(s, r->reattach, fds);
		break;
	case VMB__REQUEST__KIND_RENAME:
		do_rename(s, r->rename);
		break;
	case VMB__REQUEST__KIND_BEAM_IN:
		/* The connection is the lease. */
		stop_tracking(s);
		loop_remove(s->source);
		s->source = NULL;
		s->fd = -1;
		window_beam_in(c->vm, fd, r->beam_in, fds);
		break;
	case VMB__REQUEST__KIND_BALLOON:
		do_balloon(s, r->balloon->bytes);
		break;
	case VMB__REQUEST__KIND_ARRIVED:
		vm_set_arriving(c->vm, false);
		control_reply_ready(fd, NULL, 0);
		break;
	case VMB__REQUEST__KIND_THROTTLE:
		do_throttle(s, r->throttle->percent);
		break;
	case VMB__REQUEST__KIND_TRACK:
		do_track(s, fds);
		break;
	case VMB__REQUEST__KIND_COLLECT:
		do_collect(s);
		break;
	default:
		/* The other party may want the connection for itself. */
		stop_tracking(s);
		loop_remove(s->source);
		s->source = NULL;
		if (c->other && c->other(c->ctx, fd, r, fds, &e)) {
			s->fd = -1;
			break;
		}
		control_reply_error(fd, "%s", e.text[0] ? e.text : "unknown request");
		s->fd = -1;
		close(fd);
	}
}

static void on_session(void *ctx, uint32_t events)
{
	struct session *s = ctx;
	ProtobufCMessage *msg;
	struct wire_fds fds;
	struct error e;
	int r;

	(void)events;
	r = wire_recv(s->fd, &vmb__request__descriptor, &msg, &fds, 0, &e);
	if (r < 0)
		control_reply_error(s->fd, "%s", e.text);
	if (r <= 0) {
		end_session(s);
		return;
	}
	dispatch(s, (Vmb__Request *)msg, &fds);
	protobuf_c_message_free_unpacked(msg, NULL);
	wire_close_fds(&fds);
}

static bool peer_is_allowed(uid_t owner, int fd)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) &&
	       (cred.uid == 0 || cred.uid == owner);
}

static void on_connect(void *ctx, uint32_t events)
{
	struct control *c = ctx;
	int fd = wire_accept(c->vm->files.control);

	(void)events;
	if (fd < 0)
		return;
	for (size_t i = 0; i < MAX_SESSIONS; i++) {
		struct session *s = &c->sessions[i];

		if (s->fd >= 0)
			continue;
		if (!peer_is_allowed(c->vm->owner_uid, fd))
			break;
		*s = (struct session){.control = c, .fd = fd};
		s->source = loop_add(c->vm->loop, fd, EPOLLIN, on_session, s);
		return;
	}
	close(fd);
}

struct control *control_start(struct vm *vm, control_other_fn *other, void *ctx)
{
	struct control *c = xcalloc(1, sizeof(*c));

	c->vm = vm;
	c->other = other;
	c->ctx = ctx;
	c->note = "";
	for (size_t i = 0; i < MAX_SESSIONS; i++)
		c->sessions[i].fd = -1;
	vm->control = c;
	c->listener = loop_add(vm->loop, vm->files.control, EPOLLIN, on_connect, c);
	return c;
}

void control_set_note(struct control *c, const char *note)
{
	c->note = note;
}

void control_set_moving(struct control *c, bool moving)
{
	c->moving = moving;
}

static void tell_waiting(struct control *c, const char *reason, int status)
{
	Vmb__Reply reply = VMB__REPLY__INIT;
	Vmb__EndReply end = VMB__END_REPLY__INIT;
	char text[256];

	snprintf(text, sizeof(text), "%s", reason);
	end.reason = text;
	end.status = status;
	reply.kind_case = VMB__REPLY__KIND_END;
	reply.end = &end;
	for (size_t i = 0; i < MAX_SESSIONS; i++)
		if (c->sessions[i].fd >= 0 && c->sessions[i].waiting) {
			wire_send(c->sessions[i].fd, &reply.base, NULL, 0, NULL);
			c->sessions[i].waiting = false;
		}
}

void control_crashed(struct control *c)
{
	char reason[256];

	snprintf(reason, sizeof(reason), "crashed: %s", c->vm->crash);
	tell_waiting(c, reason, 1);
}

void control_end(struct control *c, const char *reason, int status)
{
	/* After a handover the waiting ask again: the listening socket has moved on. */
	if (strcmp(reason, "moved"))
		tell_waiting(c, reason, status);
	for (size_t i = 0; i < MAX_SESSIONS; i++)
		if (c->sessions[i].fd >= 0)
			end_session(&c->sessions[i]);
	loop_remove(c->listener);
	c->vm->control = NULL;
	free(c);
}
