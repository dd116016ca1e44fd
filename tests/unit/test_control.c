/* test_control.c: the control socket: what is asked, what is answered, and clients that misbehave. */
#include "tests/unit/unit.h"
#include "vmm/wire.h"
#include "zerocopy/zerocopy.h"

#include <elf.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CLIENTS = 32 };

static char dir[] = "/tmp/vmbeam-unit-XXXXXX", path[64];
static struct vm *vm;
static struct vm_ends ends;
static struct control *control;
static struct handover_source *source;
static struct error e;
static Vmb__Empty empty = VMB__EMPTY__INIT;

static void open_control(uint64_t memory)
{
	int fd;

	cr_assert(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/control", dir);
	fd = wire_listen(path, SOCK_SEQPACKET, &e);
	cr_assert_geq(fd, 0, "%s", e.text);
	vm = make_vm(&(struct vm_spec){.memory = memory, .control = fd, .disks = 1}, &ends);
	source = handover_source_create(1);
	control = control_start(vm, handover_source_request, source);
	handover_source_attach(source, vm, control);
}

static void close_control(void)
{
	control_end(control, "stopped", 0);
	run_loop(vm);
	handover_source_destroy(source);
	destroy_vm(vm, &ends);
	unlink(path);
	rmdir(dir);
	memcpy(dir + sizeof(dir) - 7, "XXXXXX", 6);
}

static int client(void)
{
	int fd = wire_connect(path, &e);

	cr_assert_geq(fd, 0, "%s", e.text);
	run_loop(vm);
	return fd;
}

static Vmb__Reply *hear(int fd, struct wire_fds *fds)
{
	ProtobufCMessage *msg;
	int r = wire_recv(fd, &vmb__reply__descriptor, &msg, fds, 1000, &e);

	cr_assert_geq(r, 0, "%s", e.text);
	return r ? (Vmb__Reply *)msg : NULL;
}

/* NULL if the connection was closed. */
static Vmb__Reply *ask(int fd, const Vmb__Request *r, const int *fds, size_t nfds,
		       struct wire_fds *reply_fds)
{
	cr_assert_eq(wire_send(fd, &r->base, fds, nfds, &e), 0, "%s", e.text);
	run_loop(vm);
	return hear(fd, reply_fds);
}

/* Asks for something without content; expects this error, "" for none. */
static void expect(int fd, Vmb__Request__KindCase kind, const char *error)
{
	Vmb__Request r = VMB__REQUEST__INIT;
	Vmb__Reply *reply;

	r.kind_case = kind;
	r.info = &empty;
	reply = ask(fd, &r, NULL, 0, NULL);
	cr_assert(reply);
	cr_assert(error[0] ? strstr(reply->error, error) != NULL : !reply->error[0], "'%s', not '%s'",
		  reply->error, error);
	vmb__reply__free_unpacked(reply, NULL);
}

static Vmb__RunState state(int fd)
{
	Vmb__Request r = VMB__REQUEST__INIT;
	Vmb__Reply *reply;
	Vmb__RunState s;

	r.kind_case = VMB__REQUEST__KIND_INFO;
	r.info = &empty;
	reply = ask(fd, &r, NULL, 0, NULL);
	cr_assert(reply && reply->kind_case == VMB__REPLY__KIND_INFO);
	cr_assert_str_eq(reply->info->config->name, "toy");
	cr_assert_eq(reply->info->pid, getpid());
	cr_assert_eq(reply->info->state_version, (uint32_t)STATE_VERSION);
	s = reply->info->state;
	vmb__reply__free_unpacked(reply, NULL);
	return s;
}

UNIT(control, pauses_resumes_and_stops)
{
	int fd, other;

	open_control(0);
	fd = client();
	other = client();
	cr_assert_eq(state(fd), VMB__RUN_STATE__RUN_STATE_STARTING);
	expect(fd, VMB__REQUEST__KIND_RESUME, "");
	cr_assert_eq(state(other), VMB__RUN_STATE__RUN_STATE_RUNNING);
	expect(other, VMB__REQUEST__KIND_PAUSE, "");
	cr_assert_eq(state(fd), VMB__RUN_STATE__RUN_STATE_PAUSED);
	cr_assert(vm->user_paused);
	expect(fd, VMB__REQUEST__KIND_RESUME, "");
	vm->platform.pm1_enable = 1 << 8;
	expect(fd, VMB__REQUEST__KIND_STOP, "");
	cr_assert(fake.irq_line[IRQ_SCI], "the power button was not pressed");
	close(fd);
	close(other);
	close_control();
}

UNIT(control, refuses_while_the_vm_is_being_moved)
{
	static const Vmb__Request__KindCase kinds[] = {VMB__REQUEST__KIND_PAUSE,
						       VMB__REQUEST__KIND_RESUME,
						       VMB__REQUEST__KIND_STOP,
						       VMB__REQUEST__KIND_HANDOVER};
	int fd;

	open_control(0);
	fd = client();
	control_set_moving(control, true);
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
		expect(fd, kinds[i], "being moved");
	cr_assert_eq(state(fd), VMB__RUN_STATE__RUN_STATE_MOVING);
	control_set_moving(control, false);
	expect(fd, VMB__REQUEST__KIND_PAUSE, "");
	close(fd);
	close_control();
}

UNIT(control, answers_nonsense_with_a_line_and_closes_and_serves_the_others)
{
	static const struct {
		const char *bytes;
		size_t len;
	} table[] = {
		{"\x08", 1}, {"\x0a\x05", 2}, {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 11},
		{"hello", 5}, {"\x3a\x7f", 2}, {"\x42\x02\x1a\x05", 4},
	};
	int good;

	open_control(0);
	good = client();
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		int bad = client();
		Vmb__Reply *reply;

		cr_assert_eq(send(bad, table[i].bytes, table[i].len, 0), (ssize_t)table[i].len);
		run_loop(vm);
		reply = hear(bad, NULL);
		cr_assert(reply && reply->error[0], "row %zu", i);
		vmb__reply__free_unpacked(reply, NULL);
		cr_assert_null(hear(bad, NULL), "row %zu: not closed", i);
		close(bad);
		state(good);
	}
	close(good);
	close_control();
}

