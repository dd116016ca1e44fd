/* test_wire.c: messages over sockets from a peer that may do anything. */
#include "tests/unit/unit.h"
#include "vmm/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int us, peer;
static struct error e;

static void open_pair(void)
{
	int pair[2];

	cr_assert_eq(wire_pair(pair, &e), 0);
	us = pair[0];
	peer = pair[1];
}

static void close_pair(void)
{
	close_fd(&us);
	close_fd(&peer);
}

/* One packet as it is, with n descriptors of /dev/null. */
static void send_raw(const void *data, size_t len, size_t n)
{
	union {
		char buf[CMSG_SPACE(sizeof(int) * 253)];
		struct cmsghdr align;
	} control = {{0}};
	struct iovec iov = {(void *)(uintptr_t)data, len};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC), fds[253];

	for (size_t i = 0; i < n; i++)
		fds[i] = null;
	if (n) {
		m.msg_control = control.buf;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * n);
		*CMSG_FIRSTHDR(&m) = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int) * n),
						      .cmsg_level = SOL_SOCKET,
						      .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), fds, sizeof(int) * n);
	}
	cr_assert_eq(sendmsg(peer, &m, MSG_NOSIGNAL), (ssize_t)len, "%s", strerror(errno));
	close(null);
}

static int receive(ProtobufCMessage **msg, struct wire_fds *fds)
{
	e.text[0] = 0;
	return wire_recv(us, &vmb__request__descriptor, msg, fds, 1000, &e);
}

/* Receives what is no message: an error, and nothing of it stays. */
static void assert_refused(void)
{
	size_t before = count_fds();
	struct wire_fds fds;
	ProtobufCMessage *msg;

	cr_assert_eq(receive(&msg, &fds), -1);
	cr_assert(e.text[0]);
	cr_assert_eq(count_fds(), before);
	cr_assert_eq(fds.count, 0u);
}

/* A request that is long enough to be cut; returns its length. */
static size_t a_request(uint8_t *buf, size_t max)
{
	Vmb__Request r = VMB__REQUEST__INIT;
	Vmb__HandoverRequest h = VMB__HANDOVER_REQUEST__INIT;

	r.kind_case = VMB__REQUEST__KIND_HANDOVER;
	r.handover = &h;
	h.state_version = 300;
	h.fault = (char *)(uintptr_t) "source.begun=kill";
	cr_assert_leq(vmb__request__get_packed_size(&r), max);
	return vmb__request__pack(&r, buf);
}

UNIT(wire, carries_a_message_and_its_descriptors)
{
	static const size_t counts[] = {0, 1, 2, WIRE_MAX_FDS};

	for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
		Vmb__Request r = VMB__REQUEST__INIT;
		Vmb__StopRequest stop = VMB__STOP_REQUEST__INIT;
		struct wire_fds got;
		ProtobufCMessage *msg;
		int sent[WIRE_MAX_FDS];

		open_pair();
		r.kind_case = VMB__REQUEST__KIND_STOP;
		r.stop = &stop;
		stop.force = true;
		for (size_t k = 0; k < counts[i]; k++)
			sent[k] = memfd_with("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
					     k + 1);
		cr_assert_eq(wire_send(peer, &r.base, sent, counts[i], &e), 0, "%s", e.text);
		cr_assert_eq(receive(&msg, &got), 1, "%s", e.text);
		cr_assert_eq(((Vmb__Request *)msg)->kind_case, VMB__REQUEST__KIND_STOP);
		cr_assert(((Vmb__Request *)msg)->stop->force);
		cr_assert_eq(got.count, counts[i]);
		for (size_t k = 0; k < counts[i]; k++) {
			int fd = wire_take_fd(&got, k);

			cr_assert_eq(lseek(fd, 0, SEEK_END), (off_t)k + 1, "out of order");
			cr_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
			cr_assert_eq(wire_take_fd(&got, k), -1, "taken twice");
			close(fd);
			close(sent[k]);
		}
		cr_assert_eq(wire_take_fd(&got, counts[i]), -1);
		protobuf_c_message_free_unpacked(msg, NULL);
		wire_close_fds(&got);
		close_pair();
	}
}

