/* fake_kvm.c: the machine that unit tests and fuzz targets run on; the contract is in fake_kvm.h. */
#include "tests/unit/fake_kvm.h"
#include "zerocopy/zerocopy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

struct fake_kvm fake = {
	.xsave_size = 4096,
	.ncpuid = 3,
	.cpuid =
		{
			{.function = 0, .eax = 0xd},
			{.function = 1, .ecx = 0x80202001, .edx = 0x0783fbff},
			{.function = 0x40000000, .eax = 0x40000001},
		},
};

/* ---- descriptors */

enum { MAX_FDS = 1024, MAX_MACHINES = 4 };
enum kind { OTHER, KVM, VM, VCPU };

static struct {
	enum kind kind;
	unsigned int machine, vcpu;
} fds[MAX_FDS];
static struct fake_machine machines[MAX_MACHINES];
static unsigned int nmachines;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Some of what KVM lists; the last cannot be read. */
static const uint32_t msrs[] = {0x10,  0x174,	   0x175,      0x176,	   0x277,      0x3b,
				0x6e0, 0xc0000080, 0xc0000081, 0xc0000102, 0x4b564d00, 0xdead};

static int new_fd(enum kind kind, unsigned int machine, unsigned int vcpu)
{
	int fd = memfd_create("fake-kvm", MFD_CLOEXEC);

	if (fd < 0)
		return -1;
	if (fd >= MAX_FDS || ftruncate(fd, 3 * 4096))
		abort();
	fds[fd].kind = kind;
	fds[fd].machine = machine;
	fds[fd].vcpu = vcpu;
	return fd;
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
	va_list ap;
	int mode;

	va_start(ap, flags);
	mode = va_arg(ap, int);
	va_end(ap);
	if (strcmp(path, "/dev/kvm"))
		return __real_open(path, flags, mode);
	if (!fake.absent)
		return new_fd(KVM, 0, 0);
	errno = ENOENT;
	return -1;
}

int __real_fcntl(int fd, int cmd, ...);
int __wrap_fcntl(int fd, int cmd, ...);
int __wrap_fcntl(int fd, int cmd, ...)
{
	va_list ap;
	long arg;
	int r;

	va_start(ap, cmd);
	arg = va_arg(ap, long);
	va_end(ap);
	r = __real_fcntl(fd, cmd, arg);
	return cmd == F_GETFL && fake.direct_io && r >= 0 ? r | O_DIRECT : r;
}

int __wrap_sandbox_drop_privileges(const char *empty_dir, struct error *e);
int __wrap_sandbox_drop_privileges(const char *empty_dir, struct error *e)
{
	(void)empty_dir, (void)e;
	return 0;
}

int __wrap_sandbox_filter_calls(void (*before)(void *ctx), void *ctx, struct error *e);
int __wrap_sandbox_filter_calls(void (*before)(void *ctx), void *ctx, struct error *e)
{
	(void)e;
	before(ctx);
	return 0;
}

unsigned int log_lines;
char last_log[600];

