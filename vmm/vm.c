/* vm.c: one VM: building it, running it, resetting it, ending it.  The contract is in vmm.h; state
 * for handovers is in state.c, vCPU threads in vcpu.c.
 */
#include "vmm/internal.h"
#include "vmm/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	RESET_DRAIN_S = 30,
	/* Three pages below the BIOS that Intel's real-mode emulation needs (KVM_SET_TSS_ADDR). */
	TSS_ADDR = 0xfffbd000,
	IDENTITY_MAP_ADDR = 0xfffbc000,
};

/* ---- configuration */

int vm_config_validate(const Vmb__VmConfig *c, struct error *e)
{
	if (!vm_name_is_valid(c->name))
		return error_set(e, "'%s' is not a VM's name: letters, digits, . _ -, at most 63",
				 c->name);
	if (c->memory < 4 * MIB || c->memory % HUGE_PAGE)
		return error_set(e, "memory: %llu bytes is not a multiple of 2 MiB from 4 MiB on",
				 (unsigned long long)c->memory);
	if (c->window % HUGE_PAGE || c->window > MAX_WINDOW)
		return error_set(e, "window: %llu bytes is not a multiple of 2 MiB up to 16 TiB",
				 (unsigned long long)c->window);
	if (c->cpus < 1 || c->cpus > MAX_VCPUS)
		return error_set(e, "cpus: %u is not from 1 to %d", c->cpus, MAX_VCPUS);
	if (c->n_disks > MAX_DISKS || c->n_nets > MAX_NETS || c->n_modules > MAX_MODULES)
		return error_set(e, "at most %d disks, %d networks, %d modules", MAX_DISKS, MAX_NETS,
				 MAX_MODULES);
	for (size_t i = 0; i < c->n_nets; i++)
		if (c->nets[i]->mac.len != 6)
			return error_set(e, "network %zu: a MAC address has 6 bytes", i);
	if (!c->kernel[0])
		return error_set(e, "no kernel is named");
	if (c->placement[0] && (c->window || !vm_name_is_valid(c->placement)))
		return error_set(e, "'%s' is not a guest hypervisor's name, or this is one itself",
				 c->placement);
	return 0;
}

/* ---- building */

static int open_kvm(struct vm *vm, struct error *e)
{
	vm->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm->kvm < 0) {
		error_set_errno(e, "/dev/kvm");
		if (errno == ENOENT)
			error_set(e, "this machine has no /dev/kvm; 'vmbeam lab -- COMMAND' runs "
				     "COMMAND where it exists");
		return -1;
	}
	if (ioctl(vm->kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		return error_set(e, "/dev/kvm: not API version %d", KVM_API_VERSION);
	return 0;
}

static int create_vm(struct vm *vm, struct error *e)
{
	/* dirty.c; in the sandbox it could not be asked for. */
	struct kvm_enable_cap log = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args = {KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET},
	};

	vm->fd = ioctl(vm->kvm, KVM_CREATE_VM, 0);
	if (vm->fd < 0)
		return error_set_errno(e, "KVM_CREATE_VM");
	if (ioctl(vm->fd, KVM_ENABLE_CAP, &log))
		return error_set_errno(e, "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2");
	return 0;
}

static int create_irqchip(struct vm *vm, struct error *e)
{
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	uint64_t identity = IDENTITY_MAP_ADDR;

	if (ioctl(vm->fd, KVM_SET_TSS_ADDR, TSS_ADDR) ||
	    ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity))
		return error_set_errno(e, "KVM_SET_TSS_ADDR");
	if (ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0))
		return error_set_errno(e, "KVM_CREATE_IRQCHIP");
	if (ioctl(vm->fd, KVM_CREATE_PIT2, &pit))
		return error_set_errno(e, "KVM_CREATE_PIT2");
	/* KVM's own table has the PIT on another pin than the MADT says. */
	vm->routes_dirty = true;
	return 0;
}

static int set_slot(struct vm *vm, unsigned int slot, uint32_t flags, uint64_t gpa, uint64_t size, uint8_t *host,
		    struct error *e)
{
	struct kvm_userspace_memory_region r = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)host,
	};

	if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &r))
		return error_set_errno(e, "KVM_SET_USER_MEMORY_REGION: slot %u", slot);
	return 0;
}

