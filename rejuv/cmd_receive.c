/* cmd_receive.c: `vmbeam receive`: takes VMs from other machines.
 *
 * Two processes: vmbeam-migrate listens, speaks TLS and reads what comes (migrate/incoming.c); this one, which speaks to
 * nobody but it, builds the VM that is asked for, if it may be.  A sender has a certificate, but is not the master of this
 * machine: the files that its VM names must lie where --allow says.
 */
#include "rejuv/cli.h"
#include "vmm/client.h"
#include "vmm/vmm.h"
#include "zerocopy/zerocopy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define RESTART_NS 1000000000ull
#define DRAIN_NS   10000000000ull

enum { MAX_ALLOWED = 16, MAX_KNOWN = 64, PF_EXITING = 4 /* proc(5), stat, flags */, BUILD_MS = 60000, SWEEP_MS = 5000, SOURCE = 1, DESTINATION = 2 };

/* A migration that has been received, or was to be. */
struct known {
	uint8_t id[64];
	size_t len;
	struct owner *owner;
	int pid, pidfd; /* of the VM's first process here */
	char *name, *placement; /* the hypervisor that it is to go into; "": none */
	/* Of one that came by post-copy, until all of its memory has come; -1: all has. */
	int ram, uffd, missing;
	uint64_t memory_base;
};

struct receive {
	const char *listen, *tls;
	bool insecure;
	const char *allowed[MAX_ALLOWED];
	size_t nallowed;
	int child; /* link to vmbeam-migrate */
	int child_pidfd;
	unsigned int restarts;
	uint64_t child_ns; /* when it was started */
	/* the VM that is being received */
	int vmm; /* its process's first connection; -1: none */
	char *name;
	Vmb__VmConfig *config;
	struct vm_files disks; /* for their locks */
	/* What there was, the oldest overwritten: what became of one is asked when its connection has broken. */
	struct known known[MAX_KNOWN];
	size_t nknown;
	struct known *coming; /* the one that is being received */
};

/* ---- what may be built */

static bool is_below(const char *path, const char *folder)
{
	size_t len = strlen(folder);

	return !strncmp(path, folder, len) && (path[len] == '/' || folder[len - 1] == '/');
}

/* A file that need not exist lies where its folder does. */
static int check_path(const struct receive *r, const char *path, struct error *e)
{
	char real[PATH_MAX], *copy = xstrdup(path), *slash = strrchr(copy, '/'), folder[PATH_MAX];
	bool ok = path[0] == '/' && realpath(path, real);
	struct stat st;

	/* (A link to nowhere exists.) */
	if (!ok && errno == ENOENT && lstat(path, &st) && slash > copy && strcmp(slash, "/..") && slash[1]) {
		*slash = 0;
		ok = realpath(copy, real) && strlen(real) + strlen(slash + 1) + 2 < sizeof(real);
		if (ok) {
			strcat(real, "/");
			strcat(real, slash + 1);
		}
	}
	free(copy);
	for (size_t i = 0; i < r->nallowed && ok; i++)
		if (realpath(r->allowed[i], folder) && is_below(real, folder))
			return 0;
	return error_set(e, "%.200s is not in a folder that --allow names there", path);
}

static int check_tap(const struct receive *r, const char *tap, struct error *e)
{
	for (size_t i = 0; i < r->nallowed; i++)
		if (!strncmp(r->allowed[i], "tap=", 4) && !strcmp(r->allowed[i] + 4, tap))
			return 0;
	return error_set(e, "tap %.32s is not among those that --allow tap=IFNAME names there", tap);
}

static int check_config(const struct receive *r, const Vmb__VmConfig *c, struct error *e)
{
	if (vm_config_validate(c, e))
		return -1;
	if (c->placement[0] || c->window)
		return error_set(e, "only VMs on the host can come: no host VMs, none in a hypervisor");
	if (c->n_modules || !c->cpu_model)
		return error_set(e, "%s", c->n_modules ? "it has multiboot modules" : "it has no CPU model");
	if (check_path(r, c->kernel, e) || (c->initrd[0] && check_path(r, c->initrd, e)) ||
	    (c->serial == VMB__SERIAL_KIND__SERIAL_FILE && check_path(r, c->serial_file, e)))
		return -1;
	for (size_t i = 0; i < c->n_disks; i++)
		if (check_path(r, c->disks[i]->path, e))
			return -1;
	for (size_t i = 0; i < c->n_nets; i++)
		if (check_tap(r, c->nets[i]->tap, e))
			return -1;
	return memory_admit(c, e);
}

/* ---- building it */

