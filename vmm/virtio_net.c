/* virtio_net.c: network interfaces on a tap.
 *
 * Source: Virtual I/O Device (VIRTIO) 1.2, chapter 5.1; tap: Documentation/networking/tuntap.rst.
 * The tap carries the same header as the device (IFF_VNET_HDR, 12 bytes), so checksum and
 * segmentation offloads pass through without this program touching a packet.  Frames go straight
 * between the tap and the guest's buffers.
 */
#include "vmm/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
	RX = 0,
	TX = 1,
	HDR_LEN = sizeof(struct virtio_net_hdr_mrg_rxbuf),
	MAX_FRAME = 65536 + HDR_LEN,
	BATCH = 64,	/* frames before other devices get their turn */
};

struct net {
	struct virtio_device virtio; /* first */
	int tap;
	struct loop_source *source;
	uint32_t watching;
	struct virtq_chain chain; /* the last popped */
};

static struct net *to_net(struct virtio_device *d)
{
	return (struct net *)d;
}

int tap_open(const char *name, struct error *e)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int size = HDR_LEN, fd;

	if (strlen(name) >= sizeof(ifr.ifr_name) || !if_nametoindex(name))
		return error_set(e, "tap %s: no such interface", name);
	strcpy(ifr.ifr_name, name);
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return error_set_errno(e, "/dev/net/tun");
	if (ioctl(fd, TUNSETIFF, &ifr) || ioctl(fd, TUNSETVNETHDRSZ, &size)) {
		error_set_errno(e, "tap %s", name);
		close(fd);
		return -1;
	}
	return fd;
}

static void watch(struct net *n, uint32_t events)
{
	if (!n->source)
		return;
	if (n->watching != events)
		loop_modify(n->source, events);
	n->watching = events;
}

/* ---- guest to tap */

static void transmit(struct net *n)
{
	struct virtq *q = &n->virtio.queues[TX];
	struct virtq_chain *c = &n->chain;
	unsigned int sent = 0;
	int got;

	do {
		virtq_disable_kicks(q);
		while ((got = sent < BATCH ? virtq_pop(q, c) : 0) > 0) {
			if (c->out_len < HDR_LEN || c->out_len > MAX_FRAME) {
				virtio_fail(&n->virtio, "a frame of impossible length");
				return;
			}
			/* What the tap will not take is lost, as on any wire. */
			if (writev(n->tap, c->iov, (int)c->nout) < 0 && errno == EAGAIN) {
				virtq_unpop(q);
				watch(n, n->watching | EPOLLOUT);
				goto out;
			}
			virtq_push(q, c->head, 0);
			sent++;
		}
		if (got < 0)
			return;
		if (sent == BATCH) {
			virtq_serve_again(q);
			break;
		}
	} while (virtq_enable_kicks(q));
out:
	if (sent)
		virtq_notify(q);
}

/* ---- tap to guest */

/* Buffers popped for the frames to come; what is left of them is put back at the end. */
struct supply {
	unsigned int count, niov;
	size_t room;
	struct {
		uint16_t head, niov;
		size_t room;
	} buffer[VIRTQ_MAX_SIZE];
	struct iovec iov[VIRTQ_MAX_IOV + 1]; /* of all buffers; the last is `spare`'s */
};

/* Pops buffers until they hold a frame of any length.  Without mergeable buffers one must do. */
static void top_up(struct net *n, struct supply *s)
{
	struct virtq *q = &n->virtio.queues[RX];
	bool merge = virtio_has(&n->virtio, VIRTIO_NET_F_MRG_RXBUF);
	struct virtq_chain *c = &n->chain;

	while (s->count < VIRTQ_MAX_SIZE && s->room < MAX_FRAME && (merge || !s->count)) {
		if (virtq_pop(q, c) <= 0)
			return;
		if (c->in_len < HDR_LEN) {
			virtio_fail(&n->virtio, "a receive buffer that cannot hold a header");
			return;
		}
		if (c->nin > VIRTQ_MAX_IOV - s->niov) {
			virtq_unpop(q);
			return;
		}
		memcpy(s->iov + s->niov, c->iov + c->nout, c->nin * sizeof(s->iov[0]));
		s->buffer[s->count].head = c->head;
		s->buffer[s->count].niov = (uint16_t)c->nin;
		s->buffer[s->count++].room = c->in_len;
		s->niov += c->nin;
		s->room += c->in_len;
	}
}

/* Gives the driver a frame of len bytes in the first buffers. */
static void deliver(struct net *n, struct supply *s, size_t len)
{
	struct virtq *q = &n->virtio.queues[RX];
	unsigned int used = 0, niov = 0;
	uint16_t buffers;

	for (; len && used < s->count; used++) {
		size_t part = MIN(len, s->buffer[used].room);

		virtq_fill(q, used, s->buffer[used].head, (uint32_t)part);
		len -= part;
		niov += s->buffer[used].niov;
		s->room -= s->buffer[used].room;
	}
	buffers = (uint16_t)used;
	iov_write(s->iov, s->niov, offsetof(struct virtio_net_hdr_mrg_rxbuf, num_buffers), &buffers,
		  sizeof(buffers));
	virtq_publish(q, used);
	s->count -= used;
	s->niov -= niov;
	memmove(s->buffer, s->buffer + used, s->count * sizeof(s->buffer[0]));
	memmove(s->iov, s->iov + niov, s->niov * sizeof(s->iov[0]));
}

