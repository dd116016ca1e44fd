/* beat.c: /init of the tiny test guest "beat": it works on its memory (beat_mem.c), watches its
 * clocks (beat_clock.c) and prints a line on the console at a steady beat.  The tests run it in our
 * VMM and let `beatcheck` judge the serial log; beat.h lists the parts.
 *
 * Kernel command line: "console=ttyS0 quiet panic=-1" (panic=0 to have it dumped) and any of
 *   beat.mem=SIZE|N%   memory to work on (default 25 % of what is free)
 *   beat.rate=BYTES    pages stepped per second, in bytes; 0: as fast as it can (default);
 *                      idle: none, the memory is only filled
 *   beat.threads=N     default one per CPU; thread i runs on CPU i
 *   beat.thp=0|1       2 MiB pages for it (default: as the kernel decides)
 *   beat.holes=1       every second 2 MiB of the physical memory that it takes are given back
 *   beat.full=N        every word of a page is checked and written in one pass of N (default 16)
 *   beat.tick=MS       default 100
 *   beat.load=NAME,... modules to load besides: virtio_balloon, virtio-rng, virtio_console
 *   beat.end=N beat.reboot=N beat.panic=N   after N ticks power off, reset or panic
 *   beat.jobs=1        nothing of the rest: jobs that the console asks for, timed (beat_jobs.c)
 *   beat.disk=N        N threads write, read back and verify /dev/vda (beat_disk.c)
 *   beat.disksize=SIZE the part of it that they use (default: 64M, or all of a smaller disk)
 *   beat.net=IP/PREFIX[,port=N]   eth0's address; a TCP stream for `beatpeer` on port N (7000)
 *                      and a UDP echo on N + 1 (beat_net.c)
 *
 * Lines it prints (each by one write, so they come whole or not at all):
 *   beat ready cpus=N mem=BYTES pages=N threads=N
 *   tick SEQ mono=NS real=NS maxgap=NS pgap=NS late=NS passes=N written=BYTES bad=N back=N
 *           [diskw=BYTES diskbad=N] [netrx=BYTES nettx=BYTES netbad=N] sum=HEX
 *   BEAT MISMATCH ..., BEAT CLOCK ..., BEAT DISK ..., BEAT NET ..., BEAT KERNEL <warning of the guest's kernel>,
 * BEAT POWEROFF, BEAT END passes=N bad=N SEQ goes up by one.  maxgap and late (of the tick itself)
 * are since the line before; `sum` is beat_line_sum() of the line up to " sum", so that a lost or
 * doubled character shows too.
 *
 * The kernel's own messages would break into our lines, so they are kept off the console (but for a
 * panic) and warnings are passed on as lines of ours.
 */
#include "tests/guests/beat.h"
#include "tests/guests/beat_line.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static char cmdline[4096];

const char *opt_text(const char *name, const char *otherwise)
{
	char copy[sizeof(cmdline)];
	size_t len = strlen(name);

	strcpy(copy, cmdline);
	for (char *word = strtok(copy, " \n"); word; word = strtok(NULL, " \n")) {
		if (!strncmp(word, "beat.", 5) && !strncmp(word + 5, name, len) &&
		    word[5 + len] == '=')
			return strdup(word + 5 + len + 1);
	}
	return otherwise;
}

uint64_t text_number(const char *text)
{
	char *end;
	uint64_t n = strtoull(text, &end, 10);

	return n << (*end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0);
}

uint64_t opt_number(const char *name, uint64_t otherwise)
{
	const char *text = opt_text(name, NULL);

	return text ? text_number(text) : otherwise;
}

static void say_args(const char *fmt, va_list ap)
{
	char line[512];
	int len = vsnprintf(line, sizeof(line) - 1, fmt, ap);

	if (len > (int)sizeof(line) - 2)
		len = sizeof(line) - 2;
	line[len++] = '\n';
	if (write(STDOUT_FILENO, line, (size_t)len) != len)
		return; /* the console is all there is to complain to */
}

void say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say_args(fmt, ap);
	va_end(ap);
}

/* The console's buffer must be out before the machine goes, and what the other threads have to say
 * about their devices going must not.
 */
static void __attribute__((noreturn)) leave(int how)
{
	int console = dup(STDOUT_FILENO);

	dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDOUT_FILENO);
	tcdrain(console);
	reboot(how);
	_exit(1);
}

void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say_args(fmt, ap);
	va_end(ap);
	leave(RB_POWER_OFF);
}

void load_virtio(void)
{
	load_modules((const char *const[]){"virtio_ring", "virtio", "virtio_pci_modern_dev",
					   "virtio_pci_legacy_dev", "virtio_pci", NULL});
}

void load_modules(const char *const *names)
{
	char path[64];

	for (; *names; names++) {
		int fd;

		snprintf(path, sizeof(path), "/modules/%s.ko", *names);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST))
			die("%s: %s", path, strerror(errno));
		close(fd);
	}
}

void start_thread(void *(*fn)(void *), void *arg)
{
	pthread_t thread;

	errno = pthread_create(&thread, NULL, fn, arg);
	if (errno)
		die("thread: %s", strerror(errno));
	pthread_detach(thread);
}

