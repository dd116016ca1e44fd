/* virtio_ports.c: a console device of a host VM with many ports, each a stream between a process at L0
 * and the agent of its guest hypervisor (/dev/vportNpM there).
 *
 * Source: Virtual I/O Device (VIRTIO) 1.2, chapter 5.3, with VIRTIO_CONSOLE_F_MULTIPORT.  Nothing is
 * buffered here: bytes go between the rings and the sockets, and wait where they are.
 *
 * A port is given to one client at a time, and to another only after the guest has closed it and
 * opened it anew: what is left of one conversation never gets into the next.
 */
#include "vmm/internal.h"

#include <errno.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	CONTROL_RECEIVE = 2,
	CONTROL_TRANSMIT = 3,
	QUEUES = 2 * (HOST_PORTS + 1),
	ROUND = 64, /* chains before other devices get their turn */
	MAX_PENDING = 4 * HOST_PORTS,
};

struct port {
	struct ports *ports;
	unsigned int id;
	bool guest_open;
	bool spent; /* has had a client since the guest opened it */
	int fd;	    /* the client's; -1: none */
	struct loop_source *source;
	uint32_t watching;
	uint64_t taken; /* bytes of the chain at the head of the transmit queue that were sent */
};

struct ports {
	struct virtio_device virtio; /* first */
	struct port port[HOST_PORTS];
	struct virtio_console_control pending[MAX_PENDING]; /* to the guest */
	unsigned int npending;
	struct virtq_chain chain; /* too large for a stack */
};

static struct ports *to_ports(struct virtio_device *d)
{
	return (struct ports *)d;
}

static struct virtq *receive_queue(struct port *p)
{
	return &p->ports->virtio.queues[p->id ? 2 * (p->id + 1) : 0];
}

static struct virtq *transmit_queue(struct port *p)
{
	return receive_queue(p) + 1;
}

static bool is_served(const struct ports *ps)
{
	return virtio_running(&ps->virtio) && !ps->virtio.backend_stopped;
}

/* ---- control messages */

static void send_pending(struct ports *ps)
{
	struct virtq *q = &ps->virtio.queues[CONTROL_RECEIVE];
	unsigned int done = 0;

	if (!q->ready || !is_served(ps))
		return;
	/* Kicks are wanted only for messages that wait for a buffer. */
	do {
		while (done < ps->npending && virtq_pop(q, &ps->chain) > 0) {
			size_t n = iov_write(ps->chain.iov + ps->chain.nout, ps->chain.nin, 0,
					     &ps->pending[done], sizeof(ps->pending[0]));

			virtq_push(q, ps->chain.head, (uint32_t)n);
			done++;
		}
	} while (done < ps->npending && is_served(ps) && virtq_enable_kicks(q));
	if (!done)
		return;
	ps->npending -= done;
	memmove(ps->pending, ps->pending + done, ps->npending * sizeof(ps->pending[0]));
	virtq_notify(q);
}

static void tell(struct ports *ps, unsigned int id, uint16_t event, uint16_t value)
{
	if (ps->npending == MAX_PENDING) /* one that asks and does not listen */
		return;
	ps->pending[ps->npending++] =
		(struct virtio_console_control){.id = id, .event = event, .value = value};
	send_pending(ps);
}

static void disconnect(struct port *p);

static void hear(struct ports *ps, const struct virtio_console_control *c)
{
	struct port *p = c->id < HOST_PORTS ? &ps->port[c->id] : NULL;

	if (c->event == VIRTIO_CONSOLE_DEVICE_READY && c->value == 1)
		for (unsigned int i = 0; i < HOST_PORTS; i++)
			tell(ps, i, VIRTIO_CONSOLE_PORT_ADD, 1);
	if (!p || c->event != VIRTIO_CONSOLE_PORT_OPEN)
		return;
	p->guest_open = c->value == 1;
	if (p->guest_open)
		return;
	if (p->fd >= 0)
		disconnect(p); /* nobody listens there any more */
	p->spent = false;
}

static void control_kicked(struct ports *ps)
{
	struct virtq *q = &ps->virtio.queues[CONTROL_TRANSMIT];
	struct virtio_console_control c;
	unsigned int served = 0;
	int got = 0;

	do {
		virtq_disable_kicks(q);
		while (served < ROUND && (got = virtq_pop(q, &ps->chain)) > 0) {
			size_t n = iov_read(ps->chain.iov, ps->chain.nout, 0, &c, sizeof(c));

			virtq_push(q, ps->chain.head, 0);
			served++;
			if (n == sizeof(c))
				hear(ps, &c);
		}
		if (got < 0)
			return;
	} while (served < ROUND && virtq_enable_kicks(q));
	if (served)
		virtq_notify(q);
	if (served >= ROUND)
		virtq_serve_again(q);
}