static int create_memory(struct vm *vm, struct error *e)
{
	struct memory *m = &vm->memory;

	if (memory_create(m, vm->config->memory, vm->config->hugepages, vm->files.ram, e))
		return -1;
	vm->files.ram = m->fd;
	if (memory_map(m, e))
		return -1;
	vm->huge_pages = warm_huge_pages(m->hugetlb);
	return memory_reserve_window(m, vm->config->window, e);
}

static int set_ram(struct vm *vm, uint32_t flags, struct error *e)
{
	struct memory *m = &vm->memory;
	uint64_t low = memory_low_size(m);

	if (set_slot(vm, SLOT_LOW_RAM, flags, 0, low, m->base, e))
		return -1;
	return m->size > low ? set_slot(vm, SLOT_HIGH_RAM, flags, HIGH_RAM, m->size - low, m->base + low, e) : 0;
}

int vm_log_writes(struct vm *vm, bool on, struct error *e)
{
	return set_ram(vm, on ? KVM_MEM_LOG_DIRTY_PAGES : 0, e);
}

static int add_memory(struct vm *vm, struct error *e)
{
	struct memory *m = &vm->memory;

	if (set_ram(vm, 0, e))
		return -1;
	return m->window_size ? set_slot(vm, SLOT_WINDOW, 0, m->window_gpa, m->window_size, m->window, e) : 0;
}

static int choose_cpu_model(struct vm *vm, struct error *e)
{
	if (vm->config->cpu_model)
		return cpu_model_check(vm->kvm, vm->config->cpu_model, e);
	return cpu_model_default(vm->kvm, vm->config->window != 0, &vm->config->cpu_model, e);
}

static int check_window(const struct vm *vm, struct error *e)
{
	const struct memory *m = &vm->memory;
	uint64_t end = cpu_model_address_end(vm->config->cpu_model);

	if (m->window_size && (m->window_gpa >= end || m->window_size > end - m->window_gpa))
		return error_set(e, "window: %llu MiB from %llu MiB on do not fit the CPU's %llu MiB",
				 (unsigned long long)(m->window_size / MIB),
				 (unsigned long long)(m->window_gpa / MIB), (unsigned long long)(end / MIB));
	return 0;
}

static int create_vcpus(struct vm *vm, struct error *e)
{
	vm->nvcpus = vm->config->cpus;
	vm->vcpus = xcalloc(vm->nvcpus, sizeof(*vm->vcpus));
	for (unsigned int i = 0; i < vm->nvcpus; i++)
		if (vcpu_create(vm, i, e))
			return -1;
	return 0;
}

static void bridge_read(struct pci_device *d, uint32_t off, void *data, unsigned int len)
{
	(void)d, (void)off;
	memset(data, 0xff, len);
}

static void bridge_write(struct pci_device *d, uint32_t off, const void *data, unsigned int len)
{
	(void)d, (void)off, (void)data, (void)len;
}

static const struct pci_device_ops bridge_ops = {.bar_read = bridge_read, .bar_write = bridge_write};

static void on_wake(void *ctx, uint32_t events);

static int create_loop(struct vm *vm, struct error *e)
{
	vm->loop = loop_create(&vm->lock, e);
	if (!vm->loop)
		return -1;
	vm->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vm->wake < 0)
		return error_set_errno(e, "eventfd");
	vm->wake_source = loop_add(vm->loop, vm->wake, EPOLLIN, on_wake, vm);
	return 0;
}

/* A console without a listener or file in the back half of a VM: the front half has them. */
static int create_serial(struct vm *vm, struct error *e)
{
	vm->serial = serial_create(vm);
	vm->console = console_create(vm, &serial_port, vm->serial, vm->files.console,
				     vm->files.serial_file, e);
	return vm->console ? 0 : -1;
}

