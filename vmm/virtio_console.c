/* virtio_console.c: a console device with one port: hvc0 of a Linux guest, joined to a console of
 * its own (console.c), as the serial port is to the first.
 *
 * Source: Virtual I/O Device (VIRTIO) 1.2, chapter 5.3, without VIRTIO_CONSOLE_F_MULTIPORT.  What
 * the guest writes is copied into a buffer that the console empties.  While that is full the
 * guest's chains stay in the ring: nothing is lost, and a slow reader stops nobody but the writer.
 */
#include "vmm/internal.h"
#include "vmm/wire.h"

#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>

enum {
	RECEIVE,
	TRANSMIT,
	QUEUES,
	TX_SIZE = 16 * 1024,
	RX_SIZE = 256,
	ROUND = 64, /* chains before other devices get their turn */
};

struct hvc {
	struct virtio_device virtio; /* first */
	struct console *console;
	uint8_t tx[TX_SIZE], rx[RX_SIZE];
	size_t tx_len, rx_len;
	uint64_t taken; /* bytes of the chain at the head of the transmit queue that are in tx */
};

static struct hvc *to_hvc(struct virtio_device *d)
{
	return (struct hvc *)d;
}

/* ---- guest to console */

static void transmit(struct hvc *h)
{
	struct virtq *q = &h->virtio.queues[TRANSMIT];
	struct virtq_chain c;
	unsigned int served = 0;
	int got = 0;

	do {
		virtq_disable_kicks(q);
		while (served < ROUND && h->tx_len < TX_SIZE && (got = virtq_pop(q, &c)) > 0) {
			size_t n = iov_read(c.iov, c.nout, h->taken, h->tx + h->tx_len,
					    TX_SIZE - h->tx_len);

			h->tx_len += n;
			h->taken += n;
			if (h->taken < c.out_len) {
				virtq_unpop(q); /* the rest when there is room */
				break;
			}
			h->taken = 0;
			virtq_push(q, c.head, 0);
			served++;
		}
		if (got < 0)
			return;
	} while (served < ROUND && h->tx_len < TX_SIZE && virtq_enable_kicks(q));
	if (served)
		virtq_notify(q);
	if (served >= ROUND)
		virtq_serve_again(q);
	console_wake(h->console);
}

static const uint8_t *port_tx(void *port, size_t *len)
{
	struct hvc *h = port;

	*len = h->tx_len;
	return h->tx;
}

static void port_tx_taken(void *port, size_t len)
{
	struct hvc *h = port;

	memmove(h->tx, h->tx + len, h->tx_len - len);
	h->tx_len -= len;
	virtq_serve_again(&h->virtio.queues[TRANSMIT]);
}

/* ---- console to guest */

static void deliver(struct hvc *h)
{
	struct virtq *q = &h->virtio.queues[RECEIVE];
	struct virtq_chain c;
	bool given = false;

	if (!q->ready || !virtio_running(&h->virtio) || h->virtio.backend_stopped)
		return;
	while (h->rx_len && virtq_pop(q, &c) > 0) {
		size_t n = iov_write(c.iov + c.nout, c.nin, 0, h->rx, h->rx_len);

		if (!n) {
			virtio_fail(&h->virtio, "a receive buffer without room");
			return;
		}
		virtq_push(q, c.head, (uint32_t)n);
		memmove(h->rx, h->rx + n, h->rx_len - n);
		h->rx_len -= n;
		given = true;
	}
	if (given)
		virtq_notify(q);
	/* Kicks are wanted only for bytes that wait for a buffer. */
	if (!h->rx_len)
		virtq_disable_kicks(q);
	else if (virtio_running(&h->virtio) && virtq_enable_kicks(q))
		virtq_serve_again(q);
}

static size_t port_room(void *port)
{
	return RX_SIZE - ((struct hvc *)port)->rx_len;
}

static size_t port_receive(void *port, const uint8_t *data, size_t len)
{
	struct hvc *h = port;
	size_t n = MIN(len, port_room(h));

	memcpy(h->rx + h->rx_len, data, n);
	h->rx_len += n;
	deliver(h);
	return n;
}

static const struct console_port port = {
	.tx = port_tx,
	.tx_taken = port_tx_taken,
	.room = port_room,
	.receive = port_receive,
};

/* ---- the device */

static void kicked(struct virtio_device *d, struct virtq *q)
{
	struct hvc *h = to_hvc(d);

	if (q->index == TRANSMIT) {
		transmit(h);
		return;
	}
	deliver(h);
	console_wake(h->console); /* clients may have waited for room */
}

static void start(struct virtio_device *d)
{
	console_start(to_hvc(d)->console);
}

static void stop(struct virtio_device *d)
{
	console_stop(to_hvc(d)->console);
}

/* What the old driver wrote is still on its way to the clients; what it did not read is lost. */
static void reset(struct virtio_device *d)
{
	to_hvc(d)->taken = 0;
	to_hvc(d)->rx_len = 0;
}

static size_t save(struct virtio_device *d, void **data)
{
	struct hvc *h = to_hvc(d);
	Vmb__ConsoleState s = VMB__CONSOLE_STATE__INIT;
	int fds[WIRE_MAX_FDS];
	size_t len;

	s.tx = (ProtobufCBinaryData){h->tx_len, h->tx};
	s.rx = (ProtobufCBinaryData){h->rx_len, h->rx};
	s.taken = h->taken;
	s.clients = (uint32_t)console_clients(h->console, fds, ARRAY_LEN(fds));
	s.sent = console_sent(h->console);
	*data = xcalloc(1, vmb__console_state__get_packed_size(&s));
	len = vmb__console_state__pack(&s, *data);
	vmb__console_sent__free_unpacked(s.sent, NULL);
	return len;
}

static int load(struct virtio_device *d, const void *data, size_t len, struct error *e)
{
	struct hvc *h = to_hvc(d);
	Vmb__ConsoleState *s = vmb__console_state__unpack(NULL, len, data);
	int r = 0;

	if (!s || s->tx.len > TX_SIZE || s->rx.len > RX_SIZE) {
		r = error_set(e, "%s: a state that makes no sense", d->id);
		goto out;
	}
	h->tx_len = s->tx.len;
	if (s->tx.len)
		memcpy(h->tx, s->tx.data, s->tx.len);
	h->rx_len = s->rx.len;
	if (s->rx.len)
		memcpy(h->rx, s->rx.data, s->rx.len);
	h->taken = s->taken;
	d->pci.vm->hvc_clients = s->clients;
	console_inherit(h->console, s->sent);
out:
	if (s)
		vmb__console_state__free_unpacked(s, NULL);
	return r;
}

static void destroy(struct virtio_device *d)
{
	console_destroy(to_hvc(d)->console);
}

static const struct virtio_ops ops = {
	.name = "console",
	.type = VIRTIO_ID_CONSOLE,
	.class_rev = 0x07800000,
	.nqueues = QUEUES,
	.start = start,
	.stop = stop,
	.reset = reset,
	.kicked = kicked,
	.save = save,
	.load = load,
	.destroy = destroy,
};

int virtio_console_create(struct vm *vm, int listener, struct error *e)
{
	struct hvc *h = xcalloc(1, sizeof(*h));

	if (virtio_init(&h->virtio, vm, &ops, 0, e))
		return -1;
	h->console = vm->hvc = console_create(vm, &port, h, listener, -1, e);
	return h->console ? 0 : -1;
}
