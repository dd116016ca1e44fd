/* test_devices.c: disks and networks under drivers that are right, slow, wrong and hostile. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_pci.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	SIZE = 256,
	DISK_SECTORS = 2048, /* 1 MiB */
	HEADER = GUEST_BUFFERS,
	STATUS = GUEST_BUFFERS + 64,
	DATA = GUEST_BUFFERS + 0x1000,
	FAILS = 0x100, /* instead of a status: the device must fail */
	N = VRING_DESC_F_NEXT,
	W = VRING_DESC_F_WRITE,
};

static struct vm *vm;
static struct vm_ends ends;
static struct virtio_device *dev;

static void open_device(const struct vm_spec *s, uint64_t features)
{
	vm = make_vm(s, &ends);
	dev = vm->virtio[0];
	driver_start(dev, features, SIZE);
}

static struct guest_queue ring(unsigned int q)
{
	return guest_queue(dev, q);
}

static bool has_failed(void)
{
	return dev->status & VIRTIO_CONFIG_S_NEEDS_RESET;
}

/* ---- disks */

static uint8_t *data(void)
{
	return guest_memory(vm, DATA);
}

static void put_header(uint32_t type, uint64_t sector)
{
	struct virtio_blk_outhdr h = {.type = type, .sector = sector};

	memcpy(guest_memory(vm, HEADER), &h, sizeof(h));
}

/* One request of header, data and status; returns the status, FAILS, or -1 if nothing came back. */
static int request(uint32_t type, uint64_t sector, uint32_t header, uint32_t len, uint32_t status)
{
	bool to_guest = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
	struct guest_queue q = ring(0);
	uint16_t before = q.used->idx;
	uint8_t *s = guest_memory(vm, STATUS);

	put_header(type, sector);
	*s = 0xee;
	q.desc[0] = (struct vring_desc){HEADER, header, N, 1};
	q.desc[1] = (struct vring_desc){DATA, len, (uint16_t)(N | (to_guest ? W : 0)), 2};
	q.desc[2] = (struct vring_desc){STATUS, status, W, 0};
	guest_add(dev, 0, 0);
	guest_kick(dev, 0);
	if (has_failed())
		return FAILS;
	return q.used->idx == before ? -1 : *s;
}

