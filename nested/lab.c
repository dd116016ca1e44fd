/* lab.c: `vmbeam lab`: boots the emulated machine, joins its command to our own descriptors, and
 * turns what became of it into an exit status.  Called by rejuv/main.c.
 *
 * QEMU is our child and dies with us, however we end; nothing is written to disk but, after a
 * failure, the console log.  lab-init.sh and lab-agent.c are the inside; lab.mk makes the kernel.
 */
#include "nested/lab.h"
#include "nested/lab-internal.h"
#include "vmm/vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define BOOT_SECONDS    180 /* until the agent's first word; some 4 s on an idle machine */
#define STATUS_TIMEOUT  124
#define STATUS_EMULATOR 125

extern char **environ;

struct options {
	uint64_t memory, cpus, timeout; /* bytes, count, seconds (0: none) */
	uint64_t machines;              /* 1 or 2 */
	bool emulate, where;
	char **command; /* never empty */
};

struct lab {
	struct options opt;
	char dir[PATH_MAX];   /* build/lab */
	char agent[PATH_MAX]; /* our own program */
	char cwd[PATH_MAX];
	int ours[LAB_PORTS], theirs[LAB_PORTS];
	int console; /* memfd: the kernel's console and what QEMU says */
	int signals;
	char *qemu_path;
	pid_t qemu;
	unsigned machine; /* which one this process is */
	int cable;        /* our end of the network; -1 with one machine */
	pid_t second;     /* machine 2's process, our child; 0 if there is none */
	struct lab_wire ctl;
	struct lab_pump in, out, err;
	uint64_t started; /* clock_ns() */
	bool tty, raw, hello, exited, dead;
	struct termios saved;
	struct lab_exit exit;
};

static int usage(const char *fmt, const char *arg)
{
	char text[500];

	snprintf(text, sizeof(text), fmt, arg);
	log_line("lab: %s (usage: vmbeam lab [--memory 6G] [--cpus 2] [--machines 2] [--timeout S] "
		 "[--emulate] [-- COMMAND...] | --where)",
		 text);
	return 2;
}

static int options_parse(struct options *o, int argc, char **argv)
{
	static const struct option names[] = {
		{"memory", required_argument, NULL, 'm'},
		{"cpus", required_argument, NULL, 'c'},
		{"machines", required_argument, NULL, 'n'},
		{"timeout", required_argument, NULL, 't'},
		{"emulate", no_argument, NULL, 'e'},
		{"where", no_argument, NULL, 'w'},
		{NULL, 0, NULL, 0},
	};
	static char sh[] = "/bin/sh", *shell[2];
	struct error e;
	int c;

	*o = (struct options){.memory = 6 * GIB, .cpus = 2, .machines = 1};
	optind = 0;
	opterr = 0;
	while ((c = getopt_long(argc, argv, "+", names, NULL)) != -1) {
		if (c == 'm' && parse_size(optarg, &o->memory, &e))
			return usage("--memory: %s", e.text);
		if (c == 'c' && parse_uint(optarg, 1, 64, &o->cpus, &e))
			return usage("--cpus: %s", e.text);
		if (c == 'n' && parse_uint(optarg, 1, 2, &o->machines, &e))
			return usage("--machines: %s", e.text);
		if (c == 't' && parse_uint(optarg, 1, UINT32_MAX, &o->timeout, &e))
			return usage("--timeout: %s", e.text);
		if (c == 'e')
			o->emulate = true;
		if (c == 'w')
			o->where = true;
		if (c == '?')
			return usage("%s: unknown option or no value", argv[optind - 1]);
	}
	if (o->memory < 256 * MIB)
		return usage("--memory: %s", "at least 256M");
	o->command = argv + optind;
	if (!*o->command) {
		shell[0] = getenv("SHELL");
		if (!shell[0] || access(shell[0], X_OK))
			shell[0] = sh;
		o->command = shell;
	}
	return 0;
}

/* On a machine with a KVM that nests the lab is the machine. */
static int run_here(char **command)
{
	execvp(command[0], command);
	log_line("lab: %s: %s", command[0], strerror(errno));
	return errno == ENOENT ? 127 : 126;
}

