/* test_frame.c: messages over a stream, as they come in pieces, too large, and wrong. */
#include "tests/unit/unit.h"
#include "vmm/frame.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int pair[2];
static struct frames here, there;
static struct error e;

static void open_stream(void)
{
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	frames_init(&here, pair[0]);
	frames_init(&there, pair[1]);
}

static void close_stream(void)
{
	frames_free(&here);
	frames_free(&there);
	close(pair[0]);
	close(pair[1]);
}

static Vmb__FrontEvent *next(void)
{
	ProtobufCMessage *m = NULL;

	return frames_take(&there, &vmb__front_event__descriptor, &m, &e) > 0 ? (Vmb__FrontEvent *)m : NULL;
}

static void send_serial(size_t len, uint64_t id)
{
	Vmb__FrontEvent ev = VMB__FRONT_EVENT__INIT;
	Vmb__SerialBytes s = VMB__SERIAL_BYTES__INIT;
	uint8_t *data = xcalloc(1, len);

	memset(data, (int)id, len);
	s.data = (ProtobufCBinaryData){len, data};
	ev.id = id;
	ev.kind_case = VMB__FRONT_EVENT__KIND_SERIAL;
	ev.serial = &s;
	cr_assert_eq(frames_send(&here, &ev.base, &e), 0, "%s", e.text);
	free(data);
}

UNIT(frames, come_whole_and_in_order_whatever_the_pieces)
{
	uint8_t bytes[4096];
	ssize_t n;

	open_stream();
	for (uint64_t id = 1; id <= 3; id++)
		send_serial(100 * id, id);
	n = read(pair[1], bytes, sizeof(bytes));
	cr_assert_gt(n, 600);
	/* The same again, a byte at a time. */
	for (ssize_t i = 0, id = 1; i < n; i++) {
		Vmb__FrontEvent *ev;

		cr_assert_eq(write(pair[0], bytes + i, 1), 1);
		cr_assert_eq(frames_read(&there, &e), 0);
		ev = next();
		if (!ev)
			continue;
		cr_expect_eq(ev->id, id);
		cr_expect_eq(ev->serial->data.len, 100 * id);
		id++;
		vmb__front_event__free_unpacked(ev, NULL);
		cr_expect_eq(id == 4, i == n - 1);
	}
	close_stream();
}

UNIT(frames, wait_for_a_reader_that_is_slow)
{
	size_t got = 0;

	open_stream();
	for (uint64_t id = 1; id <= 40; id++)
		send_serial(64 << 10, id);
	cr_assert_gt(here.out_len, 0);
	for (uint64_t id = 1; id <= 40;) {
		Vmb__FrontEvent *ev;

		cr_assert_eq(frames_flush(&here, &e), 0);
		cr_assert_eq(frames_read(&there, &e), 0);
		while ((ev = next())) {
			cr_expect_eq(ev->id, id++);
			got += ev->serial->data.len;
			vmb__front_event__free_unpacked(ev, NULL);
		}
	}
	cr_expect_eq(got, 40ull * (64 << 10));
	cr_expect_eq(here.out_len, 0);
	close_stream();
}

UNIT(frames, that_are_too_large_or_none_are_refused)
{
	static const uint8_t large[] = {0xff, 0xff, 0xff, 0x7f}, none[] = {3, 0, 0, 0, 0xff, 0xff, 0xff};
	ProtobufCMessage *m;

	open_stream();
	cr_assert_eq(write(pair[0], large, sizeof(large)), sizeof(large));
	cr_assert_eq(frames_read(&there, &e), 0);
	cr_expect_eq(frames_take(&there, &vmb__front_event__descriptor, &m, &e), -1);
	close_stream();
	open_stream();
	cr_assert_eq(write(pair[0], none, sizeof(none)), sizeof(none));
	cr_assert_eq(frames_read(&there, &e), 0);
	cr_expect_eq(frames_take(&there, &vmb__front_event__descriptor, &m, &e), -1);
	close_stream();
}

UNIT(frames, end_when_the_other_end_has_gone)
{
	Vmb__FrontEvent ev = VMB__FRONT_EVENT__INIT;

	open_stream();
	close(pair[1]);
	pair[1] = dup(0);
	cr_expect_eq(frames_read(&here, &e), -1);
	signal(SIGPIPE, SIG_IGN);
	cr_expect_eq(frames_send(&here, &ev.base, &e), -1);
	close_stream();
}
