/* serial.c: a 16550A at port 0x3f8, interrupt 4.
 *
 * Source: National Semiconductor PC16550D data sheet.  What the guest writes goes into a buffer that
 * the console empties; while the buffer is full the line status says so (THRE clear), so that no
 * byte is lost to a slow reader and the guest is never stopped by one.
 */
#include "vmm/internal.h"

#include <linux/serial_reg.h>
#include <stdlib.h>
#include <string.h>

/* A state may bring more than the guest can add: what the front half of a VM had not sent yet. */
enum { TX_SIZE = CONSOLE_TX, TX_MAX = 4 * TX_SIZE, RX_SIZE = 256 };

struct serial {
	struct vm *vm;
	uint8_t ier, lcr, mcr, scr, dll, dlm, fcr;
	bool thr_pending; /* "transmitter empty" has not been reported yet */
	bool line;
	uint8_t rx[RX_SIZE];
	size_t rx_len;
	uint8_t tx[TX_MAX];
	size_t tx_len;
};

struct serial *serial_create(struct vm *vm)
{
	struct serial *s = xcalloc(1, sizeof(*s));

	s->vm = vm;
	serial_reset(s);
	return s;
}

void serial_destroy(struct serial *s)
{
	free(s);
}

/* Clients of the console may have waited for it. */
static void rx_has_room(struct serial *s)
{
	if (s->vm->console)
		console_wake(s->vm->console);
}

void serial_reset(struct serial *s)
{
	s->ier = s->lcr = s->scr = s->dlm = s->fcr = 0;
	s->mcr = UART_MCR_OUT2;
	s->dll = 12; /* 9600 baud */
	s->thr_pending = false;
	s->rx_len = 0;
	rx_has_room(s);
	serial_update_irq(s);
}

static bool tx_has_room(const struct serial *s)
{
	return s->tx_len < TX_SIZE;
}

static uint8_t pending_interrupt(const struct serial *s)
{
	if (s->ier & UART_IER_RDI && s->rx_len)
		return UART_IIR_RDI;
	if (s->ier & UART_IER_THRI && s->thr_pending && tx_has_room(s))
		return UART_IIR_THRI;
	return UART_IIR_NO_INT;
}

void serial_update_irq(struct serial *s)
{
	bool line = pending_interrupt(s) != UART_IIR_NO_INT;

	if (line != s->line) {
		s->line = line;
		irq_line(s->vm, IRQ_SERIAL, line);
	}
}

static uint8_t line_status(const struct serial *s)
{
	uint8_t v = 0;

	if (s->rx_len)
		v |= UART_LSR_DR;
	if (tx_has_room(s))
		v |= UART_LSR_THRE;
	if (!s->tx_len || tx_has_room(s))
		v |= UART_LSR_TEMT;
	return v;
}

/* In loopback the outputs of the modem control register appear as its inputs. */
static uint8_t modem_status(const struct serial *s)
{
	uint8_t m = s->mcr, v = 0;

	if (!(m & UART_MCR_LOOP))
		return UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS;
	v |= m & UART_MCR_RTS ? UART_MSR_CTS : 0;
	v |= m & UART_MCR_DTR ? UART_MSR_DSR : 0;
	v |= m & UART_MCR_OUT1 ? UART_MSR_RI : 0;
	v |= m & UART_MCR_OUT2 ? UART_MSR_DCD : 0;
	return v;
}

static uint8_t read_rx(struct serial *s)
{
	uint8_t v;

	if (!s->rx_len)
		return 0;
	v = s->rx[0];
	memmove(s->rx, s->rx + 1, --s->rx_len);
	rx_has_room(s);
	return v;
}

static uint8_t interrupt_id(struct serial *s)
{
	uint8_t v = pending_interrupt(s);

	if (v == UART_IIR_THRI)
		s->thr_pending = false; /* reading it is what acknowledges it */
	return v | (s->fcr & UART_FCR_ENABLE_FIFO ? 0xc0 : 0);
}

uint8_t serial_read(struct serial *s, unsigned int reg)
{
	bool dlab = s->lcr & UART_LCR_DLAB;
	uint8_t v = 0;

	switch (reg) {
	case UART_RX:
		v = dlab ? s->dll : read_rx(s);
		break;
	case UART_IER:
		v = dlab ? s->dlm : s->ier;
		break;
	case UART_IIR:
		v = interrupt_id(s);
		break;
	case UART_LCR:
		v = s->lcr;
		break;
	case UART_MCR:
		v = s->mcr;
		break;
	case UART_LSR:
		v = line_status(s);
		break;
	case UART_MSR:
		v = modem_status(s);
		break;
	case UART_SCR:
		v = s->scr;
		break;
	}
	serial_update_irq(s);
	return v;
}

