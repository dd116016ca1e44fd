/* fuzz.c: what all fuzz targets share; the contract is in fuzz.h. */
#include "tests/fuzz/fuzz.h"
#include "tests/unit/arena.h"
#include "vmm/wire.h"
#include "zerocopy/zerocopy.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
size_t LLVMFuzzerMutate(uint8_t *data, size_t len, size_t max);

static const char *seed_dir;
static unsigned int nseeds;

void add_seed(const void *data, size_t len)
{
	char *path = xasprintf("%s/seed%02u", seed_dir, nseeds++);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write_all(fd, data, len) != (ssize_t)len)
		abort();
	close(fd);
	free(path);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	if (*argc < 2 || strncmp((*argv)[1], "--seeds=", 8))
		return 0;
	seed_dir = (*argv)[1] + 8;
	fuzz_seeds();
	exit(0);
}

/* A fault that a message asks for must not end the fuzzing. */
int __wrap_raise(int sig);
int __wrap_raise(int sig)
{
	(void)sig;
	return 0;
}

int (*fuzz_connect)(void);
int __real_wire_connect(const char *path, struct error *e);
int __wrap_wire_connect(const char *path, struct error *e);
int __wrap_wire_connect(const char *path, struct error *e)
{
	return fuzz_connect ? fuzz_connect() : __real_wire_connect(path, e);
}

static unsigned int count_fds(void)
{
	static struct pollfd p[256];
	unsigned int n = 0;

	for (size_t i = 0; i < ARRAY_LEN(p); i++)
		p[i] = (struct pollfd){.fd = (int)i};
	poll(p, ARRAY_LEN(p), 0);
	for (size_t i = 0; i < ARRAY_LEN(p); i++)
		n += !(p[i].revents & POLLNVAL);
	return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static bool ran;
	unsigned int before = count_fds(), after;

	fuzz_one(data, len);
	after = count_fds();
	/* The first run may open what is used from then on. */
	if (ran && before != after) {
		fprintf(stderr, "%u descriptors before, %u after\n", before, after);
		abort();
	}
	ran = true;
	return 0;
}

void empty_socket(int fd)
{
	char buf[4096];

	while (recv(fd, buf, sizeof(buf), MSG_DONTWAIT) > 0)
		;
}

static void make_hole(int fd)
{
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, lseek(fd, 0, SEEK_END)))
		abort();
}

/* Pages that are there stay, if they are few: new ones cost more than zeroes. */
static void clear_memory(const struct memory *m)
{
	uint64_t start, end = 0, total = 0;

	while (next_extent(m->fd, &start, &end)) {
		total += end - start;
		if (total > MIB) {
			make_hole(m->fd);
			return;
		}
		memset(m->base + start, 0, end - start);
	}
}

