/* vmm_main.c: the process of one VM, started by vmm_spawn().
 *
 * Its first message comes on descriptor 3 and says which of two ways it begins: CreateRequest (a new
 * VM) or IncomingRequest (the destination of a handover).  From then on both are the same.
 */
#include "rejuv/cli.h"
#include "vmm/cgroup.h"
#include "vmm/client.h"
#include "vmm/vmm.h"
#include "zerocopy/zerocopy.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static void redirect_log(const char *name)
{
	char *path = runtime_path(name, "log");
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	if (fd >= 0)
		dup2(fd, STDERR_FILENO);
	close_fd(&fd);
	free(path);
}

/* It takes over from no process that is here: there is no place of that one's for it. */
static void become(const char *name)
{
	cgroup_join(name);
	redirect_log(name);
}

static int open_socket(const char *name, const char *file, int type, int *fd, struct error *e)
{
	char *path = runtime_path(name, file);

	*fd = wire_listen(path, type, e);
	free(path);
	return *fd < 0 ? -1 : 0;
}

int vmm_open_runtime_files(const Vmb__VmConfig *c, struct vm_files *f, struct error *e)
{
	char *record;

	if (open_socket(c->name, "control", SOCK_SEQPACKET, &f->control, e) ||
	    open_socket(c->name, "console", SOCK_STREAM, &f->console, e) ||
	    (c->virtio_console && open_socket(c->name, "hvc", SOCK_STREAM, &f->hvc, e)))
		return -1;
	record = runtime_path(c->name, "exit");
	f->exit_record = open(record, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (f->exit_record < 0)
		error_set_errno(e, "%s", record);
	free(record);
	return f->exit_record < 0 ? -1 : 0;
}

static int start(struct vm *vm, struct error *e)
{
	char *empty = runtime_path(".empty", NULL);
	int r;

	mkdir(empty, 0555);
	r = vm_start(vm, empty, e);
	free(empty);
	return r;
}

static struct vm *create(const Vmb__CreateRequest *req, struct wire_fds *fds, struct error *e)
{
	struct vm_files files;
	struct vm *vm = NULL;
	const char *name;
	char cgroup[NAME_MAX + 1];
	int client = wire_take_fd(fds, 0);

	vm_files_init(&files);
	if (!req->config) {
		error_set(e, "no configuration");
		goto out;
	}
	name = req->config->name;
	if (vm_config_validate(req->config, e))
		goto out;
	files.lock = runtime_claim(name, e);
	if (files.lock < 0)
		goto out;
	snprintf(cgroup, sizeof(cgroup), "%s", name);
	if (req->config->window)
		strip_fresh(cgroup);
	cgroup_join(cgroup);
	if (vm_files_open(&files, req->config, true, e) || vmm_open_runtime_files(req->config, &files, e) ||
	    (files.owner = owner_create(e)) < 0) {
		vm_files_close(&files);
		runtime_remove(name);
		goto out;
	}
	vm = vm_create(req->config, &files, true, e);
	if (!vm || vm_boot(vm, e)) {
		vm_destroy(vm);
		runtime_remove(name);
		vm = NULL;
		goto out;
	}
	redirect_log(name);
	vm_set_user_paused(vm, req->keep_paused);
	if (start(vm, e)) {
		vm_destroy(vm);
		vm = NULL;
		goto out;
	}
	if (client >= 0) {
		vm_add_console_client(vm, client);
		client = -1;
	}
out:
	close_fd(&client);
	return vm;
}

static int run(struct vm *vm, struct handover_source *source, bool created)
{
	struct control *control;
	const char *reason;
	char record[96];
	int status, n;

	control = control_start(vm, handover_source_request, source);
	handover_source_attach(source, vm, control);
	/* It is served.  Whoever started it was interrupted, perhaps: then it is not wanted.  A driver of a
	 * handover that has gone does not matter. */
	if (control_reply_ready(VMM_LINK_FD, NULL, 0) && created) {
		vm_lock(vm);
		vm_stop(vm);
		vm_unlock(vm);
	}
	close(VMM_LINK_FD);
	status = vm_loop(vm, &reason);
	if (strcmp(reason, "moved")) {
		n = snprintf(record, sizeof(record), "%s %d\n", reason, status);
		if (write(vm_get_files(vm)->exit_record, record, (size_t)n) != n)
			log_line("cannot write the exit record: %s", strerror(errno));
	}
	/* The record first: who loses the connection looks there. */
	control_end(control, reason, status);
	return status;
}

int vmm_process(void)
{
	struct handover_source *source = handover_source_create(1);
	ProtobufCMessage *msg;
	Vmb__Request *req;
	struct wire_fds fds;
	struct error e = {""};
	struct vm *vm = NULL;
	bool created;
	int status;

	if (wire_recv(VMM_LINK_FD, &vmb__request__descriptor, &msg, &fds, 10000, &e) <= 0)
		return cli_fail("vmm: %s", e.text[0] ? e.text : "nobody speaks");
	req = (Vmb__Request *)msg;
	switch (req->kind_case) {
	case VMB__REQUEST__KIND_CREATE:
		vm = create(req->create, &fds, &e);
		if (!vm)
			break;
		vm_lock(vm);
		if (!vm_user_paused(vm))
			vm_resume(vm);
		vm_unlock(vm);
		break;
	case VMB__REQUEST__KIND_INCOMING:
		vm = handover_incoming(VMM_LINK_FD, req->incoming, &fds, source,
				       req->incoming->confirm || req->incoming->recover ? become : redirect_log, start, &e);
		break;
	default:
		error_set(&e, "vmm: neither a new VM nor a handover");
	}
	if (!vm && e.text[0])
		control_reply_error(VMM_LINK_FD, "%s", e.text);
	wire_close_fds(&fds);
	created = req->kind_case == VMB__REQUEST__KIND_CREATE;
	vmb__request__free_unpacked(req, NULL);
	if (!vm) {
		close(VMM_LINK_FD);
		return EXIT_FAILED;
	}
	status = run(vm, source, created);
#if !defined(__SANITIZE_ADDRESS__)
	_exit(status); /* the kernel takes it all down at once, and faster */
#endif
	vm_destroy(vm);
	handover_source_destroy(source);
	return status;
}
