/* main.c: vmbeamd: options, start, the loop: daemon.h. */
#include "rejuv/daemon/daemon.h"

#include "rejuv/cli.h"
#include "vmm/client.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

enum { EVENTS = 16, TICK_MS = 1000, SLOW_MS = 50 };
#define CONFIG_PATH "/etc/vmbeam/vmbeamd.conf"
#define USAGE	    "vmbeamd [--config FILE] [--check | --shutdown]"

struct loop {
	struct daemon d;
	struct source signals;
};

static int usage(void)
{
	return cli_usage(USAGE);
}

static bool differs(const char *a, const char *b)
{
	return strcmp(a ? a : "", b ? b : "");
}

static void reload(struct daemon *d)
{
	struct error e;
	struct config *c = config_read(d->config_path, &e);

	if (!c) {
		event(d, NULL, "config", "%s; what was configured before stays", e.text);
		return;
	}
	if (differs(c->socket, d->config->socket) || differs(c->group, d->config->group) || differs(c->dashboard, d->config->dashboard) ||
	    differs(c->listen, d->config->listen))
		event(d, NULL, "config", "another socket, group, dashboard or metrics is for the next start only");
	config_destroy(d->config);
	d->config = c;
	event(d, NULL, "config", "read again");
}

static void on_signal(void *ctx)
{
	struct loop *l = ctx;
	struct signalfd_siginfo si;

	while (read(l->signals.fd, &si, sizeof(si)) == sizeof(si))
		if (si.ssi_signo == SIGHUP)
			reload(&l->d);
		else if (si.ssi_signo != SIGCHLD)
			l->d.stopping = true;
	children_reap(l->d.children);
}

static int open_signals(struct loop *l, struct error *e)
{
	static const int signals[] = {SIGCHLD, SIGHUP, SIGINT, SIGTERM};
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_LEN(signals); i++)
		sigaddset(&set, signals[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	l->signals = (struct source){.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), .on = on_signal, .ctx = l};
	return l->signals.fd < 0 ? error_set_errno(e, "signalfd") : watch_source(&l->d, &l->signals, e);
}

/* Who has our output and does not read it loses what does not fit: nothing waits for that. */
static void never_wait(int fd)
{
	struct stat st;

	if (!fstat(fd, &st) && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode)))
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static int make_dir(const char *path, mode_t mode, struct error *e)
{
	return mkdir(path, mode) && errno != EEXIST ? error_set_errno(e, "%s", path) : 0;
}

static int start(struct loop *l, struct error *e)
{
	struct daemon *d = &l->d;
	char *journal;

	if (make_dir(runtime_dir(), 0755, e) || make_dir(state_dir(), 0700, e))
		return -1;
	d->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (d->epoll < 0)
		return error_set_errno(e, "epoll");
	journal = xasprintf("%s/journal.db", state_dir());
	d->journal = journal_open(journal, e);
	free(journal);
	if (!d->journal || open_signals(l, e))
		return -1;
	d->children = children_create();
	d->events = events_create(d);
	d->inventory = inventory_create(d);
	d->feed = feed_create(d);
	d->reception = reception_create(d);
	d->jobs = jobs_create(d);
	d->engine = engine_create(d, e);
	d->api = d->engine ? api_create(d, e) : NULL;
	return d->api ? 0 : -1;
}

static void stop(struct loop *l)
{
	struct daemon *d = &l->d;

	api_destroy(d->api);
	d->api = NULL;
	engine_destroy(d->engine);
	jobs_destroy(d->jobs);
	reception_destroy(d->reception);
	feed_destroy(d->feed);
	inventory_destroy(d->inventory);
	events_destroy(d->events);
	children_destroy(d->children);
	journal_close(d->journal);
	config_destroy(d->config);
	close_fd(&l->signals.fd);
	close_fd(&d->epoll);
}

static void tick(struct daemon *d)
{
	children_reap(d->children);
	feed_tick(d->feed);
	reception_tick(d->reception);
	inventory_tick(d->inventory);
	engine_tick(d->engine);
}

/* How long this thread has waited for a CPU, ns (Documentation/scheduler/sched-stats.rst): that is no stall of its own making. */
static uint64_t waited_ns(void)
{
	static int fd = -1;
	unsigned long long ran, waited = 0;
	char text[96] = "";

	if (fd < 0)
		fd = open("/proc/self/schedstat", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || pread(fd, text, sizeof(text) - 1, 0) <= 0 || sscanf(text, "%llu %llu", &ran, &waited) != 2)
		return 0;
	return waited;
}

