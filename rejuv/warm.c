/* warm.c: the step of a rejuvenation without memory for a second hypervisor (the warm-VM reboot of the literature): the guests are
 * held at L0 while their hypervisor is started anew under its name: steps.h. */
#include "rejuv/steps.h"

#include "nested/hypervisor.h"
#include "rejuv/cli.h"
#include "vmm/client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NOTE_MOST = 64 * 1024 };

static int suspend(const char *guest, struct error *e)
{
	Vmb__Request req = VMB__REQUEST__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;

	req.kind_case = VMB__REQUEST__KIND_SUSPEND;
	req.suspend = &empty;
	return vm_ask(guest, &req, NULL, e);
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
	result = vm_ask(guest, &req, &lease, e);
	close(lease);
	return result;
}

struct hold {
	uint64_t since;
	bool told; /* that it is held */
};

/* It is asked: who asked it to be held may not have heard its answer.  One that does not answer may be; one of an older version does not
 * say. */
static bool is_held(const char *guest, const struct hold *h)
{
	Vmb__Reply *reply;
	struct error e;
	bool held;

	if (vm_info(guest, &reply, &e))
		return runtime_is_held(guest);
	held = reply->info->held || h->told;
	vmb__reply__free_unpacked(reply, NULL);
	return held;
}

/* In its hypervisor if that is there, on the host otherwise: somewhere. */
static int let_go(struct rejuvenation *r, const char *guest, struct hold *h, struct error *e)
{
	struct handover_report report;
	struct error why;
	bool there = !reattach(guest, r->name, &why);
	uint64_t now;

	if (!there) {
		rejuvenation_say(r, "%s: %s; it goes on on the host", guest, why.text);
		r->o.placement = "";
		if (handover_drive(guest, &r->o, &report))
			return error_set(e, "%s: it is held and does not run: %.300s", guest, report.error.text);
	}
	now = clock_ns();
	h->told = false;
	json_array_append_new(r->moves, json_pack("{s:s, s:s, s:s, s:s, s:s, s:I}", "vm", guest, "mode", "warm", "from", r->name, "to",
						  there ? r->name : "host", "outcome", "completed", "downtime_ns",
						  (json_int_t)(now - h->since)));
	rejuvenation_say(r, "%s: runs %s, downtime %.2f ms", guest, there ? "in the fresh one" : "on the host",
			 (double)(now - h->since) / 1e6);
	return there ? rejuvenation_verify(r, guest, r->name, e) : 0;
}

/* ---- what is under way, for who goes on with it: the old one's info, its identity in `detail` */

static int write_note(struct rejuvenation *r, struct error *e)
{
	char *path = replacing_path(r->name), *new = xasprintf("%s.new", path), identity[VM_IDENTITY];
	Vmb__InfoReply *info = r->old->info;
	size_t size;
	uint8_t *packed;
	int fd, result = -1;

	vm_identity(r->name, identity, sizeof(identity));
	free(info->detail == protobuf_c_empty_string ? NULL : info->detail);
	info->detail = xstrdup(identity);
	size = vmb__info_reply__get_packed_size(info);
	packed = xcalloc(1, size);
	vmb__info_reply__pack(info, packed);
	fd = open(new, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd >= 0 && write_all(fd, packed, size) == (ssize_t)size && !rename(new, path))
		result = 0;
	else
		error_set_errno(e, "%s", path);
	close_fd(&fd);
	free(packed);
	free(path);
	free(new);
	return result;
}

/* 1: *info is what is under way, 0: nothing is. */
static Vmb__InfoReply *read_note(const struct rejuvenation *r)
{
	char *path = replacing_path(r->name), *buf = xcalloc(1, NOTE_MOST);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : pread_all(fd, buf, NOTE_MOST, 0);
	Vmb__InfoReply *info = n > 0 ? vmb__info_reply__unpack(NULL, (size_t)n, (uint8_t *)buf) : NULL;

	if (info && (!info->config || info->n_guests > VM_HOST_PORTS)) {
		vmb__info_reply__free_unpacked(info, NULL);
		info = NULL;
	}
	close_fd(&fd);
	free(buf);
	free(path);
	return info;
}