bool send_packet(int sock, struct input packet, const int *fds, size_t n)
{
	union {
		char buf[CMSG_SPACE(sizeof(int) * WIRE_MAX_FDS)];
		struct cmsghdr align;
	} control = {{0}};
	struct iovec iov = {(void *)(uintptr_t)packet.at, packet.left};
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *c;

	if (n) {
		h.msg_control = control.buf;
		h.msg_controllen = CMSG_SPACE(sizeof(int) * n);
		c = CMSG_FIRSTHDR(&h);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
	}
	return sendmsg(sock, &h, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

bool renew_vm(struct vm *vm, const struct vm_ends *ends)
{
	static unsigned int uses;
	bool drained;

	if (vm->end != VM_END_NONE || vm->crash[0] || vm->running || ++uses % 256 == 0)
		return false;
	fake_disk = DISK_WORKS;
	vm_lock(vm);
	vm_uncapture(vm, NULL);
	drained = !vm_drain(vm, 1000000000, NULL);
	vm_reset_devices(vm);
	vm_uncapture(vm, NULL);
	vm->reset_wanted = false;
	vm_unlock(vm);
	clear_memory(&vm->memory);
	for (size_t i = 0; i < vm->config->n_disks; i++)
		make_hole(ends->disk[i]);
	for (size_t i = 0; i < vm->config->n_nets; i++) {
		empty_socket(ends->tap[i]);
		empty_socket(vm->files.taps[i]);
	}
	return drained;
}

/* ---- inputs */

struct input take_part(struct input *in, size_t len)
{
	struct input part = {in->at, MIN(len, in->left)};

	in->at += part.left;
	in->left -= part.left;
	return part;
}

uint64_t take(struct input *in, size_t bytes)
{
	struct input part = take_part(in, bytes);
	uint64_t v = 0;

	if (part.left)
		memcpy(&v, part.at, part.left);
	return v;
}

struct input take_packet(struct input *in)
{
	return take_part(in, take(in, 2));
}

size_t put_packet(uint8_t *out, const void *data, size_t len)
{
	uint16_t n = (uint16_t)len;

	if (n != len)
		abort();
	memcpy(out, &n, 2);
	memcpy(out + 2, data, len);
	return 2 + len;
}

size_t pack_message(const ProtobufCMessage *m, uint8_t **out)
{
	*out = xcalloc(1, protobuf_c_message_get_packed_size(m) + 1);
	return protobuf_c_message_pack(m, *out);
}

int make_state(struct input body)
{
	struct {
		uint64_t magic;
		uint32_t version, checksum;
		uint64_t length;
	} h = {0x4554415453424d56, STATE_VERSION, 2166136261u, body.left};
	int fd;

	for (size_t i = 0; i < body.left; i++)
		h.checksum = (h.checksum ^ body.at[i]) * 16777619u;
	fd = memfd_with(&h, sizeof(h));
	if (pwrite_all(fd, body.at, body.left, sizeof(h)) != (ssize_t)body.left ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		abort();
	return fd;
}

int make_fd(enum fd_kind kind, struct input packet)
{
	int pair[2];

	switch (kind) {
	case FD_NULL:
		return open("/dev/null", O_RDWR | O_CLOEXEC);
	case FD_SOCKET_CLOSED:
	case FD_SOCKET_PACKET:
		if (wire_pair(pair, NULL))
			abort();
		if (kind == FD_SOCKET_PACKET)
			send(pair[1], packet.at, packet.left, 0);
		close(pair[1]);
		return pair[0];
	case FD_STATE:
		return make_state(packet);
	default:
		return memfd_with("", 0);
	}
}

/* ---- messages */

static unsigned int dice;

static unsigned int roll(size_t sides)
{
	return (unsigned int)rand_r(&dice) % (unsigned int)sides;
}

static uint64_t changed(uint64_t v)
{
	static const uint64_t special[] = {0, 1, 0xff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0xffffffff,
					   1ull << 63, ~0ull};

	switch (roll(4)) {
	case 0:
		return v ^ 1ull << roll(64);
	case 1:
		return v + roll(33) - 16;
	case 2:
		return special[roll(ARRAY_LEN(special))];
	default:
		return v ^ roll(256) << 8 * roll(4);
	}
}

static void mutate_fields(struct arena *a, ProtobufCMessage *m);

/* Mostly of the same length: many have only one that is right. */
static void mutate_bytes(struct arena *a, ProtobufCBinaryData *b)
{
	size_t max = roll(4) ? b->len : b->len + roll(64);
	uint8_t *copy = arena_alloc(a, max);

	if (b->len)
		memcpy(copy, b->data, b->len);
	if (max && roll(4))
		LLVMFuzzerMutate(copy, b->len, max);
	else if (max)
		copy[roll(max)] = (uint8_t)roll(256);
	b->data = copy;
	b->len = max;
}

static void mutate_string(struct arena *a, char **s)
{
	ProtobufCBinaryData b = {*s ? strlen(*s) : 0, (uint8_t *)*s};
	char *copy;

	mutate_bytes(a, &b);
	copy = arena_alloc(a, b.len + 1);
	if (b.len)
		memcpy(copy, b.data, b.len);
	*s = copy;
}

static ProtobufCMessage *new_message(struct arena *a, const ProtobufCMessageDescriptor *d)
{
	ProtobufCMessage *m = arena_alloc(a, d->sizeof_message);

	protobuf_c_message_init(d, m);
	return m;
}

static void mutate_value(struct arena *a, const ProtobufCFieldDescriptor *f, void *at)
{
	ProtobufCMessage **sub = at;

	switch (f->type) {
	case PROTOBUF_C_TYPE_BOOL:
		*(protobuf_c_boolean *)at = !*(protobuf_c_boolean *)at;
		break;
	case PROTOBUF_C_TYPE_STRING:
		mutate_string(a, at);
		break;
	case PROTOBUF_C_TYPE_BYTES:
		mutate_bytes(a, at);
		break;
	case PROTOBUF_C_TYPE_MESSAGE:
		if (!*sub)
			*sub = new_message(a, f->descriptor);
		else if (f->label != PROTOBUF_C_LABEL_REPEATED &&
			 !(f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) && !roll(16))
			*sub = NULL;
		else
			mutate_fields(a, *sub);
		break;
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		*(uint64_t *)at = changed(*(uint64_t *)at);
		break;
	default: /* no others of 64 bits are in use */
		*(uint32_t *)at = (uint32_t)changed(*(uint32_t *)at);
	}
}

static size_t size_of(ProtobufCType t)
{
	switch (t) {
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_ENUM:
		return 4;
	case PROTOBUF_C_TYPE_BOOL:
		return sizeof(protobuf_c_boolean);
	default:
		return 8;
	}
}

/* The arena frees all at once: an element may stand in a message twice. */
static void mutate_repeated(struct arena *a, const ProtobufCFieldDescriptor *f, size_t *n, void **array)
{
	size_t size = size_of(f->type);
	uint8_t *copy = arena_alloc(a, (*n + 1) * size), *last = copy + *n * size;

	if (*n)
		memcpy(copy, *array, *n * size);
	*array = copy;
	switch (roll(8)) {
	case 0:
		if (f->type == PROTOBUF_C_TYPE_MESSAGE)
			*(ProtobufCMessage **)(void *)last = new_message(a, f->descriptor);
		else if (f->type == PROTOBUF_C_TYPE_STRING)
			*(const char **)(void *)last = "";
		++*n;
		break;
	case 1:
		if (*n)
			memcpy(last, copy + roll(*n) * size, size);
		*n += !!*n;
		break;
	case 2:
		*n -= !!*n;
		break;
	default:
		if (*n)
			mutate_value(a, f, copy + roll(*n) * size);
	}
}

static void mutate_fields(struct arena *a, ProtobufCMessage *m)
{
	const ProtobufCMessageDescriptor *d = m->descriptor;
	const ProtobufCFieldDescriptor *f;
	uint8_t *base = (uint8_t *)m;
	int *which;

	if (!d->n_fields)
		return;
	f = &d->fields[roll(d->n_fields)];
	if (f->label == PROTOBUF_C_LABEL_REPEATED) {
		mutate_repeated(a, f, (void *)(base + f->quantifier_offset),
				(void *)(base + f->offset));
		return;
	}
	if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
		which = (void *)(base + f->quantifier_offset);
		if (*which && roll(8)) /* rather what is there */
			while (f->id != (uint32_t)*which ||
			       f->quantifier_offset != (size_t)((uint8_t *)which - base))
				f = &d->fields[roll(d->n_fields)];
		else
			memset(base + f->offset, 0, 8);
		*which = (int)f->id;
	}
	mutate_value(a, f, base + f->offset);
}

size_t mutate_message(const ProtobufCMessageDescriptor *d, uint8_t *data, size_t len, size_t max,
		      unsigned int seed)
{
	struct arena a;
	ProtobufCMessage *m;

	dice = seed;
	arena_init(&a);
	m = roll(8) ? protobuf_c_message_unpack(d, &a.allocator, len, data) : NULL;
	if (m) {
		for (unsigned int n = 1 + roll(3); n; n--)
			mutate_fields(&a, m);
		m = protobuf_c_message_get_packed_size(m) <= max ? m : NULL;
	}
	len = m ? protobuf_c_message_pack(m, data) : LLVMFuzzerMutate(data, len, max);
	arena_clear(&a);
	return len;
}

size_t mutate_packet(const ProtobufCMessageDescriptor *d, uint8_t *data, size_t len, size_t max,
		     size_t start, size_t gap, unsigned int seed)
{
	static uint8_t body[0xffff], rest[1 << 20];
	struct input in = {data + start, len - start}, p;
	unsigned int chosen = seed / 8 % 8;
	size_t at, room;

	do {
		take_part(&in, gap);
		p = take_packet(&in);
	} while (in.left > gap && chosen--);
	at = (size_t)(p.at - data);
	if (in.left > sizeof(rest) || at < 2 || at + p.left + in.left > max)
		return LLVMFuzzerMutate(data, len, max);
	room = MIN(max - at - in.left, sizeof(body));
	memcpy(body, p.at, p.left);
	memcpy(rest, in.at, in.left);
	at += put_packet(data + at - 2, body, mutate_message(d, body, p.left, room, seed)) - 2;
	memcpy(data + at, rest, in.left);
	return at + in.left;
}
