/* channel.c: any bytes on the channel between L0 and a guest hypervisor's agent, in pieces of any size:
 * nothing but whole messages comes out, and after the bytes a message is still found.
 *
 * Input: size of the pieces, then the bytes.
 */
#include "nested/channel.h"
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LAST = 0x1234567 };

static bool read_all_there_is(struct channel *c)
{
	Vmb__AgentMessage *m;
	struct error e;
	bool last = false;

	while (channel_receive(c, &m, 0, &e) > 0) {
		last = m->id == LAST;
		vmb__agent_message__free_unpacked(m, NULL);
	}
	return last;
}

void fuzz_one(const uint8_t *data, size_t len)
{
	static struct channel here, there;
	struct input in = {data, len};
	size_t piece = take(&in, 1) + 1;
	Vmb__AgentMessage m = VMB__AGENT_MESSAGE__INIT;
	static const uint8_t zeros[4096];
	bool found = false;
	struct error e;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair))
		abort();
	channel_init(&here, pair[0]);
	channel_init(&there, pair[1]);
	while (in.left) {
		size_t n = MIN(piece, in.left);

		if (write(pair[0], in.at, n) != (ssize_t)n)
			abort();
		in.at += n;
		in.left -= n;
		read_all_there_is(&there);
	}
	/* A frame that was begun swallows at most its length. */
	for (size_t i = 0; i <= CHANNEL_MAX_MESSAGE / sizeof(zeros) + 1; i++) {
		if (write(pair[0], zeros, sizeof(zeros)) < 0)
			abort();
		read_all_there_is(&there);
	}
	m.id = LAST;
	for (int i = 0; i < 2; i++)
		if (channel_send(&here, &m, 1000, &e))
			abort();
	found = read_all_there_is(&there);
	if (!found)
		abort();
	close(pair[0]);
	close(pair[1]);
}

void fuzz_seeds(void)
{
	static const uint8_t hello[] = {0,   0x7f, 'V', 'M', 'A', 4, 0, 0, 0, 8, 1, 0x22, 0,
					0x7f, 'V', 'M', 'A', 2,   0, 0, 0, 8, 1};

	add_seed(hello, sizeof(hello));
	add_seed((uint8_t[]){255, 0x7f, 'V', 'M', 'A', 0xff, 0xff, 0, 0}, 9);
}
