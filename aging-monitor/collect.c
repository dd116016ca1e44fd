/* collect.c: the collectors of collect.h: tables of what is read where. */
#include "aging-monitor/collect.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { FILE_MOST = 256 * 1024, TOP = 20, PROCESSES = 512, KMSG_LINES = 1000, SELDOM = 3 };
#define KIB	      1024.
#define NORMAL_STEAL  0.1 /* paravirtual I/O alone makes some */
#define NORMAL_DELAY  0.5
#define SMALLEST_SLAB (256 * KIB)

/* ---- tables */

static const struct {
	const char *key, *name, *limit; /* limit: the key of the whole */
	enum aging_kind kind;
} meminfo[] = {
	{"MemAvailable:", "memory_available", "MemTotal:", AGING_LEFT},
	{"SwapFree:", "swap_free", NULL, AGING_PLAIN}, /* full for weeks, and nothing is wrong */
	{"MemFree:", "free_memory", NULL, AGING_PLAIN},
	{"Slab:", "slab", NULL, AGING_PLAIN},
	{"KernelStack:", "memory:kernel-stacks", NULL, AGING_PART},
	{"PageTables:", "memory:page-tables", NULL, AGING_PART},
	{"Shmem:", "memory:shared", NULL, AGING_PART},
	{"VmallocUsed:", "memory:vmalloc", NULL, AGING_PART},
	{"Percpu:", "memory:percpu", NULL, AGING_PART},
};

/* A file of numbers; which of them is the value, which the limit (from 0; -1: of another file; none: NULL). */
static const struct {
	const char *file, *name;
	int value;
	const char *limit_file;
	int limit;
	enum aging_kind kind;
} numbers[] = {
	{"sys/fs/file-nr", "files_open", 0, "sys/fs/file-max", 0, AGING_USED},
	{"sys/fs/inode-nr", "inodes", 0, NULL, 0, AGING_PLAIN},
	{"sys/fs/aio-nr", "aio_requests", 0, "sys/fs/aio-max-nr", 0, AGING_USED},
};

/* Share of time somebody waited (the `some` line's total). */
static const struct {
	const char *file, *name;
	enum aging_kind kind;
	double limit;
} pressures[] = {
	{"pressure/cpu", "cpu_pressure", AGING_CONTENTION, NORMAL_DELAY},
	{"pressure/memory", "memory_pressure", AGING_PLAIN, 0},
	{"pressure/io", "io_pressure", AGING_PLAIN, 0},
};
enum { PRESSURES = sizeof(pressures) / sizeof(pressures[0]) };

/* Counters of /proc/stat, as rates. */
static const struct {
	const char *key, *name;
} rates[] = {{"\nctxt ", "context_switches"}, {"\nintr ", "interrupts"}, {"\nprocesses ", "forks"}};
enum { RATES = sizeof(rates) / sizeof(rates[0]) };

/* What the kernel says when something is badly wrong. */
static const struct {
	const char *text, *name;
} faults[] = {
	{"Out of memory: Killed", "kernel_oom"},
	{"page allocation failure", "kernel_allocation_failure"},
	{"blocked for more than", "kernel_hung_task"},
	{"soft lockup", "kernel_lockup"},    {"self-detected stall", "kernel_lockup"},
	{"detected stalls on CPUs", "kernel_lockup"},
	{"BUG: ", "kernel_bug"},	     {"Oops: ", "kernel_bug"},
	{"general protection fault", "kernel_bug"},
};
enum { FAULTS = sizeof(faults) / sizeof(faults[0]) };

struct aging_collector {
	char *proc, *disk, *text;
	int kmsg;
	unsigned int samples; /* so far */
	double t, steal, total, pressure[PRESSURES], rate[RATES];
	double fault[FAULTS];
};

/* ---- */

void aging_sample_add(struct aging_samples *out, enum aging_kind kind, double limit, double value, const char *fmt, ...)
{
	struct aging_sample *s = &out->sample[out->n];
	va_list ap;

	if (out->n == AGING_INDICATORS || !isfinite(value) || !isfinite(limit))
		return;
	va_start(ap, fmt);
	vsnprintf(s->name, sizeof(s->name), fmt, ap);
	va_end(ap);
	for (char *p = s->name; *p; p++)
		if (!isgraph((unsigned char)*p))
			*p = '_';
	s->kind = kind;
	s->limit = fmin(limit, AGING_LARGEST); /* files: 2^63 where there is no limit */
	s->value = value;
	out->n++;
}

