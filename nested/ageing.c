/* ageing.c: a hypervisor for tests grows old: ageing.h. */
#include "nested/ageing.h"

#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TURN_MS = 100, MOST_PIECES = 1 << 20, MOST_DELAY_MS = 1500, STACK = 64 * 1024 };
#define CHUNK (64 * KIB)

/* ---- what is held, in pieces: number i is the newest */

static void *chunk[MOST_PIECES];
static int number[MOST_PIECES]; /* descriptors, pids */
static int disk = -1;

static bool hold_heap(size_t i)
{
	chunk[i] = mmap(NULL, CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	return chunk[i] != MAP_FAILED;
}

static void drop_heap(size_t i)
{
	munmap(chunk[i], CHUNK);
}

/* The kernel's objects of an empty file that nobody has open: an inode and a name, about 1 KiB. */
static void slab_path(size_t i, char *path, size_t size)
{
	snprintf(path, size, "/run/aged/%zu", i);
}

static bool hold_slab(size_t i)
{
	char path[40];
	int fd;

	mkdir("/run/aged", 0700);
	slab_path(i, path, sizeof(path));
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

static void drop_slab(size_t i)
{
	char path[40];

	slab_path(i, path, sizeof(path));
	unlink(path);
}

static bool hold_descriptor(size_t i)
{
	number[i] = eventfd(0, EFD_CLOEXEC);
	return number[i] >= 0;
}

static void drop_descriptor(size_t i)
{
	close(number[i]);
}

static bool hold_process(size_t i)
{
	number[i] = fork();
	if (!number[i]) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	return number[i] > 0;
}

static void drop_process(size_t i)
{
	kill(number[i], SIGKILL);
	waitpid(number[i], NULL, 0);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards `threads` */
static pthread_cond_t fewer = PTHREAD_COND_INITIALIZER;
static size_t threads; /* those of a greater number end */

static void *stay(void *arg)
{
	pthread_mutex_lock(&lock);
	while ((uintptr_t)arg < threads)
		pthread_cond_wait(&fewer, &lock);
	pthread_mutex_unlock(&lock);
	return NULL;
}

static bool hold_thread(size_t i)
{
	pthread_attr_t attr;
	pthread_t thread;
	int r;

	pthread_mutex_lock(&lock);
	threads = i + 1;
	pthread_mutex_unlock(&lock);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	r = pthread_create(&thread, &attr, stay, (void *)i);
	pthread_attr_destroy(&attr);
	return !r;
}

static void drop_thread(size_t i)
{
	pthread_mutex_lock(&lock);
	threads = i;
	pthread_cond_broadcast(&fewer);
	pthread_mutex_unlock(&lock);
}

static bool hold_disk(size_t i)
{
	static char zero[CHUNK];

	if (disk < 0)
		disk = open("/tmp/aged", O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0600);
	return pwrite(disk, zero, CHUNK, (off_t)(i * CHUNK)) == (ssize_t)CHUNK;
}

static void drop_disk(size_t i)
{
	if (ftruncate(disk, (off_t)(i * CHUNK)))
		log_line("aged-disk: cannot be given back");
}

static const struct resource {
	const char *name;
	bool (*hold)(size_t i);
	void (*drop)(size_t i);
	double unit; /* of the amount: so much is a piece */
} resources[] = {
	{"heap", hold_heap, drop_heap, CHUNK},
	{"slab", hold_slab, drop_slab, 1024},
	{"descriptors", hold_descriptor, drop_descriptor, 1},
	{"threads", hold_thread, drop_thread, 1},
	{"processes", hold_process, drop_process, 1},
	{"disk", hold_disk, drop_disk, CHUNK},
	{"delay", NULL, NULL, 1}, /* ms; the agent's own */
};

/* ---- how much of it, t seconds after the beginning */

static double leak(double t, double amount, double period)
{
	return amount * t / period;
}

static double cache(double t, double amount, double period)
{
	return amount * (1 - exp(-t / period));
}

static double cycle(double t, double amount, double period)
{
	return amount * (1 - cos(2 * M_PI * t / period)) / 2;
}

static double step(double t, double amount, double period)
{
	(void)t;
	(void)period;
	return amount;
}

static double burst(double t, double amount, double period)
{
	return t < period ? amount : 0;
}

static const struct shape {
	const char *name;
	double (*amount)(double t, double amount, double period);
} shapes[] = {{"leak", leak}, {"cache", cache}, {"cycle", cycle}, {"step", step}, {"burst", burst}, {"none", NULL}};

/* ---- */

static pid_t holder[ARRAY_LEN(resources)];
static struct {
	const struct shape *shape;
	double amount, period;
	uint64_t begin;
} delay;

static void __attribute__((noreturn)) hold(const struct resource *r, const struct shape *shape, double amount, double period)
{
	struct rlimit most = {1 << 20, 1 << 20};
	uint64_t begin = clock_ns();
	sigset_t none;
	char name[16];
	size_t n = 0;

	snprintf(name, sizeof(name), "aged-%.10s", r->name);
	prctl(PR_SET_NAME, name);
	setpgid(0, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	close_range(STDERR_FILENO + 1, ~0u, 0);
	setrlimit(RLIMIT_NOFILE, &most);
	for (;;) {
		double want = shape->amount((double)(clock_ns() - begin) / 1e9, amount, period) / r->unit;

		while ((double)n < want && n < MOST_PIECES && r->hold(n))
			n++;
		while ((double)n > want + 1)
			r->drop(--n);
		usleep(TURN_MS * 1000);
	}
}

/* Its files outlive a process. */
static void clear_files(const struct resource *r)
{
	char path[40];

	if (!strcmp(r->name, "slab"))
		for (size_t i = 0; i < MOST_PIECES; i++) {
			slab_path(i, path, sizeof(path));
			if (unlink(path))
				break;
		}
	if (!strcmp(r->name, "disk"))
		unlink("/tmp/aged");
}

int ageing_set(const Vmb__AgeingRequest *q, struct error *e)
{
	const struct resource *r = NULL;
	const struct shape *shape = NULL;
	pid_t *pid;

	for (size_t i = 0; i < ARRAY_LEN(resources); i++)
		if (!strcmp(resources[i].name, q->resource))
			r = &resources[i];
	for (size_t i = 0; i < ARRAY_LEN(shapes); i++)
		if (!strcmp(shapes[i].name, q->shape))
			shape = &shapes[i];
	if (!r || !shape)
		return error_set(e, "no such resource or shape");
	if (!(q->amount >= 0 && q->amount < 1e15) || !(q->period >= 1e-3 && q->period < 1e9))
		return error_set(e, "no amount or no period");
	if (!r->hold) {
		delay.shape = shape->amount ? shape : NULL;
		delay.amount = q->amount;
		delay.period = q->period;
		delay.begin = clock_ns();
		return 0;
	}
	pid = &holder[r - resources];
	if (*pid > 0) {
		kill(-*pid, SIGKILL);
		kill(*pid, SIGKILL);
		waitpid(*pid, NULL, 0);
		*pid = 0;
		clear_files(r);
	}
	if (!shape->amount)
		return 0;
	*pid = fork();
	if (!*pid)
		hold(r, shape, q->amount, q->period);
	return *pid < 0 ? error_set_errno(e, "fork") : 0;
}

int ageing_delay_ms(void)
{
	double ms = delay.shape ? delay.shape->amount((double)(clock_ns() - delay.begin) / 1e9, delay.amount, delay.period) : 0;

	return (int)fmin(ms, MOST_DELAY_MS);
}