static int write_id(const char *name, const ProtobufCBinaryData *id)
{
	char *path = runtime_path(name, "migration");
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int r = fd < 0 || write_all(fd, id->data, id->len) != (ssize_t)id->len ? -1 : 0;

	close_fd(&fd);
	free(path);
	return r;
}

/* The word says that it runs elsewhere, and is about to come. */
static int make_owner(struct error *e)
{
	int fd = owner_create(e);
	struct owner *o = fd < 0 ? NULL : owner_map(fd, e);

	if (o && owner_begin(o, SOURCE, DESTINATION)) {
		owner_unmap(o);
		return fd;
	}
	owner_unmap(o);
	close_fd(&fd);
	return -1;
}

static void drop_memory(struct known *k)
{
	close_fd(&k->ram);
	close_fd(&k->uffd);
	close_fd(&k->missing);
}

/* The oldest that lacks nothing. */
static struct known *new_known(struct receive *r)
{
	struct known *k;

	for (size_t i = 0; i < MAX_KNOWN; i++) {
		k = &r->known[r->nknown++ % MAX_KNOWN];
		if (!k->name || k->missing < 0 || process_has_ended(k->pidfd, 0))
			break;
	}
	if (k->name) {
		owner_unmap(k->owner);
		close_fd(&k->pidfd);
		drop_memory(k);
		free(k->name);
		free(k->placement);
	}
	*k = (struct known){.pidfd = -1, .ram = -1, .uffd = -1, .missing = -1};
	return k;
}

static int spawn(struct receive *r, const Vmb__ReceivePrepare *p, const struct vm_files *f, int state, int link,
		 struct error *e)
{
	Vmb__Request req = VMB__REQUEST__INIT;
	Vmb__IncomingRequest in = VMB__INCOMING_REQUEST__INIT;
	int own[VM_MAX_FILES], fds[VM_MAX_FILES + 3];
	char names[VM_MAX_FILES][16], *ptrs[VM_MAX_FILES];
	size_t n = vm_files_list(f, own, names);
	struct known *k;
	pid_t pid;

	for (size_t i = 0; i < n; i++)
		ptrs[i] = names[i];
	fds[0] = state;
	fds[1] = link;
	fds[2] = r->child_pidfd;
	memcpy(fds + 3, own, n * sizeof(*own));
	in.provisional = p->provisional;
	in.fd_names = ptrs;
	in.n_fd_names = n;
	in.instance = DESTINATION;
	in.source = SOURCE;
	in.confirm = true;
	in.post_copy = p->post_copy;
	req.kind_case = VMB__REQUEST__KIND_INCOMING;
	req.incoming = &in;
	pid = vmm_spawn(vmm_process, &r->vmm, e);
	if (pid < 0 || p->id.len > sizeof(k->id))
		return -1;
	r->coming = k = new_known(r);
	k->name = xstrdup(p->provisional->config->name);
	k->placement = xstrdup(p->placement);
	k->len = p->id.len;
	memcpy(k->id, p->id.data, k->len);
	k->pid = pid;
	k->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	k->owner = owner_map(f->owner, e);
	return k->owner && k->pidfd >= 0 ? wire_send(r->vmm, &req.base, fds, n + 3, e) : -1;
}

/* Where the missing pages will be noted, and what the process waits with for them. */
static int keep_for_post_copy(struct known *k, int ram, const Vmb__Reply *prepared, struct wire_fds *fds, struct error *e)
{
	uint64_t size = (uint64_t)lseek(ram, 0, SEEK_END);

	k->uffd = wire_take_fd(fds, 0);
	if (k->uffd < 0)
		return 0;
	k->memory_base = prepared->prepared->memory_base;
	k->ram = fcntl(ram, F_DUPFD_CLOEXEC, 0);
	k->missing = sealed_memfd("vmbeam-missing", ALIGN_UP(size / 4096 / 8, 4096), 0, e);
	return k->ram < 0 || k->missing < 0 ? -1 : 0;
}

/* Built, and with provisional state: what could stop it is known. */
static int await_built(struct receive *r, int ram, struct error *e)
{
	struct wire_fds fds;
	Vmb__Reply *reply;
	bool warmed = false;
	int result = 0;

	while (!warmed && !result) {
		if (vmm_receive_reply(r->vmm, &reply, &fds, BUILD_MS, e))
			return -1;
		warmed = reply->kind_case == VMB__REPLY__KIND_WARMED;
		if (reply->kind_case == VMB__REPLY__KIND_PREPARED)
			result = keep_for_post_copy(r->coming, ram, reply, &fds, e);
		wire_close_fds(&fds);
		vmb__reply__free_unpacked(reply, NULL);
	}
	return result;
}

