/* hypervisor.c: L0's end of the channel to a guest hypervisor's agent. */
#include "nested/hypervisor.h"

#include "nested/channel.h"
#include "vmm/client.h"

#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

enum { CONNECT_MS = 5000, AGAIN_MS = 500 };

static int open_channel(const char *vm, struct error *e)
{
	int link = vmm_connect(vm, e), fd = -1;
	struct wire_fds fds;

	if (link < 0)
		return -1;
	if (!vmm_simple_request(link, VMB__REQUEST__KIND_HVC, NULL, &fds, CONNECT_MS, e)) {
		fd = wire_take_fd(&fds, 0);
		wire_close_fds(&fds);
	}
	close(link);
	return fd;
}

static Vmb__AgentMessage *ask(struct channel *c, const Vmb__AgentMessage *question,
			      uint64_t deadline, struct error *e)
{
	Vmb__AgentMessage *m;

	while (clock_ns() < deadline) {
		uint64_t again = MIN(deadline, clock_ns() + AGAIN_MS * 1000000ull), now;

		if (channel_send(c, question, AGAIN_MS, e))
			return NULL;
		while ((now = clock_ns()) < again) {
			int r = channel_receive(c, &m, (int)((again - now) / 1000000 + 1), e);

			if (r < 0)
				return NULL;
			if (r && m->id == question->id && m->version == AGENT_VERSION)
				return m;
			if (r)
				vmb__agent_message__free_unpacked(m, NULL);
		}
	}
	error_set(e, "the agent does not answer");
	return NULL;
}

Vmb__AgentMessage *agent_ask(const char *vm, Vmb__AgentMessage *question, int timeout_ms,
			     struct error *e)
{
	uint64_t deadline = clock_ns() + (uint64_t)timeout_ms * 1000000;
	int fd = open_channel(vm, e);
	Vmb__AgentMessage *answer;
	struct channel *c;

	if (fd < 0)
		return NULL;
	/* What is left of somebody else's conversation has another number. */
	if (getrandom(&question->id, sizeof(question->id), 0) < 0)
		question->id = clock_ns();
	question->version = AGENT_VERSION;
	c = xcalloc(1, sizeof(*c));
	channel_init(c, fd);
	answer = ask(c, question, deadline, e);
	free(c);
	close(fd);
	if (answer && answer->error[0]) {
		error_set(e, "%s", answer->error);
		vmb__agent_message__free_unpacked(answer, NULL);
		return NULL;
	}
	return answer;
}
