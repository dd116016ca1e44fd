/* tracking.c: the contract is in tracking.h. */
#include "migrate/tracking.h"
#include "migrate/session.h"
#include "migrate/stream.h"
#include "vmm/client.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int tracking_begin(struct tracking *t, const Vmb__VmConfig *c, struct error *e)
{
	Vmb__Request r = VMB__REQUEST__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;
	size_t bytes;
	int fd;

	t->words = (c->memory / STREAM_PAGE + 63) / 64;
	bytes = t->words * sizeof(*t->written);
	fd = sealed_memfd("vmbeam-written", bytes, 0, e);
	if (fd < 0)
		return -1;
	t->written = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	t->control = t->written == MAP_FAILED ? error_set_errno(e, "mmap") : vmm_connect(c->name, e);
	r.kind_case = VMB__REQUEST__KIND_TRACK;
	r.track = &empty;
	if (t->control >= 0 && vmm_request(t->control, &r, &fd, 1, NULL, NULL, NET_TIMEOUT_MS, e))
		close_fd(&t->control);
	close(fd);
	return t->control < 0 ? -1 : 0;
}

static void take(struct tracking *t, uint64_t *dirty)
{
	for (size_t i = 0; i < t->words; i++)
		dirty[i] |= t->written[i];
	memset(t->written, 0, t->words * sizeof(*t->written));
}

int tracking_collect(struct tracking *t, uint64_t *dirty, struct error *e)
{
	if (vmm_simple_request(t->control, VMB__REQUEST__KIND_COLLECT, NULL, NULL, NET_TIMEOUT_MS, e))
		return -1;
	take(t, dirty);
	return 0;
}

int tracking_throttle(struct tracking *t, unsigned int percent, struct error *e)
{
	Vmb__Request r = VMB__REQUEST__INIT;
	Vmb__ThrottleRequest throttle = VMB__THROTTLE_REQUEST__INIT;

	throttle.percent = percent;
	r.kind_case = VMB__REQUEST__KIND_THROTTLE;
	r.throttle = &throttle;
	return vmm_request(t->control, &r, NULL, 0, NULL, NULL, NET_TIMEOUT_MS, e);
}

int tracking_await_capture(struct tracking *t, int link, struct wire_fds *clients, uint64_t *dirty, struct error *e)
{
	ProtobufCMessage *m;
	bool captured;

	if (wire_recv(link, &vmb__link__descriptor, &m, clients, -1, e) != 1)
		return error_set(e, "the source has given up");
	captured = ((Vmb__Link *)m)->kind_case == VMB__LINK__KIND_CAPTURED;
	protobuf_c_message_free_unpacked(m, NULL);
	if (!captured) {
		wire_close_fds(clients);
		return error_set(e, "the source has given up");
	}
	take(t, dirty);
	return 0;
}