static int create_devices(struct vm *vm, struct error *e)
{
	const Vmb__VmConfig *c = vm->config;

	vm->next_gsi = GSI_MSI_BASE;
	/* The 440FX's ids: what every guest takes for a host bridge. */
	if (pci_device_init(&vm->host_bridge, vm, &bridge_ops, 0x8086, 0x1237, 0x06000000, 0, e))
		return -1;
	if (c->n_disks) {
		vm->ring = ring_create(vm, vm->files.disks, (unsigned int)c->n_disks, e);
		if (!vm->ring)
			return -1;
	}
	for (unsigned int i = 0; i < c->n_disks; i++)
		if (virtio_blk_create(vm, i, vm->files.disks[i], c->disks[i]->read_only, e))
			return -1;
	for (unsigned int i = 0; i < c->n_nets; i++)
		if (virtio_net_create(vm, i, vm->files.taps[i], c->nets[i]->mac.data, e))
			return -1;
	/* After disks and networks, which keep the slots they had before there were these. */
	if ((c->rng && virtio_rng_create(vm, e)) || (c->balloon && virtio_balloon_create(vm, e)) ||
	    (c->virtio_console && virtio_console_create(vm, vm->files.hvc, e)) ||
	    (c->window && virtio_ports_create(vm, e)))
		return -1;
	for (unsigned int i = 0; i < vm->npci; i++)
		pci_device_reset(vm->pci[i]);
	for (unsigned int i = 0; i < vm->nvirtio; i++)
		vm->virtio[i]->backend_stopped = true; /* until the first vm_resume() */
	vm->backends_stopped = true;
	if (!vm->front)
		return create_serial(vm, e);
	vm->console = console_create(vm, &front_serial_port, vm->front, vm->files.console,
				     vm->files.serial_file, e);
	return vm->console ? 0 : -1;
}

static struct vm *vm_alloc(const Vmb__VmConfig *config, const struct vm_files *files)
{
	struct vm *vm = xcalloc(1, sizeof(*vm));
	struct stat lock;

	pthread_mutex_init(&vm->lock, NULL);
	pthread_cond_init(&vm->vcpus_wake, NULL);
	pthread_cond_init(&vm->vcpus_quiet, NULL);
	vm->files = *files;
	vm->kvm = vm->fd = vm->wake = vm->memory.fd = vm->memory.guard = -1;
	vm->created_ns = clock_ns();
	/* Who started the VM, not who moved it here last. */
	vm->owner_uid = files->lock >= 0 && !fstat(files->lock, &lock) ? lock.st_uid : geteuid();
	vm->config = (Vmb__VmConfig *)message_copy(&config->base);
	vm->memory.scratch = -1;
	return vm;
}

/* What the front half leaves to the other: everything of KVM. */
static int create_cpus(struct vm *vm, struct error *e)
{
	return create_vm(vm, e) || create_irqchip(vm, e) || choose_cpu_model(vm, e) ||
			       check_window(vm, e) || kvm_caps_read(vm, e) || add_memory(vm, e) ||
			       create_vcpus(vm, e)
		       ? -1
		       : 0;
}

static int keep_reset_state(struct vm *vm, struct error *e)
{
	pthread_mutex_lock(&vm->lock);
	vm->reset_state = vm_capture_cpus(vm, e);
	pthread_mutex_unlock(&vm->lock);
	return vm->reset_state ? 0 : -1;
}

/* The CPU model of a guest that is to be able to run here as well as in a guest hypervisor. */
static int create_front(struct vm *vm, struct error *e)
{
	if (!vm->config->cpu_model && (open_kvm(vm, e) || choose_cpu_model(vm, e)))
		return -1;
	close_fd(&vm->kvm);
	front_prepare(vm);
	return 0;
}

struct vm *vm_create(const Vmb__VmConfig *config, struct vm_files *files, bool boot,
		     struct error *e)
{
	struct vm *vm = vm_alloc(config, files);
	bool whole = !config->placement[0];

	if (vm_config_validate(vm->config, e) || (whole && open_kvm(vm, e)) || create_memory(vm, e))
		goto fail;
	/* Page faults and copies here, waiting for KVM there: side by side. */
	if (boot)
		boot_load_start(vm);
	if ((whole ? create_cpus(vm, e) : create_front(vm, e)) || create_loop(vm, e) ||
	    create_devices(vm, e) || (whole ? keep_reset_state(vm, e) : front_create(vm, e)))
		goto fail;
	return vm;
fail:
	vm_destroy(vm);
	return NULL;
}

