/* test_serial.c: the 16550 as a driver and a console see it. */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <linux/serial_reg.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TX_BUFFER = 16 << 10, RX_BUFFER = 256 };

static struct vm *vm;
static struct serial *s;
static struct vm_ends ends;

static void open_serial(void)
{
	vm = make_vm(&(struct vm_spec){0}, &ends);
	s = vm->serial;
}

static uint8_t get(unsigned int reg)
{
	return serial_read(s, reg);
}

static void set(unsigned int reg, uint8_t v)
{
	serial_write(s, reg, v);
}

static size_t buffered(void)
{
	size_t n;

	serial_tx(s, &n);
	return n;
}

static bool line(void)
{
	return fake.irq_line[IRQ_SERIAL];
}

UNIT(serial, says_when_its_buffer_is_full_and_loses_nothing_before)
{
	open_serial();
	for (unsigned int i = 0; i < TX_BUFFER; i++) {
		cr_assert(get(UART_LSR) & UART_LSR_THRE, "not ready after %u bytes", i);
		set(UART_TX, (uint8_t)(i * 7));
	}
	cr_assert_not(get(UART_LSR) & (UART_LSR_THRE | UART_LSR_TEMT));
	set(UART_TX, 'x'); /* a driver that does not look */
	cr_assert_eq(buffered(), TX_BUFFER);
	for (unsigned int i = 0; i < TX_BUFFER; i++)
		cr_assert_eq(serial_tx(s, &(size_t){0})[i], (uint8_t)(i * 7));
	serial_tx_taken(s, 1);
	cr_assert(get(UART_LSR) & UART_LSR_THRE);
	cr_assert_eq(serial_tx(s, &(size_t){0})[0], 7);
	destroy_vm(vm, &ends);
}

UNIT(serial, interrupts_for_room_when_there_is_room)
{
	open_serial();
	set(UART_IER, UART_IER_THRI);
	cr_assert(line(), "the transmitter is empty: that is an interrupt");
	cr_assert_eq(get(UART_IIR) & 0x0f, UART_IIR_THRI);
	cr_assert_not(line(), "reading it acknowledges it");
	cr_assert_eq(get(UART_IIR) & 0x0f, UART_IIR_NO_INT);
	for (unsigned int i = 0; i < TX_BUFFER; i++)
		set(UART_TX, 'x');
	cr_assert_not(line(), "no room, no interrupt");
	serial_tx_taken(s, 100);
	cr_assert(line(), "room again");
	set(UART_IER, 0);
	cr_assert_not(line());
	set(UART_IER, UART_IER_THRI);
	cr_assert(line(), "enabling it while the transmitter is empty interrupts");
	destroy_vm(vm, &ends);
}

UNIT(serial, interrupts_for_input_first_and_as_long_as_there_is_some)
{
	open_serial();
	set(UART_IER, UART_IER_RDI | UART_IER_THRI);
	cr_assert_eq(serial_receive(s, (const uint8_t *)"ab", 2), 2);
	cr_assert_eq(get(UART_IIR) & 0x0f, UART_IIR_RDI);
	cr_assert(get(UART_LSR) & UART_LSR_DR);
	cr_assert_eq(get(UART_RX), 'a');
	cr_assert(line());
	cr_assert_eq(get(UART_RX), 'b');
	cr_assert_not(get(UART_LSR) & UART_LSR_DR);
	cr_assert_eq(get(UART_IIR) & 0x0f, UART_IIR_THRI, "now the one that waited");
	cr_assert_not(line());
	cr_assert_eq(get(UART_RX), 0);
	destroy_vm(vm, &ends);
}

UNIT(serial, takes_as_much_input_as_it_holds)
{
	uint8_t in[RX_BUFFER + 10];

	open_serial();
	for (size_t i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)i;
	cr_assert_eq(serial_room(s), RX_BUFFER);
	cr_assert_eq(serial_receive(s, in, sizeof(in)), RX_BUFFER);
	cr_assert_eq(serial_room(s), 0);
	cr_assert_eq(serial_receive(s, in, 1), 0);
	for (size_t i = 0; i < RX_BUFFER; i++)
		cr_assert_eq(get(UART_RX), (uint8_t)i);
	serial_receive(s, in, 100);
	set(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
	cr_assert_eq(serial_room(s), RX_BUFFER);
	cr_assert_eq(get(UART_IIR) & 0xc0, 0xc0, "FIFOs are on");
	destroy_vm(vm, &ends);
}

UNIT(serial, loops_back_bytes_and_modem_lines)
{
	static const struct {
		uint8_t mcr, msr;
	} table[] = {
		{UART_MCR_RTS, UART_MSR_CTS},
		{UART_MCR_DTR, UART_MSR_DSR},
		{UART_MCR_OUT1, UART_MSR_RI},
		{UART_MCR_OUT2, UART_MSR_DCD},
		{0x0f, 0xf0},
		{0, 0},
	};

	open_serial();
	cr_assert_eq(get(UART_MSR), UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS);
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		set(UART_MCR, UART_MCR_LOOP | table[i].mcr);
		cr_assert_eq(get(UART_MSR) & 0xf0, table[i].msr, "row %zu", i);
	}
	set(UART_TX, 'L');
	cr_assert_eq(get(UART_RX), 'L');
	cr_assert_eq(buffered(), 0, "it went out as well");
	for (int i = 0; i < 2 * RX_BUFFER; i++)
		set(UART_TX, 'x');
	cr_assert_eq(serial_room(s), 0);
	destroy_vm(vm, &ends);
}

