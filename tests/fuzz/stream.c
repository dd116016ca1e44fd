/* stream.c: what a sender says that lies: messages, and pages.  Nothing is written outside the memory, nothing hangs.
 *
 * Input: 0, then bytes in place of messages; or the number of pages of the memory, then records' headers (stream.h), each of
 * which is followed by as many pages as it announces, up to what a socket holds.
 */
#include "migrate/precopy.h"
#include "migrate/session.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SOCKET_BUFFER = 8 << 20 };

static void put(int fd, const void *data, size_t len)
{
	if (send(fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return; /* full: the sender has gone in the middle */
}

static void send_records(int fd, struct input in)
{
	static uint8_t pages[STREAM_CHUNK];

	memset(pages, 0x5a, sizeof(pages));
	while (in.left) {
		struct input header = take_part(&in, STREAM_HEADER);
		struct stream_record r;

		put(fd, header.at, header.left);
		if (header.left == STREAM_HEADER && !stream_unpack(header.at, 1 << 20, &r, NULL) && r.data)
			put(fd, pages, (size_t)__builtin_popcountll(r.data) * STREAM_PAGE);
	}
}

static void receive_pages(int fd, uint64_t pages)
{
	struct precopy_extent all = {0, pages * STREAM_PAGE};
	int memory = memfd_create("fuzz", MFD_CLOEXEC);
	struct receiver *r;
	struct conn *c;
	struct error e;

	if (memory < 0 || ftruncate(memory, (off_t)(pages * STREAM_PAGE)))
		abort();
	r = receiver_create(memory, pages * STREAM_PAGE, &all, 1, 1);
	c = conn_new(fd, NULL, &e);
	if (!c)
		abort();
	e.text[0] = 0;
	if (receiver_serve(r, c, &e) && !e.text[0])
		abort();
	conn_free(c);
	receiver_free(r);
	/* A write behind the end would have made it longer. */
	if (lseek(memory, 0, SEEK_END) != (off_t)(pages * STREAM_PAGE))
		abort();
	close(memory);
}

static void receive_messages(int fd)
{
	struct error e;
	struct conn *c = conn_new(fd, NULL, &e);
	Vmb__NetMessage *m;

	if (!c)
		abort();
	e.text[0] = 0;
	while (!net_receive(c, VMB__NET_MESSAGE__KIND__NOT_SET, &m, &e))
		vmb__net_message__free_unpacked(m, NULL);
	if (!e.text[0])
		abort();
	conn_free(c);
}

void fuzz_one(const uint8_t *data, size_t len)
{
	struct input in = {data, len};
	uint64_t pages = take(&in, 1);
	int pair[2], size = SOCKET_BUFFER;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		abort();
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	if (pages)
		send_records(pair[0], in);
	else
		put(pair[0], in.at, in.left);
	shutdown(pair[0], SHUT_WR);
	if (pages)
		receive_pages(pair[1], pages);
	else
		receive_messages(pair[1]);
	close(pair[0]);
}

static void seed_pages(void)
{
	const struct stream_record records[] = {
		{STREAM_CHUNK_RECORD, 0, 3, 4}, {STREAM_CHUNK_RECORD, 1, 0, 1}, {STREAM_ROUND, 1, 0, 0},
		{STREAM_CHUNK_RECORD, 0, 4, 3}, {STREAM_ROUND, 2, 0, 0},	{STREAM_END, 0, 0, 0},
	};
	uint8_t seed[1 + ARRAY_LEN(records) * STREAM_HEADER] = {100};

	for (size_t i = 0; i < ARRAY_LEN(records); i++)
		stream_pack(&records[i], seed + 1 + i * STREAM_HEADER);
	add_seed(seed, sizeof(seed));
}

static void seed_messages(void)
{
	Vmb__NetMessage m = VMB__NET_MESSAGE__INIT;
	Vmb__NetHello hello = VMB__NET_HELLO__INIT;
	uint8_t *packed, seed[512] = {0};
	size_t len;

	hello.version = NET_VERSION;
	hello.connections = 2;
	m.kind_case = VMB__NET_MESSAGE__KIND_HELLO;
	m.hello = &hello;
	len = pack_message(&m.base, &packed);
	seed[1] = (uint8_t)len;
	memcpy(seed + 5, packed, len);
	free(packed);
	add_seed(seed, 5 + len);
}

void fuzz_seeds(void)
{
	seed_pages();
	seed_messages();
}