UNIT(disk, answers_each_request_as_it_deserves)
{
	static const struct {
		uint32_t type;
		uint64_t sector;
		uint32_t header, len, status;
		int answer;
		bool read_only;
	} table[] = {
		{VIRTIO_BLK_T_IN, 0, 16, 512, 1, VIRTIO_BLK_S_OK, false},
		{VIRTIO_BLK_T_IN, DISK_SECTORS - 1, 16, 512, 1, VIRTIO_BLK_S_OK, false},
		{VIRTIO_BLK_T_IN, 0, 16, 1 << 20, 1, VIRTIO_BLK_S_OK, false},
		{VIRTIO_BLK_T_IN, 0, 16, 512, 1, VIRTIO_BLK_S_OK, true},
		{VIRTIO_BLK_T_IN, DISK_SECTORS, 16, 512, 1, VIRTIO_BLK_S_IOERR, false},
		{VIRTIO_BLK_T_IN, DISK_SECTORS - 1, 16, 1024, 1, VIRTIO_BLK_S_IOERR, false},
		{VIRTIO_BLK_T_IN, UINT64_MAX, 16, 512, 1, VIRTIO_BLK_S_IOERR, false},
		{VIRTIO_BLK_T_IN, 1ull << 55, 16, 512, 1, VIRTIO_BLK_S_IOERR, false},
		{VIRTIO_BLK_T_IN, (1ull << 55) - 1, 16, 1024, 1, VIRTIO_BLK_S_IOERR, false},
		{VIRTIO_BLK_T_IN, 0, 16, 511, 1, VIRTIO_BLK_S_IOERR, false},
		{VIRTIO_BLK_T_IN, 0, 16, 513, 1, VIRTIO_BLK_S_IOERR, false},
		{VIRTIO_BLK_T_IN, 0, 16, 0, 1, VIRTIO_BLK_S_IOERR, false},
		{VIRTIO_BLK_T_OUT, 0, 16, 512, 1, VIRTIO_BLK_S_OK, false},
		{VIRTIO_BLK_T_OUT, DISK_SECTORS - 2, 16, 1024, 1, VIRTIO_BLK_S_OK, false},
		{VIRTIO_BLK_T_OUT, DISK_SECTORS - 1, 16, 1024, 1, VIRTIO_BLK_S_IOERR, false},
		{VIRTIO_BLK_T_OUT, DISK_SECTORS, 16, 512, 1, VIRTIO_BLK_S_IOERR, false},
		{VIRTIO_BLK_T_OUT, UINT64_MAX, 16, 1024, 1, VIRTIO_BLK_S_IOERR, false},
		{VIRTIO_BLK_T_OUT, 0, 16, 100, 1, VIRTIO_BLK_S_IOERR, false},
		{VIRTIO_BLK_T_OUT, 0, 16, 512, 1, VIRTIO_BLK_S_IOERR, true},
		{VIRTIO_BLK_T_FLUSH, 0, 16, 0, 1, VIRTIO_BLK_S_OK, false},
		{VIRTIO_BLK_T_FLUSH, 0, 16, 0, 1, VIRTIO_BLK_S_OK, true},
		{VIRTIO_BLK_T_GET_ID, 0, 16, 20, 1, VIRTIO_BLK_S_OK, false},
		{VIRTIO_BLK_T_GET_ID, 0, 16, 3, 1, VIRTIO_BLK_S_OK, false},
		{VIRTIO_BLK_T_GET_ID, 0, 16, 0, 1, VIRTIO_BLK_S_OK, false},
		{7, 0, 16, 512, 1, VIRTIO_BLK_S_UNSUPP, false},
		{0xffffffff, 0, 16, 512, 1, VIRTIO_BLK_S_UNSUPP, false},
		{VIRTIO_BLK_T_OUT, 0, 15, 0, 1, FAILS, false},
		{VIRTIO_BLK_T_OUT, 0, 0, 15, 1, FAILS, false},
		{VIRTIO_BLK_T_OUT, 0, 16, 512, 0, FAILS, false},
		{VIRTIO_BLK_T_FLUSH, 0, 16, 0, 0, FAILS, false},
	};

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		int r;

		open_device(&(struct vm_spec){.disks = 1, .read_only = table[i].read_only}, 0);
		r = request(table[i].type, table[i].sector, table[i].header, table[i].len,
			    table[i].status);
		cr_expect_eq(r, table[i].answer, "row %zu: %d", i, r);
		cr_expect_eq(dev->ops->inflight(dev), 0u);
		destroy_vm(vm, &ends);
	}
}