UNIT(wire, refuses_a_message_cut_short_anywhere)
{
	uint8_t buf[256];
	size_t len = a_request(buf, sizeof(buf));
	struct wire_fds fds;
	ProtobufCMessage *msg;

	open_pair();
	for (size_t i = 1; i < len; i++) {
		send_raw(buf, i, 2);
		assert_refused();
	}
	send_raw(buf, len, 2);
	cr_assert_eq(receive(&msg, &fds), 1, "%s", e.text);
	cr_assert_eq(fds.count, 2u);
	wire_close_fds(&fds);
	protobuf_c_message_free_unpacked(msg, NULL);
	close_pair();
}

UNIT(wire, refuses_nonsense)
{
	uint64_t seed = 99;
	uint8_t buf[64];

	open_pair();
	for (int i = 0; i < 500; i++) {
		struct wire_fds fds;
		ProtobufCMessage *msg;
		size_t len = 1 + next_random(&seed) % sizeof(buf);

		for (size_t k = 0; k < len; k++)
			buf[k] = (uint8_t)next_random(&seed);
		send_raw(buf, len, i % 5);
		if (receive(&msg, &fds) != 1)
			continue; /* nearly all */
		protobuf_c_message_free_unpacked(msg, NULL);
		wire_close_fds(&fds);
	}
	close_pair();
}

UNIT(wire, refuses_what_is_too_large_or_has_too_many_descriptors)
{
	uint8_t *big = xcalloc(1, WIRE_MAX_MESSAGE + 70000);
	static const size_t lens[] = {WIRE_MAX_MESSAGE + 1, WIRE_MAX_MESSAGE + 2, WIRE_MAX_MESSAGE + 70000};
	uint8_t buf[256];
	size_t len = a_request(buf, sizeof(buf));

	open_pair();
	for (size_t i = 0; i < ARRAY_LEN(lens); i++) {
		send_raw(big, lens[i], 3);
		assert_refused();
	}
	for (size_t n = WIRE_MAX_FDS + 1; n <= 253; n += 94) {
		send_raw(buf, len, n);
		assert_refused();
	}
	close_pair();
	free(big);
}

UNIT(wire, sends_the_largest_message_and_no_larger)
{
	Vmb__Request r = VMB__REQUEST__INIT;
	Vmb__HandoverRequest h = VMB__HANDOVER_REQUEST__INIT;
	char *text = xcalloc(1, WIRE_MAX_MESSAGE + 1);
	ProtobufCMessage *msg;
	int fds[WIRE_MAX_FDS + 1] = {0};
	size_t over;

	open_pair();
	memset(text, 'x', WIRE_MAX_MESSAGE);
	r.kind_case = VMB__REQUEST__KIND_HANDOVER;
	r.handover = &h;
	h.fault = text;
	over = vmb__request__get_packed_size(&r) - WIRE_MAX_MESSAGE;
	text[WIRE_MAX_MESSAGE - over + 1] = 0;
	assert_error(wire_send(peer, &r.base, NULL, 0, &e), &e, "too large");
	text[WIRE_MAX_MESSAGE - over] = 0;
	cr_assert_eq(wire_send(peer, &r.base, NULL, 0, &e), 0, "%s", e.text);
	cr_assert_eq(receive(&msg, NULL), 1, "%s", e.text);
	cr_assert_str_eq(((Vmb__Request *)msg)->handover->fault, text);
	protobuf_c_message_free_unpacked(msg, NULL);
	text[0] = 0;
	assert_error(wire_send(peer, &r.base, fds, WIRE_MAX_FDS + 1, &e), &e, "too large");
	close_pair();
	free(text);
}

