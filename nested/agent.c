/* agent.c: process 1 of a guest hypervisor: out of an initramfs that holds this program and the
 * kernel's modules it makes a system that can run VMs, and answers L0's questions.
 *
 * Its channel is the host VM's virtio console, hvc0.  What goes wrong while it comes up is told in
 * the answer to a hello; a hypervisor without its channel powers off.
 */
#include "nested/hypervisor.h"

#include "aging-monitor/collect.h"
#include "nested/ageing.h"
#include "nested/channel.h"
#include "vmm/vmm.h"
#include "vmm/wire.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum { GUEST_PORT_FD = 3,  SEND_MS = 10000, WINDOW_TRIES = 500, WINDOW_WAIT_MS = 20 };

/* A stream to L0, for one guest VM at a time. */
struct guest_port {
	char path[32];
	int fd;	   /* -1: closed */
	pid_t pid; /* who runs the guest, 0: nobody */
};

struct agent {
	struct guest_port port[VM_HOST_PORTS];
	size_t nports;
	int epoll, deaths; /* signalfd */
	bool for_tests; /* started so: only then it does harm */
	bool hostile, noisy;
	struct channel channel;
	struct phases boot;
	struct error failed;
	uint64_t window;
	struct aging_collector *collector;
	struct aging_samples samples; /* of the last question of that kind */
	uint64_t samples_id;
	uint64_t harm_id; /* the last question of that kind, and how it went */
	const char *harm_failed; /* NULL: well */
};

void hold_a_vm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);

	if (vm < 0 || ioctl(vm, KVM_CREATE_IRQCHIP, 0) || ioctl(vm, KVM_CREATE_VCPU, 0) < 0)
		log_line("warning: no VM to hold: under QEMU's TCG busy guests may bring all to a standstill");
}

static void __attribute__((noreturn)) power_off(const char *why)
{
	log_line("agent: %s", why);
	sync();
	reboot(RB_POWER_OFF);
	_exit(1);
}