struct aging_collector *aging_collector_create(const char *proc, const char *disk)
{
	struct aging_collector *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->proc = strdup(proc);
	c->disk = disk ? strdup(disk) : NULL;
	c->text = malloc(FILE_MOST);
	c->kmsg = -1;
	if (!c->proc || !c->text || (disk && !c->disk)) {
		aging_collector_destroy(c);
		return NULL;
	}
	if (!strcmp(proc, "/proc"))
		c->kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	/* What was said before was perhaps counted before. */
	if (c->kmsg >= 0)
		lseek(c->kmsg, 0, SEEK_END);
	return c;
}

void aging_collector_destroy(struct aging_collector *c)
{
	if (!c)
		return;
	if (c->kmsg >= 0)
		close(c->kmsg);
	free(c->proc);
	free(c->disk);
	free(c->text);
	free(c);
}

/* The file's text, with a newline before it; "" without it. */
static char *read_file(const char *proc, const char *file, char *text, size_t size)
{
	char path[512];
	size_t n = 0;
	ssize_t r;
	int fd;

	text[0] = 0;
	if (snprintf(path, sizeof(path), "%s/%s", proc, file) >= (int)sizeof(path))
		return text;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return text;
	text[n++] = '\n';
	while (n < size - 1 && (r = read(fd, text + n, size - 1 - n)) > 0)
		n += (size_t)r;
	text[n] = 0;
	close(fd);
	return text;
}

/* The first number after `key`, which begins a line or, with a newline, is written so; NaN if it is not there. */
static double number_of(const char *text, const char *key)
{
	const char *at = text;
	char *end;
	double x;

	while ((at = strstr(at, key)) && key[0] != '\n' && at > text && at[-1] != '\n')
		at++;
	if (!at)
		return NAN;
	x = strtod(at + strlen(key), &end);
	return end == at + strlen(key) ? NAN : x;
}

/* The n-th number of the text. */
static double nth_number(const char *text, int n)
{
	double x = NAN;
	char *end;

	for (int i = 0; i <= n; i++) {
		x = strtod(text, &end);
		if (end == text)
			return NAN;
		text = end;
	}
	return x;
}

static void collect_memory(struct aging_collector *c, struct aging_samples *out)
{
	double reserved; /* for huge pages: nobody else's */

	read_file(c->proc, "meminfo", c->text, FILE_MOST);
	reserved = fmax(number_of(c->text, "Hugetlb:"), 0);
	for (size_t i = 0; i < sizeof(meminfo) / sizeof(meminfo[0]); i++) {
		double limit = meminfo[i].limit ? (number_of(c->text, meminfo[i].limit) - reserved) * KIB : 0;

		if (!meminfo[i].limit || limit > 0)
			aging_sample_add(out, meminfo[i].kind, limit, number_of(c->text, meminfo[i].key) * KIB, "%s", meminfo[i].name);
	}
}

struct user {
	char name[32];
	double value;
};

static int by_value(const void *a, const void *b)
{
	const struct user *x = a, *y = b;

	return (x->value < y->value) - (x->value > y->value);
}

static void add_top(struct aging_samples *out, struct user *users, size_t n, const char *what)
{
	qsort(users, n, sizeof(*users), by_value);
	for (size_t i = 0; i < n && i < TOP; i++)
		aging_sample_add(out, AGING_PART, 0, users[i].value, "%s%s", what, users[i].name);
}

/* slabinfo - version: 2.1: name, active objects, objects, bytes each, ... */
static void collect_slabs(struct aging_collector *c, struct aging_samples *out)
{
	struct user users[PROCESSES];
	size_t n = 0;
	char *rest, *line;

	read_file(c->proc, "slabinfo", c->text, FILE_MOST);
	for (line = strtok_r(c->text, "\n", &rest); line && n < PROCESSES; line = strtok_r(NULL, "\n", &rest)) {
		double objects, size;

		if (sscanf(line, "%31s %*f %lf %lf", users[n].name, &objects, &size) != 3)
			continue;
		users[n].value = objects * size;
		n += users[n].value >= SMALLEST_SLAB;
	}
	add_top(out, users, n, "memory:slab/");
}

static void collect_numbers(struct aging_collector *c, struct aging_samples *out)
{
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		double value = nth_number(read_file(c->proc, numbers[i].file, c->text, FILE_MOST), numbers[i].value), limit = 0;

		if (numbers[i].limit_file)
			limit = nth_number(read_file(c->proc, numbers[i].limit_file, c->text, FILE_MOST), numbers[i].limit);
		aging_sample_add(out, numbers[i].kind, limit, value, "%s", numbers[i].name);
	}
}