/* Finds build/lab, ourselves and the working directory. */
static int find_files(struct lab *l)
{
	static const char *const files[] = {"vmlinux", "initramfs", "modules"};
	const char *dir = getenv("VMBEAM_LAB_DIR");
	ssize_t n = readlink("/proc/self/exe", l->agent, sizeof(l->agent) - 1);
	char *near;

	if (n < 0 || !getcwd(l->cwd, sizeof(l->cwd))) {
		log_line("lab: this program or its working directory: %s", strerror(errno));
		return 1;
	}
	l->agent[n] = 0;
	near = xasprintf("%.*s/lab", (int)(strrchr(l->agent, '/') - l->agent), l->agent);
	if (!dir && access(near, F_OK)) {
		/* build/asan/vmbeam, build/tsan/vmbeam */
		free(near);
		near = xasprintf("%.*s/../lab", (int)(strrchr(l->agent, '/') - l->agent), l->agent);
	}
	if (!dir)
		dir = near;
	if (!realpath(dir, l->dir)) {
		log_line("lab: %s: no kernel to boot: run 'make lab-kernel'", dir);
		free(near);
		return 1;
	}
	free(near);
	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		char *file = xasprintf("%s/%s", l->dir, files[i]);
		int missing = access(file, R_OK);

		if (missing)
			log_line("lab: %s: %s: run 'make lab-kernel'", file, strerror(errno));
		free(file);
		if (missing)
			return 1;
	}
	l->qemu_path = lab_qemu_find();
	if (!l->qemu_path) {
		log_line("lab: %s: not found: apt-get install qemu-system-x86", LAB_QEMU);
		return 1;
	}
	return 0;
}

/* Adds " NAME=path" to a kernel command line; the init script's printf decodes it. */
static char *cmdline_add(char *line, const char *name, const char *path)
{
	char *new = xasprintf("%s %s=", line, name);
	size_t len = strlen(new);

	free(line);
	new = xrealloc(new, len + 4 * strlen(path) + 1);
	for (const char *p = path; *p; p++) {
		bool plain = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
			     (*p >= '+' && *p <= '9') || *p == '_';

		len += (size_t)sprintf(new + len, plain ? "%c" : "\\x%02x", (unsigned char)*p);
	}
	new[len] = 0;
	return new;
}

/* "-fsdev local,...,path=P": a comma in P is doubled. */
static char *fsdev(const char *id, const char *path, const char *more)
{
	char *s = xasprintf("local,id=%s,security_model=none,multidevs=remap%s,path=", id, more);
	size_t len = strlen(s);

	s = xrealloc(s, len + 2 * strlen(path) + 1);
	for (; *path; path++) {
		s[len++] = *path;
		if (*path == ',')
			s[len++] = ',';
	}
	s[len] = 0;
	return s;
}

struct list {
	const char *arg[80];
	char *owned[80]; /* the values among them */
	size_t n;
};

