/* test_handover.c: whole handovers, with the real source, destination and driver in processes of their
 * own, on the fake KVM.
 *
 * The guest is fake.run(): it counts in its own memory and in a register, which must agree for ever:
 * a lost, doubled or stale copy of either shows.  It also marks a page shared by all processes, so
 * that two that run at once see each other.
 */
#include "tests/unit/images.h"
#include "tests/unit/unit.h"
#include "rejuv/cli.h"
#include "vmm/client.h"
#include "zerocopy/fault.h"
#include "zerocopy/zerocopy.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COUNTER = 0x300000, DEADLINE_S = 30 };

static struct world {
	atomic_int mark; /* the process that ran last */
	atomic_ullong steps;
	atomic_bool bad;
	char problem[600];
	uint64_t deadline;
	atomic_int destination, held; /* processes */
	atomic_int nours, ours[64];   /* the VM's and the drivers' processes that were started */
	atomic_bool power_off;	      /* the guest's wish */
	int driver_result;
	struct handover_report report;
} *w;

static char dir[] = "/tmp/vmbeam-unit-XXXXXX", kernel[64];
static struct error e;

/* Ends the whole test: all processes go with its namespace. */
static void failed(int line, const char *what, const char *fmt, ...)
{
	va_list ap;
	int n = snprintf(w->problem, sizeof(w->problem), "line %d: %s: ", line, what);

	va_start(ap, fmt);
	vsnprintf(w->problem + n, sizeof(w->problem) - (size_t)n, fmt, ap);
	va_end(ap);
	_exit(1);
}

