/* hypervisor.c: L0's end of the channel to a guest hypervisor's agent. */
#include "nested/hypervisor.h"

#include "nested/channel.h"
#include "vmm/client.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
#include <unistd.h>

enum { CONNECT_MS = 5000, AGAIN_MS = 500, TURN_MS = 20 };

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

/* One party at a time speaks to an agent: it holds a lock on the host VM's folder.  -1 with *e set if
 * somebody else speaks until the deadline. */
static int take_turn(const char *vm, uint64_t deadline, struct error *e)
{
	char *dir = runtime_path(vm, NULL);
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		error_set(e, "no such VM is running");
	free(dir);
	while (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB)) {
		if (clock_ns() >= deadline) {
			error_set(e, "somebody else speaks to its agent");
			close_fd(&fd);
		}
		poll(NULL, 0, TURN_MS);
	}
	return fd;
}

static Vmb__AgentMessage *ask(struct channel *c, const Vmb__AgentMessage *question,
			      uint64_t deadline, struct error *e)
{
	Vmb__AgentMessage *m;

	while (clock_ns() < deadline) {
		uint64_t again = MIN(deadline, clock_ns() + AGAIN_MS * 1000000ull), now;
		struct pollfd room = {.fd = c->fd, .events = POLLOUT};

		/* (One that is not up yet takes as many questions as its socket holds.) */
		if (poll(&room, 1, 0) > 0 && channel_send(c, question, AGAIN_MS, e))
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
	int turn = take_turn(vm, deadline, e), fd = turn < 0 ? -1 : open_channel(vm, e);
	Vmb__AgentMessage *answer;
	struct channel *c;

	if (fd < 0) {
		close_fd(&turn);
		return NULL;
	}
	/* What is left of somebody else's conversation has another number. */
	if (getrandom(&question->id, sizeof(question->id), 0) < 0)
		question->id = clock_ns();
	question->version = AGENT_VERSION;
	c = xcalloc(1, sizeof(*c));
	channel_init(c, fd);
	answer = ask(c, question, deadline, e);
	free(c);
	close(fd);
	close_fd(&turn);
	if (answer && answer->error[0]) {
		error_set(e, "%s", answer->error);
		vmb__agent_message__free_unpacked(answer, NULL);
		return NULL;
	}
	return answer;
}