static int reply_prepared(const struct receive *r, uint64_t memory_base, const int *fds, size_t n)
{
	Vmb__Reply reply = VMB__REPLY__INIT;
	Vmb__Prepared prepared = VMB__PREPARED__INIT;

	prepared.memory_base = memory_base;
	reply.kind_case = VMB__REPLY__KIND_PREPARED;
	reply.prepared = &prepared;
	return wire_send(r->child, &reply.base, fds, n, NULL);
}

static void forget(struct receive *r)
{
	close_fd(&r->vmm);
	vm_files_close(&r->disks);
	if (r->config)
		vmb__vm_config__free_unpacked(r->config, NULL);
	r->config = NULL;
	free(r->name);
	r->name = NULL;
}

static void take_disks(struct receive *r, const struct vm_files *f)
{
	for (size_t i = 0; i < VM_MAX_DISKS; i++)
		r->disks.disks[i] = f->disks[i] < 0 ? -1 : fcntl(f->disks[i], F_DUPFD_CLOEXEC, 0);
}

static int prepare(struct receive *r, const Vmb__ReceivePrepare *p, struct error *e)
{
	const Vmb__VmConfig *c = p->provisional ? p->provisional->config : NULL;
	int link[2] = {-1, -1}, state = -1, result = -1;
	const struct known *k;
	struct vm_files f;

	if (!c || r->vmm >= 0)
		return error_set(e, "%s", c ? "another VM is being received" : "no configuration");
	if (check_config(r, c, e))
		return -1;
	if (p->placement[0] && !vm_name_is_valid(p->placement))
		return error_set(e, "that is no hypervisor's name");
	if (p->placement[0] && !runtime_is_held(p->placement))
		return error_set(e, "there is no hypervisor %.64s there", p->placement);
	vm_files_init(&f);
	f.lock = runtime_claim(c->name, e);
	if (f.lock < 0)
		return -1;
	r->name = xstrdup(c->name);
	r->config = (Vmb__VmConfig *)message_copy(&c->base);
	state = state_create(e);
	if (state < 0 || wire_pair(link, e) || vm_files_open(&f, c, false, e) || vm_files_make_ram(&f, c, e) ||
	    vmm_open_runtime_files(c, &f, e) || (f.owner = make_owner(e)) < 0 || write_id(c->name, &p->id))
		goto out;
	take_disks(r, &f);
	if (spawn(r, p, &f, state, link[0], e) || await_built(r, f.ram, e))
		goto out;
	k = r->coming;
	result = reply_prepared(r, k->memory_base, (const int[]){f.ram, state, link[1], k->uffd, k->missing}, k->uffd < 0 ? 3 : 5);
out:
	if (result) {
		runtime_remove(c->name);
		forget(r);
	}
	close_fd(&state);
	close_fd(&link[0]);
	close_fd(&link[1]);
	vm_files_close(&f);
	return result;
}

/* ---- the rest of its memory */