static void mount_all(struct agent *a)
{
	static const struct {
		const char *type, *on;
	} mounts[] = {{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/run"}, {"tmpfs", "/tmp"}};

	for (size_t i = 0; i < ARRAY_LEN(mounts); i++) {
		mkdir(mounts[i].on, 0755);
		if (mount(mounts[i].type, mounts[i].on, mounts[i].type, 0, NULL) && errno != EBUSY)
			error_set_errno(&a->failed, "mount %s", mounts[i].on);
	}
}

/* The kernel found no console to open for process 1: what is logged goes to the serial line. */
static void open_standard_files(void)
{
	int null = open("/dev/null", O_RDWR), console = open("/dev/console", O_WRONLY | O_NOCTTY);

	dup2(console >= 0 ? console : null, STDERR_FILENO); /* before the others: these two may be 0 and 1 */
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	if (null > STDERR_FILENO)
		close(null);
	if (console > STDERR_FILENO)
		close(console);
}

/* In the order of their names.  Of KVM's two one must do. */
static void load_modules(struct agent *a)
{
	struct dirent **names;
	int n = scandir("/modules", &names, NULL, alphasort);

	for (int i = 0; i < n; i++) {
		char *path = xasprintf("/modules/%s", names[i]->d_name);
		int fd = names[i]->d_name[0] == '.' ? -1 : open(path, O_RDONLY | O_CLOEXEC);

		if (fd >= 0 && syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST &&
		    !strstr(path, "kvm-"))
			error_set_errno(&a->failed, "%s", path);
		close_fd(&fd);
		free(path);
		free(names[i]);
	}
	if (n >= 0)
		free(names);
	if (access("/dev/kvm", R_OK | W_OK))
		error_set_errno(&a->failed, "/dev/kvm");
}

/* dax_hmem makes the device some time after it was loaded. */
static void find_window(struct agent *a)
{
	char size[32];

	for (int i = 0; i < WINDOW_TRIES && access("/dev/dax0.0", R_OK | W_OK); i++)
		usleep(WINDOW_WAIT_MS * 1000);
	read_text("/sys/bus/dax/devices/dax0.0/size", size, sizeof(size));
	a->window = strtoull(size, NULL, 10);
	if (!a->window || access("/dev/dax0.0", R_OK | W_OK))
		error_set(&a->failed, "the kernel made no device of the beam window");
}

static void open_channel(struct agent *a)
{
	int fd = open("/dev/hvc0", O_RDWR | O_NOCTTY | O_CLOEXEC);
	struct termios t;

	if (fd < 0 || tcgetattr(fd, &t))
		power_off("no channel: /dev/hvc0");
	cfmakeraw(&t);
	tcsetattr(fd, TCSANOW, &t);
	channel_init(&a->channel, fd);
}

/* ---- guest VMs
 *
 * What L0 writes to a port begins a guest VM: a process is started that is given the port.  When it has ended
 * the port is closed and opened anew, which tells L0 that it is free.
 */

/* A port that L0 has not opened is readable and says POLLHUP for ever: it is looked at when it changes. */
static int open_port(struct agent *a, struct guest_port *p)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.ptr = p};

	close_fd(&p->fd);
	p->fd = open(p->path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (p->fd < 0 || epoll_ctl(a->epoll, EPOLL_CTL_ADD, p->fd, &ev))
		return -1;
	return 0;
}

static int is_port(const struct dirent *d)
{
	return !strncmp(d->d_name, "vport", 5);
}

static bool is_known(const struct agent *a, const char *path)
{
	for (size_t i = 0; i < a->nports; i++)
		if (!strcmp(a->port[i].path, path))
			return true;
	return false;
}

/* One that the console has cannot be opened. */
static void look_for_ports(struct agent *a)
{
	struct dirent **names;
	int n = scandir("/dev", &names, is_port, alphasort);

	for (int i = 0; i < n; i++) {
		struct guest_port p = {.fd = -1};

		snprintf(p.path, sizeof(p.path), "/dev/%.24s", names[i]->d_name);
		if (a->nports < VM_HOST_PORTS && !is_known(a, p.path)) {
			a->port[a->nports] = p;
			if (!open_port(a, &a->port[a->nports]))
				a->nports++;
		}
		free(names[i]);
	}
	if (n >= 0)
		free(names);
}

/* The driver makes them some time after it was loaded. */
static void find_ports(struct agent *a)
{
	for (int i = 0; i < WINDOW_TRIES && a->nports < VM_HOST_PORTS; i++) {
		look_for_ports(a);
		if (a->nports < VM_HOST_PORTS)
			usleep(WINDOW_WAIT_MS * 1000);
	}
	if (a->nports < VM_HOST_PORTS)
		error_set(&a->failed, "%zu of its %d ports are there", a->nports, VM_HOST_PORTS);
}

/* What a hypervisor in foreign hands might say: never returns. */
static void __attribute__((noreturn)) make_noise(int fd)
{
	uint8_t noise[1024];

	signal(SIGPIPE, SIG_IGN);
	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLOUT};

		if (getrandom(noise, sizeof(noise), 0) < 0 || poll(&p, 1, -1) < 0 ||
		    (write(fd, noise, sizeof(noise)) < 0 && errno != EAGAIN))
			_exit(1);
	}
}

static void start_guest(struct agent *a, struct guest_port *p)
{
	sigset_t none;

	epoll_ctl(a->epoll, EPOLL_CTL_DEL, p->fd, NULL);
	p->pid = fork();
	if (p->pid < 0) {
		log_line("agent: fork: %s", strerror(errno));
		p->pid = 0;
		open_port(a, p); /* whoever waits there learns that nothing comes */
	}
	if (p->pid)
		return;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	dup2(p->fd, GUEST_PORT_FD);
	close_range(GUEST_PORT_FD + 1, ~0u, 0);
	if (a->noisy)
		make_noise(GUEST_PORT_FD);
	_exit(vm_back_process(GUEST_PORT_FD, "/dev/dax0.0", "/run/empty", a->hostile));
}

static void reap(struct agent *a)
{
	struct signalfd_siginfo info;
	pid_t pid;

	while (read(a->deaths, &info, sizeof(info)) > 0)
		;
	while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
		for (size_t i = 0; i < a->nports; i++)
			if (a->port[i].pid == pid) {
				a->port[i].pid = 0;
				if (open_port(a, &a->port[i]))
					log_line("agent: %s: %s", a->port[i].path, strerror(errno));
			}
}