struct vm *vm_create_back(const Vmb__VmConfig *config, int window, uint64_t offset, struct error *e)
{
	struct vm_files files;
	struct vm *vm;

	vm_files_init(&files);
	vm = vm_alloc(config, &files);
	if (vm_config_validate(vm->config, e)) {
		close(window);
		goto fail;
	}
	vm->huge_pages = true;
	if (memory_adopt_window(&vm->memory, vm->config->memory, window, offset, e) || open_kvm(vm, e) ||
	    create_cpus(vm, e) || create_loop(vm, e) || create_serial(vm, e) || keep_reset_state(vm, e) ||
	    warm_prepare(vm, e))
		goto fail;
	return vm;
fail:
	vm_destroy(vm);
	return NULL;
}

void vm_destroy(struct vm *vm)
{
	if (!vm)
		return;
	boot_load_cancel(vm);
	pthread_mutex_lock(&vm->lock);
	vm->quit = true;
	vm->running = false;
	pthread_cond_broadcast(&vm->vcpus_wake);
	pthread_mutex_unlock(&vm->lock);
	for (unsigned int i = 0; i < vm->nvcpus; i++)
		vcpu_destroy(&vm->vcpus[i]);
	free(vm->vcpus);
	ring_destroy(vm->ring); /* first: nothing in flight may point into a device */
	for (unsigned int i = 0; i < vm->nvirtio; i++)
		virtio_destroy(vm->virtio[i]);
	console_destroy(vm->console);
	serial_destroy(vm->serial);
	front_destroy(vm);
	vm_untrack_writes(vm);
	window_destroy(vm);
	loop_remove(vm->wake_source);
	loop_destroy(vm->loop);
	close_fd(&vm->wake);
	if (vm->warm_stub)
		warm_destroy(vm);
	if (vm->memory.fd >= 0)
		vm->files.ram = -1; /* the memory's, which closes it */
	memory_destroy(&vm->memory);
	vm_files_close(&vm->files);
	if (vm->fd >= 0)
		close_fd(&vm->fd);
	close_fd(&vm->kvm);
	free(vm->caps.msrs);
	if (vm->reset_state)
		vmb__vm_state__free_unpacked(vm->reset_state, NULL);
	if (vm->config)
		vmb__vm_config__free_unpacked(vm->config, NULL);
	pthread_cond_destroy(&vm->vcpus_wake);
	pthread_cond_destroy(&vm->vcpus_quiet);
	pthread_mutex_destroy(&vm->lock);
	free(vm);
}

/* ---- running */

int vm_boot(struct vm *vm, struct error *e)
{
	struct boot_entry entry;

	if (vm->front)
		return boot_load(vm, &entry, e) || front_boot(vm, &entry, e) ? -1 : 0;
	return boot_load(vm, &entry, e) || boot_set_registers(vm, &entry, e) ||
			       irq_routes_flush(vm, e)
		       ? -1
		       : 0;
}

/* A thread's first system calls are not in the sandbox's table. */
static void await_threads(void *ctx)
{
	struct vm *vm = ctx;

	pthread_mutex_lock(&vm->lock);
	vcpus_do(vm, VCPU_JOB_BEGIN, NULL, NULL);
	pthread_mutex_unlock(&vm->lock);
}

int vm_start(struct vm *vm, const char *empty_dir, struct error *e)
{
	int r;

	/* Further arenas are made with system calls that the sandbox does not allow. */
	mallopt(M_ARENA_MAX, 1);
	/* While this is the only thread: a change of user has to reach every one. */
	vm->tasks = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = empty_dir ? sandbox_drop_privileges(empty_dir, e) : 0;
	for (unsigned int i = 0; i < vm->nvcpus && !r; i++)
		r = vcpu_start_thread(&vm->vcpus[i], e);
	if (!r && empty_dir)
		r = sandbox_filter_calls(await_threads, vm, e);
	close_fd(&vm->tasks);
	return r;
}

void vm_reset_devices(struct vm *vm)
{
	for (unsigned int i = 0; i < vm->nvirtio; i++)
		virtio_reset(vm->virtio[i]);
	for (unsigned int i = 0; i < vm->npci; i++)
		pci_device_reset(vm->pci[i]);
	memset(&vm->platform, 0, sizeof(vm->platform));
	if (vm->serial)
		serial_reset(vm->serial);
}