UNIT(disk, discards_and_zeroes_what_lies_on_it)
{
	static const struct {
		uint32_t type;
		uint64_t sector;
		uint32_t sectors, len;
		int answer;
		bool read_only;
	} table[] = {
		{VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, 16, VIRTIO_BLK_S_OK, false},
		{VIRTIO_BLK_T_DISCARD, 8, 8, 16, VIRTIO_BLK_S_OK, false},
		{VIRTIO_BLK_T_DISCARD, 0, DISK_SECTORS, 16, VIRTIO_BLK_S_OK, false},
		{VIRTIO_BLK_T_DISCARD, 0, DISK_SECTORS + 1, 16, VIRTIO_BLK_S_IOERR, false},
		{VIRTIO_BLK_T_DISCARD, 1, DISK_SECTORS, 16, VIRTIO_BLK_S_IOERR, false},
		{VIRTIO_BLK_T_DISCARD, UINT64_MAX, 2, 16, VIRTIO_BLK_S_IOERR, false},
		{VIRTIO_BLK_T_DISCARD, UINT64_MAX - 1, 0xffffffff, 16, VIRTIO_BLK_S_IOERR, false},
		{VIRTIO_BLK_T_DISCARD, 8, 0, 16, VIRTIO_BLK_S_IOERR, false},
		{VIRTIO_BLK_T_DISCARD, 8, 8, 15, VIRTIO_BLK_S_IOERR, false},
		{VIRTIO_BLK_T_DISCARD, 8, 8, 32, VIRTIO_BLK_S_IOERR, false},
		{VIRTIO_BLK_T_DISCARD, 8, 8, 16, VIRTIO_BLK_S_IOERR, true},
		{VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, 16, VIRTIO_BLK_S_IOERR, true},
	};

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		struct virtio_blk_discard_write_zeroes z = {.sector = table[i].sector,
							    .num_sectors = table[i].sectors};
		uint8_t around[3 * 512];
		bool done = table[i].answer == VIRTIO_BLK_S_OK;

		open_device(&(struct vm_spec){.disks = 1, .read_only = table[i].read_only}, 0);
		for (unsigned int s = 0; s < DISK_SECTORS; s++)
			cr_assert_eq(pwrite(ends.disk[0], "x", 1, s * 512), 1);
		memcpy(data(), &z, sizeof(z));
		cr_expect_eq(request(table[i].type, 0, 16, table[i].len, 1), table[i].answer, "row %zu", i);
		cr_assert_eq(pread(ends.disk[0], around, sizeof(around), 7 * 512), (ssize_t)sizeof(around));
		cr_expect_eq(around[512], done ? 0 : 'x', "row %zu", i);
		cr_expect_eq(around[0], done && table[i].sectors == DISK_SECTORS ? 0 : 'x', "row %zu", i);
		cr_assert_eq(lseek(ends.disk[0], 0, SEEK_END), DISK_SECTORS * 512);
		destroy_vm(vm, &ends);
	}
}

/* The parts of a request may be cut and joined as a driver likes. */
UNIT(disk, moves_data_whatever_the_buffers_look_like)
{
	static const struct {
		bool direct;
		uint64_t at;
		uint32_t first; /* bytes of the first data part */
	} table[] = {
		{false, DATA, 512}, {false, DATA + 1, 100}, {false, DATA + 7, 1023},
		{true, DATA, 1024}, {true, DATA + 1, 100},  {true, DATA + 512, 511},
	};
	uint8_t sent[1024], on_disk[1024];

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		struct guest_queue q;
		uint8_t *p;
		uint32_t rest = 1024 - table[i].first;

		fake.direct_io = table[i].direct;
		open_device(&(struct vm_spec){.disks = 1}, 0);
		q = ring(0);
		p = guest_memory(vm, table[i].at);
		for (size_t k = 0; k < sizeof(sent); k++)
			p[k] = sent[k] = (uint8_t)(k * 5 + i);
		put_header(VIRTIO_BLK_T_OUT, 3);
		/* The header in two parts. */
		q.desc[0] = (struct vring_desc){HEADER, 5, N, 1};
		q.desc[1] = (struct vring_desc){HEADER + 5, 11, N, 2};
		q.desc[2] = (struct vring_desc){table[i].at, table[i].first, N, 3};
		q.desc[3] = (struct vring_desc){table[i].at + table[i].first, rest, N, 4};
		q.desc[4] = (struct vring_desc){STATUS, 1, W, 0};
		guest_add(dev, 0, 0);
		guest_kick(dev, 0);
		cr_assert_eq(q.used->ring[0].len, 1u);
		cr_assert_eq(*(uint8_t *)guest_memory(vm, STATUS), VIRTIO_BLK_S_OK);
		cr_assert_eq(pread(ends.disk[0], on_disk, 1024, 3 * 512), 1024);
		cr_assert_arr_eq(on_disk, sent, 1024);

		/* Back, the status in one part with the data's end. */
		memset(p, 0, 1025);
		put_header(VIRTIO_BLK_T_IN, 3);
		q.desc[2] = (struct vring_desc){table[i].at, table[i].first, N | W, 3};
		q.desc[3] = (struct vring_desc){table[i].at + table[i].first, rest + 1, W, 0};
		p[1024] = 0xee;
		guest_add(dev, 0, 0);
		guest_kick(dev, 0);
		cr_assert_eq(q.used->ring[1].len, 1025u, "%u", q.used->ring[1].len);
		cr_assert_arr_eq(p, sent, 1024);
		cr_assert_eq(p[1024], VIRTIO_BLK_S_OK);
		destroy_vm(vm, &ends);
	}
}

