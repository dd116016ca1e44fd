/* owner.c: the owner word and the state memfd; contracts in zerocopy.h.
 *
 * Word: epoch (32 bits), owner (16), candidate (15), started (1).
 */
#include "zerocopy/zerocopy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_INSTANCE = 0x7fff };

struct owner {
	uint64_t word;
};

static uint64_t pack(struct owner_view v)
{
	return (uint64_t)v.epoch << 32 | (uint64_t)v.owner << 16 |
	       (uint64_t)(v.candidate & MAX_INSTANCE) << 1 | v.started;
}

static struct owner_view unpack(uint64_t w)
{
	return (struct owner_view){
		.epoch = (uint32_t)(w >> 32),
		.owner = (uint16_t)(w >> 16),
		.candidate = (uint16_t)(w >> 1 & MAX_INSTANCE),
		.started = w & 1,
	};
}

int owner_create(struct error *e)
{
	uint64_t word = pack((struct owner_view){.epoch = 1, .owner = 1, .started = true});
	int fd = sealed_memfd("vmbeam-owner", sizeof(struct owner), 0, e);

	if (fd >= 0 && pwrite_all(fd, &word, sizeof(word), 0) != sizeof(word)) {
		error_set_errno(e, "owner word");
		close_fd(&fd);
	}
	return fd;
}

struct owner *owner_map(int fd, struct error *e)
{
	int seals = fcntl(fd, F_GET_SEALS);
	void *p;

	/* Unsealed, a peer could shrink it under the mapping. */
	if (seals < 0 || (seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW) ||
	    lseek(fd, 0, SEEK_END) < (off_t)sizeof(struct owner)) {
		error_set(e, "owner word: not a sealed memfd of its size");
		return NULL;
	}
	p = mmap(NULL, sizeof(struct owner), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) {
		error_set_errno(e, "owner word: mmap");
		return NULL;
	}
	return p;
}

void owner_unmap(struct owner *o)
{
	if (o)
		munmap(o, sizeof(*o));
}

struct owner_view owner_read(const struct owner *o)
{
	return unpack(__atomic_load_n(&o->word, __ATOMIC_SEQ_CST));
}

uint16_t owner_next_instance(const struct owner *o)
{
	struct owner_view v = owner_read(o);
	uint16_t n = (uint16_t)(v.epoch & MAX_INSTANCE);

	/* Epochs grow with every step, so a number comes again only after thousands of handovers. */
	while (n == 0 || n == v.owner || n == v.candidate)
		n = (n + 1) & MAX_INSTANCE;
	return n;
}

/* Numbers come in messages: nobody (0) and what the word cannot hold are no instances, and a VM is not
 * handed from one to itself. */
static bool is_instance(uint16_t n)
{
	return n >= 1 && n <= MAX_INSTANCE;
}

static bool are_two(uint16_t a, uint16_t b)
{
	return is_instance(a) && is_instance(b) && a != b;
}

/* Swaps `from` for `to`, one epoch on, if the word is `from` in all but the epoch. */
static bool step(struct owner *o, struct owner_view from, struct owner_view to)
{
	uint64_t old = __atomic_load_n(&o->word, __ATOMIC_SEQ_CST);

	from.epoch = unpack(old).epoch;
	to.epoch = from.epoch + 1;
	return old == pack(from) &&
	       __atomic_compare_exchange_n(&o->word, &old, pack(to), false, __ATOMIC_SEQ_CST,
					   __ATOMIC_SEQ_CST);
}

bool owner_begin(struct owner *o, uint16_t source, uint16_t destination)
{
	return are_two(source, destination) &&
	       step(o, (struct owner_view){.owner = source, .started = true},
		    (struct owner_view){
			    .owner = source, .candidate = destination, .started = true});
}

bool owner_abort(struct owner *o, uint16_t source, uint16_t destination)
{
	return are_two(source, destination) &&
	       step(o,
		    (struct owner_view){
			    .owner = source, .candidate = destination, .started = true},
		    (struct owner_view){.owner = source, .started = true});
}