static void write_tx(struct serial *s, uint8_t v)
{
	if (s->mcr & UART_MCR_LOOP) {
		serial_receive(s, &v, 1);
	} else if (tx_has_room(s)) { /* a guest that does not look loses the byte, as on the chip */
		s->tx[s->tx_len++] = v;
		if (s->vm->console)
			console_wake(s->vm->console);
	}
	s->thr_pending = true;
}

void serial_write(struct serial *s, unsigned int reg, uint8_t v)
{
	bool dlab = s->lcr & UART_LCR_DLAB;

	switch (reg) {
	case UART_TX:
		if (dlab)
			s->dll = v;
		else
			write_tx(s, v);
		break;
	case UART_IER:
		if (dlab) {
			s->dlm = v;
		} else {
			if (v & ~s->ier & UART_IER_THRI)
				s->thr_pending = true;
			s->ier = v & 0x0f;
		}
		break;
	case UART_FCR:
		s->fcr = v & 0xc9;
		if (v & UART_FCR_CLEAR_RCVR) {
			s->rx_len = 0;
			rx_has_room(s);
		}
		break;
	case UART_LCR:
		s->lcr = v;
		break;
	case UART_MCR:
		s->mcr = v & 0x1f;
		break;
	case UART_SCR:
		s->scr = v;
		break;
	}
	serial_update_irq(s);
}

size_t serial_room(const struct serial *s)
{
	return RX_SIZE - s->rx_len;
}

size_t serial_receive(struct serial *s, const uint8_t *data, size_t len)
{
	size_t n = MIN(len, serial_room(s));

	memcpy(s->rx + s->rx_len, data, n);
	s->rx_len += n;
	serial_update_irq(s);
	return n;
}

const uint8_t *serial_tx(const struct serial *s, size_t *len)
{
	*len = s->tx_len;
	return s->tx;
}

void serial_tx_taken(struct serial *s, size_t len)
{
	bool was_full = !tx_has_room(s);

	memmove(s->tx, s->tx + len, s->tx_len - len);
	s->tx_len -= len;
	if (was_full)
		serial_update_irq(s);
}

/* ---- as the console sees it */

static const uint8_t *port_tx(void *port, size_t *len)
{
	return serial_tx(port, len);
}

static void port_tx_taken(void *port, size_t len)
{
	serial_tx_taken(port, len);
}

static size_t port_room(void *port)
{
	return serial_room(port);
}

static size_t port_receive(void *port, const uint8_t *data, size_t len)
{
	return serial_receive(port, data, len);
}

const struct console_port serial_port = {
	.tx = port_tx,
	.tx_taken = port_tx_taken,
	.room = port_room,
	.receive = port_receive,
};

/* ---- state */

Vmb__SerialState *serial_state_get(const struct serial *s)
{
	Vmb__SerialState *st = xcalloc(1, sizeof(*st));

	vmb__serial_state__init(st);
	st->ier = s->ier;
	st->lcr = s->lcr;
	st->mcr = s->mcr;
	st->scr = s->scr;
	st->dll = s->dll;
	st->dlm = s->dlm;
	st->fcr = s->fcr;
	st->thr_pending = s->thr_pending;
	st->rx.len = s->rx_len;
	st->rx.data = xcalloc(1, s->rx_len);
	memcpy(st->rx.data, s->rx, s->rx_len);
	st->tx.len = s->tx_len;
	st->tx.data = xcalloc(1, s->tx_len);
	memcpy(st->tx.data, s->tx, s->tx_len);
	return st;
}

int serial_state_set(struct serial *s, const Vmb__SerialState *st, struct error *e)
{
	if (st->rx.len > RX_SIZE || st->tx.len > TX_MAX || st->waiting.len > CONSOLE_WAITING)
		return error_set(e, "serial: %zu and %zu bytes in its buffers", st->rx.len, st->tx.len);
	s->ier = (uint8_t)st->ier;
	s->lcr = (uint8_t)st->lcr;
	s->mcr = (uint8_t)st->mcr;
	s->scr = (uint8_t)st->scr;
	s->dll = (uint8_t)st->dll;
	s->dlm = (uint8_t)st->dlm;
	s->fcr = (uint8_t)st->fcr;
	s->thr_pending = st->thr_pending;
	s->rx_len = st->rx.len;
	if (st->rx.len)
		memcpy(s->rx, st->rx.data, st->rx.len);
	s->tx_len = st->tx.len;
	if (st->tx.len)
		memcpy(s->tx, st->tx.data, st->tx.len);
	return 0;
}