static void take_up(struct rejuvenation *r, Vmb__InfoReply *info)
{
	rejuvenation_clear_old(r);
	r->old = xcalloc(1, sizeof(*r->old));
	vmb__reply__init(r->old);
	r->old->kind_case = VMB__REPLY__KIND_INFO;
	r->old->info = info;
	for (size_t i = 0; i < info->n_guests; i++)
		r->guests[r->nguests++] = info->guests[i];
}

/* The old one is gone from here on, whether or not a new one comes. */
static int start_again(struct rejuvenation *r, struct error *e)
{
	char identity[VM_IDENTITY];

	vm_identity(r->name, identity, sizeof(identity));
	if (runtime_is_held(r->name) && strcmp(identity, r->old->info->detail)) {
		if (!rejuvenation_look_at_fresh(r, r->name, e))
			return 0;
		if (rejuvenation_end(r->name, e)) /* it was cut off while it came up */
			return -1;
	} else if (runtime_is_held(r->name) && rejuvenation_retire_old(r, e)) {
		return -1;
	}
	return rejuvenation_launch(r, r->name, e) || rejuvenation_look_at_fresh(r, r->name, e) ? -1 : 0;
}

/* All that are held; 0, or -1 and *e. */
static int let_all_go(struct rejuvenation *r, struct hold *hold, struct error *e)
{
	int result = 0;

	for (size_t i = 0; i < r->nguests; i++) {
		struct error why;

		if (!is_held(r->guests[i], &hold[i]) || !let_go(r, r->guests[i], &hold[i], &why))
			continue;
		*e = why;
		result = -1;
	}
	r->held = false;
	for (size_t i = 0; i < r->nguests; i++)
		r->held = r->held || is_held(r->guests[i], &hold[i]);
	return result;
}

static void remove_note(const struct rejuvenation *r)
{
	char *path = replacing_path(r->name);

	unlink(path);
	free(path);
}

int rejuvenation_replace(struct rejuvenation *r, struct error *e)
{
	struct hold hold[VM_HOST_PORTS] = {{.since = 0}};
	Vmb__InfoReply *before = read_note(r);
	char identity[VM_IDENTITY];
	int result = 0, started;
	struct error why;

	if (before)
		take_up(r, before);
	else if (write_note(r, e))
		return -1;
	for (size_t i = 0; i < r->nguests; i++)
		hold[i] = (struct hold){.since = clock_ns()}; /* (of one that was held before nobody knows since when) */
	for (size_t i = 0; i < r->nguests && !result; i++) {
		hold[i].since = clock_ns();
		result = suspend(r->guests[i], e);
		hold[i].told = !result;
		if (before) /* it may be on the host by now, or have ended */
			result = 0;
	}
	if (!result) {
		rejuvenation_say(r, "%zu guest VMs are held", r->nguests);
		result = start_again(r, e);
	}
	started = !result;
	if (let_all_go(r, hold, &why) && !result) {
		*e = why;
		result = -1;
	}
	for (size_t i = 0; i < r->nguests && started; i++) {
		if (!rejuvenation_is_there(r->guests[i], "") ||
		    (!rejuvenation_move(r, r->guests[i], r->name, &why) && !rejuvenation_verify(r, r->guests[i], r->name, &why)))
			continue;
		if (!result)
			*e = why;
		result = -1;
	}
	vm_identity(r->name, identity, sizeof(identity));
	if (!result || (!r->held && runtime_is_held(r->name) && !strcmp(identity, r->old->info->detail)))
		remove_note(r);
	else if (!started)
		rejuvenation_say(r, "%s has not come up: the same again starts it, and brings its guests back", r->name);
	return result;
}

int rejuvenation_give_up(struct rejuvenation *r, struct error *e)
{
	struct hold hold[VM_HOST_PORTS];
	Vmb__InfoReply *before = read_note(r);
	int result;

	if (before)
		take_up(r, before);
	for (size_t i = 0; i < r->nguests; i++)
		hold[i] = (struct hold){.since = clock_ns()};
	result = let_all_go(r, hold, e);
	if (!r->held)
		remove_note(r);
	return result;
}