UNIT(control, requests_that_belong_elsewhere_are_refused)
{
	static const Vmb__Request__KindCase kinds[] = {
		VMB__REQUEST__KIND__NOT_SET, VMB__REQUEST__KIND_CREATE, VMB__REQUEST__KIND_INCOMING,
		VMB__REQUEST__KIND_GO};

	open_control(0);
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		int fd = client();

		expect(fd, kinds[i], "unknown request");
		cr_assert_null(hear(fd, NULL), "not closed");
		close(fd);
	}
	close_control();
}

UNIT(control, closes_descriptors_that_came_for_nothing)
{
	Vmb__Request r = VMB__REQUEST__INIT;
	int null = open("/dev/null", O_RDONLY), fds[WIRE_MAX_FDS], fd;
	size_t before;

	open_control(0);
	for (size_t i = 0; i < WIRE_MAX_FDS; i++)
		fds[i] = null;
	fd = client();
	before = count_fds();
	r.kind_case = VMB__REQUEST__KIND_INFO;
	r.info = &empty;
	for (int i = 0; i < 3; i++)
		vmb__reply__free_unpacked(ask(fd, &r, fds, WIRE_MAX_FDS, NULL), NULL);
	cr_assert_eq(count_fds(), before);
	close(fd);
	close(null);
	close_control();
}

UNIT(control, has_room_for_so_many_clients_and_again_when_they_have_gone)
{
	int fds[CLIENTS], more;

	open_control(0);
	for (int i = 0; i < CLIENTS; i++)
		fds[i] = client();
	more = client();
	cr_assert_null(hear(more, NULL), "one too many was let in");
	close(more);
	for (int i = 0; i < CLIENTS; i++)
		state(fds[i]);
	close(fds[5]);
	run_loop(vm);
	fds[5] = client();
	state(fds[5]);
	for (int i = 0; i < CLIENTS; i++)
		close(fds[i]);
	run_loop(vm);
	close_control();
}

/* It asks on and on and takes no answer: the VM's devices must not wait for it. */
UNIT(control, a_client_that_reads_nothing_holds_nobody_up)
{
	Vmb__Request r = VMB__REQUEST__INIT;
	int fd, good;
	unsigned int sent = 0;

	open_control(0);
	fd = client();
	good = client();
	r.kind_case = VMB__REQUEST__KIND_INFO;
	r.info = &empty;
	fcntl(fd, F_SETFL, O_NONBLOCK);
	while (sent < 20000 && !wire_send(fd, &r.base, NULL, 0, &e)) {
		sent++;
		run_loop(vm);
	}
	cr_assert_gt(sent, 100u);
	state(good);
	close(fd);
	close(good);
	close_control();
}