UNIT(disk, says_so_when_the_disk_fails)
{
	open_device(&(struct vm_spec){.disks = 1}, 0);
	fake_disk = DISK_ERROR;
	cr_assert_eq(request(VIRTIO_BLK_T_IN, 0, 16, 512, 1), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(request(VIRTIO_BLK_T_FLUSH, 0, 16, 0, 1), VIRTIO_BLK_S_IOERR);
	fake_disk = DISK_SHORT;
	cr_assert_eq(request(VIRTIO_BLK_T_OUT, 0, 16, 512, 1), VIRTIO_BLK_S_IOERR);
	fake_disk = DISK_WORKS;
	cr_assert_eq(request(VIRTIO_BLK_T_IN, 0, 16, 512, 1), VIRTIO_BLK_S_OK);
	destroy_vm(vm, &ends);
}

static void add_read(unsigned int n)
{
	struct guest_queue q = ring(0);

	put_header(VIRTIO_BLK_T_IN, 0);
	q.desc[0] = (struct vring_desc){HEADER, 16, N, 1};
	q.desc[1] = (struct vring_desc){DATA, 513, W, 0};
	while (n--)
		guest_add(dev, 0, 0);
}

UNIT(disk, goes_on_when_a_full_ring_has_room_again)
{
	open_device(&(struct vm_spec){.disks = 1}, 0);
	fake_disk = DISK_HANGS;
	add_read(1);
	guest_kick(dev, 0);
	fake_disk = DISK_RING_FULL;
	add_read(3);
	guest_kick(dev, 0);
	cr_assert_eq(fake_disk_requests, 1u);
	fake_disk = DISK_WORKS; /* and nothing of this disk's is under way */
	run_loop(vm);
	cr_assert_eq(ring(0).used->idx, 4, "%u of 4", ring(0).used->idx);
	destroy_vm(vm, &ends);
}

UNIT(disk, is_not_reset_before_its_last_request_is_done)
{
	uint32_t c;

	open_device(&(struct vm_spec){.disks = 1}, 0);
	c = virtio_structure(dev, VIRTIO_PCI_CAP_COMMON_CFG, NULL);
	fake_disk = DISK_HANGS;
	add_read(2);
	guest_kick(dev, 0);
	bar_set(dev, c + VIRTIO_PCI_COMMON_STATUS, 0, 1);
	cr_assert_neq(bar_get(dev, c + VIRTIO_PCI_COMMON_STATUS, 1), 0);
	bar_set(dev, c + VIRTIO_PCI_COMMON_STATUS, 15, 1); /* an impatient driver */
	cr_assert_neq(bar_get(dev, c + VIRTIO_PCI_COMMON_STATUS, 1), 15);
	fake_disk = DISK_WORKS;
	run_loop(vm);
	ring_wait(vm->ring, 0);
	cr_assert_eq(bar_get(dev, c + VIRTIO_PCI_COMMON_STATUS, 1), 0);
	cr_assert_eq(ring(0).used->idx, 0, "it wrote to memory that is no longer its");
	driver_start(dev, 0, SIZE);
	cr_assert_eq(request(VIRTIO_BLK_T_IN, 0, 16, 512, 1), VIRTIO_BLK_S_OK);
	destroy_vm(vm, &ends);
}

/* A driver that adds chains before it has the old ones back: it has none to add. */
UNIT(disk, has_never_more_requests_under_way_than_its_queue_holds)
{
	open_device(&(struct vm_spec){.disks = 1}, 0);
	fake_disk = DISK_HANGS;
	for (int i = 0; i < 5; i++) {
		add_read(SIZE);
		guest_kick(dev, 0);
	}
	cr_assert_leq(fake_disk_requests, SIZE, "%u", fake_disk_requests);
	cr_assert(has_failed());
	destroy_vm(vm, &ends);
}

UNIT(disk, takes_up_requests_that_came_while_it_was_stopped)
{
	struct error e;

	open_device(&(struct vm_spec){.disks = 1}, 0);
	vm_lock(vm);
	cr_assert_eq(vm_drain(vm, 1000000, &e), 0);
	vm_unlock(vm);
	add_read(3);
	guest_kick(dev, 0);
	cr_assert_eq(fake_disk_requests, 0u);
	vm_uncapture(vm, NULL);
	run_loop(vm);
	cr_assert_eq(ring(0).used->idx, 3);
	destroy_vm(vm, &ends);
}

/* The real io_uring, with the restrictions it is given: only what disks need, on their files only. */
UNIT(disk, works_on_a_ring_that_can_do_nothing_else)
{
	static const uint8_t refused[] = {IORING_OP_NOP,    IORING_OP_READ,   IORING_OP_OPENAT,
					  IORING_OP_ACCEPT, IORING_OP_CONNECT, IORING_OP_SEND};
	uint8_t back[512] = "";

	real_ring = true;
	open_device(&(struct vm_spec){.disks = 1}, 0);
	memset(data(), 'r', 512);
	for (int i = 0; i < 2; i++) {
		uint64_t start = clock_ns();
		int r = request(i ? VIRTIO_BLK_T_FLUSH : VIRTIO_BLK_T_OUT, 1, 16, i ? 0 : 512, 1);

		while (r == -1 && clock_ns() - start < 5000000000u) {
			loop_once(vm->loop, 100);
			r = ring(0).used->idx == i + 1 ? *(uint8_t *)guest_memory(vm, STATUS) : -1;
		}
		cr_assert_eq(r, VIRTIO_BLK_S_OK);
	}
	cr_assert_eq(pread(ends.disk[0], back, 512, 512), 512);
	cr_assert_eq(back[511], 'r');
	for (size_t i = 0; i <= ARRAY_LEN(refused); i++) {
		struct io_uring *u = (struct io_uring *)vm->ring; /* its first member */
		struct io_uring_sqe *sqe = io_uring_get_sqe(u);
		struct io_uring_cqe *cqe;

		memset(sqe, 0, sizeof(*sqe));
		sqe->opcode = i < ARRAY_LEN(refused) ? refused[i] : IORING_OP_READV;
		sqe->flags = i < ARRAY_LEN(refused) ? IOSQE_FIXED_FILE : 0; /* the last: not by index */
		sqe->fd = i < ARRAY_LEN(refused) ? 0 : ends.disk[0];
		cr_assert_eq(io_uring_submit_and_wait(u, 1), 1);
		cr_assert_eq(io_uring_peek_cqe(u, &cqe), 0);
		cr_expect_eq(cqe->res, -EACCES, "operation %u: %d", sqe->opcode, cqe->res);
		io_uring_cqe_seen(u, cqe);
	}
	destroy_vm(vm, &ends);
}

/* ---- networks */

enum {
	RX = 0,
	TX = 1,
	NET_HEADER = 12,
	BIGGEST = 65536 + NET_HEADER,
	TX_DATA = 0x500000,
	RX_DATA = 0x400000
};

static void transmit(uint32_t len)
{
	struct guest_queue q = ring(TX);

	q.desc[0] = (struct vring_desc){TX_DATA, len, 0, 0};
	guest_add(dev, TX, 0);
	guest_kick(dev, TX);
}

UNIT(net, sends_frames_of_possible_lengths_and_fails_on_others)
{
	static const struct {
		uint32_t len;
		bool good;
	} table[] = {{0, false}, {11, false}, {12, true}, {72, true}, {1526, true}, {BIGGEST, true},
		     {BIGGEST + 1, false}};
	static uint8_t got[BIGGEST + 10];

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		uint8_t *p;
		ssize_t n;

		open_device(&(struct vm_spec){.nets = 1}, 0);
		p = guest_memory(vm, TX_DATA);
		for (uint32_t k = 0; k < table[i].len; k++)
			p[k] = (uint8_t)(k * 13);
		transmit(table[i].len);
		n = recv(ends.tap[0], got, sizeof(got), 0);
		cr_expect_eq(n, table[i].good ? (ssize_t)table[i].len : -1, "%u: %zd", table[i].len, n);
		if (n > 0)
			cr_expect_arr_eq(got, p, (size_t)n);
		cr_expect_eq(has_failed(), !table[i].good, "%u", table[i].len);
		cr_expect_eq(ring(TX).used->idx, table[i].good);
		destroy_vm(vm, &ends);
	}
}