/* Adds an option and its value, which is a printf format; NULL for an option without. */
static void add(struct list *q, const char *name, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
static void add(struct list *q, const char *name, const char *fmt, ...)
{
	char *value;
	va_list ap;

	q->arg[q->n++] = name;
	if (!fmt)
		return;
	va_start(ap, fmt);
	if (vasprintf(&value, fmt, ap) < 0)
		abort();
	va_end(ap);
	q->owned[q->n] = value;
	q->arg[q->n++] = value;
}

/* The machine.  The ELF kernel is entered through PVH: nothing is unpacked under emulation.
 * Without its self-tests of ciphers the kernel boots in a second less; tsc=reliable is what lets
 * KVM use its master clock, as on a real machine. */
static void qemu_arguments(struct lab *l, struct list *q)
{
	char *build = xasprintf("%.*s", (int)(strrchr(l->dir, '/') - l->dir), l->dir);
	char *root_dev = fsdev("root", "/", ",readonly=on"), *build_dev = fsdev("build", build, "");
	int bin = (int)(strrchr(l->qemu_path, '/') - l->qemu_path);
	char *line = xasprintf("console=ttyS0 quiet panic=-1 mitigations=off no_timer_check "
			       "cryptomgr.notests tsc=reliable clocksource=tsc");

	line = cmdline_add(line, "LAB_DIR", l->dir);
	line = cmdline_add(line, "LAB_AGENT", l->agent);
	line = cmdline_add(line, "LAB_CWD", l->cwd);
	if (l->cable >= 0)
		line = cmdline_add(line, "LAB_MACHINE", l->machine == 1 ? "1" : "2");
	add(q, LAB_QEMU, NULL);
	/* The mended copy does not find these by itself: it is not where QEMU is. */
	add(q, "-L", "%.*s/../share/qemu", bin, l->qemu_path);
	add(q, "-L", "%.*s/../share/seabios", bin, l->qemu_path);
	add(q, "-name", "vmbeam-lab");
	add(q, "-nodefaults", NULL);
	add(q, "-no-user-config", NULL);
	add(q, "-no-reboot", NULL);
	add(q, "-display", "none");
	add(q, "-M", "q35,smm=off,vmport=off");
	add(q, "-accel", "tcg,thread=multi");
	add(q, "-cpu", "max");
	add(q, "-smp", "%u", (unsigned)l->opt.cpus);
	add(q, "-m", "%lluM", l->opt.memory / MIB);
	add(q, "-kernel", "%s/vmlinux", l->dir);
	add(q, "-initrd", "%s/initramfs", l->dir);
	add(q, "-append", "%s", line);
	add(q, "-fsdev", "%s", root_dev);
	add(q, "-fsdev", "%s", build_dev);
	add(q, "-device", "virtio-9p-pci,fsdev=root,mount_tag=root");
	add(q, "-device", "virtio-9p-pci,fsdev=build,mount_tag=build");
	add(q, "-device", "virtio-serial-pci,max_ports=%d", LAB_PORTS + 1);
	for (int p = 0; p < LAB_PORTS; p++) {
		add(q, "-chardev", "socket,id=port%d,fd=%d", p, l->theirs[p]);
		add(q, "-device", "virtserialport,chardev=port%d,nr=%d", p, p + 1);
	}
	if (l->cable >= 0) {
		add(q, "-netdev", "socket,id=cable,fd=%d", l->cable);
		add(q, "-device", "virtio-net-pci,netdev=cable,romfile=,mac=52:54:00:00:00:0%u", l->machine);
	}
	add(q, "-chardev", "file,id=console,append=on,path=/proc/self/fd/%d", l->console);
	add(q, "-serial", "chardev:console");
	q->arg[q->n] = NULL;
	free(build);
	free(root_dev);
	free(build_dev);
	free(line);
}

static void __attribute__((noreturn))
qemu_exec(struct lab *l, struct list *q, int mended, pid_t parent)
{
	sigset_t none;
	int null = open("/dev/null", O_RDWR);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid(); /* the terminal's Ctrl-C is for us alone */
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	dup2(l->console, STDERR_FILENO);
	fcntl(l->console, F_SETFD, 0);
	if (l->cable >= 0)
		fcntl(l->cable, F_SETFD, 0);
	for (int p = 0; p < LAB_PORTS; p++)
		fcntl(l->theirs[p], F_SETFD, 0);
	if (mended >= 0) {
		setenv("QEMU_MODULE_DIR", "/usr/lib/x86_64-linux-gnu/qemu", 0);
		fexecve(mended, (char **)(uintptr_t)q->arg, environ);
	}
	execv(l->qemu_path, (char **)(uintptr_t)q->arg);
	log_line("%s: %s", l->qemu_path, strerror(errno));
	_exit(1);
}

static int qemu_start(struct lab *l)
{
	struct list q = {.n = 0};
	pid_t parent = getpid();
	sigset_t set;
	int mended;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	if (signal(SIGHUP, SIG_DFL) == SIG_IGN) /* nohup */
		signal(SIGHUP, SIG_IGN);
	else
		sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGWINCH);
	signal(SIGCHLD, SIG_DFL);
	signal(SIGPIPE, SIG_IGN);
	/* In the background, reading from the terminal is an end of file and no reason to stop. */
	signal(SIGTTIN, SIG_IGN);
	sigprocmask(SIG_BLOCK, &set, NULL);
	l->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	l->console = memfd_create("lab-console", MFD_CLOEXEC);
	if (l->signals < 0 || l->console < 0 || fcntl(l->console, F_SETFL, O_APPEND))
		goto fail;
	for (int p = 0; p < LAB_PORTS; p++) {
		int pair[2];

		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
			goto fail;
		l->ours[p] = pair[0];
		l->theirs[p] = pair[1];
		if (fcntl(pair[0], F_SETFL, O_NONBLOCK))
			goto fail;
	}
	qemu_arguments(l, &q);
	mended = lab_qemu_mended(l->qemu_path);
	if (mended < 0)
		log_line("lab: warning: %s is not a QEMU that can be mended: busy guests may break "
			 "down",
			 l->qemu_path);
	l->qemu = fork();
	if (l->qemu < 0)
		goto fail;
	if (!l->qemu)
		qemu_exec(l, &q, mended, parent);
	close_fd(&mended);
	for (size_t i = 0; i < q.n; i++)
		free(q.owned[i]);
	for (int p = 0; p < LAB_PORTS; p++)
		close_fd(&l->theirs[p]);
	close_fd(&l->cable);
	return 0;
fail:
	log_line("lab: starting %s: %s", l->qemu_path, strerror(errno));
	return 1;
}