static void watch_all(struct agent *a)
{
	struct epoll_event question = {.events = EPOLLIN, .data.ptr = NULL};
	struct epoll_event death = {.events = EPOLLIN, .data.ptr = &a->deaths};
	sigset_t children;

	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	sigprocmask(SIG_BLOCK, &children, NULL);
	a->epoll = epoll_create1(EPOLL_CLOEXEC);
	a->deaths = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
	if (a->epoll < 0 || a->deaths < 0 || epoll_ctl(a->epoll, EPOLL_CTL_ADD, a->deaths, &death) ||
	    epoll_ctl(a->epoll, EPOLL_CTL_ADD, a->channel.fd, &question))
		power_off("cannot watch its channel");
}

/* Waits for what there is to do, and starts and reaps guests.  True: there is a question. */
static bool serve_ports(struct agent *a)
{
	struct epoll_event ev[16];
	int n = epoll_wait(a->epoll, ev, ARRAY_LEN(ev), -1);
	bool question = false;

	for (int i = 0; i < n; i++) {
		struct guest_port *p = ev[i].data.ptr;

		if (!p)
			question = true;
		else if (ev[i].data.ptr == &a->deaths)
			reap(a);
		else if (ev[i].events & EPOLLIN && !(ev[i].events & EPOLLHUP) && !p->pid)
			start_guest(a, p);
	}
	return question;
}

/* ---- questions */

static void fill_hello(struct agent *a, Vmb__AgentHello *hello, struct utsname *u)
{
	uname(u);
	hello->kernel = u->release;
	hello->kvm = !access("/dev/kvm", R_OK | W_OK);
	hello->window = a->window;
	hello->boot = a->boot.list;
	hello->n_boot = a->boot.n;
	hello->failed = a->failed.text;
}

static void fill_health(Vmb__AgentHealth *health)
{
	struct sysinfo si = {.mem_unit = 1};

	sysinfo(&si);
	health->uptime_ns = clock_ns();
	health->memory = (uint64_t)si.totalram * si.mem_unit;
	health->available = (uint64_t)(si.freeram + si.bufferram) * si.mem_unit;
}

/* Never given back: that is what it is for.  Some is left, or the kernel would end the guests. */
static int leak(uint64_t bytes)
{
	struct sysinfo si = {.mem_unit = 1};
	void *p;

	sysinfo(&si);
	if (bytes > (uint64_t)si.freeram * si.mem_unit / 8 * 7)
		return -1;
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	return p == MAP_FAILED ? -1 : 0;
}

/* What makes no sense, among what does. */
static void tell_lies(Vmb__Sample *sample, size_t n)
{
	static const double values[] = {NAN, -1, 1e300, -INFINITY};

	for (size_t i = 0; i < n; i++) {
		if (i % 4 == 0)
			sample[i].value = values[i / 4 % ARRAY_LEN(values)];
		if (i % 16 == 1)
			sample[i].kind = 99;
		if (i % 16 == 2)
			sample[i].name = (char *)(uintptr_t) "\"} 1\nvmbeam_health 1";
	}
}

static void fill_samples(struct agent *a, uint64_t id, Vmb__AgentSamples *out)
{
	static Vmb__Sample sample[AGING_INDICATORS], *list[AGING_INDICATORS];

	if (!a->collector)
		a->collector = aging_collector_create("/proc", "/tmp");
	/* Asked again before it was answered: once is meant. */
	if (id != a->samples_id)
		a->samples.n = 0;
	if (id != a->samples_id && a->collector)
		aging_collect(a->collector, (double)clock_ns() / 1e9, &a->samples);
	a->samples_id = id;
	for (size_t i = 0; i < a->samples.n; i++) {
		vmb__sample__init(&sample[i]);
		sample[i].name = a->samples.sample[i].name;
		sample[i].kind = a->samples.sample[i].kind;
		sample[i].limit = a->samples.sample[i].limit;
		sample[i].value = a->samples.sample[i].value;
		list[i] = &sample[i];
	}
	if (a->hostile)
		tell_lies(sample, a->samples.n);
	out->sample = list;
	out->n_sample = a->samples.n;
	out->uptime_ns = clock_ns();
}

/* What an image may hold beside the agent. */
static void start_more(void)
{
	sigset_t none;

	if (access("/start", X_OK) || fork())
		return;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execl("/start", "/start", NULL);
	_exit(127);
}