static void collect_processor(struct aging_collector *c, double t, struct aging_samples *out)
{
	const char *cpu;
	double total = 0, steal;

	cpu = read_file(c->proc, "stat", c->text, FILE_MOST);
	cpu = strncmp(cpu, "\ncpu ", 5) ? NULL : cpu + 5;
	/* user nice system idle iowait irq softirq steal; guests' time is in user's */
	for (int i = 0; i < 8 && cpu; i++)
		total += nth_number(cpu, i);
	steal = cpu ? nth_number(cpu, 7) : NAN;
	if (c->t > 0 && total > c->total)
		aging_sample_add(out, AGING_CONTENTION, NORMAL_STEAL, fmax(steal - c->steal, 0) / (total - c->total), "steal");
	c->steal = steal;
	c->total = total;
	for (int i = 0; i < RATES; i++) {
		double count = number_of(c->text, rates[i].key);

		if (c->t > 0 && t > c->t && count >= c->rate[i]) /* no NaN is */
			aging_sample_add(out, AGING_PLAIN, 0, (count - c->rate[i]) / (t - c->t), "%s", rates[i].name);
		c->rate[i] = count;
	}
	for (int i = 0; i < PRESSURES; i++) {
		const char *some = strstr(read_file(c->proc, pressures[i].file, c->text, FILE_MOST), "some ");
		const char *in_all = some ? strstr(some, "total=") : NULL;
		double waited = in_all ? nth_number(in_all + strlen("total="), 0) : NAN;

		if (c->t > 0 && t > c->t && waited >= c->pressure[i])
			aging_sample_add(out, pressures[i].kind, pressures[i].limit,
					 fmin((waited - c->pressure[i]) / 1e6 / (t - c->t), 1), "%s", pressures[i].name);
		c->pressure[i] = waited;
	}
}

static void collect_disk(const struct aging_collector *c, struct aging_samples *out)
{
	struct statvfs s;

	if (!c->disk || statvfs(c->disk, &s))
		return;
	if (s.f_blocks)
		aging_sample_add(out, AGING_LEFT, (double)s.f_blocks * (double)s.f_frsize, (double)s.f_bavail * (double)s.f_frsize,
				 "disk_available");
	if (s.f_files)
		aging_sample_add(out, AGING_LEFT, (double)s.f_files, (double)s.f_favail, "inodes_available");
}

/* Processes of one name are one user. */
static void count_for(struct user *users, size_t *n, const char *name, double value)
{
	size_t i;

	for (i = 0; i < *n && strncmp(users[i].name, name, sizeof(users[i].name) - 1); i++)
		;
	if (i == PROCESSES)
		return;
	if (i == *n) {
		snprintf(users[i].name, sizeof(users[i].name), "%s", name);
		users[i].value = 0;
		(*n)++;
	}
	users[i].value += value;
}

static void collect_processes(struct aging_collector *c, struct aging_samples *out)
{
	struct user users[PROCESSES];
	double processes = 0, threads = 0;
	size_t n = 0;
	struct dirent *d;
	DIR *dir = opendir(c->proc);

	while (dir && (d = readdir(dir))) {
		char file[300], name[32];
		const char *line;
		double anonymous;

		if (!isdigit((unsigned char)d->d_name[0]))
			continue;
		snprintf(file, sizeof(file), "%s/status", d->d_name);
		read_file(c->proc, file, c->text, FILE_MOST);
		line = strstr(c->text, "\nName:\t");
		if (!line)
			continue;
		snprintf(name, sizeof(name), "%.*s", (int)strcspn(line + 7, "\n"), line + 7);
		processes++;
		threads += fmax(number_of(c->text, "Threads:"), 0);
		anonymous = number_of(c->text, "RssAnon:");
		if (anonymous > 0) /* the kernel's threads have none */
			count_for(users, &n, name, anonymous * KIB);
	}
	if (!dir)
		return;
	closedir(dir);
	add_top(out, users, n, "memory:process/");
	aging_sample_add(out, AGING_PLAIN, 0, processes, "processes");
	aging_sample_add(out, AGING_USED, nth_number(read_file(c->proc, "sys/kernel/threads-max", c->text, FILE_MOST), 0), threads,
			 "threads");
}

static void collect_sockets(struct aging_collector *c, struct aging_samples *out)
{
	aging_sample_add(out, AGING_PLAIN, 0, number_of(read_file(c->proc, "net/sockstat", c->text, FILE_MOST), "sockets: used"),
			 "sockets");
}