UNIT(control, tells_those_that_wait_how_it_ended)
{
	static const struct {
		const char *reason, *told;
		int status;
		bool crash;
	} table[] = {
		{"shutdown", "shutdown", 0, false},
		{"debug-exit", "debug-exit", 33, false},
		{"", "crashed: out of luck", 1, true},
	};

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		Vmb__Request r = VMB__REQUEST__INIT;
		Vmb__Reply *reply;
		int fd, late;

		open_control(0);
		fd = client();
		r.kind_case = VMB__REQUEST__KIND_WAIT;
		r.info = &empty;
		cr_assert_eq(wire_send(fd, &r.base, NULL, 0, &e), 0);
		run_loop(vm);
		if (table[i].crash) {
			vm_crash(vm, "out of luck");
			run_loop(vm);
			late = client(); /* one that asks afterwards is told too */
			reply = ask(late, &r, NULL, 0, NULL);
			cr_assert_str_eq(reply->end->reason, table[i].told);
			vmb__reply__free_unpacked(reply, NULL);
			expect(late, VMB__REQUEST__KIND_RESUME, "out of luck");
			cr_assert_eq(state(late), VMB__RUN_STATE__RUN_STATE_CRASHED);
			close(late);
		} else {
			control_end(control, table[i].reason, table[i].status);
			control = control_start(vm, handover_source_request, source);
		}
		reply = hear(fd, NULL);
		cr_assert(reply && reply->kind_case == VMB__REPLY__KIND_END);
		cr_assert_str_eq(reply->end->reason, table[i].told);
		cr_assert_eq(reply->end->status, table[i].status);
		vmb__reply__free_unpacked(reply, NULL);
		close(fd);
		close_control();
	}
}

UNIT(control, gives_the_console)
{
	Vmb__Request r = VMB__REQUEST__INIT;
	struct wire_fds fds;
	char buf[16] = "";
	int fd, console;

	open_control(0);
	fd = client();
	r.kind_case = VMB__REQUEST__KIND_CONSOLE;
	r.info = &empty;
	vmb__reply__free_unpacked(ask(fd, &r, NULL, 0, &fds), NULL);
	console = wire_take_fd(&fds, 0);
	serial_write(vm->serial, 0, 'x');
	run_loop(vm);
	cr_assert_eq(recv(console, buf, sizeof(buf), MSG_DONTWAIT), 1);
	cr_assert_eq(buf[0], 'x');
	close(console);
	close(fd);
	close_control();
}

UNIT(control, dumps_memory_as_it_is)
{
	static const uint64_t sizes[] = {8 * MIB, 4 * GIB};

	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		Vmb__Request r = VMB__REQUEST__INIT;
		int fd, file = memfd_with("", 0);
		uint64_t last = sizes[i] > 3 * GIB ? 4 * GIB + (sizes[i] - 3 * GIB) - 5 : sizes[i] - 5;
		Vmb__Reply *reply;
		Elf64_Ehdr eh;
		Elf64_Phdr ph;
		char text[5] = "";

		open_control(sizes[i]);
		fd = client();
		memcpy(guest_memory(vm, 0x123456), "near", 5);
		memcpy(guest_memory(vm, last), "last", 5);
		fake_machine(vm->fd)->vcpu[0].regs.rip = 0xfeedface;
		r.kind_case = VMB__REQUEST__KIND_DUMP;
		r.info = &empty;
		expect(fd, VMB__REQUEST__KIND_DUMP, "no file");
		expect(fd, VMB__REQUEST__KIND_RESUME, "");
		reply = ask(fd, &r, &file, 1, NULL);
		cr_assert(strstr(reply->error, "pause it first"), "%s", reply->error);
		vmb__reply__free_unpacked(reply, NULL);
		expect(fd, VMB__REQUEST__KIND_PAUSE, "");
		reply = ask(fd, &r, &file, 1, NULL);
		cr_assert_str_eq(reply->error, "");
		vmb__reply__free_unpacked(reply, NULL);

		cr_assert_eq(pread(file, &eh, sizeof(eh), 0), (ssize_t)sizeof(eh));
		cr_assert(!memcmp(eh.e_ident, ELFMAG, SELFMAG) && eh.e_type == ET_CORE);
		for (int k = 1; k < eh.e_phnum; k++) {
			uint64_t gpa = k == 1 ? 0x123456 : last;

			cr_assert_eq(pread(file, &ph, sizeof(ph), (off_t)(eh.e_phoff + (size_t)k * sizeof(ph))),
				     (ssize_t)sizeof(ph));
			cr_assert_eq(pread(file, text, 5, (off_t)(ph.p_offset + gpa - ph.p_paddr)), 5);
			cr_assert_str_eq(text, k == 1 ? "near" : "last");
		}
		cr_assert_eq(eh.e_phnum, sizes[i] > 3 * GIB ? 3 : 2);
		cr_assert_eq((uint64_t)lseek(file, 0, SEEK_END), ph.p_offset + ph.p_filesz);
		close(file);
		close(fd);
		close_control();
	}
}