/* Tests want it to.  Asked again before it was answered: once is meant.  NULL, or why not. */
static const char *do_harm(struct agent *a, const Vmb__AgentMessage *question)
{
	static struct error e;

	if (!a->for_tests)
		return "only a hypervisor for tests does that ($VMBEAM_TEST=1 when it is started)";
	if (question->id == a->harm_id)
		return a->harm_failed;
	a->harm_id = question->id;
	a->harm_failed = NULL;
	if (question->kind_case == VMB__AGENT_MESSAGE__KIND_HOSTILE_REQUEST)
		a->hostile = true;
	else if (question->kind_case == VMB__AGENT_MESSAGE__KIND_LEAK_REQUEST && leak(question->leak_request))
		a->harm_failed = "so much memory is not there";
	else if (question->kind_case == VMB__AGENT_MESSAGE__KIND_AGEING_REQUEST && ageing_set(question->ageing_request, &e))
		a->harm_failed = e.text;
	return a->harm_failed;
}

static void answer(struct agent *a, const Vmb__AgentMessage *question)
{
	Vmb__AgentMessage m = VMB__AGENT_MESSAGE__INIT;
	Vmb__AgentHello hello = VMB__AGENT_HELLO__INIT;
	Vmb__AgentHealth health = VMB__AGENT_HEALTH__INIT;
	Vmb__AgentSamples samples = VMB__AGENT_SAMPLES__INIT;
	Vmb__Empty done = VMB__EMPTY__INIT;
	const char *wrong;
	struct utsname u;
	struct error e;

	if (a->noisy)
		return;
	usleep((useconds_t)ageing_delay_ms() * 1000);
	m.version = AGENT_VERSION;
	m.id = question->id;
	switch (question->kind_case) {
	case VMB__AGENT_MESSAGE__KIND_HELLO_REQUEST:
		fill_hello(a, &hello, &u);
		m.kind_case = VMB__AGENT_MESSAGE__KIND_HELLO;
		m.hello = &hello;
		break;
	case VMB__AGENT_MESSAGE__KIND_HEALTH_REQUEST:
		fill_health(&health);
		m.kind_case = VMB__AGENT_MESSAGE__KIND_HEALTH;
		m.health = &health;
		break;
	case VMB__AGENT_MESSAGE__KIND_SAMPLES_REQUEST:
		fill_samples(a, question->id, &samples);
		m.kind_case = VMB__AGENT_MESSAGE__KIND_SAMPLES;
		m.samples = &samples;
		break;
	case VMB__AGENT_MESSAGE__KIND_NOISE_REQUEST:
		if (a->for_tests) {
			a->noisy = true;
			if (!fork())
				make_noise(a->channel.fd);
			return;
		}
		/* fall through */
	case VMB__AGENT_MESSAGE__KIND_HOSTILE_REQUEST:
	case VMB__AGENT_MESSAGE__KIND_LEAK_REQUEST:
	case VMB__AGENT_MESSAGE__KIND_AGEING_REQUEST:
		m.kind_case = VMB__AGENT_MESSAGE__KIND_DONE;
		m.done = &done;
		wrong = do_harm(a, question);
		if (wrong)
			m.error = (char *)(uintptr_t)wrong;
		break;
	default:
		m.error = (char *)(uintptr_t) "the agent does not know this question";
	}
	if (channel_send(&a->channel, &m, SEND_MS, &e))
		log_line("agent: %s", e.text);
}

static bool is_for_tests(void)
{
	char line[4096];

	read_text("/proc/cmdline", line, sizeof(line));
	return strstr(line, " vmbeam.test");
}

void agent_main(void)
{
	static struct agent a;
	Vmb__AgentMessage *question;
	struct error e;

	phases_end(&a.boot, "kernel"); /* CLOCK_MONOTONIC begins with it */
	mount_all(&a);
	open_standard_files();
	a.for_tests = is_for_tests();
	phases_end(&a.boot, "mounts");
	load_modules(&a);
	hold_a_vm();
	phases_end(&a.boot, "modules");
	find_window(&a);
	phases_end(&a.boot, "window");
	open_channel(&a);
	mkdir("/run/empty", 0555);
	watch_all(&a);
	find_ports(&a);
	phases_end(&a.boot, "ports");
	start_more();
	for (;;) {
		if (!serve_ports(&a))
			continue;
		if (channel_receive(&a.channel, &question, 0, &e) < 0)
			power_off(e.text);
		if (!question)
			continue;
		answer(&a, question);
		vmb__agent_message__free_unpacked(question, NULL);
	}
}
