/* attach.c: the serial or the virtio console on the user's terminal, for `run` and `console`.
 *
 * The console's descriptor goes with the VM through handovers to a fresh process; where it could not
 * (its holder was killed) it is opened anew for as long as the VM exists.  Ctrl-] leaves.
 */
#include "rejuv/cli.h"
#include "vmm/client.h"
#include "vmm/vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

enum { LEAVE_KEY = 0x1d, DRAIN_MS = 3000, RECONNECT_TRIES = 200, RECONNECT_MS = 50, REOPEN_MS = 200 };

enum { OPEN_SECONDS = 5 };

struct attach {
	const char *vm;
	bool hvc; /* the virtio console */
	int console, waiter, signals;
	bool stdin_open, left, ended, crashed;
	int status;
	char reason[256];
	struct termios saved;
	bool raw;
};

static void make_raw(struct attach *a)
{
	struct termios t;

	if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &a->saved))
		return;
	t = a->saved;
	cfmakeraw(&t);
	t.c_oflag |= OPOST; /* our own lines still want their carriage return */
	a->raw = tcsetattr(STDIN_FILENO, TCSANOW, &t) == 0;
}

static void restore_terminal(struct attach *a)
{
	if (a->raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &a->saved);
	a->raw = false;
}

static int send_wait(const char *vm, struct error *e)
{
	Vmb__Request r = VMB__REQUEST__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;
	int fd = vmm_connect(vm, e);

	r.kind_case = VMB__REQUEST__KIND_WAIT;
	r.wait = &empty;
	if (fd >= 0 && wire_send(fd, &r.base, NULL, 0, e))
		close_fd(&fd);
	return fd;
}

static int open_console(const char *vm, bool hvc, struct error *e)
{
	int fd = vmm_connect(vm, e), console = -1;
	struct wire_fds fds;

	if (fd < 0)
		return -1;
	if (!vmm_simple_request(fd, hvc ? VMB__REQUEST__KIND_HVC : VMB__REQUEST__KIND_CONSOLE, NULL,
				&fds, 5000, e)) {
		console = wire_take_fd(&fds, 0);
		wire_close_fds(&fds);
	}
	close(fd);
	return console;
}

static void note_end(struct attach *a, const char *reason, int status)
{
	a->ended = true;
	a->status = status;
	snprintf(a->reason, sizeof(a->reason), "%s", reason);
	a->crashed = !strncmp(reason, "crashed", 7);
}

/* The connection that waits for the end has closed: the VM has moved to another process, or died. */
static void wait_again(struct attach *a)
{
	char reason[64];
	int status;

	close_fd(&a->waiter);
	for (int i = 0; i < RECONNECT_TRIES; i++) {
		struct error e;

		a->waiter = send_wait(a->vm, &e);
		if (a->waiter >= 0)
			return;
		if (runtime_exit_record(a->vm, reason, &status)) {
			note_end(a, reason, status);
			return;
		}
		if (!runtime_is_held(a->vm))
			break;
		poll(NULL, 0, RECONNECT_MS);
	}
	note_end(a, "crashed: its VMM process died", 1);
}

static void on_waiter(struct attach *a)
{
	Vmb__Reply *reply = NULL;
	struct error e;

	if (vmm_receive_reply(a->waiter, &reply, NULL, 0, &e)) {
		wait_again(a);
		return;
	}
	if (reply->kind_case == VMB__REPLY__KIND_END)
		note_end(a, reply->end->reason, reply->end->status);
	vmb__reply__free_unpacked(reply, NULL);
}

static bool on_console(struct attach *a)
{
	char buf[16384];
	ssize_t n = read(a->console, buf, sizeof(buf));

	if (n > 0) {
		if (write_all(STDOUT_FILENO, buf, (size_t)n) < 0)
			a->left = true;
		return true;
	}
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return true;
	close_fd(&a->console);
	return false;
}

static void on_stdin(struct attach *a)
{
	char buf[256];
	ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));
	char *leave;

	if (n <= 0) {
		a->stdin_open = n < 0 && errno == EINTR;
		return;
	}
	leave = a->raw ? memchr(buf, LEAVE_KEY, (size_t)n) : NULL;
	if (leave) {
		a->left = true;
		n = leave - buf;
	}
	if (a->console >= 0)
		send(a->console, buf, (size_t)n, MSG_NOSIGNAL);
}

static void loop(struct attach *a)
{
	while (!a->ended && !a->left) {
		struct pollfd p[4] = {
			{.fd = a->console, .events = POLLIN},
			{.fd = a->waiter, .events = POLLIN},
			{.fd = a->stdin_open && a->console >= 0 ? STDIN_FILENO : -1, .events = POLLIN},
			{.fd = a->signals, .events = POLLIN},
		};
		struct error e;

		if (poll(p, 4, a->console < 0 ? REOPEN_MS : -1) < 0 && errno != EINTR)
			break;
		if (p[0].revents)
			on_console(a);
		if (p[1].revents)
			on_waiter(a);
		if (a->console < 0 && !a->ended)
			a->console = open_console(a->vm, a->hvc, &e);
		if (p[2].revents)
			on_stdin(a);
		if (p[3].revents)
			a->left = true;
	}
	/* What the guest said last is still on its way. */
	while (a->ended && a->console >= 0) {
		struct pollfd p = {.fd = a->console, .events = POLLIN};

		if (poll(&p, 1, a->crashed ? 100 : DRAIN_MS) <= 0 || !on_console(a))
			break;
	}
}

static void attach(struct attach *a)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	a->signals = signalfd(-1, &set, SFD_CLOEXEC);
	a->stdin_open = true;
	make_raw(a);
	loop(a);
	restore_terminal(a);
	close_fd(&a->console);
	close_fd(&a->waiter);
	close_fd(&a->signals);
}

int attach_until_end(const char *vm, int console, bool *crashed)
{
	struct attach a = {.vm = vm, .console = console, .waiter = -1};
	struct error e;

	a.waiter = send_wait(vm, &e);
	if (a.waiter < 0)
		wait_again(&a);
	attach(&a);
	*crashed = a.crashed;
	if (a.crashed)
		return cli_fail("%s: %s", vm, a.reason);
	if (a.ended && !strcmp(a.reason, VM_MOVED_AWAY))
		log_line("%s: it has moved to another machine", vm);
	if (a.left)
		return -1;
	return a.status;
}

int attach_console(const char *vm, bool hvc)
{
	struct attach a = {.vm = vm, .hvc = hvc, .waiter = -1};
	uint64_t deadline = clock_ns() + OPEN_SECONDS * 1000000000ull;
	struct error e;

	/* In the middle of a handover nobody may listen for a moment. */
	while ((a.console = open_console(vm, hvc, &e)) < 0 && runtime_is_held(vm) && clock_ns() < deadline)
		poll(NULL, 0, 50);
	if (a.console < 0)
		return cli_fail("%s: %s", vm, e.text);
	a.waiter = send_wait(vm, &e);
	attach(&a);
	return a.crashed ? cli_fail("%s: %s", vm, a.reason) : EXIT_OK;
}
