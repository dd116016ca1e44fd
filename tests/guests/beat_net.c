/* beat_net.c: the network part of beat: eth0 with a fixed address, a TCP server for the verified
 * stream of beat_stream.h (one thread per connection) and a UDP echo, with which `beatpeer`
 * measures how long the guest did not answer.  Only the peer can tell whether a connection should
 * have ended, so here an end is no error; a wrong byte is.
 */
#include "tests/guests/beat.h"
#include "tests/guests/beat_stream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static bool running;
static _Atomic uint64_t net_received, net_sent, net_bad;

/* A socket bound to the port on every address. */
static int bound_socket(int type, uint16_t port)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) ||
	    (type == SOCK_STREAM && listen(fd, 16)))
		die("beat.net: port %u: %s", port, strerror(errno));
	return fd;
}

static void *serve_stream(void *arg)
{
	int fd = (int)(intptr_t)arg;
	struct stream in = {0}, out = {0};
	unsigned char buf[STREAM_CHUNK];
	ssize_t len;

	if (recv(fd, &in.seed, sizeof(in.seed), MSG_WAITALL) != sizeof(in.seed))
		goto end;
	out.seed = ~in.seed;
	while ((len = recv(fd, buf, sizeof(buf), 0)) > 0) {
		atomic_fetch_add(&net_received, (uint64_t)len);
		if (!stream_check(&in, buf, (size_t)len) &&
		    atomic_fetch_add(&net_bad, 1) < MAX_REPORTS)
			say("BEAT NET MISMATCH seed=%llx offset=%llu length=%zd",
			    (unsigned long long)in.seed,
			    (unsigned long long)(in.offset - (uint64_t)len), len);
		stream_fill(&out, buf, (size_t)len);
		for (ssize_t sent = 0, n; sent < len; sent += n) {
			n = send(fd, buf + sent, (size_t)(len - sent), MSG_NOSIGNAL);
			if (n <= 0)
				goto end;
			atomic_fetch_add(&net_sent, (uint64_t)n);
		}
	}
end:
	close(fd);
	return NULL;
}

static void *accept_streams(void *arg)
{
	int fd;

	while ((fd = accept4((int)(intptr_t)arg, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		start_thread(serve_stream, (void *)(intptr_t)fd);
	die("beat.net: accept: %s", strerror(errno));
}

static void *echo(void *arg)
{
	int fd = (int)(intptr_t)arg;
	struct sockaddr_in from;
	char buf[2048];

	for (;;) {
		socklen_t size = sizeof(from);
		ssize_t len = recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &size);

		if (len >= 0)
			sendto(fd, buf, (size_t)len, 0, (struct sockaddr *)&from, size);
	}
	return NULL;
}

static void set_address(struct in_addr ip, unsigned prefix)
{
	struct ifreq request = {.ifr_name = "eth0"};
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = ip};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	memcpy(&request.ifr_addr, &address, sizeof(address));
	if (ioctl(fd, SIOCSIFADDR, &request))
		die("beat.net: eth0: %s", strerror(errno));
	address.sin_addr.s_addr = htonl(prefix ? ~0u << (32 - prefix) : 0);
	memcpy(&request.ifr_netmask, &address, sizeof(address));
	if (ioctl(fd, SIOCSIFNETMASK, &request))
		die("beat.net: eth0's netmask: %s", strerror(errno));
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	if (ioctl(fd, SIOCSIFFLAGS, &request))
		die("beat.net: eth0 up: %s", strerror(errno));
	close(fd);
}

void net_start(void)
{
	const char *text = opt_text("net", NULL), *port_text;
	char ip_text[32];
	struct in_addr ip;
	unsigned prefix;
	uint16_t port;

	if (!text)
		return;
	if (sscanf(text, "%31[0-9.]/%u", ip_text, &prefix) != 2 || prefix > 32 ||
	    !inet_aton(ip_text, &ip))
		die("beat.net=%s: not IP/PREFIX[,port=N]", text);
	port_text = strstr(text, ",port=");
	port = port_text ? (uint16_t)strtoul(port_text + 6, NULL, 10) : STREAM_PORT;
	load_virtio();
	load_modules((const char *const[]){"failover", "net_failover", "virtio_net", NULL});
	set_address(ip, prefix);
	running = true;
	start_thread(accept_streams, (void *)(intptr_t)bound_socket(SOCK_STREAM, port));
	start_thread(echo, (void *)(intptr_t)bound_socket(SOCK_DGRAM, (uint16_t)(port + 1)));
}

bool net_stats(uint64_t *received, uint64_t *sent, uint64_t *bad)
{
	*received = atomic_load(&net_received);
	*sent = atomic_load(&net_sent);
	*bad = atomic_load(&net_bad);
	return running;
}