/* (A process that is killed while it waits for a page ends only once nobody keeps its userfaultfd any more.) */
static bool is_ending(const struct known *k)
{
	char path[64], text[512], *at;
	unsigned int flags = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", k->pid);
	read_text(path, text, sizeof(text));
	at = strrchr(text, ')');
	if (at && sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %u", &flags) == 1 && flags & PF_EXITING)
		return true;
	return process_has_ended(k->pidfd, 0);
}

static struct known *find_known(struct receive *r, const ProtobufCBinaryData *id)
{
	for (size_t i = 0; i < MAX_KNOWN; i++)
		if (r->known[i].name && r->known[i].len == id->len && !memcmp(r->known[i].id, id->data, id->len))
			return &r->known[i];
	return NULL;
}

static void reply_status(const struct receive *r, bool runs)
{
	Vmb__Reply reply = VMB__REPLY__INIT;
	Vmb__NetStatus status = VMB__NET_STATUS__INIT;

	status.runs = runs;
	reply.kind_case = VMB__REPLY__KIND_STATUS;
	reply.status = &status;
	wire_send(r->child, &reply.base, NULL, 0, NULL);
}

static void resume_rest(struct receive *r, const ProtobufCBinaryData *id)
{
	const struct known *k = find_known(r, id);

	if (!k)
		control_reply_error(r->child, "nothing is known of that migration");
	else if (k->missing < 0 || is_ending(k))
		reply_status(r, true);
	else
		reply_prepared(r, k->memory_base, (const int[]){k->ram, k->uffd, k->missing}, 3);
}

/* As `migrate NAME --to HYPERVISOR` would, in a process of its own. */
static void beam_on(const struct receive *r, const struct known *k)
{
	struct handover_options o = {.entry = vmm_process, .placement = k->placement, .warm = true, .drain_timeout_ns = DRAIN_NS};
	struct handover_report report;

	if (!k->placement[0] || fork())
		return;
	close(r->child);
	if (handover_drive(k->name, &o, &report))
		log_line("%s: not moved into hypervisor %s: %s", k->name, k->placement, report.error.text);
	else
		log_line("%s: moved into hypervisor %s", k->name, k->placement);
	_exit(0);
}

/* What has ended needs no memory any more. */
static void sweep(struct receive *r)
{
	for (size_t i = 0; i < MAX_KNOWN; i++)
		if (r->known[i].name && r->known[i].ram >= 0 && is_ending(&r->known[i]))
			drop_memory(&r->known[i]);
}

/* One whose process has not been told to go on must not be told any more; it may wait for a page that will not come, so that
 * only a signal ends it. */
static void give_up(struct known *k)
{
	if (!k || !owner_abort(k->owner, SOURCE, DESTINATION))
		return;
	syscall(SYS_pidfd_send_signal, k->pidfd, SIGKILL, NULL, 0);
	drop_memory(k);
}

static void note_arrived(struct receive *r, const ProtobufCBinaryData *id)
{
	struct known *k = find_known(r, id);
	struct error e = {"nothing is known of that migration"};
	int fd = k ? vmm_connect(k->name, &e) : -1;

	if (fd < 0 || vmm_simple_request(fd, VMB__REQUEST__KIND_ARRIVED, NULL, NULL, BUILD_MS, &e)) {
		control_reply_error(r->child, "%s", e.text);
	} else {
		drop_memory(k);
		control_reply_ready(r->child, NULL, 0);
		beam_on(r, k);
	}
	close_fd(&fd);
}

static void hear_vmm(struct receive *r)
{
	Vmb__Reply *reply;
	struct error e;

	if (vmm_receive_reply(r->vmm, &reply, NULL, 0, &e)) {
		runtime_clear(r->name, 1000);
		forget(r);
		return;
	}
	if (reply->kind_case == VMB__REPLY__KIND_READY)
		forget(r);
	vmb__reply__free_unpacked(reply, NULL);
}

/* ---- has it come? */

/* Of one that this process does not know, because it was started later: the VM has its id beside it. */
static bool runs_with_id(const char *name, const ProtobufCBinaryData *id)
{
	char *path = runtime_path(name, "migration");
	uint8_t have[64];
	Vmb__Reply *info;
	struct error e;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, have, sizeof(have));

	close_fd(&fd);
	free(path);
	if (n != (ssize_t)id->len || memcmp(have, id->data, id->len) || vm_info(name, &info, &e))
		return false;
	vmb__reply__free_unpacked(info, NULL); /* it answers only once it has been started */
	return true;
}

static bool some_runs_with_id(const ProtobufCBinaryData *id)
{
	DIR *d = opendir(runtime_dir());
	bool found = false;
	struct dirent *x;

	while (d && !found && (x = readdir(d)))
		found = x->d_name[0] != '.' && runs_with_id(x->d_name, id);
	if (d)
		closedir(d);
	return found;
}

/* The owner word outlives the VM: it says whether it was started, and a process that is dead will not start it. */
static void answer_query(struct receive *r, const ProtobufCBinaryData *id)
{
	const struct known *k = find_known(r, id);
	bool runs = true;

	if (k) {
		bool dead = process_has_ended(k->pidfd, 0);
		struct owner_view v = owner_read(k->owner);

		runs = v.owner != SOURCE && (v.started || v.owner != DESTINATION);
		if (!runs && !dead) {
			control_reply_error(r->child, "it is not known yet");
			return;
		}
	} else if (!some_runs_with_id(id)) {
		control_reply_error(r->child, "nothing is known of that migration");
		return;
	}
	reply_status(r, runs);
}