void __wrap_log_line(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void __wrap_log_line(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(last_log, sizeof(last_log), fmt, ap);
	va_end(ap);
	log_lines++;
	if (getenv("VMBEAM_TEST_LOG"))
		fprintf(stderr, "vmbeam: %s\n", last_log);
}

/* ---- KVM */

struct fake_machine *fake_machine(int vm_fd)
{
	return &machines[fds[vm_fd].machine];
}

uint8_t *fake_ram(int fd)
{
	return fake_machine(fd)->ram;
}

void fake_machine_fill(struct fake_machine *m, uint64_t seed)
{
	uint8_t *p = (uint8_t *)m;

	for (size_t i = 0; i < offsetof(struct fake_machine, ram); i++) {
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		p[i] = (uint8_t)(seed >> 56);
	}
	m->clock >>= 4; /* far from its end */
	for (unsigned int i = 0; i < FAKE_VCPUS; i++) {
		struct kvm_nested_state *n = (void *)m->vcpu[i].nested;

		n->size = (uint32_t)fake.nested_size;
	}
}

static int refuse(int error)
{
	fake.mistakes++;
	errno = error;
	return -1;
}

static int system_ioctl(unsigned long request, void *arg)
{
	switch (request) {
	case KVM_GET_API_VERSION:
		return KVM_API_VERSION;
	case KVM_CREATE_VM:
		if (nmachines == MAX_MACHINES)
			nmachines = 0; /* fuzzing: the oldest are gone */
		return new_fd(VM, nmachines++, 0);
	case KVM_GET_VCPU_MMAP_SIZE:
		return 3 * 4096;
	case KVM_GET_SUPPORTED_CPUID: {
		struct kvm_cpuid2 *c = arg;

		if (c->nent < fake.ncpuid)
			return refuse(E2BIG);
		c->nent = fake.ncpuid;
		memcpy(c->entries, fake.cpuid, fake.ncpuid * sizeof(fake.cpuid[0]));
		return 0;
	}
	case KVM_GET_MSR_INDEX_LIST: {
		struct kvm_msr_list *l = arg;
		uint32_t n = l->nmsrs;

		l->nmsrs = ARRAY_LEN(msrs);
		if (n < ARRAY_LEN(msrs)) {
			errno = E2BIG;
			return -1;
		}
		memcpy(l->indices, msrs, sizeof(msrs));
		return 0;
	}
	}
	return refuse(ENOTTY);
}

static int set_doorbell(const struct kvm_ioeventfd *io)
{
	unsigned int i;

	for (i = 0; i < fake.ndoorbells && fake.doorbell[i].addr != io->addr; i++)
		;
	if (io->flags & KVM_IOEVENTFD_FLAG_DEASSIGN) {
		if (i == fake.ndoorbells || fake.doorbell[i].fd != io->fd)
			return refuse(ENOENT);
		fake.doorbell[i] = fake.doorbell[--fake.ndoorbells];
		return 0;
	}
	if (i < fake.ndoorbells)
		return refuse(EEXIST);
	if (i == ARRAY_LEN(fake.doorbell))
		return refuse(ENOSPC);
	fake.doorbell[i].addr = io->addr;
	fake.doorbell[i].fd = io->fd;
	fake.ndoorbells++;
	return 0;
}

static int set_routes(const struct kvm_irq_routing *t)
{
	if (t->nr > ARRAY_LEN(fake.route))
		return refuse(EINVAL);
	memcpy(fake.route, t->entries, t->nr * sizeof(t->entries[0]));
	fake.nroutes = t->nr;
	fake.route_updates++;
	return 0;
}

static int check_extension(unsigned long cap)
{
	switch (cap) {
	case KVM_CAP_XSAVE2:
		return fake.xsave_size > 4096 ? fake.xsave_size : 0;
	case KVM_CAP_NESTED_STATE:
		return fake.nested_size;
	case KVM_CAP_XCRS:
		return 1;
	}
	return 0;
}

static int vm_ioctl(int fd, unsigned long request, void *arg)
{
	struct fake_machine *m = fake_machine(fd);

	switch (request) {
	case KVM_CHECK_EXTENSION:
		return check_extension((unsigned long)arg);
	case KVM_CREATE_VCPU:
		if ((unsigned long)arg >= FAKE_VCPUS)
			return refuse(EINVAL);
		return new_fd(VCPU, fds[fd].machine, (unsigned int)(unsigned long)arg);
	case KVM_IOEVENTFD:
		return set_doorbell(arg);
	case KVM_SET_GSI_ROUTING:
		return set_routes(arg);
	case KVM_IRQ_LINE: {
		struct kvm_irq_level *l = arg;

		if (l->irq >= 24)
			return refuse(EINVAL);
		fake.irq_edges[l->irq] += l->level && !fake.irq_line[l->irq];
		fake.irq_line[l->irq] = l->level;
		return 0;
	}
	case KVM_GET_IRQCHIP: {
		struct kvm_irqchip *c = arg;
		uint32_t id = c->chip_id;

		*c = m->chip[id];
		c->chip_id = id;
		return 0;
	}
	case KVM_SET_IRQCHIP:
		m->chip[((struct kvm_irqchip *)arg)->chip_id] = *(struct kvm_irqchip *)arg;
		return 0;
	case KVM_GET_PIT2:
		memcpy(arg, &m->pit2, sizeof(m->pit2));
		return 0;
	case KVM_SET_PIT2:
		memcpy(&m->pit2, arg, sizeof(m->pit2));
		return 0;
	case KVM_GET_CLOCK:
		((struct kvm_clock_data *)arg)->clock = m->clock;
		return 0;
	case KVM_SET_CLOCK:
		m->clock = ((struct kvm_clock_data *)arg)->clock;
		return 0;
	case KVM_SET_USER_MEMORY_REGION: {
		struct kvm_userspace_memory_region *r = arg;

		if (r->slot == SLOT_LOW_RAM)
			m->ram = (uint8_t *)(uintptr_t)r->userspace_addr;
		/* KVM_DIRTY_LOG_INITIALLY_SET */
		if (r->slot < FAKE_SLOTS && r->flags & KVM_MEM_LOG_DIRTY_PAGES)
			memset(m->written[r->slot], 0xff, sizeof(m->written[0]));
		if (r->slot < FAKE_SLOTS)
			m->logged[r->slot] = r->flags & KVM_MEM_LOG_DIRTY_PAGES
						     ? MIN(r->memory_size / 4096 / 64, (uint64_t)FAKE_LOG) : 0;
		return 0;
	}
	case KVM_GET_DIRTY_LOG: {
		struct kvm_dirty_log *l = arg;

		if (l->slot >= FAKE_SLOTS || !m->logged[l->slot])
			return refuse(ENOENT);
		memcpy(l->dirty_bitmap, m->written[l->slot], 8 * m->logged[l->slot]);
		return 0;
	}
	case KVM_CLEAR_DIRTY_LOG: {
		struct kvm_clear_dirty_log *l = arg;

		if (l->slot >= FAKE_SLOTS || l->first_page % 64 ||
		    (l->first_page + l->num_pages + 63) / 64 > m->logged[l->slot])
			return refuse(EINVAL);
		for (uint64_t i = 0; i < (l->num_pages + 63) / 64; i++)
			m->written[l->slot][l->first_page / 64 + i] &= ~((uint64_t *)l->dirty_bitmap)[i];
		return 0;
	}
	case KVM_ENABLE_CAP:
		return 0;
	case KVM_SET_TSS_ADDR:
	case KVM_SET_IDENTITY_MAP_ADDR:
	case KVM_CREATE_IRQCHIP:
	case KVM_CREATE_PIT2:
	case KVM_IRQFD:
		return 0;
	}
	return refuse(ENOTTY);
}

static uint64_t *msr_at(struct fake_vcpu *v, uint32_t index)
{
	if (index == 0x6e0)
		return &v->tsc_deadline;
	if (index == 0x2ff) /* not in the list */
		return &v->mtrr;
	for (size_t i = 0; i < ARRAY_LEN(msrs) - 1; i++)
		if (msrs[i] == index)
			return &v->msr[i];
	return NULL;
}

/* As KVM does: stops at the first that it does not know, and says how many it has done. */
static int access_msrs(struct fake_vcpu *v, struct kvm_msrs *m, bool set)
{
	for (uint32_t i = 0; i < m->nmsrs; i++) {
		uint64_t *p = msr_at(v, m->entries[i].index);

		if (!p)
			return (int)i;
		*(set ? p : (uint64_t *)&m->entries[i].data) = set ? m->entries[i].data : *p;
	}
	return (int)m->nmsrs;
}

static int run(int fd)
{
	struct kvm_run *r = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	int result = -1;

	if (r == MAP_FAILED)
		abort();
	if (fake.run) {
		result = fake.run(fd, r);
	} else {
		while (!__atomic_load_n(&r->immediate_exit, __ATOMIC_ACQUIRE))
			usleep(200);
		errno = EINTR;
	}
	munmap(r, 4096);
	return result;
}

static int copy(void *kernel, void *user, size_t len, bool set)
{
	memcpy(set ? kernel : user, set ? user : kernel, len);
	return 0;
}

static int vcpu_ioctl(int fd, unsigned long request, void *arg)
{
	unsigned int index = fds[fd].vcpu;
	struct fake_vcpu *v = &machines[fds[fd].machine].vcpu[index];
	bool set = _IOC_DIR(request) == _IOC_WRITE;

	switch (request) {
	case KVM_RUN:
		return run(fd);
	case KVM_SET_CPUID2: {
		const struct kvm_cpuid2 *c = arg;

		if (c->nent > FAKE_CPUID)
			return refuse(E2BIG);
		memcpy(fake.set_cpuid[index], c->entries, c->nent * sizeof(c->entries[0]));
		fake.set_ncpuid[index] = c->nent;
		return 0;
	}
	case KVM_GET_MP_STATE:
	case KVM_SET_MP_STATE:
		return copy(&v->mp_state, arg, sizeof(v->mp_state), set);
	case KVM_GET_SREGS:
	case KVM_SET_SREGS:
		return copy(&v->sregs, arg, sizeof(v->sregs), set);
	case KVM_GET_REGS:
	case KVM_SET_REGS:
		return copy(&v->regs, arg, sizeof(v->regs), set);
	case KVM_GET_DEBUGREGS:
	case KVM_SET_DEBUGREGS:
		return copy(&v->debugregs, arg, sizeof(v->debugregs), set);
	case KVM_GET_LAPIC:
	case KVM_SET_LAPIC:
		return copy(&v->lapic, arg, sizeof(v->lapic), set);
	case KVM_GET_VCPU_EVENTS:
	case KVM_SET_VCPU_EVENTS:
		return copy(&v->events, arg, sizeof(v->events), set);
	case KVM_GET_XCRS:
	case KVM_SET_XCRS:
		return copy(&v->xcrs, arg, sizeof(v->xcrs), set);
	case KVM_GET_XSAVE:
		return copy(v->xsave, arg, 4096, false);
	case KVM_GET_XSAVE2:
	case KVM_SET_XSAVE:
		return copy(v->xsave, arg, (size_t)fake.xsave_size, set);
	case KVM_GET_NESTED_STATE:
	case KVM_SET_NESTED_STATE:
		set = request == KVM_SET_NESTED_STATE;
		return copy(v->nested, arg, (size_t)fake.nested_size, set);
	case KVM_GET_DEVICE_ATTR:
	case KVM_SET_DEVICE_ATTR:
		set = request == KVM_SET_DEVICE_ATTR; /* both are _IOW */
		return copy(&v->tsc_offset,
			    (void *)(uintptr_t)((struct kvm_device_attr *)arg)->addr,
			    sizeof(v->tsc_offset), set);
	case KVM_GET_MSRS:
	case KVM_SET_MSRS:
		return access_msrs(v, arg, set);
	case KVM_GET_TSC_KHZ:
		return 1000000;
	case KVM_KVMCLOCK_CTRL:
		errno = EINVAL; /* a guest without kvmclock */
		return -1;
	}
	return refuse(ENOTTY);
}

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	void *arg;
	int r;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (request == TUNSETOFFLOAD)
		return 0;
	if (_IOC_TYPE(request) != KVMIO)
		return __real_ioctl(fd, request, arg);
	if (request == fake.fail && !fake.fail_after--) {
		fake.fail_after = 0;
		errno = EIO;
		return -1;
	}
	if (request == KVM_RUN) /* alone without the lock: it waits */
		return vcpu_ioctl(fd, request, arg);
	pthread_mutex_lock(&lock);
	switch (fd >= 0 && fd < MAX_FDS ? fds[fd].kind : OTHER) {
	case KVM:
		r = system_ioctl(request, arg);
		break;
	case VM:
		r = vm_ioctl(fd, request, arg);
		break;
	case VCPU:
		r = vcpu_ioctl(fd, request, arg);
		break;
	default:
		r = refuse(EBADF);
	}
	pthread_mutex_unlock(&lock);
	return r;
}

