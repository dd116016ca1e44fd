/* base.c: errors, descriptors and parsing; used by every folder.  Contracts are in base.h. */
#include "vmm/base.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOG_BURST       100ull
#define LOG_INTERVAL_NS 1000000000ull

static void error_format(struct error *e, const char *fmt, va_list ap)
{
	char *nl;

	vsnprintf(e->text, sizeof(e->text), fmt, ap);
	while ((nl = strchr(e->text, '\n')))
		*nl = ' ';
}

int error_set(struct error *e, const char *fmt, ...)
{
	va_list ap;

	if (!e)
		return -1;
	va_start(ap, fmt);
	error_format(e, fmt, ap);
	va_end(ap);
	return -1;
}

int error_set_errno(struct error *e, const char *fmt, ...)
{
	int saved = errno;
	size_t n;
	va_list ap;

	if (!e)
		return -1;
	va_start(ap, fmt);
	error_format(e, fmt, ap);
	va_end(ap);
	n = strlen(e->text);
	snprintf(e->text + n, sizeof(e->text) - n, ": %s", strerror(saved));
	errno = saved;
	return -1;
}

/* A burst of LOG_BURST lines, then one a second: what a guest can cause must not fill a disk.  Returns
 * how many were left out before this one, -1 for one that is to be left out. */
static int log_admit(void)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static uint64_t credit_ns = LOG_BURST * LOG_INTERVAL_NS, last_ns;
	static int dropped;
	uint64_t now = clock_ns();
	int r = -1;

	pthread_mutex_lock(&lock);
	credit_ns = MIN(credit_ns + (last_ns ? now - last_ns : 0), LOG_BURST * LOG_INTERVAL_NS);
	last_ns = now;
	if (credit_ns >= LOG_INTERVAL_NS) {
		credit_ns -= LOG_INTERVAL_NS;
		r = dropped;
		dropped = 0;
	} else {
		dropped++;
	}
	pthread_mutex_unlock(&lock);
	return r;
}

/* write, and nothing of stdio: that asks a terminal for its settings, which the sandbox does not allow. */
static void log_write(const char *fmt, va_list ap)
{
	char line[600] = "vmbeam: ";
	size_t prefix = strlen(line), room = sizeof(line) - prefix - 1; /* for the newline */
	int n = vsnprintf(line + prefix, room, fmt, ap);
	size_t len;

	if (n < 0)
		return;
	len = prefix + MIN((size_t)n, room - 1);
	line[len++] = '\n';
	if (write(STDERR_FILENO, line, len) < 0)
		return; /* nobody is left to tell */
}

static void log_now(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_write(fmt, ap);
	va_end(ap);
}

void log_line(const char *fmt, ...)
{
	int dropped = log_admit();
	va_list ap;

	if (dropped < 0)
		return;
	if (dropped)
		log_now("(%d lines left out)", dropped);
	va_start(ap, fmt);
	log_write(fmt, ap);
	va_end(ap);
}

bool is_socket(int fd)
{
	struct stat st;

	return fd >= 0 && !fstat(fd, &st) && S_ISSOCK(st.st_mode);
}

uint64_t process_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

bool process_has_ended(int pidfd, int wait_ms)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	return pidfd < 0 || poll(&p, 1, wait_ms) > 0;
}

void read_text(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

	buf[n > 0 ? n : 0] = 0;
	close_fd(&fd);
}

#define ALL_LOOP(call)                                                                             \
	do {                                                                                       \
		size_t done = 0;                                                                   \
		while (done < len) {                                                               \
			ssize_t n = (call);                                                        \
			if (n < 0 && errno == EINTR)                                               \
				continue;                                                          \
			if (n < 0)                                                                 \
				return -1;                                                         \
			if (n == 0)                                                                \
				break;                                                             \
			done += (size_t)n;                                                         \
		}                                                                                  \
		return (ssize_t)done;                                                              \
	} while (0)

ssize_t write_all(int fd, const void *buf, size_t len)
{
	ALL_LOOP(write(fd, (const char *)buf + done, len - done));
}

ssize_t pwrite_all(int fd, const void *buf, size_t len, off_t off)
{
	ALL_LOOP(pwrite(fd, (const char *)buf + done, len - done, off + (off_t)done));
}

ssize_t pread_all(int fd, void *buf, size_t len, off_t off)
{
	ALL_LOOP(pread(fd, (char *)buf + done, len - done, off + (off_t)done));
}

int sealed_memfd(const char *name, uint64_t size, unsigned int flags, struct error *e)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);

	if (fd < 0 || ftruncate(fd, (off_t)size) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
		error_set_errno(e, "%s: %llu KiB of shared memory", name, (unsigned long long)(size / KIB));
		close_fd(&fd);
	}
	return fd;
}

bool next_extent(int fd, uint64_t *start, uint64_t *end)
{
	off_t data = lseek(fd, (off_t)*end, SEEK_DATA), hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);

	if (hole <= data)
		return false;
	*start = (uint64_t)data;
	*end = (uint64_t)hole;
	return true;
}

int parse_size(const char *s, uint64_t *bytes, struct error *e)
{
	static const char units[] = "KMGT";
	const char *unit;
	char *end;
	uint64_t v;
	unsigned int shift = 0;

	errno = 0;
	v = strtoull(s, &end, 10);
	if (*s < '0' || *s > '9' || errno)
		return error_set(e, "'%s' is not a size (512M, 4G, ...)", s);
	/* (A blank without its 0x20 would be the string's end, which strchr() finds.) */
	if (*end > ' ' && (unit = strchr(units, *end & ~0x20)) && !end[1])
		shift = 10 * (unsigned int)(unit - units + 1);
	else if (*end)
		return error_set(e, "'%s' is not a size (512M, 4G, ...)", s);
	if (shift && v >> (64 - shift))
		return error_set(e, "'%s' is too large", s);
	*bytes = v << shift;
	return 0;
}

int parse_uint(const char *s, uint64_t min, uint64_t max, uint64_t *value, struct error *e)
{
	char *end;
	uint64_t v;

	errno = 0;
	v = strtoull(s, &end, 10);
	if (*s < '0' || *s > '9' || *end || errno || v < min || v > max)
		return error_set(e, "'%s' is not a whole number from %llu to %llu", s,
				 (unsigned long long)min, (unsigned long long)max);
	*value = v;
	return 0;
}

static void *need(void *p)
{
	if (!p) {
		log_line("out of memory");
		abort();
	}
	return p;
}

void *xcalloc(size_t n, size_t size)
{
	return need(calloc(n ? n : 1, size ? size : 1));
}

void *xrealloc(void *p, size_t size)
{
	return need(realloc(p, size ? size : 1));
}

char *xstrdup(const char *s)
{
	return need(strdup(s));
}

char *xasprintf(const char *fmt, ...)
{
	va_list ap;
	char *s;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&s, fmt, ap);
	va_end(ap);
	return need(n < 0 ? NULL : s);
}

bool vm_name_is_valid(const char *s)
{
	size_t n = strlen(s);

	if (n == 0 || n > 63 || s[0] == '.' || s[0] == '-')
		return false;
	for (; *s; s++)
		if (!(*s >= 'a' && *s <= 'z') && !(*s >= 'A' && *s <= 'Z') &&
		    !(*s >= '0' && *s <= '9') && !strchr("._-", *s))
			return false;
	return true;
}