UNIT(net, says_where_it_is_when_it_has_come_from_elsewhere)
{
	/* RFC 903: a broadcast, from its address; Ethernet, IPv4, request reverse, its address as sender's and as target's. */
	static const uint8_t body[] = {0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3};
	uint8_t frame[2000], mac[6];

	open_device(&(struct vm_spec){.nets = 1}, 0);
	vm_lock(vm);
	vm_announce(vm);
	vm_unlock(vm);
	cr_assert_eq(recv(ends.tap[0], frame, sizeof(frame), 0), NET_HEADER + 60);
	memcpy(mac, dev->config, 6);
	for (size_t i = 0; i < NET_HEADER; i++)
		cr_expect_eq(frame[i], 0);
	for (size_t i = 0; i < 6; i++)
		cr_expect_eq(frame[NET_HEADER + i], 0xff);
	cr_expect_arr_eq(frame + NET_HEADER + 6, mac, 6);
	cr_expect_arr_eq(frame + NET_HEADER + 12, body, sizeof(body));
	cr_expect_arr_eq(frame + NET_HEADER + 22, mac, 6);
	cr_expect_arr_eq(frame + NET_HEADER + 32, mac, 6);
	destroy_vm(vm, &ends);
}

UNIT(net, waits_for_a_tap_that_takes_no_more)
{
	uint8_t got[200];
	unsigned int n = 0;

	open_device(&(struct vm_spec){.nets = 1}, 0);
	for (uint8_t i = 0; i < 200; i++) { /* far beyond the socket's queue */
		*(uint8_t *)guest_memory(vm, TX_DATA + i * 128u) = i;
		ring(TX).desc[i] = (struct vring_desc){TX_DATA + i * 128u, 100, 0, 0};
		guest_add(dev, TX, i);
	}
	for (int round = 0; round < 300 && n < 200; round++) {
		guest_kick(dev, TX);
		while (n < 200 && recv(ends.tap[0], got, sizeof(got), 0) == 100)
			cr_assert_eq(got[0], n++, "lost or out of order");
	}
	cr_assert_eq(n, 200u);
	cr_assert_eq(ring(TX).used->idx, 200);
	destroy_vm(vm, &ends);
}