/* ---- io_uring */

enum fake_disk fake_disk;
bool real_ring;
unsigned int fake_disk_requests;

struct pending {
	struct pending *next;
	struct ring_request *request;
	enum { READ, WRITE, SYNC, ALLOCATE } op;
	int fd, mode;
	const struct iovec *iov;
	unsigned int n;
	uint64_t off, len;
};

struct fake_ring {
	int files[VM_MAX_DISKS];
	int done; /* eventfd: completions are there */
	struct loop_source *source;
	struct pending *first, **last;
};

static int perform(const struct pending *p)
{
	ssize_t r = 0;

	switch (p->op) {
	case READ:
		r = preadv(p->fd, p->iov, (int)p->n, (off_t)p->off);
		break;
	case WRITE:
		r = pwritev(p->fd, p->iov, (int)p->n, (off_t)p->off);
		break;
	case ALLOCATE:
		r = fallocate(p->fd, p->mode, (off_t)p->off, (off_t)p->len);
		break;
	case SYNC:
		break;
	}
	if (fake_disk == DISK_SHORT && r > 0)
		return (int)r - 1;
	return fake_disk == DISK_ERROR ? -EIO : r < 0 ? -errno : (int)r;
}

static void complete(struct fake_ring *r)
{
	while (r->first && fake_disk != DISK_HANGS) {
		struct pending *p = r->first;

		r->first = p->next;
		if (!r->first)
			r->last = &r->first;
		p->request->done(p->request, perform(p));
		free(p);
	}
}