static int reset(struct vm *vm, struct error *e)
{
	vm->reset_wanted = false;
	vm_pause(vm);
	if (vm_drain(vm, RESET_DRAIN_S * 1000000000ull, e))
		return -1;
	vm_reset_devices(vm);
	memory_written(&vm->memory, vm->memory.base, vm->memory.size); /* by vm_boot() */
	if (!vm->front && vm_restore_cpus(vm, vm->reset_state, e))
		return -1;
	return vm_boot(vm, e);
}

static void on_wake(void *ctx, uint32_t events)
{
	struct vm *vm = ctx;
	struct error e;
	uint64_t n;

	(void)events;
	if (read(vm->wake, &n, sizeof(n)) != sizeof(n))
		return;
	if (vm->end != VM_END_NONE) {
		loop_stop(vm->loop);
	} else if (vm->crash[0]) {
		vm_pause(vm);
		front_leave(vm);
		if (vm->control)
			control_crashed(vm->control);
		if (vm->back)
			back_crashed(vm);
	} else if (vm->reset_wanted && vm->back) {
		back_reset(vm);
	} else if (vm->reset_wanted) {
		if (reset(vm, &e))
			vm_crash(vm, "reset: %s", e.text);
		else if (!vm->user_paused)
			vm_resume(vm);
	}
}

void vm_wake(struct vm *vm)
{
	eventfd_write(vm->wake, 1);
}

void vm_end(struct vm *vm, enum vm_end why, int status)
{
	if (vm->end != VM_END_NONE)
		return;
	vm->end = why;
	vm->end_status = status;
	vm_kick_all(vm);
	vm_wake(vm);
}

void vm_crash(struct vm *vm, const char *fmt, ...)
{
	va_list ap;

	if (vm->crash[0])
		return;
	va_start(ap, fmt);
	vsnprintf(vm->crash, sizeof(vm->crash), fmt, ap);
	va_end(ap);
	log_line("%s: crashed: %s", vm->config->name, vm->crash);
	vm_kick_all(vm);
	vm_wake(vm);
}

void vm_set_crashed(struct vm *vm, const char *why)
{
	vm_crash(vm, "%s", why);
}

void vm_stop(struct vm *vm)
{
	vm_end(vm, VM_END_STOPPED, 0);
}

void vm_leave(struct vm *vm, bool away)
{
	vm_end(vm, away ? VM_END_MOVED_AWAY : VM_END_MOVED, 0);
}

void vm_power_button(struct vm *vm)
{
	if (vm->front)
		front_power_button(vm);
	else
		platform_power_button(vm);
}

int vm_loop(struct vm *vm, const char **reason)
{
	static const char *const names[] = {
		[VM_END_NONE] = "none",		    [VM_END_SHUTDOWN] = "shutdown",
		[VM_END_STOPPED] = "stopped",	    [VM_END_DEBUG_EXIT] = "debug-exit",
		[VM_END_MOVED] = "moved",	    [VM_END_MOVED_AWAY] = VM_MOVED_AWAY,
	};

	loop_run(vm->loop);
	pthread_mutex_lock(&vm->lock);
	vm_pause(vm);
	if (vm->end < VM_END_MOVED) {
		console_flush(vm->console);
		if (vm->hvc)
			console_flush(vm->hvc);
	}
	pthread_mutex_unlock(&vm->lock);
	*reason = names[vm->end];
	return vm->end_status;
}

/* ---- what others ask */

void vm_lock(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
}

void vm_unlock(struct vm *vm)
{
	pthread_mutex_unlock(&vm->lock);
}

const Vmb__VmConfig *vm_config(const struct vm *vm)
{
	return vm->config;
}

struct vm_files *vm_get_files(struct vm *vm)
{
	return &vm->files;
}

Vmb__RunState vm_run_state(const struct vm *vm)
{
	if (vm->crash[0])
		return VMB__RUN_STATE__RUN_STATE_CRASHED;
	if (vm->running || vm_is_held_back(vm))
		return VMB__RUN_STATE__RUN_STATE_RUNNING;
	return vm->first_run_ns || vm->user_paused ? VMB__RUN_STATE__RUN_STATE_PAUSED
						   : VMB__RUN_STATE__RUN_STATE_STARTING;
}

