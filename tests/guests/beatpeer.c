/* beatpeer.c: the host's end of beat's network tests (beat_net.c; the stream: beat_stream.h).
 *
 *   beatpeer IP [--port N] [--rate BYTES/s] [--interval MS] [--seconds N]
 *
 * Connects to the guest (trying for CONNECT_SECONDS), sends and verifies the TCP stream and sends a
 * UDP ping every millisecond, or as --interval says.  After --seconds or on SIGTERM it closes its side, waits for the rest
 * of the guest's stream and prints an object on standard output; on SIGUSR1 it prints one as it
 * goes, and starts a new longest gap.  A lost ping is counted (UDP may lose it), but a wrong byte,
 * a lost or stalled connection or a stream of the wrong length is an error: exit status 1.
 *
 * longest_udp_gap_ns is the longest time between two answers, so a pause of the guest as the
 * outside sees it plus about an interval.
 */
#include "tests/guests/beat_stream.h"
#include "vmm/base.h"

#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#define SECOND          1000000000ull
#define CONNECT_SECONDS 60
#define STALL_SECONDS   30

static volatile sig_atomic_t stop, show;
static uint64_t ping_interval = 1000000; /* ns */

static struct {
	uint64_t sent, received, mismatches, pings, answers, longest_gap;
	const char *error; /* why the connection is no good, or NULL */
} seen;

static void on_signal(int signal)
{
	if (signal == SIGUSR1)
		show = 1;
	else
		stop = 1;
}

static int connect_to(const struct sockaddr_in *to)
{
	uint64_t until = clock_ns() + CONNECT_SECONDS * SECOND;

	for (;;) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (!connect(fd, (const struct sockaddr *)to, sizeof(*to)))
			return fd;
		if (stop || clock_ns() > until)
			err(1, "connect");
		close(fd);
		usleep(100000);
	}
}

/* Sends what the socket takes and the rate allows. */
static void send_stream(int fd, struct stream *out, uint64_t allowed)
{
	static unsigned char buf[STREAM_CHUNK];
	struct stream at = *out;
	size_t len = MIN(sizeof(buf), allowed - seen.sent);
	ssize_t done;

	stream_fill(&at, buf, len);
	done = send(fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (done < 0) {
		if (errno != EAGAIN)
			seen.error = strerror(errno);
		return;
	}
	out->offset += (uint64_t)done;
	seen.sent += (uint64_t)done;
}

/* False at the end of the stream. */
static bool receive_stream(int fd, struct stream *in)
{
	static unsigned char buf[STREAM_CHUNK];
	ssize_t len = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

	if (len < 0 && errno != EAGAIN)
		seen.error = strerror(errno);
	if (len <= 0)
		return len < 0;
	seen.received += (uint64_t)len;
	seen.mismatches += !stream_check(in, buf, (size_t)len);
	return true;
}

static void ping(int fd, uint64_t now)
{
	static uint64_t next, last_answer;
	uint64_t number;

	while (recv(fd, &number, sizeof(number), MSG_DONTWAIT) == sizeof(number)) {
		seen.answers++;
		if (last_answer)
			seen.longest_gap = MAX(seen.longest_gap, now - last_answer);
		last_answer = now;
	}
	if (now < next)
		return;
	next = now + ping_interval;
	if (send(fd, &seen.pings, sizeof(seen.pings), MSG_DONTWAIT) > 0)
		seen.pings++;
}

static void print_report(void)
{
	printf("{\"bytes_sent\":%llu,\"bytes_received\":%llu,\"mismatches\":%llu,\"error\":%s%s%s,"
	       "\"pings\":%llu,\"answers\":%llu,\"longest_udp_gap_ns\":%llu}\n",
	       (unsigned long long)seen.sent, (unsigned long long)seen.received,
	       (unsigned long long)seen.mismatches, seen.error ? "\"" : "",
	       seen.error ? seen.error : "null", seen.error ? "\"" : "",
	       (unsigned long long)seen.pings, (unsigned long long)seen.answers,
	       (unsigned long long)seen.longest_gap);
	fflush(stdout);
}

static void run(int tcp, int udp, uint64_t rate, uint64_t seconds)
{
	uint64_t start = clock_ns(), moved = start, before = 0;
	struct stream in = {0}, out = {0};
	bool closing = false;

	if (getrandom(&out.seed, sizeof(out.seed), 0) != sizeof(out.seed) ||
	    send(tcp, &out.seed, sizeof(out.seed), MSG_NOSIGNAL) != sizeof(out.seed))
		err(1, "send");
	in.seed = ~out.seed;
	while (!seen.error) {
		uint64_t now = clock_ns();
		uint64_t allowed =
			rate ? (uint64_t)((double)(now - start) / 1e9 * (double)rate) : UINT64_MAX;
		struct pollfd fds[] = {{.fd = tcp, .events = POLLIN},
				       {.fd = udp, .events = POLLIN}};

		if (!closing && seen.sent < allowed)
			fds[0].events |= POLLOUT;
		poll(fds, ARRAY_LEN(fds), 1);
		ping(udp, clock_ns());
		if (fds[0].revents & POLLOUT)
			send_stream(tcp, &out, allowed);
		if (fds[0].revents & ~POLLOUT && !receive_stream(tcp, &in)) {
			if (!closing || seen.received != seen.sent)
				seen.error = "the guest closed the connection";
			return;
		}
		if (seen.received != before || (rate && seen.received == seen.sent))
			moved = now;
		before = seen.received;
		if (now > moved + STALL_SECONDS * SECOND)
			seen.error = "the stream stalls";
		if (!closing && (stop || (seconds && now > start + seconds * SECOND))) {
			closing = true;
			shutdown(tcp, SHUT_WR);
		}
		if (show) {
			show = 0;
			print_report();
			seen.longest_gap = 0;
		}
	}
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"port", required_argument, NULL, 'p'},
						{"rate", required_argument, NULL, 'r'},
						{"seconds", required_argument, NULL, 's'},
						{"interval", required_argument, NULL, 'i'},
						{0}};
	struct sigaction action = {.sa_handler = on_signal};
	struct sockaddr_in to = {.sin_family = AF_INET};
	uint64_t port = STREAM_PORT, rate = 0, seconds = 0;
	int tcp, udp;

	for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		if (c == '?')
			exit(2);
		*(c == 'p'   ? &port
		  : c == 'r' ? &rate
		  : c == 'i' ? &ping_interval
			     : &seconds) = strtoull(optarg, NULL, 10) * (c == 'i' ? 1000000 : 1);
	}
	if (optind != argc - 1 || !inet_aton(argv[optind], &to.sin_addr))
		errx(2, "usage: beatpeer IP [--port N] [--rate BYTES/s] [--interval MS] [--seconds N]");
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGUSR1, &action, NULL);

	to.sin_port = htons((uint16_t)port);
	tcp = connect_to(&to);
	udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	to.sin_port = htons((uint16_t)(port + 1));
	if (connect(udp, (struct sockaddr *)&to, sizeof(to)))
		err(1, "connect");
	run(tcp, udp, rate, seconds);
	print_report();
	return seen.error || seen.mismatches ? 1 : 0;
}