#define must(condition, ...)                                                                       \
	do {                                                                                       \
		if (!(condition))                                                                  \
			failed(__LINE__, #condition, "" __VA_ARGS__);                              \
	} while (0)

static void problem(const char *what, unsigned long long a, unsigned long long b)
{
	if (!atomic_exchange(&w->bad, true))
		snprintf(w->problem, sizeof(w->problem), "%s (%llu, %llu)", what, a, b);
}

/* Page tables are warmed by a stub, which ends with this port access (warm.c). */
enum { STUB_ADDRESS = 0xfed10000u, STUB_PORT = 0x606 };

/* The guest's one vCPU. */
static int guest(int vcpu_fd, struct kvm_run *run)
{
	struct fake_vcpu *v = &fake_machine(vcpu_fd)->vcpu[0];
	uint64_t *counter = (uint64_t *)(fake_ram(vcpu_fd) + COUNTER);
	int me = getpid();

	if (v->regs.rip == STUB_ADDRESS && !run->immediate_exit) {
		run->exit_reason = KVM_EXIT_IO;
		run->io.port = STUB_PORT;
		return 0;
	}
	while (!__atomic_load_n(&run->immediate_exit, __ATOMIC_ACQUIRE)) {
		if (*counter != v->regs.rax)
			problem("memory and register disagree", *counter, v->regs.rax);
		w->mark = me;
		usleep(200);
		if (w->mark != me)
			problem("two are running", (unsigned long long)me, (unsigned long long)w->mark);
		*counter = ++v->regs.rax;
		w->steps = *counter;
		if (clock_ns() > w->deadline)
			_exit(99);
		if (w->power_off) {
			run->exit_reason = KVM_EXIT_SYSTEM_EVENT;
			run->system_event.type = KVM_SYSTEM_EVENT_SHUTDOWN;
			return 0;
		}
	}
	errno = EINTR;
	return -1;
}

static void begin(void)
{
	uint8_t image[IMAGE_MAX];
	size_t len = make_image(0, image);
	int fd;

	setenv("VMBEAM_RUNTIME_DIR", dir, 1);
	snprintf(kernel, sizeof(kernel), "%s/kernel", dir);
	fd = open(kernel, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	must(write(fd, image, len) == (ssize_t)len);
	close(fd);
	fake.run = guest;
}

/* Runs a test as the first process of a PID namespace: whatever becomes of it, and of processes that
 * are stopped or have left its session, they all end with it. */
static void in_namespace(void (*test)(void))
{
	char command[100];
	pid_t outer, inner;
	int status;

	cr_assert(mkdtemp(dir));
	w = mmap(NULL, sizeof(*w), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(w, MAP_FAILED);
	outer = fork();
	if (outer == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (unshare(CLONE_NEWPID)) {
			snprintf(w->problem, sizeof(w->problem), "no PID namespace: %s", strerror(errno));
			_exit(1);
		}
		inner = fork();
		if (inner == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			begin();
			test();
			_exit(0);
		}
		waitpid(inner, &status, 0);
		_exit(status ? 1 : 0);
	}
	cr_assert_eq(waitpid(outer, &status, 0), outer);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	cr_assert_eq(system(command), 0);
	cr_assert_eq(status, 0, "%s", w->problem);
	munmap(w, sizeof(*w));
}

#define HANDOVER(name)                                                                             \
	static void name(void);                                                                    \
	UNIT(handover, name)                                                                       \
	{                                                                                          \
		in_namespace(name);                                                                \
	}                                                                                          \
	static void name(void)

static int our_process(void)
{
	w->ours[w->nours++] = getpid();
	return vmm_process();
}

/* Starts the VM; returns its process. */
static pid_t start_vm(void)
{
	Vmb__Request r = VMB__REQUEST__INIT;
	Vmb__CreateRequest create = VMB__CREATE_REQUEST__INIT;
	Vmb__VmConfig c = VMB__VM_CONFIG__INIT;
	pid_t pid;
	int link;

	memset(w, 0, sizeof(*w));
	w->deadline = clock_ns() + DEADLINE_S * 1000000000ull;
	c.name = (char *)(uintptr_t) "toy";
	c.kernel = kernel;
	c.memory = 4 * MIB;
	c.cpus = 1;
	create.config = &c;
	r.kind_case = VMB__REQUEST__KIND_CREATE;
	r.create = &create;
	pid = vmm_spawn(our_process, &link, &e);
	must(pid > 0, "%s", e.text);
	must(vmm_request(link, &r, NULL, 0, NULL, NULL, 10000, &e) == 0, "%s", e.text);
	close(link);
	return pid;
}

static int destination_process(void)
{
	w->destination = getpid();
	return our_process();
}

/* A process that would stop itself at a fault point says so, and waits. */
int __real_raise(int sig);
int __wrap_raise(int sig);
int __wrap_raise(int sig)
{
	if (sig != SIGSTOP)
		return __real_raise(sig);
	w->held = getpid();
	while (w->held == getpid())
		usleep(500);
	return 0;
}

static pid_t start_driver(const char *fault)
{
	pid_t pid = fork();

	if (pid == 0) {
		struct handover_options o = {.entry = destination_process,
					     .warm = true,
					     .drain_timeout_ns = 5000000000u,
					     .fault = fault};

		w->driver_result = handover_drive("toy", &o, &w->report);
		_exit(0);
	}
	w->ours[w->nours++] = pid;
	return pid;
}

/* 'r' if it runs, 'c' if it has crashed, 0 if nobody answers. */
static char condition(void)
{
	int fd = vmm_connect("toy", NULL);
	Vmb__Reply *reply = NULL;
	char c = 0;

	if (fd < 0)
		return 0;
	if (!vmm_simple_request(fd, VMB__REQUEST__KIND_INFO, &reply, NULL, 2000, NULL)) {
		if (reply->info->state == VMB__RUN_STATE__RUN_STATE_RUNNING)
			c = 'r';
		else if (reply->info->state == VMB__RUN_STATE__RUN_STATE_CRASHED)
			c = 'c';
		vmb__reply__free_unpacked(reply, NULL);
	}
	close(fd);
	return c;
}

static bool makes_progress(void)
{
	unsigned long long before = w->steps;

	for (int i = 0; i < 2000 && w->steps < before + 3; i++)
		usleep(1000);
	return w->steps >= before + 3;
}

static bool has_ended(pid_t pid)
{
	struct pollfd p = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
	bool ended = p.fd < 0 || poll(&p, 1, 0) > 0;

	close_fd(&p.fd);
	return ended;
}

/* Those of the namespace, this one included; the dead are collected. */
static unsigned int count_processes(void)
{
	unsigned int n = 1;

	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	for (pid_t p = 2; p < 2000; p++)
		n += !kill(p, 0);
	return n;
}

/* One that is not: LeakSanitizer's tracer, left to us when the process that it looked at was killed. */
static bool is_ours(pid_t pid)
{
	for (int i = 0; i < w->nours; i++)
		if (w->ours[i] == pid)
			return true;
	return false;
}

/* Ends what is left of the VM; every process must be gone then. */
static void stop_vm(void)
{
	Vmb__Request r = VMB__REQUEST__INIT;
	Vmb__StopRequest stop = VMB__STOP_REQUEST__INIT;
	int fd = vmm_connect("toy", NULL), status;
	uint64_t start = clock_ns();
	pid_t pid;

	stop.force = true;
	r.kind_case = VMB__REQUEST__KIND_STOP;
	r.stop = &stop;
	if (fd >= 0) {
		vmm_request(fd, &r, NULL, 0, NULL, NULL, 2000, NULL);
		close(fd);
	}
	while ((pid = waitpid(-1, &status, WNOHANG)) >= 0) {
		must(clock_ns() - start < 5000000000u, "a process stays");
		if (pid == 0)
			usleep(1000);
		else if (is_ours(pid) && WIFEXITED(status) && WEXITSTATUS(status) > 1)
			problem("a process ended with", (unsigned long long)WEXITSTATUS(status), 0);
	}
	runtime_remove("toy");
}

static void assert_good(const char *what)
{
	char text[sizeof(w->problem)];

	memcpy(text, w->problem, sizeof(text));
	must(!w->bad, "%s: %s", what, text);
}

HANDOVER(many_in_a_row_lose_nothing)
{
	unsigned int rounds = 15;
	pid_t vm;

	vm = start_vm();
	for (unsigned int i = 0; i < rounds; i++) {
		pid_t driver = start_driver(NULL);
		int status;

		must(waitpid(driver, &status, 0) == driver);
		must(WIFEXITED(status) && WEXITSTATUS(status) == 0);
		must(w->driver_result == 0, "round %u: %s: %s", i, w->report.phase, w->report.error.text);
		must(w->report.completed);
		must(w->report.downtime_ns <= w->report.total_ns);
		must(w->report.state_bytes < 64 * KIB, "memory was copied");
		must(makes_progress());
		if (i == 0)
			must(has_ended(vm), "the source stays");
		assert_good("a handover");
	}
	stop_vm();
	assert_good("the end");
}

HANDOVER(a_dry_run_changes_nothing)
{
	struct handover_options o = {.entry = our_process, .dry_run = true};
	struct handover_report r;
	pid_t vm;

	vm = start_vm();
	must(handover_drive("toy", &o, &r) == 0, "%s", r.error.text);
	must(!r.completed && !r.nblockers);
	must(makes_progress() && !has_ended(vm));
	must(handover_drive("nobody", &o, &r) == -1);
	must(strstr(r.error.text, "no such VM"), "%s", r.error.text);
	stop_vm();
	assert_good("a dry run");
}

/* Before its capture is complete the source's death is the VM's; after its start so is the
 * destination's. */
static char expected(const char *point)
{
	static const char *const deadly[] = {"source.offered", "source.begun",	    "source.paused",
					     "source.drained", "source.captured", "destination.started"};

	for (size_t i = 0; i < ARRAY_LEN(deadly); i++)
		if (!strcmp(point, deadly[i]))
			return 'c';
	return 'r';
}

/* Waits until the driver has gone and somebody has the VM for good; 0 if nobody has. */
static char settle(pid_t driver)
{
	uint64_t start = clock_ns();
	char c = 0;

	do {
		w->held = 0; /* again and again: some points are passed twice */
		usleep(1000);
	} while (!has_ended(driver) && clock_ns() - start < 20000000000u);
	must(has_ended(driver), "the driver comes to no end");
	while (!(c = condition()) && count_processes() > 1 && clock_ns() - start < 20000000000u)
		usleep(5000);
	return c;
}

static void walk(size_t first, size_t step, const char *action)
{
	for (size_t i = first; i < fault_points_count; i += step) {
		char fault[64], c, want;

		snprintf(fault, sizeof(fault), "%s=%s", fault_points[i], action);
		want = strcmp(action, "kill") ? 'r' : expected(fault_points[i]);
		start_vm();
		c = settle(start_driver(fault));
		must(c == want, "%s: '%c', not '%c'; %s", fault, c ? c : '0', want, w->report.error.text);
		if (c == 'r')
			must(makes_progress(), "%s: it stands still", fault);
		stop_vm();
		assert_good(fault);
	}
}

HANDOVER(survives_a_death_at_any_point_first_half)
{
	walk(0, 2, "kill");
}

HANDOVER(survives_a_death_at_any_point_second_half)
{
	walk(1, 2, "kill");
}

HANDOVER(survives_a_failure_at_any_point)
{
	walk(0, 1, "fail");
}

/* One is held at the point, meanwhile another is killed, then the first goes on. */
static void walk_two(bool kill_earlier)
{
	for (size_t i = 0; i < fault_points_count; i++) {
		const char *point = fault_points[i];
		bool at_source = !strncmp(point, "source", 6), at_driver = !strncmp(point, "driver", 6);
		pid_t vm, driver, victim;
		char fault[64], c;

		snprintf(fault, sizeof(fault), "%s=hold", point);
		vm = start_vm();
		driver = start_driver(fault);
		for (int k = 0; k < 10000 && !w->held; k++)
			usleep(1000);
		must(w->held, "%s was not reached", point);
		/* Of the other two the earlier or the later one of source, destination, driver. */
		victim = kill_earlier ? (at_source ? w->destination : vm) : (at_driver ? w->destination : driver);
		if (victim > 0)
			kill(victim, SIGKILL);
		while (victim > 0 && !has_ended(victim))
			usleep(1000);
		c = settle(driver);
		must(c, "%s: nobody has even its memory", point);
		if (victim == driver)
			must(c == 'r', "%s, driver killed: it has crashed", point);
		if (c == 'r')
			must(makes_progress(), "%s: it stands still", point);
		stop_vm();
		assert_good(point);
	}
}

HANDOVER(survives_a_death_while_another_is_held_up)
{
	walk_two(true);
}

HANDOVER(survives_the_drivers_death_while_another_is_held_up)
{
	walk_two(false);
}

HANDOVER(of_a_vm_that_ends_meanwhile_leaves_nothing)
{
	static const char *const points[] = {"driver.offered", "driver.prepared", "destination.received",
					     "destination.built", "destination.warmed"};

	for (size_t i = 0; i < ARRAY_LEN(points); i++) {
		char fault[64], reason[64] = "";
		pid_t vm, driver;
		int status;

		snprintf(fault, sizeof(fault), "%s=hold", points[i]);
		vm = start_vm();
		driver = start_driver(fault);
		for (int k = 0; k < 10000 && !w->held; k++)
			usleep(1000);
		must(w->held, "%s was not reached", points[i]);
		w->power_off = true;
		while (!has_ended(vm))
			usleep(1000);
		settle(driver);
		must(w->driver_result == -1, "%s", points[i]);
		must(strstr(w->report.error.text, "ended") || strstr(w->report.error.text, "closed"), "%s: %s", points[i], w->report.error.text);
		must(runtime_exit_record("toy", reason, &status) && !strcmp(reason, "shutdown"));
		must(condition() == 0, "%s: somebody keeps it", points[i]);
		stop_vm();
		assert_good(points[i]);
	}
}

/* ---- a source that lies: a guest that has broken out of it must not get at the driver */

struct lie {
	const char *what;
	size_t names, fds;
	const char *owner; /* the name of the first descriptor */
	bool provisional, config;
};

static void lying_source(int listener, const struct lie *lie)
{
	Vmb__Reply reply = VMB__REPLY__INIT;
	Vmb__HandoverOffer offer = VMB__HANDOVER_OFFER__INIT;
	Vmb__VmState provisional = VMB__VM_STATE__INIT;
	Vmb__VmConfig config = VMB__VM_CONFIG__INIT;
	char *names[WIRE_MAX_FDS + 8];
	int fds[WIRE_MAX_FDS], null = open("/dev/null", O_RDWR | O_CLOEXEC), client;
	struct pollfd p = {.fd = listener, .events = POLLIN};
	ProtobufCMessage *msg;

	poll(&p, 1, 5000);
	client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		names[i] = (char *)(uintptr_t)(i ? "disk0" : lie->owner);
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		fds[i] = null;
	reply.kind_case = VMB__REPLY__KIND_OFFER;
	reply.offer = &offer;
	offer.fd_names = names;
	offer.n_fd_names = lie->names;
	offer.provisional = lie->provisional ? &provisional : NULL;
	provisional.config = lie->config ? &config : NULL;
	if (wire_recv(client, &vmb__request__descriptor, &msg, NULL, 5000, NULL) == 1) {
		wire_send(client, &reply.base, fds, lie->fds, NULL);
		protobuf_c_message_free_unpacked(msg, NULL);
	}
	_exit(0);
}

static int die(void)
{
	_exit(1);
}

HANDOVER(a_source_that_lies_gets_an_error_and_nothing_else)
{
	static const struct lie lies[] = {
		{"as many as fit a message", WIRE_MAX_FDS - 1, WIRE_MAX_FDS, "ram", true, true},
		{"more than a VM has", VM_MAX_FILES + 1, VM_MAX_FILES + 2, "ram", true, true},
		{"as many as a VM has", VM_MAX_FILES, VM_MAX_FILES + 1, "ram", true, true},
		{"none at all", 0, 0, "ram", true, true},
		{"only its own pidfd", 0, 1, "ram", true, true},
		{"more names than descriptors", 5, 3, "ram", true, true},
		{"more descriptors than names", 3, 9, "ram", true, true},
		{"an owner word that is none", 3, 4, "owner", true, true},
		{"no state", 3, 4, "ram", false, false},
		{"no configuration", 3, 4, "ram", true, false},
	};
	struct handover_options o = {.entry = die};
	char *path;

	path = runtime_path("toy", "control");
	for (size_t i = 0; i < ARRAY_LEN(lies); i++) {
		struct handover_report r;
		int lock = runtime_claim("toy", &e), listener = wire_listen(path, SOCK_SEQPACKET, &e);
		pid_t pid = fork();

		if (pid == 0)
			lying_source(listener, &lies[i]);
		close(listener);
		must(handover_drive("toy", &o, &r) == -1, "%s", lies[i].what);
		must(r.error.text[0] && !r.completed, "%s", lies[i].what);
		while (waitpid(-1, NULL, 0) > 0)
			;
		close(lock);
		runtime_remove("toy");
	}
	free(path);
}