/* Waits for the ACPI power button. */
static void *watch_button(void *arg)
{
	struct pollfd fds[8];
	nfds_t count = 0;

	for (int i = 0; i < 8; i++) {
		char path[32];

		snprintf(path, sizeof(path), "/dev/input/event%d", i);
		fds[count].fd = open(path, O_RDONLY | O_CLOEXEC);
		fds[count].events = POLLIN;
		count += fds[count].fd >= 0;
	}
	while (poll(fds, count, -1) > 0) {
		struct input_event event;

		for (nfds_t i = 0; i < count; i++) {
			if (!(fds[i].revents & POLLIN) ||
			    read(fds[i].fd, &event, sizeof(event)) != sizeof(event))
				continue;
			if (event.type == EV_KEY && event.code == KEY_POWER && event.value) {
				say("BEAT POWEROFF");
				leave(RB_POWER_OFF);
			}
		}
	}
	return arg;
}

/* Warnings and worse of the kernel since the last call, each as a line of ours. */
static void pass_kernel_messages(int kmsg)
{
	char record[1024];
	ssize_t len;

	while ((len = read(kmsg, record, sizeof(record) - 1)) > 0) {
		char *text;

		record[len] = '\0';
		text = strchr(record, ';');
		if (strtoul(record, NULL, 10) <= 4 && text) /* LOG_KERN | LOG_WARNING */
			say("BEAT KERNEL %.*s", (int)strcspn(text + 1, "\n"), text + 1);
	}
}

static void print_tick(uint64_t seq, const struct mem_stats *mem, uint64_t late)
{
	uint64_t written, received, sent, bad;
	char line[480];
	int len;

	len = snprintf(line, sizeof(line),
		       "tick %llu mono=%llu real=%llu maxgap=%llu pgap=%llu late=%llu passes=%llu "
		       "written=%llu bad=%llu back=%llu",
		       (unsigned long long)seq, (unsigned long long)clock_ns(),
		       (unsigned long long)clock_real(), (unsigned long long)mem->gaps.quiet,
		       (unsigned long long)mem->gaps.printing, (unsigned long long)late,
		       (unsigned long long)mem->passes, (unsigned long long)mem->written,
		       (unsigned long long)mem->bad, (unsigned long long)clock_backward_steps());
	if (disk_stats(&written, &bad))
		len += snprintf(line + len, sizeof(line) - (size_t)len, " diskw=%llu diskbad=%llu",
				(unsigned long long)written, (unsigned long long)bad);
	if (net_stats(&received, &sent, &bad))
		len += snprintf(line + len, sizeof(line) - (size_t)len,
				" netrx=%llu nettx=%llu netbad=%llu", (unsigned long long)received,
				(unsigned long long)sent, (unsigned long long)bad);
	gap_printing();
	say("%s sum=%04x", line, beat_line_sum(line, (size_t)len));
	tcdrain(STDOUT_FILENO);
	gap_printing();
}

static void end_by_option(uint64_t seq, const struct mem_stats *mem)
{
	static uint64_t end, again, panic;

	if (!seq) {
		end = opt_number("end", 0);
		again = opt_number("reboot", 0);
		panic = opt_number("panic", 0);
	} else if (seq == panic) {
		int fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);

		if (write(fd, "c", 1) != 1)
			die("panic: %s", strerror(errno));
	} else if (seq == end || seq == again) {
		say("BEAT END passes=%llu bad=%llu", (unsigned long long)mem->passes,
		    (unsigned long long)mem->bad);
		leave(seq == end ? RB_POWER_OFF : RB_AUTOBOOT);
	}
}

/* Never returns.  A tick that comes late moves the later ones; none is left out. */
static void __attribute__((noreturn)) tick_for_ever(int kmsg)
{
	struct sched_param priority = {.sched_priority = 50}; /* before the workers */
	uint64_t step = opt_number("tick", 100) * 1000000u;
	uint64_t next = clock_ns();
	struct mem_stats mem;

	sched_setscheduler(0, SCHED_FIFO, &priority);
	for (uint64_t seq = 0;; seq++) {
		uint64_t late = clock_ns() - next;

		clock_check();
		mem_stats(&mem);
		print_tick(seq, &mem, late);
		pass_kernel_messages(kmsg);
		end_by_option(seq, &mem);
		next += late > step ? step + late : step;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME,
				&(struct timespec){.tv_sec = (time_t)(next / 1000000000u),
						   .tv_nsec = (long)(next % 1000000000u)},
				NULL);
	}
}

static void mount_basics(void)
{
	int fd;
	ssize_t len;

	mkdir("/proc", 0755);
	mkdir("/dev", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	len = read(fd, cmdline, sizeof(cmdline) - 1);
	if (len < 0)
		die("/proc/cmdline: %s", strerror(errno));
	close(fd);
}

static void load_extra_modules(void)
{
	char *names = strdup(opt_text("load", ""));

	if (*names)
		load_virtio();
	for (char *name = strtok(names, ","); name; name = strtok(NULL, ","))
		load_modules((const char *const[]){name, NULL});
	free(names);
}

int main(void)
{
	int kmsg;

	mount_basics();
	klogctl(8 /* SYSLOG_ACTION_CONSOLE_LEVEL */, NULL, 1);
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	lseek(kmsg, 0, SEEK_END);
	load_modules((const char *const[]){"evdev", "button", NULL});
	start_thread(watch_button, NULL);
	clock_start();
	load_extra_modules();
	disk_start();
	net_start();
	if (opt_number("jobs", 0))
		jobs_run();
	mem_start((unsigned)sysconf(_SC_NPROCESSORS_ONLN));
	tick_for_ever(kmsg);
}
