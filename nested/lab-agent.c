/* lab-agent.c: the first process of the lab: runs one command for the lab.c outside.
 *
 * lab-init.sh becomes this program (`vmbeam lab --agent`) once the file systems are mounted.  It
 * takes the command from the control port, gives it three pipes or a terminal, moves the bytes,
 * reaps orphans, and reports the exit status.  It never ends: that would be a kernel panic; the
 * machine's side kills the emulator.
 */
#include "nested/lab-internal.h"

#include "nested/hypervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

struct agent {
	struct lab_wire ctl;
	int port[LAB_PORTS];
	struct lab_pump in, out, err;
	int terminal; /* -1 without one */
	pid_t pid;    /* of the command; 0 before it runs */
	char *cwd;
	char **argv, **envp;
	size_t argc, envc;
};

static void __attribute__((noreturn)) give_up(const char *what)
{
	log_line("lab: agent: %s: %s", what, strerror(errno));
	sync();
	reboot(RB_POWER_OFF);
	_exit(1);
}

/* Opens a port and waits until it is connected: QEMU says so a moment after the port appears, and
 * until then it looks as if the other end had hung up. */
static int port_open(enum lab_port port)
{
	enum { DEVICES = 8, SECONDS = 30 };
	char path[32];
	int fd = -1;

	for (int tries = 0; tries < SECONDS * 1000; tries++) {
		/* the first number is that of the virtio device, as the kernel found them */
		for (int dev = 0; fd < 0 && dev < DEVICES; dev++) {
			snprintf(path, sizeof(path), "/dev/vport%dp%d", dev, port + 1);
			fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		}
		if (fd >= 0 && poll(&(struct pollfd){.fd = fd}, 1, 0) == 0)
			return fd;
		usleep(1000);
	}
	give_up(path);
}

static void __attribute__((noreturn)) command_exec(struct agent *a, const int std[3])
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	for (int i = 0; i < 3; i++)
		dup2(std[i], i);
	if (a->terminal >= 0)
		ioctl(STDIN_FILENO, TIOCSCTTY, 0);
	environ = a->envp;
	if (chdir(a->cwd)) {
		log_line("lab: %s: %s", a->cwd, strerror(errno));
		_exit(126);
	}
	execvp(a->argv[0], a->argv);
	log_line("lab: %s: %s", a->argv[0], strerror(errno));
	_exit(errno == ENOENT ? 127 : 126);
}

static void pump_set(struct lab_pump *p, int from, int to)
{
	fcntl(from, F_SETFL, O_NONBLOCK);
	fcntl(to, F_SETFL, O_NONBLOCK);
	p->from = from;
	p->to = to;
	p->chunk = sizeof(p->buf);
}

static void terminal_size(struct agent *a, const struct lab_run *run)
{
	struct winsize ws = {.ws_row = run->rows, .ws_col = run->cols};

	if (a->terminal >= 0)
		ioctl(a->terminal, TIOCSWINSZ, &ws);
}

static void command_start(struct agent *a, const struct lab_run *run)
{
	struct rlimit no_core = {0, 0};
	struct timespec now = {.tv_sec = (time_t)(run->time_ns / 1000000000u),
			       .tv_nsec = (long)(run->time_ns % 1000000000u)};
	int in[2], out[2], err[2], std[3];

	clock_settime(CLOCK_REALTIME, &now);
	setrlimit(RLIMIT_CORE, &no_core);
	if (run->tty) {
		if (openpty(&a->terminal, &std[0], NULL, NULL, NULL))
			give_up("openpty");
		fcntl(a->terminal, F_SETFD, FD_CLOEXEC);
		fcntl(std[0], F_SETFD, FD_CLOEXEC);
		terminal_size(a, run);
		std[1] = std[2] = std[0];
		pump_set(&a->in, a->port[LAB_IN], fcntl(a->terminal, F_DUPFD_CLOEXEC, 3));
		pump_set(&a->out, fcntl(a->terminal, F_DUPFD_CLOEXEC, 3), a->port[LAB_OUT]);
	} else {
		if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
			give_up("pipe");
		pump_set(&a->in, a->port[LAB_IN], in[1]);
		pump_set(&a->out, out[0], a->port[LAB_OUT]);
		pump_set(&a->err, err[0], a->port[LAB_ERR]);
		std[0] = in[0];
		std[1] = out[1];
		std[2] = err[1];
	}
	a->pid = fork();
	if (a->pid < 0)
		give_up("fork");
	if (!a->pid)
		command_exec(a, std);
	close(std[0]);
	if (!run->tty) {
		close(std[1]);
		close(std[2]);
	}
}