static void receive(struct net *n)
{
	struct virtq *q = &n->virtio.queues[RX];
	struct supply s;
	unsigned int frames = 0;
	uint8_t spare;

	s.count = s.niov = 0;
	s.room = 0;
	while (frames < BATCH) {
		ssize_t len;

		top_up(n, &s);
		if (!virtio_running(&n->virtio))
			return; /* its queues begin anew after a reset */
		if (!s.count) {
			/* No buffers: leave the frames in the tap until the driver adds some. */
			if (virtq_enable_kicks(q))
				continue;
			watch(n, n->watching & ~(uint32_t)EPOLLIN);
			break;
		}
		/* A tap cuts a frame that is longer than the buffers and does not say so: one byte more
		 * shows it. */
		s.iov[s.niov] = (struct iovec){&spare, 1};
		len = readv(n->tap, s.iov, (int)s.niov + 1);
		if (len < 0)
			break; /* EAGAIN: that was all */
		frames++;
		if (len < HDR_LEN || (size_t)len > s.room)
			continue; /* too long for what the driver offers: dropped */
		deliver(n, &s, (size_t)len);
	}
	for (; s.count; s.count--)
		virtq_unpop(q);
	if (frames)
		virtq_notify(q);
}

static void on_tap(void *ctx, uint32_t events)
{
	struct net *n = ctx;

	if (events & (EPOLLERR | EPOLLHUP)) {
		log_line("%s: its tap is gone", n->virtio.id);
		loop_remove(n->source);
		n->source = NULL;
		return;
	}
	if (!virtio_running(&n->virtio) || n->virtio.backend_stopped) {
		watch(n, 0);
		return;
	}
	if (events & EPOLLOUT) {
		watch(n, n->watching & ~(uint32_t)EPOLLOUT);
		transmit(n);
	}
	if (events & EPOLLIN)
		receive(n);
}

static void kicked(struct virtio_device *d, struct virtq *q)
{
	struct net *n = to_net(d);

	if (q->index == TX)
		transmit(n);
	else
		watch(n, n->watching | EPOLLIN);
}

static void start(struct virtio_device *d)
{
	struct net *n = to_net(d);
	unsigned int offload = 0;

	if (virtio_has(d, VIRTIO_NET_F_GUEST_CSUM))
		offload |= TUN_F_CSUM;
	if (virtio_has(d, VIRTIO_NET_F_GUEST_TSO4))
		offload |= TUN_F_TSO4;
	if (virtio_has(d, VIRTIO_NET_F_GUEST_TSO6))
		offload |= TUN_F_TSO6;
	if (ioctl(n->tap, TUNSETOFFLOAD, offload))
		log_line("%s: TUNSETOFFLOAD: %s", d->id, strerror(errno));
	watch(n, EPOLLIN);
}

static void stop(struct virtio_device *d)
{
	watch(to_net(d), 0);
}

/* A request of RARP for its own address (RFC 903), broadcast: what other hypervisors send, too.  Switches learn from it on which port the
 * address is; that it is answered is not expected. */
static void announce(struct virtio_device *d)
{
	struct net *n = to_net(d);
	const uint8_t *mac = ((struct virtio_net_config *)d->config)->mac;
	static const uint8_t head[] = {0x80, 0x35, 0, 1, 8, 0, ETH_ALEN, 4, 0, 3}; /* RARP, Ethernet, IPv4, lengths, request reverse */
	uint8_t frame[HDR_LEN + ETH_ZLEN] = {0}, *p = frame + HDR_LEN;

	memset(p, 0xff, ETH_ALEN);
	memcpy(p + ETH_ALEN, mac, ETH_ALEN);
	memcpy(p + 2 * ETH_ALEN, head, sizeof(head));
	p += 2 * ETH_ALEN + sizeof(head);
	memcpy(p, mac, ETH_ALEN);
	memcpy(p + ETH_ALEN + 4, mac, ETH_ALEN);
	if (write(n->tap, frame, sizeof(frame)) < 0)
		log_line("%s: could not be announced: %s", d->id, strerror(errno));
}

static void destroy(struct virtio_device *d)
{
	loop_remove(to_net(d)->source);
}

static const struct virtio_ops ops = {
	.name = "net",
	.type = VIRTIO_ID_NET,
	.class_rev = 0x02000000,
	.nqueues = 2,
	.features = 1ull << VIRTIO_NET_F_MAC | 1ull << VIRTIO_NET_F_MRG_RXBUF |
		    1ull << VIRTIO_NET_F_CSUM | 1ull << VIRTIO_NET_F_GUEST_CSUM |
		    1ull << VIRTIO_NET_F_HOST_TSO4 | 1ull << VIRTIO_NET_F_HOST_TSO6 |
		    1ull << VIRTIO_NET_F_GUEST_TSO4 | 1ull << VIRTIO_NET_F_GUEST_TSO6 |
		    1ull << VIRTIO_NET_F_STATUS,
	.start = start,
	.reset = stop,
	.stop = stop,
	.announce = announce,
	.kicked = kicked,
	.destroy = destroy,
};

int virtio_net_create(struct vm *vm, unsigned int n, int tap, const uint8_t mac[6],
		      struct error *e)
{
	struct net *net = xcalloc(1, sizeof(*net));
	struct virtio_net_config *cfg = (void *)net->virtio.config;

	net->tap = tap;
	if (virtio_init(&net->virtio, vm, &ops, n, e))
		return -1;
	net->source = loop_add(vm->loop, tap, 0, on_tap, net);
	net->virtio.config_len = sizeof(*cfg);
	memcpy(cfg->mac, mac, sizeof(cfg->mac));
	cfg->status = VIRTIO_NET_S_LINK_UP;
	return 0;
}