static void window_size(struct lab_run *run)
{
	struct winsize ws;

	if (!ioctl(STDIN_FILENO, TIOCGWINSZ, &ws)) {
		run->rows = ws.ws_row;
		run->cols = ws.ws_col;
	}
}

/* Tells the agent what to run. */
static void send_command(struct lab *l)
{
	static const char *const kept[] = {
		"PATH=",   "HOME=",         "TERM=",          "LANG=",
		"VMBEAM_", "ASAN_OPTIONS=", "UBSAN_OPTIONS=", "TSAN_OPTIONS="};
	struct lab_run run = {.tty = l->tty};
	struct timespec now;

	lab_wire_put(&l->ctl, LAB_CWD, l->cwd, strlen(l->cwd));
	for (char **e = environ; *e; e++)
		for (size_t i = 0; i < ARRAY_LEN(kept); i++)
			if (!strncmp(*e, kept[i], strlen(kept[i])))
				lab_wire_put(&l->ctl, LAB_ENV, *e, strlen(*e));
	if (l->opt.machines > 1) {
		const char *which = l->machine == 1 ? "VMBEAM_LAB_MACHINE=1" : "VMBEAM_LAB_MACHINE=2";

		lab_wire_put(&l->ctl, LAB_ENV, which, strlen(which));
	}
	for (char **a = l->opt.command; *a; a++)
		lab_wire_put(&l->ctl, LAB_ARG, *a, strlen(*a));
	window_size(&run);
	clock_gettime(CLOCK_REALTIME, &now);
	run.time_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	lab_wire_put(&l->ctl, LAB_RUN, &run, sizeof(run));
}

static void terminal_raw(struct lab *l)
{
	struct termios raw = l->saved;

	cfmakeraw(&raw);
	l->raw = !tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
}

static void terminal_restore(struct lab *l)
{
	if (l->raw)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &l->saved);
	l->raw = false;
}

static int message(void *arg, uint32_t type, const char *data, size_t len)
{
	struct lab *l = arg;

	if (type == LAB_HELLO && !l->hello) {
		l->hello = true;
		/* Not earlier: a stdin that ends at once would look like a port never connected. */
		l->in.from = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
		l->in.to = l->ours[LAB_IN];
		send_command(l);
		if (l->tty)
			terminal_raw(l);
		return 0;
	}
	if (type == LAB_EXIT && len == sizeof(l->exit)) {
		memcpy(&l->exit, data, len);
		l->exited = true;
		return 0;
	}
	return -1;
}

/* Keeps the console log as a file and shows its end.  Returns the log, to be freed. */
static char *console_keep(struct lab *l, char *path, size_t path_size)
{
	enum { SHOWN = 12 };
	off_t size = lseek(l->console, 0, SEEK_END);
	char *log = xcalloc(1, (size_t)MAX(size, 0) + 1), *from;
	int fd, lines = 0;

	size = MAX(pread_all(l->console, log, (size_t)MAX(size, 0), 0), 0);
	snprintf(path, path_size, "%s/console-%d.log", l->dir, getpid());
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || write_all(fd, log, (size_t)size) < 0)
		snprintf(path, path_size, "not kept: %s", strerror(errno));
	close_fd(&fd);
	for (from = log + size; from > log; from--)
		if (from[-1] == '\n' && from != log + size && ++lines == SHOWN)
			break;
	if (*from)
		dprintf(STDERR_FILENO, "%s%s", from, log[size - 1] == '\n' ? "" : "\n");
	return log;
}