/* ---- the handover's first message */

UNIT(control, offers_a_handover_with_all_its_descriptors_or_says_what_blocks_it)
{
	static const struct {
		const char *what;
		uint32_t version;
		size_t fds;
		bool crashed;
		const char *blocker, *error;
		size_t names; /* in the offer, without the pidfd */
	} table[] = {
		{"as it should be", STATE_VERSION, 2, false, NULL, "", 4},
		{"newer", STATE_VERSION + 7, 2, false, NULL, "", 4},
		{"an older destination", STATE_VERSION - 1, 2, false, "version", "", 0},
		{"crashed", STATE_VERSION, 2, true, "crashed", "", 0},
		{"a descriptor too few", STATE_VERSION, 1, false, NULL, "missing", 0},
		{"a descriptor too many", STATE_VERSION, 3, false, NULL, "missing", 0},
	};
	int null = open("/dev/null", O_RDONLY), fds[3] = {null, null, null};

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		Vmb__Request r = VMB__REQUEST__INIT;
		Vmb__HandoverRequest h = VMB__HANDOVER_REQUEST__INIT;
		struct wire_fds got = {.count = 0};
		Vmb__Reply *reply;
		int fd;

		open_control(0);
		if (table[i].crashed)
			vm_crash(vm, "out of luck");
		fd = client();
		r.kind_case = VMB__REQUEST__KIND_HANDOVER;
		r.handover = &h;
		h.state_version = table[i].version;
		reply = ask(fd, &r, fds, table[i].fds, &got);
		cr_assert(reply, "%s", table[i].what);
		cr_expect(table[i].error[0] ? strstr(reply->error, table[i].error) != NULL : !reply->error[0],
			  "%s: '%s'", table[i].what, reply->error);
		if (!table[i].error[0]) {
			cr_expect_eq(reply->kind_case, VMB__REPLY__KIND_OFFER);
			cr_expect_eq(reply->offer->n_blockers, !!table[i].blocker, "%s", table[i].what);
			cr_expect_eq(reply->offer->n_fd_names, table[i].names, "%s: %zu", table[i].what,
				     reply->offer->n_fd_names);
			cr_expect_eq(got.count, table[i].names + !!table[i].names, "%s", table[i].what);
		}
		vmb__reply__free_unpacked(reply, NULL);
		wire_close_fds(&got);
		close(fd);
		run_loop(vm);
		/* The driver has gone: nothing is left of it. */
		fd = client();
		cr_expect_eq(state(fd), table[i].crashed ? VMB__RUN_STATE__RUN_STATE_CRASHED
							 : VMB__RUN_STATE__RUN_STATE_STARTING);
		close(fd);
		close_control();
	}
	close(null);
}

UNIT(control, a_second_handover_is_refused)
{
	Vmb__Request r = VMB__REQUEST__INIT;
	Vmb__HandoverRequest h = VMB__HANDOVER_REQUEST__INIT;
	int null = open("/dev/null", O_RDONLY), fds[2] = {null, null}, first, second;
	Vmb__Reply *reply;

	open_control(0);
	first = client();
	second = client();
	r.kind_case = VMB__REQUEST__KIND_HANDOVER;
	r.handover = &h;
	h.state_version = STATE_VERSION;
	vmb__reply__free_unpacked(ask(first, &r, fds, 2, NULL), NULL);
	reply = ask(second, &r, fds, 2, NULL);
	cr_assert(strstr(reply->error, "being moved"));
	vmb__reply__free_unpacked(reply, NULL);
	close(first);
	close(second);
	close(null);
	run_loop(vm);
	close_control();
}