bool owner_commit(struct owner *o, uint16_t source, uint16_t destination)
{
	return are_two(source, destination) &&
	       step(o,
		    (struct owner_view){
			    .owner = source, .candidate = destination, .started = true},
		    (struct owner_view){.owner = destination});
}

bool owner_start(struct owner *o, uint16_t destination)
{
	return is_instance(destination) &&
	       step(o, (struct owner_view){.owner = destination},
		    (struct owner_view){.owner = destination, .started = true});
}

bool owner_reclaim(struct owner *o, uint16_t source, uint16_t dead_destination)
{
	return are_two(source, dead_destination) &&
	       step(o, (struct owner_view){.owner = dead_destination},
		    (struct owner_view){.owner = source, .started = true});
}

bool owner_recover(struct owner *o, uint16_t instance)
{
	struct owner_view v = owner_read(o);

	/* Started without a candidate: it ran on somewhere after the capture. */
	if (v.started == !v.candidate || !is_instance(instance) || instance == v.owner ||
	    instance == v.candidate)
		return false;
	return step(o, v, (struct owner_view){.owner = instance});
}

/* ---- state memfd: magic, version, length, checksum, then the packed message */

#define STATE_MAGIC 0x4554415453424d56ull /* "VMBSTATE" */
enum {
	STATE_SEALS = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL,
	STATE_MAX = 64 << 20,
};

struct state_header {
	uint64_t magic;
	uint32_t version, checksum;
	uint64_t length;
};

/* FNV-1a, 32 bits: against a half-written file, not against an enemy. */
static uint32_t checksum(const uint8_t *p, size_t len)
{
	uint32_t h = 2166136261u;

	for (size_t i = 0; i < len; i++)
		h = (h ^ p[i]) * 16777619u;
	return h;
}

int state_create(struct error *e)
{
	int fd = memfd_create("vmbeam-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		error_set_errno(e, "state memfd");
	return fd;
}

ssize_t state_write(int fd, const Vmb__VmState *s, struct error *e)
{
	struct state_header h = {.magic = STATE_MAGIC, .version = STATE_VERSION};
	uint8_t *buf;
	int r = 0;

	h.length = vmb__vm_state__get_packed_size(s);
	buf = xcalloc(1, sizeof(h) + h.length);
	vmb__vm_state__pack(s, buf + sizeof(h));
	h.checksum = checksum(buf + sizeof(h), h.length);
	memcpy(buf, &h, sizeof(h));
	if (pwrite_all(fd, buf, sizeof(h) + h.length, 0) != (ssize_t)(sizeof(h) + h.length) ||
	    fcntl(fd, F_ADD_SEALS, STATE_SEALS))
		r = error_set_errno(e, "state memfd");
	free(buf);
	return r ? -1 : (ssize_t)(sizeof(h) + h.length);
}

bool state_is_sealed(int fd)
{
	int seals = fcntl(fd, F_GET_SEALS);

	return seals >= 0 && (seals & STATE_SEALS) == STATE_SEALS;
}

Vmb__VmState *state_read(int fd, struct error *e)
{
	off_t size = lseek(fd, 0, SEEK_END);
	struct state_header h;
	Vmb__VmState *s = NULL;
	uint8_t *buf;

	if (!state_is_sealed(fd)) {
		error_set(e, "state: not sealed");
		return NULL;
	}
	if (size < (off_t)sizeof(h) || pread_all(fd, &h, sizeof(h), 0) != sizeof(h) ||
	    h.magic != STATE_MAGIC || h.length > STATE_MAX ||
	    h.length != (uint64_t)size - sizeof(h)) {
		error_set(e, "state: not a state file, or cut short");
		return NULL;
	}
	if (h.version > STATE_VERSION || h.version + 1 < STATE_VERSION) {
		error_set(e, "state: version %u; this program reads up to %d", h.version,
			  STATE_VERSION);
		return NULL;
	}
	buf = xcalloc(1, h.length);
	if (pread_all(fd, buf, h.length, sizeof(h)) == (ssize_t)h.length &&
	    checksum(buf, h.length) == h.checksum)
		s = vmb__vm_state__unpack(NULL, h.length, buf);
	free(buf);
	if (!s)
		error_set(e, "state: damaged");
	return s;
}
