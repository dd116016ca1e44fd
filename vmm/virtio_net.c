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
	RX_CHAINS = 20, /* enough 4 KiB buffers for the longest frame */
	BATCH = 64,	/* frames before other devices get their turn */
};

struct net {
	struct virtio_device virtio; /* first */
	int tap;
	struct loop_source *source;
	uint32_t watching;
	struct virtq_chain chains[RX_CHAINS];
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
	if (n->watching != events)
		loop_modify(n->source, events);
	n->watching = events;
}

/* ---- guest to tap */

static void transmit(struct net *n)
{
	struct virtq *q = &n->virtio.queues[TX];
	struct virtq_chain *c = &n->chains[0];
	unsigned int sent = 0;
	int got;

	do {
		virtq_disable_kicks(q);
		while ((got = virtq_pop(q, c)) > 0) {
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
	} while (virtq_enable_kicks(q));
out:
	if (sent)
		virtq_notify(q);
}

/* ---- tap to guest */

/* Gathers chains that hold a frame of any length; returns how many, 0 if the ring is empty. */
static unsigned int gather(struct net *n, struct iovec *iov, unsigned int *niov)
{
	struct virtq *q = &n->virtio.queues[RX];
	bool merge = virtio_has(&n->virtio, VIRTIO_NET_F_MRG_RXBUF);
	unsigned int chains = 0;
	size_t room = 0;

	*niov = 0;
	while (chains < RX_CHAINS && room < MAX_FRAME && (merge || !chains)) {
		struct virtq_chain *c = &n->chains[chains];

		if (*niov && *niov + 4 > VIRTQ_MAX_IOV)
			break;
		if (virtq_pop(q, c) <= 0)
			break;
		if (c->in_len < HDR_LEN || (*niov && c->nin > VIRTQ_MAX_IOV - *niov)) {
			virtio_fail(&n->virtio, "a receive buffer that cannot hold a header");
			return 0;
		}
		memcpy(iov + *niov, c->iov + c->nout, c->nin * sizeof(*iov));
		*niov += c->nin;
		room += c->in_len;
		chains++;
	}
	return chains;
}

static void receive(struct net *n)
{
	struct virtq *q = &n->virtio.queues[RX];
	struct iovec iov[VIRTQ_MAX_IOV];
	unsigned int frames = 0;

	while (frames < BATCH) {
		unsigned int niov, chains = gather(n, iov, &niov), used = 0;
		ssize_t len;
		size_t left;
		uint16_t buffers;

		if (!virtio_running(&n->virtio))
			return;
		if (!chains) {
			/* No buffers: leave the frames in the tap until the driver adds some. */
			if (virtq_enable_kicks(q))
				continue;
			watch(n, n->watching & ~(uint32_t)EPOLLIN);
			break;
		}
		len = readv(n->tap, iov, (int)niov);
		for (left = len > 0 ? (size_t)len : 0; left && used < chains; used++) {
			size_t part = MIN(left, n->chains[used].in_len);

			virtq_fill(q, used, n->chains[used].head, (uint32_t)part);
			left -= part;
		}
		for (unsigned int i = used; i < chains; i++)
			virtq_unpop(q);
		if (len < 0)
			break; /* EAGAIN: that was all */
		if (len < HDR_LEN || left)
			continue; /* too long for what the driver offers: dropped */
		buffers = (uint16_t)used;
		iov_write(iov, niov, offsetof(struct virtio_net_hdr_mrg_rxbuf, num_buffers), &buffers,
			  sizeof(buffers));
		virtq_publish(q, used);
		frames++;
	}
	if (frames)
		virtq_notify(q);
}

static void on_tap(void *ctx, uint32_t events)
{
	struct net *n = ctx;

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