UNIT(wire, an_empty_message_is_a_message_and_an_empty_packet_is_none)
{
	Vmb__Request r = VMB__REQUEST__INIT;
	struct wire_fds fds;
	ProtobufCMessage *msg;
	int null = open("/dev/null", O_RDONLY);
	size_t before;

	open_pair();
	cr_assert_eq(wire_send(peer, &r.base, &null, 1, &e), 0);
	cr_assert_eq(receive(&msg, &fds), 1, "%s", e.text);
	cr_assert_eq(((Vmb__Request *)msg)->kind_case, VMB__REQUEST__KIND__NOT_SET);
	cr_assert_eq(fds.count, 1u);
	wire_close_fds(&fds);
	protobuf_c_message_free_unpacked(msg, NULL);
	before = count_fds();
	send_raw("", 0, 3); /* it reads as the end, but brings descriptors */
	cr_assert_eq(receive(&msg, &fds), 0);
	cr_assert_eq(count_fds(), before);
	close(null);
	close_pair();
}

UNIT(wire, closes_descriptors_that_nobody_asked_for)
{
	uint8_t buf[256];
	size_t len = a_request(buf, sizeof(buf)), before;
	ProtobufCMessage *msg;

	open_pair();
	before = count_fds();
	send_raw(buf, len, 5);
	cr_assert_eq(receive(&msg, NULL), 1);
	cr_assert_eq(count_fds(), before);
	protobuf_c_message_free_unpacked(msg, NULL);
	close_pair();
}

UNIT(wire, notices_a_peer_that_has_gone)
{
	Vmb__Request r = VMB__REQUEST__INIT;
	ProtobufCMessage *msg;

	open_pair();
	close_fd(&peer);
	cr_assert_eq(receive(&msg, NULL), 0);
	assert_error(wire_send(us, &r.base, NULL, 0, &e), &e, "send"); /* and no SIGPIPE */
	close_pair();
	/* It goes with our message unread: ECONNRESET. */
	open_pair();
	cr_assert_eq(wire_send(us, &r.base, NULL, 0, &e), 0);
	close_fd(&peer);
	cr_assert_eq(receive(&msg, NULL), 0);
	close_pair();
	cr_assert_eq(wire_recv(-1, &vmb__request__descriptor, &msg, NULL, 0, &e), -1);
}

UNIT(wire, waits_as_long_as_it_was_told)
{
	static const int timeouts[] = {0, 30};

	open_pair();
	for (size_t i = 0; i < ARRAY_LEN(timeouts); i++) {
		uint64_t start = clock_ns(), ms;
		ProtobufCMessage *msg;

		assert_error(wire_recv(us, &vmb__request__descriptor, &msg, NULL, timeouts[i], &e), &e,
			     "no answer");
		ms = (clock_ns() - start) / 1000000;
		cr_assert(ms + 1 >= (uint64_t)timeouts[i] && ms < 5000, "%llu ms",
			  (unsigned long long)ms);
	}
	close_pair();
}

UNIT(wire, sockets_have_names_that_fit_and_only_their_owner_may_use_them)
{
	char dir[] = "/tmp/vmbeam-unit-XXXXXX", path[200], longest[200];
	struct stat st;
	int listener, again, client, server;

	cr_assert(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	memset(longest, 'x', sizeof(longest));
	longest[sizeof(((struct sockaddr_un *)0)->sun_path)] = 0;
	assert_error(wire_listen(longest, SOCK_SEQPACKET, &e), &e, "longer");
	assert_error(wire_connect(longest, &e), &e, "longer");
	assert_error(wire_connect(path, &e), &e, path);
	listener = wire_listen(path, SOCK_SEQPACKET, &e);
	cr_assert_geq(listener, 0, "%s", e.text);
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0600u);
	cr_assert_eq(wire_accept(listener), -1);
	client = wire_connect(path, &e);
	cr_assert_geq(client, 0, "%s", e.text);
	server = wire_accept(listener);
	cr_assert_geq(server, 0);
	/* A socket left behind by a dead process does not hinder. */
	again = wire_listen(path, SOCK_SEQPACKET, &e);
	cr_assert_geq(again, 0, "%s", e.text);
	close(listener);
	close(again);
	close(client);
	close(server);
	unlink(path);
	rmdir(dir);
}
