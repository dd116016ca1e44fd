/* test_channel.c: the channel to a guest hypervisor's agent, from both ends. */
#include "nested/channel.h"
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

static struct channel near, far;
static int pair[2];
static struct error e;

static void open_channels(void)
{
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	channel_init(&near, pair[0]);
	channel_init(&far, pair[1]);
}

static void close_channels(void)
{
	close(pair[0]);
	close(pair[1]);
}

static void send_error(uint64_t id, const char *text)
{
	Vmb__AgentMessage m = VMB__AGENT_MESSAGE__INIT;

	m.version = AGENT_VERSION;
	m.id = id;
	m.error = (char *)(uintptr_t)text;
	cr_assert_eq(channel_send(&near, &m, 1000, &e), 0, "%s", e.text);
}

static void assert_next(uint64_t id)
{
	Vmb__AgentMessage *m;

	cr_assert_eq(channel_receive(&far, &m, 1000, &e), 1);
	cr_assert_eq(m->id, id);
	vmb__agent_message__free_unpacked(m, NULL);
}

static void assert_none(void)
{
	Vmb__AgentMessage *m;

	cr_assert_eq(channel_receive(&far, &m, 0, &e), 0);
	cr_assert_null(m);
}

UNIT(channel, gives_what_was_sent_in_order)
{
	open_channels();
	assert_none();
	send_error(1, "one");
	send_error(2, "");
	assert_next(1);
	assert_next(2);
	assert_none();
	close_channels();
}

UNIT(channel, finds_a_message_in_what_is_none)
{
	static const uint8_t wild[] = {0x7f, 'V', 'M', 'A', 0xff, 0xff, 0xff, 0xff, 0x7f, 'V', 'M'};
	static const uint8_t no_message[] = {0x7f, 'V', 'M', 'A', 2, 0, 0, 0, 0xff, 0xff};

	open_channels();
	cr_assert_eq(write(pair[0], wild, sizeof(wild)), (ssize_t)sizeof(wild));
	send_error(3, "three");
	cr_assert_eq(write(pair[0], no_message, sizeof(no_message)), (ssize_t)sizeof(no_message));
	cr_assert_eq(write(pair[0], "noise", 5), 5);
	send_error(4, "four");
	assert_next(3);
	assert_next(4);
	assert_none();
	close_channels();
}

UNIT(channel, takes_a_message_byte_by_byte)
{
	uint8_t frame[64];
	ssize_t n;

	open_channels();
	send_error(5, "five");
	n = read(pair[1], frame, sizeof(frame));
	cr_assert_gt(n, 8);
	for (ssize_t i = 0; i < n; i++) {
		assert_none();
		cr_assert_eq(write(pair[0], frame + i, 1), 1);
	}
	assert_next(5);
	close_channels();
}

UNIT(channel, carries_the_largest_message_and_refuses_a_larger_one)
{
	char *text = malloc(CHANNEL_MAX_MESSAGE + 1);
	Vmb__AgentMessage m = VMB__AGENT_MESSAGE__INIT;
	int size = 4 * CHANNEL_MAX_MESSAGE;

	open_channels();
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	memset(text, 'x', CHANNEL_MAX_MESSAGE);
	text[CHANNEL_MAX_MESSAGE] = 0;
	m.error = text;
	cr_assert_eq(channel_send(&near, &m, 1000, &e), -1);
	text[CHANNEL_MAX_MESSAGE - 8] = 0;
	m.id = 6;
	cr_assert_leq(vmb__agent_message__get_packed_size(&m), CHANNEL_MAX_MESSAGE);
	cr_assert_eq(channel_send(&near, &m, 1000, &e), 0, "%s", e.text);
	assert_next(6);
	free(text);
	close_channels();
}

UNIT(channel, says_when_nobody_reads_and_when_nobody_is_there)
{
	Vmb__AgentMessage m = VMB__AGENT_MESSAGE__INIT, *got;
	char text[4096];
	int r = 0;

	open_channels();
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	m.error = text;
	shutdown(pair[1], SHUT_WR);
	cr_assert_eq(channel_receive(&near, &got, 1000, &e), -1);
	fcntl(pair[0], F_SETFL, O_NONBLOCK);
	for (int i = 0; i < 1000 && !r; i++)
		r = channel_send(&near, &m, 10, &e);
	cr_assert_eq(r, -1);
	cr_assert(strstr(e.text, "takes nothing"), "%s", e.text);
	close_channels();
}

UNIT(channel, noise_without_end_is_heard_no_longer_than_was_asked_for)
{
	uint64_t start = clock_ns();
	Vmb__AgentMessage *got;
	struct channel noise;
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);

	channel_init(&noise, fd);
	cr_expect_eq(channel_receive(&noise, &got, 100, &e), 0);
	cr_expect_eq(channel_receive(&noise, &got, 0, &e), 0);
	cr_expect_lt(clock_ns() - start, 5000000000ull);
	close(fd);
}