/* QEMU has ended, or is of no more use for the reason given, and the command has no status. */
static int emulator_failed(struct lab *l, const char *reason)
{
	static const char panic[] = "Kernel panic";
	char path[PATH_MAX + 40], text[200];
	char *log, *found;
	int status = 0;

	terminal_restore(l);
	if (!reason) {
		waitpid(l->qemu, &status, 0);
		l->qemu = 0;
	}
	log = console_keep(l, path, sizeof(path));
	found = strstr(log, panic);
	if (reason)
		snprintf(text, sizeof(text), "%s", reason);
	else if (WIFSIGNALED(status))
		snprintf(text, sizeof(text), "the emulator died of signal %d (%s)",
			 WTERMSIG(status), strsignal(WTERMSIG(status)));
	else if (WEXITSTATUS(status))
		snprintf(text, sizeof(text), "the emulator ended with status %d",
			 WEXITSTATUS(status));
	else if (found)
		snprintf(text, sizeof(text), "%.*s", (int)strcspn(found, "\r\n"), found);
	else
		snprintf(text, sizeof(text), "the lab was shut down");
	log_line("lab: %s before the command %s (console log: %s)", text,
		 l->hello ? "ended" : "began", path);
	free(log);
	return STATUS_EMULATOR;
}

/* How long poll() may wait, in ms; 0 if the time is up. */
static int time_left(const struct lab *l)
{
	uint64_t limit = l->opt.timeout, ns;

	if (!l->hello && (!limit || limit > BOOT_SECONDS))
		limit = BOOT_SECONDS;
	if (!limit)
		return -1;
	ns = l->started + limit * 1000000000u;
	return clock_ns() >= ns ? 0 : (int)MIN((ns - clock_ns()) / 1000000u + 1, 1000000u);
}

static int timed_out(struct lab *l)
{
	char path[PATH_MAX + 40];

	if (!l->opt.timeout || clock_ns() < l->started + l->opt.timeout * 1000000000u)
		return emulator_failed(l, "no sign of life");
	terminal_restore(l);
	free(console_keep(l, path, sizeof(path)));
	log_line("lab: the command did not end within %u s (--timeout; console log: %s)",
		 (unsigned)l->opt.timeout, path);
	return STATUS_TIMEOUT;
}

static bool all_written(const struct lab *l)
{
	return l->exited && (l->out.to < 0 || l->out.total >= l->exit.out) &&
	       (l->err.to < 0 || l->err.total >= l->exit.err);
}

/* Whether the other machine has broken down (it has said so); one whose command has ended is just off. */
static bool second_failed(struct lab *l)
{
	int status;

	if (l->second <= 0 || waitpid(l->second, &status, WNOHANG) != l->second)
		return false;
	l->second = 0;
	return !WIFEXITED(status) || WEXITSTATUS(status) == STATUS_EMULATOR;
}