static void offer(unsigned int count, uint32_t size)
{
	struct guest_queue q = ring(RX);

	for (unsigned int i = 0; i < count; i++) {
		q.desc[i] = (struct vring_desc){RX_DATA + i * size, size, W, 0};
		guest_add(dev, RX, (uint16_t)i);
	}
	guest_kick(dev, RX);
}

static void arrive(size_t len, uint8_t seed)
{
	static uint8_t frame[BIGGEST + 1000];

	memset(frame, 0, NET_HEADER);
	for (size_t i = NET_HEADER; i < len; i++)
		frame[i] = (uint8_t)(i * 31 + seed);
	cr_assert_eq(send(ends.tap[0], frame, len, 0), (ssize_t)len);
	run_loop(vm);
}

/* The next frame as a driver puts it together; its length, 0 if there is none. */
static size_t take_frame(uint16_t *seen, uint32_t size, uint8_t seed)
{
	struct guest_queue q = ring(RX);
	size_t len = 0, have;
	uint16_t buffers = 1;

	if (q.used->idx == *seen)
		return 0;
	memcpy(&buffers,
	       guest_memory(vm, RX_DATA + q.used->ring[*seen % SIZE].id * size +
					offsetof(struct virtio_net_hdr_mrg_rxbuf, num_buffers)),
	       2);
	cr_assert(buffers && (uint16_t)(q.used->idx - *seen) >= buffers);
	for (; buffers; buffers--, ++*seen) {
		const struct vring_used_elem *u = &q.used->ring[*seen % SIZE];
		const uint8_t *p = guest_memory(vm, RX_DATA + u->id * size);

		have = u->len;
		cr_assert_leq(have, size);
		for (size_t i = len ? 0 : NET_HEADER; i < have; i++)
			cr_assert_eq(p[i], (uint8_t)((len + i) * 31 + seed), "byte %zu", len + i);
		len += have;
	}
	return len;
}