const char *vm_pending_event(const struct vm *vm)
{
	if (vm->end != VM_END_NONE)
		return "the VM has ended";
	if (vm->crash[0])
		return "the VM has crashed";
	return vm->reset_wanted ? "the guest is resetting" : NULL;
}

const char *vm_crash_reason(const struct vm *vm)
{
	return vm->crash;
}

uint64_t vm_first_run_ns(const struct vm *vm)
{
	return vm->first_run_ns;
}

uint64_t vm_created_ns(const struct vm *vm)
{
	return vm->created_ns;
}

size_t vm_exit_counts(const struct vm *vm, uint64_t *counts, size_t max)
{
	size_t n = MIN(max, (size_t)vm->nvcpus);

	for (size_t i = 0; i < n; i++)
		counts[i] = __atomic_load_n(&vm->vcpus[i].exits, __ATOMIC_RELAXED);
	return n;
}

size_t vm_cpu_times(const struct vm *vm, uint64_t *ns, size_t max)
{
	size_t n = MIN(max, (size_t)vm->nvcpus);

	for (size_t i = 0; i < n; i++) {
		struct timespec ts = {0};
		clockid_t id;

		if (vm->vcpus[i].started && !pthread_getcpuclockid(vm->vcpus[i].thread, &id))
			clock_gettime(id, &ts);
		ns[i] = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	}
	return n;
}

/* Documentation/scheduler/sched-stats.rst: ns on a CPU, ns waiting for one, how often. */
size_t vm_delay_times(const struct vm *vm, uint64_t *ns, size_t max)
{
	size_t n = MIN(max, (size_t)vm->nvcpus);

	for (size_t i = 0; i < n; i++) {
		char text[80];
		ssize_t len = vm->vcpus[i].schedstat > 0 ? pread(vm->vcpus[i].schedstat, text, sizeof(text) - 1, 0) : -1;
		unsigned long long delay;

		text[MAX(len, 0)] = 0;
		if (sscanf(text, "%*u %llu", &delay) != 1)
			return 0;
		ns[i] = delay;
	}
	return n;
}

/* hvc's first: how many they are is part of its state. */
size_t vm_connections(struct vm *vm, int *fds, size_t max)
{
	size_t n = vm->hvc ? console_clients(vm->hvc, fds, max) : 0;

	n += console_clients(vm->console, fds + n, max - n);
	return n + window_files(vm, fds + n, max - n);
}

int vm_inherit_connections(struct vm *vm, struct wire_fds *fds, struct error *e)
{
	size_t lodgers = window_files_expected(vm), clients = fds->count - MIN(fds->count, lodgers);

	for (size_t i = 0; i < clients; i++) {
		int fd = wire_take_fd(fds, i);

		if (is_socket(fd))
			vm_add_console_client(vm, fd);
		else
			close_fd(&fd);
	}
	return window_inherit(vm, fds, clients, e);
}

void vm_add_console_client(struct vm *vm, int fd)
{
	if (vm->hvc_clients) {
		vm->hvc_clients--;
		console_add_client(vm->hvc, fd);
	} else {
		console_add_client(vm->console, fd);
	}
}

void vm_set_user_paused(struct vm *vm, bool paused)
{
	vm->user_paused = paused;
}

bool vm_user_paused(const struct vm *vm)
{
	return vm->user_paused;
}

int vm_guard_memory(struct vm *vm, uint64_t *base, struct error *e)
{
	*base = (uintptr_t)vm->memory.base;
	return memory_guard(&vm->memory, e);
}

void vm_set_arriving(struct vm *vm, bool arriving)
{
	vm->memory.arriving = arriving;
	if (arriving) /* what has been touched already may be what has not come */
		memory_forget_mappings(&vm->memory);
}

bool vm_is_arriving(const struct vm *vm)
{
	return vm->memory.arriving;
}

struct loop_source *vm_watch(struct vm *vm, int fd, uint32_t events,
			     void (*fn)(void *ctx, uint32_t events), void *ctx)
{
	return loop_add(vm->loop, fd, events, fn, ctx);
}

void vm_unwatch(struct loop_source *s)
{
	loop_remove(s);
}