/* Moves bytes until the command, the emulator or somebody's patience ends. */
static int relay(struct lab *l)
{
	for (;;) {
		struct signalfd_siginfo si;
		struct pollfd fds[8];
		int ms = time_left(l);

		if (!ms)
			return timed_out(l);
		fds[0] = (struct pollfd){.fd = l->signals, .events = POLLIN};
		fds[1] = (struct pollfd){.fd = l->dead ? -1 : l->ctl.fd, .events = POLLIN};
		if (l->ctl.out_len)
			fds[1].events |= POLLOUT;
		lab_pump_poll(&l->in, fds + 2);
		lab_pump_poll(&l->out, fds + 4);
		lab_pump_poll(&l->err, fds + 6);
		if (poll(fds, ARRAY_LEN(fds), ms) < 0 && errno != EINTR)
			return emulator_failed(l, strerror(errno));
		while (read(l->signals, &si, sizeof(si)) > 0) {
			struct lab_run run = {0};

			if (si.ssi_signo == SIGCHLD) {
				siginfo_t child = {0}; /* it may only have been stopped */

				waitid(P_PID, (id_t)l->qemu, &child, WEXITED | WNOHANG | WNOWAIT);
				l->dead = child.si_pid != 0;
				if (second_failed(l))
					return STATUS_EMULATOR;
			} else if (si.ssi_signo == SIGWINCH) {
				window_size(&run);
				if (l->hello)
					lab_wire_put(&l->ctl, LAB_SIZE, &run, sizeof(run));
			} else {
				return 128 + (int)si.ssi_signo;
			}
		}
		lab_wire_flush(&l->ctl);
		lab_wire_fill(&l->ctl);
		if (lab_wire_take(&l->ctl, message, l))
			return emulator_failed(l, "the lab's agent talks nonsense");
		lab_pump_step(&l->in, fds + 2);
		lab_pump_step(&l->out, fds + 4);
		lab_pump_step(&l->err, fds + 6);
		if (all_written(l))
			return (int)l->exit.status;
		/* The output it had passed on is still to be read. */
		if (l->dead && l->out.to < 0 && l->err.to < 0)
			return emulator_failed(l, NULL);
	}
}

/* Machine 2 is a lab of its own: a child that ends with us, has no stdin, and writes where we do. */
static int second_start(struct lab *l)
{
	int pair[2], null;
	pid_t parent = getpid();

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) || (l->second = fork()) < 0) {
		log_line("lab: the second machine: %s", strerror(errno));
		return 1;
	}
	l->machine = l->second ? 1 : 2;
	l->cable = pair[l->second ? 0 : 1];
	close(pair[l->second ? 1 : 0]);
	if (l->second)
		return 0;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	dup2(null, STDIN_FILENO);
	close(null);
	setpgid(0, 0); /* the terminal's Ctrl-C is for the first */
	l->tty = false;
	return 0;
}

int lab_main(int argc, char **argv)
{
	static struct lab l;
	bool native;
	int ret, fd;

	if (argc == 2 && !strcmp(argv[1], "--agent"))
		return lab_agent_main();
	ret = options_parse(&l.opt, argc, argv);
	if (ret)
		return ret;
	native = !l.opt.emulate && l.opt.machines == 1 && machine_can_nest();
	if (l.opt.where) {
		puts(native ? "native" : "emulated");
		return fflush(stdout) ? 1 : 0;
	}
	if (native)
		return run_here(l.opt.command);
	/* Nothing of ours is to become the command's stdin. */
	while ((fd = open("/dev/null", O_RDWR | O_CLOEXEC)) >= 0 && fd <= STDERR_FILENO)
		;
	close_fd(&fd);
	ret = find_files(&l);
	if (ret)
		return ret;
	l.started = clock_ns();
	l.tty = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) &&
		!tcgetattr(STDIN_FILENO, &l.saved) && tcgetpgrp(STDIN_FILENO) == getpgrp();
	l.machine = 1;
	l.cable = -1;
	ret = (l.opt.machines > 1 && second_start(&l)) || qemu_start(&l);
	/* Machine 1 is to learn that it will not come. */
	if (ret && l.machine == 2)
		ret = STATUS_EMULATOR;
	if (ret)
		goto out;
	l.ctl.fd = l.ours[LAB_CTL];
	l.in.from = l.in.to = -1;
	l.in.chunk = sizeof(l.in.buf);
	l.in.half_close = true;
	l.out.from = l.ours[LAB_OUT];
	l.err.from = l.ours[LAB_ERR];
	l.out.to = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	l.err.to = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	l.out.chunk = l.err.chunk = PIPE_BUF;
	ret = relay(&l);
out:
	terminal_restore(&l);
	if (l.qemu > 0) {
		kill(l.qemu, SIGKILL);
		waitpid(l.qemu, NULL, 0);
	}
	if (l.second > 0) {
		kill(l.second, SIGKILL);
		waitpid(l.second, NULL, 0);
	}
	free(l.ctl.in);
	free(l.ctl.out);
	return ret;
}