UNIT(serial, registers_keep_what_the_chip_keeps)
{
	static const struct {
		unsigned int reg;
		uint8_t write, read;
	} table[] = {
		{UART_IER, 0xff, 0x0f}, {UART_LCR, 0x7f, 0x7f}, {UART_MCR, 0xff, 0x1f},
		{UART_SCR, 0xa5, 0xa5}, {UART_LSR, 0x00, 0x60}, {UART_MSR, 0xff, 0xf0},
	};

	open_serial();
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		set(table[i].reg, table[i].write);
		cr_assert_eq(get(table[i].reg), table[i].read, "register %u", table[i].reg);
	}
	/* The divisor latch hides two of them. */
	set(UART_LCR, UART_LCR_DLAB | 3);
	set(UART_DLL, 0x12);
	set(UART_DLM, 0x34);
	cr_assert_eq(get(UART_DLL), 0x12);
	cr_assert_eq(get(UART_DLM), 0x34);
	set(UART_LCR, 3);
	cr_assert_eq(get(UART_IER), 0x0f);
	cr_assert_eq(buffered(), 0);
	serial_reset(s);
	cr_assert_eq(get(UART_IER), 0);
	cr_assert_eq(get(UART_LCR), 0);
	destroy_vm(vm, &ends);
}

UNIT(serial, moves_with_every_register_and_byte)
{
	struct vm_ends ends2;
	struct vm *other;
	Vmb__SerialState *a, *b;
	uint8_t pa[40000], pb[40000];
	size_t n;

	open_serial();
	set(UART_FCR, 0xc1);
	set(UART_LCR, UART_LCR_DLAB);
	set(UART_DLL, 1);
	set(UART_DLM, 2);
	set(UART_LCR, 0x1b);
	set(UART_SCR, 0x77);
	for (unsigned int i = 0; i < TX_BUFFER; i++)
		set(UART_TX, (uint8_t)(i * 11));
	set(UART_MCR, UART_MCR_LOOP | UART_MCR_RTS);
	set(UART_IER, 0x0f);
	for (unsigned int i = 0; i < RX_BUFFER; i++)
		serial_receive(s, &(uint8_t){(uint8_t)(i * 3)}, 1);
	a = serial_state_get(s);
	n = vmb__serial_state__pack(a, pa);

	other = make_vm(&(struct vm_spec){0}, &ends2);
	cr_assert_eq(serial_state_set(other->serial, a, NULL), 0);
	b = serial_state_get(other->serial);
	cr_assert_eq(vmb__serial_state__pack(b, pb), n);
	cr_assert_arr_eq(pa, pb, n);
	vmb__serial_state__free_unpacked(a, NULL);
	vmb__serial_state__free_unpacked(b, NULL);
	destroy_vm(vm, &ends);
	destroy_vm(other, &ends2);
}

/* ---- the console behind it */