static char **list_add(char **list, size_t *n, const char *data, size_t len)
{
	list = xrealloc(list, (*n + 2) * sizeof(*list));
	list[*n] = strndup(data, len);
	list[++*n] = NULL;
	return list;
}

static int message(void *arg, uint32_t type, const char *data, size_t len)
{
	struct agent *a = arg;
	struct lab_run run;

	switch (type) {
	case LAB_CWD:
		a->cwd = strndup(data, len);
		return 0;
	case LAB_ENV:
		a->envp = list_add(a->envp, &a->envc, data, len);
		return 0;
	case LAB_ARG:
		a->argv = list_add(a->argv, &a->argc, data, len);
		return 0;
	case LAB_RUN:
	case LAB_SIZE:
		if (len != sizeof(run))
			return -1;
		memcpy(&run, data, sizeof(run));
		if (type == LAB_SIZE)
			terminal_size(a, &run);
		else if (!a->pid && a->cwd && a->argc)
			command_start(a, &run);
		return 0;
	default:
		return -1;
	}
}

/* The command has ended: sends what it left in its pipe, but does not wait for what its orphans may
 * still write. */
static void drain(struct lab_pump *p)
{
	enum { MOST = 2 << 20 }; /* above the largest pipe */
	uint64_t stop = p->total + MOST;

	while (p->to >= 0 && p->total < stop) {
		struct pollfd fds[2];

		lab_pump_poll(p, fds);
		if (fds[0].fd >= 0 && poll(&fds[0], 1, 0) < 1)
			close_fd(&p->from);
		if (fds[1].events)
			poll(&fds[1], 1, -1);
		lab_pump_step(p, fds);
	}
}

static void command_ended(struct agent *a, int status)
{
	struct lab_exit e = {.status = (uint32_t)(WIFSIGNALED(status) ? 128 + WTERMSIG(status)
								      : WEXITSTATUS(status))};

	drain(&a->out);
	drain(&a->err);
	sync();
	e.out = a->out.total;
	e.err = a->err.total;
	lab_wire_put(&a->ctl, LAB_EXIT, &e, sizeof(e));
	if (lab_wire_flush(&a->ctl))
		give_up("exit message");
}

int lab_agent_main(void)
{
	struct agent a = {.terminal = -1};
	struct lab_pump closed = {.from = -1, .to = -1};
	sigset_t child;
	int signals;

	if (getpid() != 1) {
		log_line("lab: --agent is for the inside of the lab");
		return 2;
	}
	a.in = a.out = a.err = closed;
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	signals = signalfd(-1, &child, SFD_NONBLOCK | SFD_CLOEXEC);
	for (enum lab_port p = 0; p < LAB_PORTS; p++)
		a.port[p] = port_open(p);
	hold_a_vm();
	a.ctl.fd = a.port[LAB_CTL];
	lab_wire_put(&a.ctl, LAB_HELLO, NULL, 0);
	for (;;) {
		struct signalfd_siginfo si;
		struct pollfd fds[8];
		int status;
		pid_t pid;

		fds[0] = (struct pollfd){.fd = signals, .events = POLLIN};
		fds[1] = (struct pollfd){.fd = a.ctl.fd, .events = POLLIN};
		if (a.ctl.out_len)
			fds[1].events |= POLLOUT;
		lab_pump_poll(&a.in, fds + 2);
		lab_pump_poll(&a.out, fds + 4);
		lab_pump_poll(&a.err, fds + 6);
		if (poll(fds, ARRAY_LEN(fds), -1) < 0 && errno != EINTR)
			give_up("poll");
		if (lab_wire_flush(&a.ctl))
			give_up("control port");
		if (fds[1].revents & POLLIN) {
			lab_wire_fill(&a.ctl);
			if (lab_wire_take(&a.ctl, message, &a))
				give_up("control port: bad message");
		}
		lab_pump_step(&a.in, fds + 2);
		lab_pump_step(&a.out, fds + 4);
		lab_pump_step(&a.err, fds + 6);
		while (read(signals, &si, sizeof(si)) > 0)
			;
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
			if (pid == a.pid)
				command_ended(&a, status);
	}
}