UNIT(net, receives_frames_into_one_or_several_buffers)
{
	static const struct {
		bool merge;
		unsigned int buffers;
		uint32_t size;
		size_t frame, got;
	} table[] = {
		{true, 4, 4096, 72, 72},
		{true, 4, 4096, 4096, 4096},
		{true, 4, 4096, 4097, 4097},
		{true, 20, 4096, BIGGEST, BIGGEST},
		{true, 64, 1536, BIGGEST, BIGGEST}, /* what Linux offers when frames were small lately */
		{true, 250, 264, BIGGEST, BIGGEST},
		{true, 2, 1536, 3073, 0}, /* no room: lost as on a wire, the buffers are not */
		{true, 1, 12, 72, 0},
		{false, 4, 2048, 72, 72},
		{false, 4, 2048, 2048, 2048},
		{false, 4, 2048, 2049, 0},
	};

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		uint16_t seen = 0;

		open_device(&(struct vm_spec){.nets = 1},
			    table[i].merge ? 1ull << VIRTIO_NET_F_MRG_RXBUF : 0);
		offer(table[i].buffers, table[i].size);
		arrive(table[i].frame, 1);
		cr_expect_eq(take_frame(&seen, table[i].size, 1), table[i].got, "row %zu", i);
		cr_expect_eq(ring(RX).used->idx, seen, "row %zu", i);
		cr_assert_not(has_failed());
		if (!table[i].got) {
			/* Every buffer is still there for the next. */
			arrive(12, 0);
			cr_expect_eq(take_frame(&seen, table[i].size, 0), 12, "row %zu", i);
			for (unsigned int k = 1; k < table[i].buffers; k++)
				arrive(12, 0);
			cr_expect_eq(ring(RX).used->idx, table[i].buffers, "row %zu", i);
		}
		destroy_vm(vm, &ends);
	}
}

UNIT(net, keeps_frames_until_there_are_buffers)
{
	uint16_t seen = 0;

	open_device(&(struct vm_spec){.nets = 1}, 1ull << VIRTIO_NET_F_MRG_RXBUF);
	for (uint8_t i = 0; i < 10; i++)
		arrive(100, i);
	cr_assert_eq(ring(RX).used->idx, 0);
	offer(10, 2048);
	for (uint8_t i = 0; i < 10; i++)
		cr_assert_eq(take_frame(&seen, 2048, i), 100u, "frame %u", i);
	cr_assert(took_interrupt(dev, RX));
	destroy_vm(vm, &ends);
}

UNIT(net, waits_while_its_receive_queue_is_not_enabled)
{
	vm = make_vm(&(struct vm_spec){.nets = 1}, &ends);
	dev = vm->virtio[0];
	memset(guest_memory(vm, 0), 0xee, 4096); /* what the queue's addresses say so far */
	driver_prepare(dev, 1ull << VIRTIO_F_VERSION_1);
	driver_queue(dev, TX, SIZE);
	bar_set(dev, VIRTIO_PCI_COMMON_STATUS, 15, 1);
	arrive(100, 1);
	cr_assert_not(has_failed());
	for (unsigned int i = 0; i < 4096; i++)
		cr_assert_eq(*(uint8_t *)guest_memory(vm, i), 0xee, "byte %u was written", i);
	driver_queue(dev, RX, SIZE);
	offer(1, 2048);
	cr_assert_eq(ring(RX).used->idx, 1, "the frame is lost");
	destroy_vm(vm, &ends);
}