static void collect_faults(struct aging_collector *c, struct aging_samples *out)
{
	char line[1024];
	ssize_t n;

	if (c->kmsg < 0)
		return;
	/* A line that was overwritten meanwhile is an error, and the next one is there. */
	for (int i = 0; i < KMSG_LINES && ((n = read(c->kmsg, line, sizeof(line) - 1)) > 0); i++) {
		line[n] = 0;
		/* (Of a program: its own.) */
		for (int k = 0; k < FAULTS && !strstr(line, "traps: "); k++)
			if (strstr(line, faults[k].text)) {
				c->fault[k]++;
				break;
			}
	}
	for (int k = 0; k < FAULTS; k++) {
		double count = c->fault[k];

		if (k && !strcmp(faults[k].name, faults[k - 1].name))
			continue;
		for (int m = k + 1; m < FAULTS && !strcmp(faults[m].name, faults[k].name); m++)
			count += c->fault[m];
		aging_sample_add(out, AGING_FAULTS, 0, count, "%s", faults[k].name);
	}
}

void aging_collect(struct aging_collector *c, double t, struct aging_samples *out)
{
	collect_memory(c, out);
	collect_numbers(c, out);
	collect_processor(c, t, out);
	collect_disk(c, out);
	collect_sockets(c, out);
	collect_faults(c, out);
	if (c->samples++ % SELDOM == 0) {
		collect_processes(c, out);
		collect_slabs(c, out);
	}
	c->t = t;
}

bool aging_collects(const char *name)
{
	static const char *const others[] = {"steal",	"disk_available", "inodes_available", "processes", "threads", "sockets",
					     "process_memory", "process_threads", "process_files", "run_delay",
					     "create_time",	  "destroy_time",   "migrate_time"};

	if (!strncmp(name, "memory:", strlen("memory:")))
		return true;
	for (size_t i = 0; i < sizeof(meminfo) / sizeof(meminfo[0]); i++)
		if (!strcmp(name, meminfo[i].name))
			return true;
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (!strcmp(name, numbers[i].name))
			return true;
	for (int i = 0; i < PRESSURES; i++)
		if (!strcmp(name, pressures[i].name))
			return true;
	for (int i = 0; i < RATES; i++)
		if (!strcmp(name, rates[i].name))
			return true;
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		if (!strcmp(name, others[i]))
			return true;
	return false;
}

/* ---- one process */

static double count_entries(const char *proc, int pid, const char *folder)
{
	char path[300];
	struct dirent *d;
	double n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/%d/%s", proc, pid, folder);
	dir = opendir(path);
	if (!dir)
		return NAN;
	while ((d = readdir(dir)))
		n += d->d_name[0] != '.';
	closedir(dir);
	return n;
}

void aging_collect_process(const char *proc, int pid, struct aging_process *before, double t, struct aging_samples *out)
{
	char text[16384], file[300], path[300];
	double ran = 0, delay = 0, files;
	struct dirent *d;
	DIR *dir;

	snprintf(file, sizeof(file), "%d/status", pid);
	read_file(proc, file, text, sizeof(text));
	aging_sample_add(out, AGING_PLAIN, 0, number_of(text, "RssAnon:") * KIB, "process_memory");
	aging_sample_add(out, AGING_PLAIN, 0, number_of(text, "Threads:"), "process_threads");
	files = count_entries(proc, pid, "fd");
	snprintf(file, sizeof(file), "%d/limits", pid);
	read_file(proc, file, text, sizeof(text));
	aging_sample_add(out, AGING_USED, number_of(text, "Max open files"), files, "process_files");
	/* ns on a CPU, ns waiting for one, times */
	snprintf(path, sizeof(path), "%s/%d/task", proc, pid);
	dir = opendir(path);
	while (dir && (d = readdir(dir))) {
		if (d->d_name[0] == '.')
			continue;
		snprintf(file, sizeof(file), "%d/task/%.16s/schedstat", pid, d->d_name);
		read_file(proc, file, text, sizeof(text));
		ran += fmax(nth_number(text, 0), 0);
		delay += fmax(nth_number(text, 1), 0);
	}
	if (dir)
		closedir(dir);
	/* Of the time it wanted to run. */
	if (before->t > 0 && ran >= before->ran && delay >= before->delay && t > before->t) {
		double wanted = ran - before->ran + delay - before->delay;

		aging_sample_add(out, AGING_CONTENTION, NORMAL_DELAY, wanted > 0 ? (delay - before->delay) / wanted : 0, "run_delay");
	}
	before->ran = ran;
	before->delay = delay;
	before->t = t;
}
