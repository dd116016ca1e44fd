/* base.h: what every part of vmbeam leans on: errors, time, descriptors.
 *
 * Errors.  A library function that can fail takes a `struct error *` last, returns -1 (or NULL)
 * and fills it: the text is made where the fact is known, the decision is taken by the caller.
 * Only main() and start-up code end the process.  `e` may be NULL where nobody wants the text.
 */
#ifndef VMM_BASE_H
#define VMM_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include <time.h>

#define KIB (1ull << 10)
#define MIB (1ull << 20)
#define GIB (1ull << 30)

#define ARRAY_LEN(a)  (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)     ((a) < (b) ? (a) : (b))
#define MAX(a, b)     ((a) > (b) ? (a) : (b))
/* `align` is a power of two. */
#define ALIGN_DOWN(x, align) ((x) & ~((uint64_t)(align) - 1))
#define ALIGN_UP(x, align)   ALIGN_DOWN((x) + (uint64_t)(align) - 1, (align))

struct error {
	char text[400]; /* one line, no newline, "what: why" */
};

/* Sets *e (may be NULL) from a printf format; always returns -1. */
int error_set(struct error *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same, with ": strerror(errno)" appended. */
int error_set_errno(struct error *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* One line on stderr, "vmbeam: " before it. */
void log_line(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* CLOCK_MONOTONIC in ns: the same clock in every process of a machine. */
static inline uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* CPU time of this process, ns. */
uint64_t process_cpu_ns(void);

/* Closes *fd unless it is -1, and sets it to -1. */
void close_fd(int *fd);

bool is_socket(int fd);

/* Has the process of a pidfd ended?  Waits for that at most wait_ms.  Of -1: yes. */
bool process_has_ended(int pidfd, int wait_ms);

/* The first bytes of a file, as a string; "" if it cannot be read. */
void read_text(const char *path, char *buf, size_t size);

/* write(), pread() until all is done or it fails; -1 with errno, or a short count at end of file. */
ssize_t write_all(int fd, const void *buf, size_t len);
ssize_t pwrite_all(int fd, const void *buf, size_t len, off_t off);
ssize_t pread_all(int fd, void *buf, size_t len, off_t off);

/* An empty memfd of `size` bytes that can never be another: whoever maps it is safe from the other holders.  flags: of
 * memfd_create() besides.  -1 with *e set. */
int sealed_memfd(const char *name, uint64_t size, unsigned int flags, struct error *e);
/* The next piece of a file that is no hole, from *end on: false, there is none.  Begin with *end = 0. */
bool next_extent(int fd, uint64_t *start, uint64_t *end);

/* Parses "512M", "4G", "64K" or a number of bytes; returns -1 and sets *e if it is neither. */
int parse_size(const char *s, uint64_t *bytes, struct error *e);
/* Parses a whole decimal number within [min, max]. */
int parse_uint(const char *s, uint64_t min, uint64_t max, uint64_t *value, struct error *e);

/* Of a VM or a hypervisor: no path, no option. */
bool vm_name_is_valid(const char *name);

/* xmalloc family: memory for our own small things; running out of it ends the process. */
void *xcalloc(size_t n, size_t size);
void *xrealloc(void *p, size_t size);
char *xstrdup(const char *s);
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
