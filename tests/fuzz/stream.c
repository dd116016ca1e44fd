/* stream.c: what a sender says that lies: messages, and pages.  Nothing is written outside the memory, nothing hangs.
 *
 * Input: 0, then bytes in place of messages; or the number of pages of the memory, then records' headers (stream.h), each of
 * which is followed by as many pages as it announces, up to what a socket holds.  Of a memory with an odd number of pages
 * every third page is missing, as in post-copy, when the records begin.
 */
#include "migrate/postcopy.h"
#include "migrate/session.h"
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
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

/* The memory, mapped here as in a VM's process. */
static struct faults *guard(int memory, uint64_t pages, int *uffd, uint8_t **base)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM};
	int missing = sealed_memfd("missing", STREAM_PAGE, 0, NULL);
	struct faults *f;

	*base = mmap(NULL, pages * STREAM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	*uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (missing < 0 || *base == MAP_FAILED || *uffd < 0 || ioctl(*uffd, UFFDIO_API, &api))
		abort();
	f = faults_create(*uffd, (uintptr_t)*base, memory, pages * STREAM_PAGE, missing, NULL);
	if (!f)
		abort();
	close(missing);
	for (uint32_t chunk = 0; chunk * STREAM_CHUNK_PAGES < pages; chunk++)
		faults_add_missing(f, &(struct stream_record){STREAM_MISSING, chunk,
			0x9249249249249249 & (pages - chunk * STREAM_CHUNK_PAGES >= 64
						      ? ~0ull
						      : (1ull << (pages - chunk * STREAM_CHUNK_PAGES)) - 1), 0});
	if (faults_arm(f, NULL))
		abort();
	return f;
}

static void receive_pages(int fd, uint64_t pages)
{
	struct precopy_extent all = {0, pages * STREAM_PAGE};
	int memory = memfd_create("fuzz", MFD_CLOEXEC), uffd = -1;
	struct faults *faults = NULL;
	uint8_t *base = NULL;
	struct receiver *r;
	struct conn *c;
	struct error e;

	if (memory < 0 || ftruncate(memory, (off_t)(pages * STREAM_PAGE)))
		abort();
	if (pages % 2)
		faults = guard(memory, pages, &uffd, &base);
	r = receiver_create(memory, pages * STREAM_PAGE, &all, 1, 1, faults);
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
	if (faults) {
		faults_free(faults);
		close(uffd);
		munmap(base, pages * STREAM_PAGE);
	}
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

static void seed_pages(uint8_t pages)
{
	const struct stream_record records[] = {
		{STREAM_CHUNK_RECORD, 0, 1, 8}, {STREAM_CHUNK_RECORD, 1, 0, 1}, {STREAM_ROUND, 1, 0, 0},
		{STREAM_CHUNK_RECORD, 0, 0x40, 0x200}, {STREAM_MISSING, 0, 4, 0},	{STREAM_ROUND, 2, 0, 0},
		{STREAM_WANTED, 0, 1, 0},	{STREAM_END, 0, 0, 0},
	};
	uint8_t seed[1 + ARRAY_LEN(records) * STREAM_HEADER] = {pages};

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
	seed_pages(100);
	seed_pages(101);
	seed_messages();
}