static void on_done(void *ctx, uint32_t events)
{
	struct fake_ring *r = ctx;
	uint64_t n;

	(void)events;
	if (read(r->done, &n, sizeof(n)) == sizeof(n))
		complete(r);
}

static bool queue(struct ring *ring, struct pending p)
{
	struct fake_ring *r = (struct fake_ring *)ring;

	if (fake_disk == DISK_RING_FULL)
		return false;
	fake_disk_requests++;
	p.fd = r->files[p.fd];
	*r->last = memcpy(xcalloc(1, sizeof(p)), &p, sizeof(p));
	r->last = &(*r->last)->next;
	return true;
}

#define WRAP(type, name, params) type __real_##name params; type __wrap_##name params; type __wrap_##name params

WRAP(struct ring *, ring_create, (struct vm *vm, const int *files, unsigned int n, struct error *e))
{
	struct fake_ring *r;

	if (real_ring)
		return __real_ring_create(vm, files, n, e);
	r = xcalloc(1, sizeof(*r));
	memcpy(r->files, files, n * sizeof(*files));
	r->last = &r->first;
	r->done = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->done < 0) {
		error_set_errno(e, "ring");
		free(r);
		return NULL;
	}
	r->source = loop_add(vm->loop, r->done, EPOLLIN, on_done, r);
	return (struct ring *)r;
}