static void run(struct loop *l)
{
	struct daemon *d = &l->d;
	uint64_t next = clock_ns(), watchdog = 0, notified = 0;
	bool more = false;

	sd_watchdog_enabled(0, &watchdog); /* us */
	while (!d->stopping) {
		struct epoll_event ev[EVENTS];
		uint64_t now = clock_ns(), waited, took;
		uint64_t until = more ? 0 : MIN(next, api_deadline(d->api));
		int n = epoll_wait(d->epoll, ev, EVENTS, until > now ? (int)((until - now) / 1000000 + 1) : 0);

		now = clock_ns();
		waited = waited_ns();
		for (int i = 0; i < n; i++) {
			struct source *s = ev[i].data.ptr;

			s->on(s->ctx);
		}
		api_run(d->api);
		more = jobs_run(d->jobs);
		if (now >= next) {
			tick(d);
			next = now + TICK_MS * 1000000ull;
		}
		if (watchdog && now - notified > watchdog * 1000 / 3) {
			sd_notify(0, "WATCHDOG=1");
			notified = now;
		}
		took = clock_ns() - now;
		waited = waited_ns() - waited;
		took -= MIN(took, waited);
		d->slowest_ns = MAX(d->slowest_ns, took);
		if (took > SLOW_MS * 1000000ull)
			log_line("a turn of the loop took %.0f ms", (double)took / 1e6);
	}
}

static int check(const char *path)
{
	struct error e;
	struct config *c = config_read(path, &e);

	if (!c)
		return cli_fail("%s", e.text);
	config_destroy(c);
	printf("%s: nothing is wrong with it\n", path);
	return EXIT_OK;
}

/* Becomes `vmbeam shutdown`, as it is configured.  A wrong configuration keeps no machine from going down in order. */
static int shut_down(const char *path)
{
	struct error e;
	struct config *c = config_read(path, &e);
	char *program = cli_program("vmbeam"), timeout[24], **argv;
	size_t n = 0, most = 6;

	if (!c)
		log_line("%s: all VMs are shut down at once", e.text);
	for (const struct vm_policy *v = c ? c->vms : NULL; v; v = v->next)
		most += 2;
	argv = xcalloc(most, sizeof(*argv));
	argv[n++] = program;
	argv[n++] = (char *)(uintptr_t) "shutdown";
	if (c) {
		snprintf(timeout, sizeof(timeout), "%.0f", fmin(c->shutdown_timeout, 86400));
		argv[n++] = (char *)(uintptr_t) "--timeout";
		argv[n++] = timeout;
	}
	for (const struct vm_policy *v = c ? c->vms : NULL; v; v = v->next)
		if (v->shutdown != SHUTDOWN_YES) {
			argv[n++] = (char *)(uintptr_t)(v->shutdown == SHUTDOWN_LAST ? "--last" : "--force");
			argv[n++] = v->name;
		}
	execv(program, argv);
	return cli_fail("%s: %s", program, strerror(errno));
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"config", required_argument, NULL, 'c'},
						{"check", no_argument, NULL, 'k'},
						{"shutdown", no_argument, NULL, 's'},
						{"help", no_argument, NULL, 'h'},
						{NULL, 0, NULL, 0}};
	struct loop l = {.signals.fd = -1, .d = {.config_path = CONFIG_PATH, .epoll = -1}};
	bool only_check = false, shutdown = false;
	struct error e;
	int opt;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) >= 0)
		if (opt == 'c')
			l.d.config_path = optarg;
		else if (opt == 'k')
			only_check = true;
		else if (opt == 's')
			shutdown = true;
		else if (opt == 'h')
			return printf(USAGE "\n") < 0;
		else
			return usage();
	if (optind < argc)
		return usage();
	if (only_check)
		return check(l.d.config_path);
	if (shutdown)
		return shut_down(l.d.config_path);
	setvbuf(stdout, NULL, _IOLBF, 0);
	never_wait(STDOUT_FILENO);
	never_wait(STDERR_FILENO);
	l.d.config = config_read(l.d.config_path, &e);
	if (!l.d.config || start(&l, &e)) {
		stop(&l);
		return cli_fail("%s", e.text);
	}
	event(&l.d, NULL, "started", "process %d, %s", (int)getpid(), l.d.config_path);
	sd_notify(0, "READY=1");
	run(&l);
	sd_notify(0, "STOPPING=1");
	event(&l.d, NULL, "stopped", "%s; a turn of the loop took %.1f ms at most",
	      engine_is_working(l.d.engine) ? "what is under way goes on, and is seen to by the next" : "nothing was under way",
	      (double)l.d.slowest_ns / 1e6);
	stop(&l);
	return EXIT_OK;
}