/* ---- bytes */

static void watch(struct port *p, uint32_t events)
{
	if (p->fd >= 0 && p->watching != events)
		loop_modify(p->source, events);
	p->watching = events;
}

static void disconnect(struct port *p)
{
	loop_remove(p->source);
	p->source = NULL;
	close_fd(&p->fd);
	p->taken = 0;
	tell(p->ports, p->id, VIRTIO_CONSOLE_PORT_OPEN, 0);
	virtq_serve_again(transmit_queue(p)); /* what it still writes goes nowhere */
}

/* 1: sent; 0: the client takes no more now; -1: it has gone. */
static int send_chain(struct port *p, const struct virtq_chain *c)
{
	struct iovec iov[64];

	while (p->taken < c->out_len) {
		struct msghdr m = {.msg_iov = iov};
		ssize_t n;

		m.msg_iovlen = iov_slice(iov, ARRAY_LEN(iov), c->iov, c->nout, p->taken,
					 c->out_len - p->taken);
		n = sendmsg(p->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -1;
		p->taken += (uint64_t)n;
	}
	return 1;
}

static void transmit(struct port *p)
{
	struct virtq *q = transmit_queue(p);
	struct virtq_chain *c = &p->ports->chain;
	unsigned int served = 0;
	int got = 0, sent = 1;

	do {
		virtq_disable_kicks(q);
		while (served < ROUND && (got = virtq_pop(q, c)) > 0) {
			if (p->fd >= 0 && (sent = send_chain(p, c)) == 0) {
				virtq_unpop(q);
				watch(p, p->watching | EPOLLOUT);
				break;
			}
			p->taken = 0;
			virtq_push(q, c->head, 0);
			served++;
			if (sent < 0) {
				disconnect(p);
				sent = 1;
			}
		}
		if (got < 0)
			return;
	} while (sent && served < ROUND && virtq_enable_kicks(q));
	if (served)
		virtq_notify(q);
	if (served >= ROUND)
		virtq_serve_again(q);
}

static void receive(struct port *p)
{
	struct virtq *q = receive_queue(p);
	struct virtq_chain *c = &p->ports->chain;
	bool given = false;

	if (!is_served(p->ports))
		return;
	for (unsigned int served = 0; p->fd >= 0 && served < ROUND; served++) {
		struct msghdr m = {.msg_iov = c->iov};
		int got = q->ready ? virtq_pop(q, c) : 0;
		ssize_t n;

		if (got <= 0) {
			/* The bytes wait in the socket until the guest adds buffers. */
			if (q->ready && got == 0 && virtq_enable_kicks(q))
				continue;
			watch(p, p->watching & ~(uint32_t)EPOLLIN);
			break;
		}
		m.msg_iov = c->iov + c->nout;
		m.msg_iovlen = c->nin;
		n = recvmsg(p->fd, &m, MSG_DONTWAIT);
		if (n <= 0) {
			virtq_unpop(q);
			virtq_disable_kicks(q);
			if (n == 0 || (errno != EAGAIN && errno != EINTR))
				disconnect(p);
			break;
		}
		virtq_push(q, c->head, (uint32_t)n);
		given = true;
	}
	if (given)
		virtq_notify(q);
}

static void on_client(void *ctx, uint32_t events)
{
	struct port *p = ctx;

	if (!is_served(p->ports)) {
		if (!p->ports->virtio.backend_stopped && events & (EPOLLHUP | EPOLLERR))
			disconnect(p);
		else
			watch(p, 0);
		return;
	}
	if (events & EPOLLOUT) {
		watch(p, p->watching & ~(uint32_t)EPOLLOUT);
		transmit(p);
	}
	if (p->fd >= 0 && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		receive(p);
	/* It has gone, and the guest takes nothing more: that is not to be told again and again. */
	if (p->fd >= 0 && events & (EPOLLHUP | EPOLLERR) && !(p->watching & EPOLLIN))
		disconnect(p);
}

static void attach(struct port *p, int fd)
{
	p->fd = fd;
	p->watching = EPOLLIN;
	p->source = loop_add(p->ports->virtio.pci.vm->loop, fd, p->watching, on_client, p);
}

int virtio_ports_client(const struct vm *vm, unsigned int id)
{
	return to_ports(vm->ports)->port[id].fd;
}

int virtio_ports_inherit(struct vm *vm, unsigned int id, int fd)
{
	if (!vm->ports || id >= HOST_PORTS || to_ports(vm->ports)->port[id].fd >= 0)
		return -1;
	attach(&to_ports(vm->ports)->port[id], fd);
	return 0;
}

int virtio_ports_connect(struct vm *vm, unsigned int *id, struct error *e)
{
	struct ports *ps = vm->ports ? to_ports(vm->ports) : NULL;
	int pair[2];

	for (unsigned int i = 0; ps && i < HOST_PORTS; i++) {
		struct port *p = &ps->port[i];

		if (!p->guest_open || p->spent || p->fd >= 0)
			continue;
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair))
			return error_set_errno(e, "socketpair");
		p->spent = true;
		p->taken = 0;
		attach(p, pair[0]);
		tell(ps, i, VIRTIO_CONSOLE_PORT_OPEN, 1);
		*id = i;
		return pair[1];
	}
	return error_set(e, "its hypervisor has no port free: it runs %d guests, or is not up yet", HOST_PORTS);
}