WRAP(void, ring_destroy, (struct ring *ring))
{
	struct fake_ring *r = (struct fake_ring *)ring;

	if (real_ring || !ring) {
		__real_ring_destroy(ring);
		return;
	}
	while (r->first) {
		struct pending *p = r->first;

		r->first = p->next;
		if (!r->first)
			r->last = &r->first;
		p->request->done(p->request, -ECANCELED);
		free(p);
	}
	loop_remove(r->source);
	close(r->done);
	free(r);
}

WRAP(bool, ring_readv, (struct ring *r, struct ring_request *q, unsigned int file,
			const struct iovec *iov, unsigned int n, uint64_t off))
{
	if (real_ring)
		return __real_ring_readv(r, q, file, iov, n, off);
	return queue(r, (struct pending){
				.request = q, .op = READ, .fd = (int)file, .iov = iov, .n = n, .off = off});
}

WRAP(bool, ring_writev, (struct ring *r, struct ring_request *q, unsigned int file,
			 const struct iovec *iov, unsigned int n, uint64_t off))
{
	if (real_ring)
		return __real_ring_writev(r, q, file, iov, n, off);
	return queue(r, (struct pending){
				.request = q, .op = WRITE, .fd = (int)file, .iov = iov, .n = n, .off = off});
}

WRAP(bool, ring_fdatasync, (struct ring *r, struct ring_request *q, unsigned int file))
{
	if (real_ring)
		return __real_ring_fdatasync(r, q, file);
	return queue(r, (struct pending){.request = q, .op = SYNC, .fd = (int)file});
}

WRAP(bool, ring_fallocate, (struct ring *r, struct ring_request *q, unsigned int file, int mode,
			    uint64_t off, uint64_t len))
{
	if (real_ring)
		return __real_ring_fallocate(r, q, file, mode, off, len);
	return queue(r, (struct pending){.request = q,
					 .op = ALLOCATE,
					 .fd = (int)file,
					 .mode = mode,
					 .off = off,
					 .len = len});
}