static bool hear_child(struct receive *r)
{
	ProtobufCMessage *m;
	const Vmb__ReceiveRequest *q;
	struct error e;

	if (wire_recv(r->child, &vmb__receive_request__descriptor, &m, NULL, 0, &e) <= 0)
		return false;
	q = (Vmb__ReceiveRequest *)m;
	if (q->kind_case == VMB__RECEIVE_REQUEST__KIND_PREPARE) {
		if (prepare(r, q->prepare, &e))
			control_reply_error(r->child, "%s", e.text);
	} else if (q->kind_case == VMB__RECEIVE_REQUEST__KIND_QUERY) {
		answer_query(r, &q->query);
	} else if (q->kind_case == VMB__RECEIVE_REQUEST__KIND_RESUME) {
		resume_rest(r, &q->resume);
	} else if (q->kind_case == VMB__RECEIVE_REQUEST__KIND_ARRIVED) {
		note_arrived(r, &q->arrived);
	} else if (q->kind_case == VMB__RECEIVE_REQUEST__KIND_GIVEN_UP) {
		give_up(find_known(r, &q->given_up));
		control_reply_ready(r->child, NULL, 0);
	} else if (q->kind_case == VMB__RECEIVE_REQUEST__KIND_LOCK && r->config) {
		if (vm_files_lock(&r->disks, r->config, &e))
			control_reply_error(r->child, "%s", e.text);
		else
			control_reply_ready(r->child, NULL, 0);
	} else {
		control_reply_error(r->child, "nothing to do");
	}
	protobuf_c_message_free_unpacked(m, NULL);
	return true;
}

/* ---- the process */

static int parse(int argc, char **argv, struct receive *r)
{
	static const struct option options[] = {{"listen", required_argument, NULL, 'l'},
						{"tls", required_argument, NULL, 't'},
						{"insecure", no_argument, NULL, 'i'},
						{"allow", required_argument, NULL, 'a'},
						{NULL, 0, NULL, 0}};
	int opt;

	r->tls = getenv("VMBEAM_TLS_DIR");
	opterr = 0;
	optind = 1;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (opt == 'l')
			r->listen = optarg;
		else if (opt == 't')
			r->tls = optarg;
		else if (opt == 'i')
			r->insecure = true;
		else if (opt == 'a' && r->nallowed < MAX_ALLOWED)
			r->allowed[r->nallowed++] = optarg;
		else
			return cli_usage("receive: unknown option, missing value, or too many of --allow");
	}
	if (optind < argc || !r->listen)
		return cli_usage("receive: --listen ADDR:PORT is expected");
	if (!r->tls == !r->insecure)
		return cli_usage("receive: either --tls DIR or --insecure is expected");
	return 0;
}

/* What vmbeam-migrate is called with. */
static char *child_args[] = {"receive", "--listen", NULL, NULL, NULL, NULL};

static int child_process(void)
{
	return network_exec(child_args);
}

static int start_child(struct receive *r, struct error *e)
{
	pid_t pid;

	child_args[2] = (char *)(uintptr_t)r->listen;
	child_args[3] = r->insecure ? NULL : "--tls";
	child_args[4] = (char *)(uintptr_t)r->tls;
	pid = vmm_spawn(child_process, &r->child, e);
	if (pid < 0)
		return -1;
	r->child_ns = clock_ns();
	r->child_pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	return r->child_pidfd < 0 ? error_set_errno(e, "pidfd_open") : 0;
}

/* What it was about to start ends by itself, or runs; what lacks memory waits for the next one. */
static int replace_child(struct receive *r)
{
	struct error e;

	close_fd(&r->child);
	close_fd(&r->child_pidfd);
	if (!r->restarts++ && clock_ns() - r->child_ns < RESTART_NS)
		return -1; /* it could not begin, and has said why */
	if (r->vmm >= 0)
		give_up(r->coming);
	do {
		log_line("receive: the process that reads from the network has ended; it is started anew");
		poll(NULL, 0, RESTART_NS / 1000000);
	} while (start_child(r, &e));
	return 0;
}

static volatile sig_atomic_t ending;

static void on_term(int signal)
{
	(void)signal;
	ending = 1;
}

/* Nothing is on its way here, and nothing lacks memory. */
static bool is_idle(const struct receive *r)
{
	for (size_t i = 0; i < MAX_KNOWN; i++)
		if (r->known[i].owner && r->known[i].missing >= 0)
			return false;
	return r->vmm < 0;
}

int receive_main(int argc, char **argv)
{
	struct receive r = {.vmm = -1, .child = -1};
	int result = parse(argc, argv, &r);
	struct error e;

	if (result)
		return result;
	vm_files_init(&r.disks);
	if (start_child(&r, &e))
		return cli_fail("receive: %s", e.text);
	signal(SIGTERM, on_term);
	while (!ending || !is_idle(&r)) {
		struct pollfd p[2] = {{.fd = r.child, .events = POLLIN}, {.fd = r.vmm, .events = POLLIN}};

		if (poll(p, 2, SWEEP_MS) < 0)
			continue;
		sweep(&r);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (p[1].revents)
			hear_vmm(&r);
		if (p[0].revents && !hear_child(&r) && replace_child(&r))
			return EXIT_FAILED;
	}
	return EXIT_OK;
}