/* ---- the device */

static void kicked(struct virtio_device *d, struct virtq *q)
{
	struct ports *ps = to_ports(d);
	struct port *p;

	if (q->index == CONTROL_TRANSMIT) {
		control_kicked(ps);
		return;
	}
	if (q->index == CONTROL_RECEIVE) {
		send_pending(ps);
		return;
	}
	p = &ps->port[q->index < CONTROL_RECEIVE ? 0 : q->index / 2 - 1];
	if (q->index & 1) {
		transmit(p);
	} else {
		virtq_disable_kicks(q);
		watch(p, p->watching | EPOLLIN);
	}
}

static void start(struct virtio_device *d)
{
	for (unsigned int i = 0; i < HOST_PORTS; i++)
		watch(&to_ports(d)->port[i], EPOLLIN);
}

static void reset(struct virtio_device *d)
{
	struct ports *ps = to_ports(d);

	ps->npending = 0;
	for (unsigned int i = 0; i < HOST_PORTS; i++) {
		struct port *p = &ps->port[i];

		loop_remove(p->source);
		p->source = NULL;
		close_fd(&p->fd);
		p->guest_open = p->spent = false;
		p->taken = 0;
	}
}

static size_t save(struct virtio_device *d, void **data)
{
	const struct ports *ps = to_ports(d);
	Vmb__PortsState s = VMB__PORTS_STATE__INIT;
	Vmb__PortState port[HOST_PORTS], *ptrs[HOST_PORTS];

	s.ports = ptrs;
	s.n_ports = HOST_PORTS;
	for (unsigned int i = 0; i < HOST_PORTS; i++) {
		vmb__port_state__init(&port[i]);
		port[i].guest_open = ps->port[i].guest_open;
		port[i].spent = ps->port[i].spent;
		port[i].taken = ps->port[i].taken;
		ptrs[i] = &port[i];
	}
	*data = xcalloc(1, vmb__ports_state__get_packed_size(&s));
	return vmb__ports_state__pack(&s, *data);
}

static int load(struct virtio_device *d, const void *data, size_t len, struct error *e)
{
	struct ports *ps = to_ports(d);
	Vmb__PortsState *s = vmb__ports_state__unpack(NULL, len, data);

	if (!s || s->n_ports != HOST_PORTS) {
		if (s)
			vmb__ports_state__free_unpacked(s, NULL);
		return error_set(e, "%s: a state that makes no sense", d->id);
	}
	for (unsigned int i = 0; i < HOST_PORTS; i++) {
		ps->port[i].guest_open = s->ports[i]->guest_open;
		ps->port[i].spent = s->ports[i]->spent;
		ps->port[i].taken = s->ports[i]->taken;
	}
	vmb__ports_state__free_unpacked(s, NULL);
	return 0;
}

static void destroy(struct virtio_device *d)
{
	reset(d);
}

static const struct virtio_ops ops = {
	.name = "ports",
	.type = VIRTIO_ID_CONSOLE,
	.class_rev = 0x07800000,
	.nqueues = QUEUES,
	.features = 1ull << VIRTIO_CONSOLE_F_MULTIPORT,
	.start = start,
	.reset = reset,
	.kicked = kicked,
	.save = save,
	.load = load,
	.destroy = destroy,
};

int virtio_ports_create(struct vm *vm, struct error *e)
{
	struct ports *ps = xcalloc(1, sizeof(*ps));
	struct virtio_console_config config = {.max_nr_ports = HOST_PORTS};

	for (unsigned int i = 0; i < HOST_PORTS; i++)
		ps->port[i] = (struct port){.ports = ps, .id = i, .fd = -1};
	if (virtio_init(&ps->virtio, vm, &ops, 0, e))
		return -1;
	memcpy(ps->virtio.config, &config, sizeof(config));
	ps->virtio.config_len = sizeof(config);
	vm->ports = &ps->virtio;
	return 0;
}