WRAP(void, ring_submit, (struct ring *ring))
{
	if (real_ring)
		__real_ring_submit(ring);
	else if (((struct fake_ring *)ring)->first)
		eventfd_write(((struct fake_ring *)ring)->done, 1);
}

WRAP(void, ring_wait, (struct ring *ring, int timeout_ms))
{
	if (real_ring)
		__real_ring_wait(ring, timeout_ms);
	else if (fake_disk == DISK_HANGS)
		usleep((unsigned int)timeout_ms * 1000);
	else
		complete((struct fake_ring *)ring);
}

/* ---- VMs */

int memfd_with(const void *data, size_t len)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || pwrite_all(fd, data, len, 0) != (ssize_t)len)
		abort();
	return fd;
}

static int given(int fd)
{
	return fd ? fd : -1;
}

struct vm *make_vm(const struct vm_spec *s, struct vm_ends *ends)
{
	Vmb__VmConfig c = VMB__VM_CONFIG__INIT;
	Vmb__DiskConfig disk = VMB__DISK_CONFIG__INIT, *disks[VM_MAX_DISKS];
	Vmb__NetConfig net = VMB__NET_CONFIG__INIT, *nets[VM_MAX_NETS];
	uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
	char *modules[VM_MAX_MODULES];
	struct vm_files f;
	struct error e = {""};
	struct vm *vm;

	vm_files_init(&f);
	c.name = (char *)(uintptr_t) "toy";
	c.kernel = (char *)(uintptr_t) "kernel";
	c.append = (char *)(uintptr_t)(s->append ? s->append : "");
	c.memory = s->memory ? s->memory : 8 * MIB;
	c.cpus = s->cpus ? s->cpus : 1;
	c.debug_exit = s->debug_exit;
	c.rng = s->rng;
	c.balloon = s->balloon;
	c.virtio_console = s->virtio_console;
	c.window = s->window;
	c.placement = (char *)(uintptr_t)(s->placement ? s->placement : "");
	disk.path = (char *)(uintptr_t) "disk";
	disk.read_only = s->read_only;
	net.tap = (char *)(uintptr_t) "tap";
	net.mac = (ProtobufCBinaryData){sizeof(mac), mac};
	c.disks = disks;
	c.nets = nets;
	c.modules = modules;
	for (unsigned int i = 0; i < s->disks; i++) {
		disks[c.n_disks++] = &disk;
		f.disks[i] = s->disk_fd ? s->disk_fd : memfd_with("", 0);
		if (!s->disk_fd && ftruncate(f.disks[i], (off_t)(s->disk_size ? s->disk_size : MIB)))
			abort();
		ends->disk[i] = dup(f.disks[i]);
	}
	for (unsigned int i = 0; i < s->nets; i++) {
		int pair[2];

		nets[c.n_nets++] = &net;
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair))
			abort();
		f.taps[i] = pair[0];
		ends->tap[i] = pair[1];
	}
	for (unsigned int i = 0; i < s->nmodules; i++) {
		modules[c.n_modules++] = (char *)(uintptr_t) "module with arguments";
		f.modules[i] = s->modules[i];
	}
	f.kernel = given(s->kernel);
	f.initrd = given(s->initrd);
	f.control = given(s->control);
	f.serial_file = given(s->serial_file);
	f.owner = owner_create(&e);
	vm = f.owner < 0 ? NULL : vm_create(&c, &f, false, &e);
	if (!vm || vm_start(vm, NULL, &e)) {
		fprintf(stderr, "make_vm: %s\n", e.text);
		abort();
	}
	vm_uncapture(vm, NULL); /* as vm_resume() does, without the vCPUs */
	return vm;
}

void destroy_vm(struct vm *vm, struct vm_ends *ends)
{
	for (size_t i = 0; i < vm->config->n_disks; i++)
		close(ends->disk[i]);
	for (size_t i = 0; i < vm->config->n_nets; i++)
		close(ends->tap[i]);
	vm_destroy(vm);
}