UNIT(net, many_frames_at_once_go_into_the_buffers_in_order)
{
	uint16_t seen = 0;
	uint64_t seed = 3;
	size_t lens[120];
	unsigned int n = 0;

	open_device(&(struct vm_spec){.nets = 1}, 1ull << VIRTIO_NET_F_MRG_RXBUF);
	vm_lock(vm);
	vm_drain(vm, 0, NULL);
	vm_unlock(vm);
	while (n < ARRAY_LEN(lens)) {
		static uint8_t frame[5000];

		lens[n] = NET_HEADER + next_random(&seed) % 700;
		for (size_t i = NET_HEADER; i < lens[n]; i++)
			frame[i] = (uint8_t)(i * 31 + n);
		if (send(ends.tap[0], frame, lens[n], MSG_DONTWAIT) < 0)
			break; /* as many as the socket holds */
		n++;
	}
	cr_assert_gt(n, 8u);
	offer(250, 512);
	vm_uncapture(vm, NULL);
	run_loop(vm);
	for (unsigned int i = 0; i < n; i++)
		cr_assert_eq(take_frame(&seen, 512, (uint8_t)i), lens[i], "frame %u", i);
	cr_assert_eq(ring(RX).used->idx, seen);
	destroy_vm(vm, &ends);
}

UNIT(net, fails_on_a_buffer_that_holds_no_header)
{
	open_device(&(struct vm_spec){.nets = 1}, 1ull << VIRTIO_NET_F_MRG_RXBUF);
	offer(2, 11);
	arrive(72, 0);
	cr_assert(has_failed());
	destroy_vm(vm, &ends);
}

/* ---- both */

/* A guest on another CPU that adds a chain whenever one comes back. */
static unsigned int restless;
static unsigned int pushes;

void __real_virtq_push(struct virtq *q, uint16_t head, uint32_t written);
void __wrap_virtq_push(struct virtq *q, uint16_t head, uint32_t written);
void __wrap_virtq_push(struct virtq *q, uint16_t head, uint32_t written)
{
	__real_virtq_push(q, head, written);
	pushes++;
	if (restless) {
		restless--;
		guest_add(q->dev, q->index, head);
	}
}

UNIT(device, a_guest_that_never_stops_does_not_keep_the_loop_from_others)
{
	for (int net = 0; net < 2; net++) {
		unsigned int q = net ? TX : 0;

		open_device(&(struct vm_spec){.disks = !net, .nets = net}, 0);
		if (net) {
			ring(TX).desc[0] = (struct vring_desc){TX_DATA, 100, 0, 0};
			close(ends.tap[0]); /* it takes everything, at once */
			ends.tap[0] = dup(0);
			guest_add(dev, TX, 0);
		} else {
			put_header(99, 0);
			add_read(1);
			put_header(99, 0);
		}
		restless = 100000;
		pushes = 0;
		bar_set(dev, 0x3000 + 4 * q, 0, 2);
		loop_once(vm->loop, 0);
		cr_expect_leq(pushes, 1000u, "%s: %u in one go", dev->id, pushes);
		/* What is left is not forgotten. */
		restless = 500;
		pushes = 0;
		for (int i = 0; i < 100; i++)
			loop_once(vm->loop, 0);
		cr_expect_eq(pushes, 501u, "%s: %u", dev->id, pushes);
		restless = 0;
		destroy_vm(vm, &ends);
	}
}

UNIT(device, configuration_fits_the_space_it_is_kept_in)
{
	open_device(&(struct vm_spec){.disks = 1, .nets = 1}, 0);
	for (unsigned int i = 0; i < vm->nvirtio; i++)
		cr_expect_leq(vm->virtio[i]->config_len, sizeof(vm->virtio[i]->config), "%s",
			      vm->virtio[i]->id);
	destroy_vm(vm, &ends);
}