static int new_client(void)
{
	int pair[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	console_add_client(vm->console, pair[0]);
	return pair[1];
}

/* The handlers run under the VM's lock: so does what they call. */
static void print(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		set(UART_TX, (uint8_t)text[i]);
}

/* Until the guest finds no room, since some client but `reader` does not read: it waits then, and
 * writes no more. */
static void fill_port(int reader)
{
	char dull[4096];

	memset(dull, '.', sizeof(dull));
	while (get(UART_LSR) & UART_LSR_THRE) {
		print(dull, sizeof(dull));
		run_loop(vm);
		while (recv(reader, dull, sizeof(dull), MSG_DONTWAIT) > 0)
			;
	}
}

UNIT(console, gives_each_client_what_is_written_while_it_listens)
{
	char buf[64];
	int first, second;

	open_serial();
	first = new_client();
	print("one", 3);
	run_loop(vm);
	second = new_client();
	print("two", 3);
	run_loop(vm);
	cr_assert_eq(recv(first, buf, sizeof(buf), MSG_DONTWAIT), 6);
	cr_assert(!memcmp(buf, "onetwo", 6));
	cr_assert_eq(recv(second, buf, sizeof(buf), MSG_DONTWAIT), 3);
	cr_assert(!memcmp(buf, "two", 3));
	cr_assert_eq(write(second, "in", 2), 2);
	run_loop(vm);
	cr_assert_eq(get(UART_RX), 'i');
	cr_assert_eq(get(UART_RX), 'n');
	close(first); /* one that has gone does not disturb the other */
	print("three", 5);
	run_loop(vm);
	cr_assert_eq(recv(second, buf, sizeof(buf), MSG_DONTWAIT), 5);
	close(second);
	destroy_vm(vm, &ends);
}

UNIT(console, input_that_finds_no_room_comes_when_there_is_some)
{
	static const char *const how[] = {"read", "cleared", "reset"};
	char in[RX_BUFFER + 3];

	memset(in, 'x', sizeof(in));
	for (size_t i = 0; i < ARRAY_LEN(how); i++) {
		int client;

		open_serial();
		client = new_client();
		cr_assert_eq(write(client, in, sizeof(in)), (ssize_t)sizeof(in));
		run_loop(vm);
		cr_assert_eq(serial_room(s), 0);
		run_loop(vm); /* it stops looking at the client now */
		if (i == 0)
			for (int k = 0; k < RX_BUFFER; k++)
				get(UART_RX);
		else if (i == 1)
			set(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
		else
			serial_reset(s);
		run_loop(vm);
		cr_assert_eq(serial_room(s), RX_BUFFER - 3, "%s: %zu", how[i], serial_room(s));
		close(client);
		destroy_vm(vm, &ends);
	}
}

UNIT(console, a_client_that_never_reads_holds_the_guest_up_but_not_for_ever)
{
	int idle, reader;
	uint64_t start;

	open_serial();
	idle = new_client();
	reader = new_client();
	fill_port(reader);
	start = clock_ns();
	while (!(get(UART_LSR) & UART_LSR_THRE) && clock_ns() - start < 20000000000u)
		loop_once(vm->loop, 1000);
	cr_assert(get(UART_LSR) & UART_LSR_THRE, "the guest waits for ever");
	close(idle);
	close(reader);
	destroy_vm(vm, &ends);
}

/* One client reads and one does not: what each has had goes along, so that nobody gets it twice. */
UNIT(console, after_a_move_each_goes_on_where_it_was)
{
	char dull[4096], back[8];
	int idle, reader, file = memfd_with("", 0);
	struct console *c;
	Vmb__ConsoleSent *sent;
	size_t len;

	vm = make_vm(&(struct vm_spec){.serial_file = dup(file)}, &ends);
	s = vm->serial;
	idle = new_client();
	reader = new_client();
	fill_port(reader);
	console_stop(vm->console);
	sent = console_sent(vm->console);
	serial_tx(s, &len);
	cr_assert_eq(sent->file, len);
	cr_assert_eq(sent->n_clients, 2);
	cr_assert_lt(sent->clients[0], len);
	cr_assert_eq(sent->clients[1], len);

	/* The same port behind a new console, as the destination has it. */
	c = vm->console;
	vm->console = console_create(vm, &serial_port, s, -1, vm->files.serial_file, NULL);
	console_inherit(vm->console, sent);
	close(idle);
	close(reader);
	idle = new_client();
	reader = new_client();
	len = (size_t)lseek(file, 0, SEEK_END);
	console_start(vm->console);
	cr_assert_eq(lseek(file, 0, SEEK_END), (off_t)len, "the file has it twice");
	cr_assert_eq(recv(reader, back, sizeof(back), MSG_DONTWAIT), -1, "a client has it twice");
	cr_assert_gt(recv(idle, dull, sizeof(dull), MSG_DONTWAIT), 0);
	cr_assert_eq(buffered(), 0);
	print("on", 2);
	run_loop(vm);
	cr_assert_eq(recv(reader, back, sizeof(back), MSG_DONTWAIT), 2);
	cr_assert_eq(lseek(file, 0, SEEK_END), (off_t)len + 2);

	/* Numbers that cannot be. */
	sent->file = sent->clients[0] = UINT64_MAX;
	print("x", 1);
	console_stop(vm->console);
	console_inherit(vm->console, sent);
	close(new_client());
	console_start(vm->console);
	vmb__console_sent__free_unpacked(sent, NULL);
	close(idle);
	close(reader);
	close(file);
	console_destroy(c);
	destroy_vm(vm, &ends);
}

UNIT(console, writes_a_file_to_the_last_byte)
{
	struct vm_spec spec = {.serial_file = memfd_with("", 0)};
	int file = dup(spec.serial_file);
	char back[64] = "";

	vm = make_vm(&spec, &ends);
	s = vm->serial;
	print("hello\n", 6);
	vm_lock(vm);
	vm_drain(vm, 0, NULL); /* what is there goes out; later bytes are part of the state */
	vm_unlock(vm);
	print("later", 5);
	run_loop(vm);
	cr_assert_eq(pread(file, back, sizeof(back), 0), 6);
	vm_uncapture(vm, NULL);
	cr_assert_eq(pread(file, back, sizeof(back), 0), 11);
	cr_assert_str_eq(back, "hello\nlater");
	close(file);
	destroy_vm(vm, &ends);
}
