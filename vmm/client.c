/* client.c: the client side of vmm processes; the contract is in client.h. */
#include "vmm/client.h"

#include "vmm/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CLAIM_TRIES = 100 };

const char *runtime_dir(void)
{
	const char *d = getenv("VMBEAM_RUNTIME_DIR");

	return d && d[0] ? d : "/run/vmbeam";
}

char *runtime_path(const char *vm, const char *file)
{
	return xasprintf("%s/%s%s%s", runtime_dir(), vm, file ? "/" : "", file ? file : "");
}

static int make_dir(const char *path, struct error *e)
{
	if (mkdir(path, 0755) && errno != EEXIST)
		return error_set_errno(e, "%s", path);
	return 0;
}

static bool is_same_file(int fd, const char *path)
{
	struct stat a, b;

	return !fstat(fd, &a) && !stat(path, &b) && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

int runtime_claim(const char *vm, struct error *e)
{
	char *dir = runtime_path(vm, NULL), *lock = runtime_path(vm, "lock"),
	     *exit_file = runtime_path(vm, "exit");
	int fd = -1;

	for (int i = 0; i < CLAIM_TRIES; i++) {
		if (make_dir(runtime_dir(), e) || make_dir(dir, e))
			break;
		fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (fd < 0 && errno == ENOENT)
			continue; /* the folder went meanwhile */
		if (fd < 0) {
			error_set_errno(e, "%s", lock);
			break;
		}
		if (flock(fd, LOCK_EX | LOCK_NB)) {
			error_set(e, "a VM of that name exists already");
			close_fd(&fd);
			break;
		}
		if (is_same_file(fd, lock)) {
			unlink(exit_file);
			break;
		}
		close_fd(&fd); /* whoever had it has removed it: this is no lock any more */
	}
	free(dir);
	free(lock);
	free(exit_file);
	return fd;
}

void runtime_remove(const char *vm)
{
	static const char *const files[] = {"control", "console", "hvc", "exit", "log", "migration", "outgoing", "lock"};
	char *dir = runtime_path(vm, NULL);

	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		char *p = runtime_path(vm, files[i]);

		unlink(p);
		free(p);
	}
	rmdir(dir);
	free(dir);
	cgroup_remove(vm);
}

bool runtime_clear(const char *vm, int wait_ms)
{
	uint64_t deadline = clock_ns() + (uint64_t)wait_ms * 1000000;
	struct error e;
	int fd;

	while ((fd = runtime_claim(vm, &e)) < 0) {
		if (clock_ns() >= deadline)
			return false;
		poll(NULL, 0, 20);
	}
	runtime_remove(vm);
	close(fd);
	return true;
}

bool runtime_is_held(const char *vm)
{
	char *path = runtime_path(vm, "lock");
	int fd = open(path, O_RDWR | O_CLOEXEC);
	bool held = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK;

	close_fd(&fd);
	free(path);
	return held;
}

bool runtime_exit_record(const char *vm, char reason[64], int *status)
{
	char *path = runtime_path(vm, "exit"), text[128] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	bool found = false;

	if (fd >= 0 && read(fd, text, sizeof(text) - 1) > 0)
		found = sscanf(text, "%63s %d", reason, status) == 2;
	close_fd(&fd);
	free(path);
	return found;
}

int vmm_connect(const char *vm, struct error *e)
{
	char *path = runtime_path(vm, "control");
	int fd = wire_connect(path, e);

	if (fd < 0 && (errno == ENOENT || errno == ECONNREFUSED))
		error_set(e, "no such VM is running");
	free(path);
	return fd;
}

int vmm_receive_reply(int fd, Vmb__Reply **reply, struct wire_fds *fds, int timeout_ms,
		      struct error *e)
{
	ProtobufCMessage *msg;
	Vmb__Reply *r;
	int n = wire_recv(fd, &vmb__reply__descriptor, &msg, fds, timeout_ms, e);

	if (n <= 0)
		return n < 0 ? -1 : error_set(e, "its VMM has closed the connection");
	r = (Vmb__Reply *)msg;
	if (r->error[0]) {
		error_set(e, "%s", r->error);
		vmb__reply__free_unpacked(r, NULL);
		if (fds)
			wire_close_fds(fds);
		return -1;
	}
	if (reply)
		*reply = r;
	else
		vmb__reply__free_unpacked(r, NULL);
	return 0;
}

int vmm_request(int fd, const Vmb__Request *r, const int *fds, size_t nfds, Vmb__Reply **reply,
		struct wire_fds *reply_fds, int timeout_ms, struct error *e)
{
	if (wire_send(fd, &r->base, fds, nfds, e))
		return -1;
	return vmm_receive_reply(fd, reply, reply_fds, timeout_ms, e);
}

int vmm_simple_request(int fd, Vmb__Request__KindCase kind, Vmb__Reply **reply,
		       struct wire_fds *reply_fds, int timeout_ms, struct error *e)
{
	Vmb__Request r = VMB__REQUEST__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;

	r.kind_case = kind;
	r.info = &empty; /* every member of the union is a pointer to an empty message */
	return vmm_request(fd, &r, NULL, 0, reply, reply_fds, timeout_ms, e);
}

/* Becomes a vmm process: a session of its own, nothing open but the link and stderr. */
static void become_vmm(int link)
{
	int null = open("/dev/null", O_RDWR);

	setsid();
	signal(SIGTERM, SIG_DFL);
	signal(SIGPIPE, SIG_IGN); /* a stream whose other end has gone is an error like any other */
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	dup2(link, VMM_LINK_FD);
	close_range(VMM_LINK_FD + 1, ~0u, 0);
	prctl(PR_SET_NAME, "vmbeam-vmm");
}

pid_t vmm_spawn(vmm_entry_fn *entry, int *link, struct error *e)
{
	int pair[2];
	pid_t pid;

	if (wire_pair(pair, e))
		return -1;
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		become_vmm(pair[1]);
		exit(entry());
	}
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		return error_set_errno(e, "fork");
	}
	*link = pair[0];
	return pid;
}
