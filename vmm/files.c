/* files.c: the descriptors that make up a VM: opening them, and naming them for a handover. */
#include "vmm/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* Every single one by name; the arrays follow as "disk0", "disk1", ... */
static const struct {
	const char *name;
	size_t offset;
	size_t count;
} table[] = {
	{"ram", offsetof(struct vm_files, ram), 0},
	{"owner", offsetof(struct vm_files, owner), 0},
	{"lock", offsetof(struct vm_files, lock), 0},
	{"control", offsetof(struct vm_files, control), 0},
	{"console", offsetof(struct vm_files, console), 0},
	{"hvc", offsetof(struct vm_files, hvc), 0},
	{"exit", offsetof(struct vm_files, exit_record), 0},
	{"serial", offsetof(struct vm_files, serial_file), 0},
	{"kernel", offsetof(struct vm_files, kernel), 0},
	{"initrd", offsetof(struct vm_files, initrd), 0},
	{"module", offsetof(struct vm_files, modules), VM_MAX_MODULES},
	{"disk", offsetof(struct vm_files, disks), VM_MAX_DISKS},
	{"tap", offsetof(struct vm_files, taps), VM_MAX_NETS},
};

static int *slot(struct vm_files *f, size_t row, size_t i)
{
	return (int *)((char *)f + table[row].offset) + i;
}

void vm_files_init(struct vm_files *f)
{
	for (size_t r = 0; r < ARRAY_LEN(table); r++)
		for (size_t i = 0; i < MAX(table[r].count, (size_t)1); i++)
			*slot(f, r, i) = -1;
}

void vm_files_close(struct vm_files *f)
{
	for (size_t r = 0; r < ARRAY_LEN(table); r++)
		for (size_t i = 0; i < MAX(table[r].count, (size_t)1); i++)
			close_fd(slot(f, r, i));
}

static void name_of(char name[16], size_t row, size_t i)
{
	if (table[row].count)
		snprintf(name, 16, "%s%u", table[row].name, (unsigned int)i & 0xff);
	else
		snprintf(name, 16, "%s", table[row].name);
}

size_t vm_files_list(const struct vm_files *f, int *fds, char (*names)[16])
{
	struct vm_files copy = *f;
	size_t n = 0;

	for (size_t r = 0; r < ARRAY_LEN(table); r++)
		for (size_t i = 0; i < MAX(table[r].count, (size_t)1); i++)
			if (*slot(&copy, r, i) >= 0) {
				fds[n] = *slot(&copy, r, i);
				name_of(names[n++], r, i);
			}
	return n;
}

int vm_files_set(struct vm_files *f, const char *name, int fd)
{
	for (size_t r = 0; r < ARRAY_LEN(table); r++)
		for (size_t i = 0; i < MAX(table[r].count, (size_t)1); i++) {
			char have[16];

			name_of(have, r, i);
			if (!strcmp(have, name)) {
				close_fd(slot(f, r, i));
				*slot(f, r, i) = fd;
				return 0;
			}
		}
	return -1;
}

/* The event loop takes it for granted; files and directories cannot be waited for. */
static bool can_be_watched(int fd)
{
	struct epoll_event ev = {.events = 0};
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	bool can = epoll >= 0 && !epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev);

	close_fd(&epoll);
	return can;
}

int vm_files_check(const struct vm_files *f, const Vmb__VmConfig *c, struct error *e)
{
	if (f->ram < 0 || f->control < 0)
		return error_set(e, "the VM's memory or its control socket is missing");
	if (!can_be_watched(f->control) || (f->console >= 0 && !can_be_watched(f->console)) ||
	    (f->hvc >= 0 && !can_be_watched(f->hvc)))
		return error_set(e, "one of the VM's sockets is none");
	for (size_t i = 0; i < c->n_disks; i++)
		if (f->disks[i] < 0)
			return error_set(e, "disk %zu is missing", i);
	for (size_t i = 0; i < c->n_nets; i++)
		if (!can_be_watched(f->taps[i]))
			return error_set(e, "the tap of network %zu is missing, or is none", i);
	return 0;
}

static int open_read(const char *path, int *fd, struct error *e)
{
	*fd = open(path, O_RDONLY | O_CLOEXEC);
	return *fd < 0 ? error_set_errno(e, "%s", path) : 0;
}

/* A module is "path" or "path arguments". */
static int open_module(const char *spec, int *fd, struct error *e)
{
	char path[4096];
	size_t len = strcspn(spec, " ");

	if (len >= sizeof(path))
		return error_set(e, "module: its path is too long");
	memcpy(path, spec, len);
	path[len] = 0;
	return open_read(path, fd, e);
}

int vm_files_lock(const struct vm_files *f, const Vmb__VmConfig *c, struct error *e)
{
	for (size_t i = 0; i < c->n_disks; i++)
		if (disk_lock(f->disks[i], c->disks[i]->path, c->disks[i]->read_only, e))
			return -1;
	return 0;
}

void vm_files_unlock(const struct vm_files *f)
{
	for (size_t i = 0; i < VM_MAX_DISKS; i++)
		if (f->disks[i] >= 0)
			disk_unlock(f->disks[i]);
}

int vm_files_make_ram(struct vm_files *f, const Vmb__VmConfig *c, struct error *e)
{
	struct memory m;

	if (memory_create(&m, c->memory, c->hugepages, -1, e))
		return -1;
	f->ram = m.fd;
	return 0;
}

int vm_files_open(struct vm_files *f, const Vmb__VmConfig *c, bool lock, struct error *e)
{
	if (open_read(c->kernel, &f->kernel, e) ||
	    (c->initrd[0] && open_read(c->initrd, &f->initrd, e)))
		return -1;
	for (size_t i = 0; i < c->n_modules; i++)
		if (open_module(c->modules[i], &f->modules[i], e))
			return -1;
	for (size_t i = 0; i < c->n_disks; i++)
		if ((f->disks[i] = disk_open(c->disks[i]->path, c->disks[i]->read_only, lock, e)) < 0)
			return -1;
	for (size_t i = 0; i < c->n_nets; i++)
		if ((f->taps[i] = tap_open(c->nets[i]->tap, e)) < 0)
			return -1;
	if (c->serial == VMB__SERIAL_KIND__SERIAL_FILE) {
		f->serial_file = open(c->serial_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
		if (f->serial_file < 0)
			return error_set_errno(e, "%s", c->serial_file);
	}
	return 0;
}
