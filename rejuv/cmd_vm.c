/* cmd_vm.c: the commands about VMs that exist: list, info, console, pause, resume, stop, balloon,
 * dump. */
#include "rejuv/cli.h"
#include "rejuv/operations.h"
#include "vmm/client.h"
#include "vmm/vmm.h"


#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <jansson.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ANSWER_MS = 10000, BRIEFLY_MS = 5000, PRESS_AGAIN_MS = 5000, DUMP_MS = 600000, STOP_GRACE_S = 30 };

/* The name and the flags that every one of these commands takes. */
struct args {
	const char *name, *out;
	bool json, force, hvc, recent;
	uint64_t timeout_s;
};

static int parse_args(int argc, char **argv, bool wants_name, struct args *a)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, 'j'},      {"force", no_argument, NULL, 'f'},
		{"out", required_argument, NULL, 'o'}, {"timeout", required_argument, NULL, 't'},
		{"hvc", no_argument, NULL, 'h'},       {"recent", no_argument, NULL, 'r'},
		{NULL, 0, NULL, 0},
	};
	struct error e;
	int opt;

	memset(a, 0, sizeof(*a));
	a->timeout_s = STOP_GRACE_S;
	opterr = 0;
	optind = 1;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (opt) {
		case 'j':
			a->json = true;
			break;
		case 'f':
			a->force = true;
			break;
		case 'h':
			a->hvc = true;
			break;
		case 'r':
			a->recent = true;
			break;
		case 'o':
			a->out = optarg;
			break;
		case 't':
			if (parse_uint(optarg, 0, 86400, &a->timeout_s, &e))
				return cli_usage("%s: --timeout: %s", argv[0], e.text);
			break;
		default:
			return cli_usage("%s: unknown option or missing value", argv[0]);
		}
	}
	if (optind < argc)
		a->name = argv[optind++];
	if (optind < argc || (wants_name && !a->name) || (!wants_name && a->name))
		return cli_usage("%s: %s", argv[0], wants_name ? "one VM's name is expected"
							       : "no name is expected");
	if (a->name && strchr(a->name, '/'))
		return cli_usage("%s: '%s' is not a VM's name", argv[0], a->name);
	return 0;
}

/* Bytes that KVM has translated, and of them those in pages of 2 MiB and more. */
static uint64_t translated(const Vmb__InfoReply *i, uint64_t *huge)
{
	*huge = i->n_pages == VM_PAGE_SIZES ? i->pages[1] * 2 * MIB + i->pages[2] * GIB : 0;
	return i->n_pages == VM_PAGE_SIZES ? i->pages[0] * 4096 + *huge : 0;
}

json_t *vm_info_json(const Vmb__InfoReply *i)
{
	json_t *disks = json_array(), *nets = json_array(), *exits = json_array();
	json_t *guests = json_array(), *j;
	uint64_t huge;

	for (size_t k = 0; k < i->config->n_disks; k++)
		json_array_append_new(disks, json_pack("{s:s, s:b}", "path", i->config->disks[k]->path,
						       "read_only", i->config->disks[k]->read_only));
	for (size_t k = 0; k < i->config->n_nets; k++)
		json_array_append_new(nets, json_pack("{s:s}", "tap", i->config->nets[k]->tap));
	for (size_t k = 0; k < i->n_exits; k++)
		json_array_append_new(exits, json_integer((json_int_t)i->exits[k]));
	for (size_t k = 0; k < i->n_guests; k++)
		json_array_append_new(guests, json_string(i->guests[k]));
	j = json_pack("{s:s, s:s, s:s, s:I, s:i, s:i, s:I, s:i, s:o, s:o, s:o, s:I, s:s, s:I, s:I, s:I}",
			 "vm",
			 i->config->name, "state", cli_state_name(i->state), "placement",
			 cli_placement(i->config->placement),
			 "memory_bytes", (json_int_t)i->config->memory, "cpus", (int)i->config->cpus,
			 "pid", i->pid, "uptime_ns", (json_int_t)i->uptime_ns, "handovers",
			 (int)i->handovers, "disks", disks, "nets", nets, "exits", exits,
			 "first_run_ns", (json_int_t)i->first_run_ns, "detail", i->detail,
			 "balloon_target_bytes", (json_int_t)i->balloon_target, "balloon_bytes",
			 (json_int_t)i->balloon_actual, "allocated_bytes", (json_int_t)i->allocated);
	if (translated(i, &huge)) {
		json_object_set_new(j, "translated_bytes", json_integer((json_int_t)translated(i, &huge)));
		json_object_set_new(j, "translated_huge_bytes", json_integer((json_int_t)huge));
	}
	if (i->config->window) {
		json_object_set(j, "guests", guests);
		json_object_set_new(j, "window_bytes", json_integer((json_int_t)i->config->window));
		json_object_set_new(j, "window_faults", json_integer((json_int_t)i->window_faults));
		json_object_set_new(j, "window_frozen_ns", json_integer((json_int_t)i->window_frozen_ns));
	}
	json_decref(guests);
	return j;
}

int info_main(int argc, char **argv)
{
	struct args a;
	Vmb__Reply *reply;
	Vmb__InfoReply *i;
	uint64_t huge;
	struct error e;
	int r = parse_args(argc, argv, true, &a);

	if (r)
		return r;
	if (vm_info(a.name, &reply, &e))
		return cli_fail("%s: %s", a.name, e.text);
	i = reply->info;
	if (a.json) {
		cli_print_json(vm_info_json(i));
	} else {
		printf("name       %s\nstate      %s%s%s\nplacement  %s\nmemory     %llu MiB%s\n"
		       "cpus       %u\nprocess    %d, for %llu s\nhandovers  %u\nkernel     %s\n",
		       i->config->name, cli_state_name(i->state), i->detail[0] ? ": " : "", i->detail,
		       cli_placement(i->config->placement),
		       (unsigned long long)(i->config->memory / MIB),
		       i->config->hugepages ? ", huge pages" : "", i->config->cpus, i->pid,
		       (unsigned long long)(i->uptime_ns / 1000000000), i->handovers, i->config->kernel);
		printf("allocated  %llu MiB\nballoon    %llu MiB of %llu MiB\n",
		       (unsigned long long)(i->allocated / MIB),
		       (unsigned long long)(i->balloon_actual / MIB),
		       (unsigned long long)(i->balloon_target / MIB));
		if (translated(i, &huge))
			printf("pages      %.1f %% of %llu MiB translated in pages of 2 MiB\n",
			       100.0 * (double)huge / (double)translated(i, &huge),
			       (unsigned long long)(translated(i, &huge) / MIB));
		if (i->config->window)
			printf("window     %llu MiB, touched %llu times where no guest was\n"
			       "frozen     %.1f ms in all, by guests that left\n",
			       (unsigned long long)(i->config->window / MIB),
			       (unsigned long long)i->window_faults, (double)i->window_frozen_ns / 1e6);
		for (size_t k = 0; k < i->n_guests; k++)
			printf("guest%zu     %s\n", k, i->guests[k]);
		for (size_t k = 0; k < i->config->n_disks; k++)
			printf("disk%zu      %s%s\n", k, i->config->disks[k]->path,
			       i->config->disks[k]->read_only ? " (read-only)" : "");
		for (size_t k = 0; k < i->config->n_nets; k++)
			printf("net%zu       tap %s\n", k, i->config->nets[k]->tap);
	}
	vmb__reply__free_unpacked(reply, NULL);
	return EXIT_OK;
}

static void list_one(const char *name, json_t *array)
{
	Vmb__Reply *reply;
	struct error e;
	char reason[64];
	int status;
	bool dead;

	if (!vm_info(name, &reply, &e)) {
		const Vmb__InfoReply *i = reply->info;

		if (array)
			json_array_append_new(array, vm_info_json(i));
		else
			printf("%-20s %-9s %-10s %6llu MiB  %3u  %7d\n", name, cli_state_name(i->state),
			       cli_placement(i->config->placement),
			       (unsigned long long)(i->config->memory / MIB), i->config->cpus, i->pid);
		vmb__reply__free_unpacked(reply, NULL);
		return;
	}
	if (runtime_exit_record(name, reason, &status) && runtime_clear(name, 0))
		return; /* it had ended and nobody was there to clear up */
	dead = !runtime_is_held(name);
	if (array)
		json_array_append_new(array, json_pack("{s:s, s:s, s:s}", "vm", name, "state",
						       dead ? "dead" : "silent", "detail", e.text));
	else if (dead)
		printf("%-20s %-9s its process died; 'vmbeam stop %s' clears it away\n", name, "dead",
		       name);
	else
		printf("%-20s %-9s %s\n", name, "silent", e.text);
}

int list_main(int argc, char **argv)
{
	json_t *array = NULL;
	struct dirent **names = NULL;
	struct args a;
	int r = parse_args(argc, argv, false, &a), n;

	if (r)
		return r;
	n = scandir(runtime_dir(), &names, NULL, alphasort);
	if (n < 0 && errno != ENOENT)
		return cli_fail("%s: %s", runtime_dir(), strerror(errno));
	if (a.json)
		array = json_array();
	else
		printf("%-20s %-9s %-10s %10s  %3s  %7s\n", "NAME", "STATE", "PLACEMENT", "MEMORY", "CPU",
		       "PID");
	for (int i = 0; i < n; i++) {
		if (names[i]->d_name[0] != '.' && names[i]->d_type != DT_SOCK) /* vmbeamd's */
			list_one(names[i]->d_name, array);
		free(names[i]);
	}
	free(names);
	if (array)
		cli_print_json(array);
	return EXIT_OK;
}

int vm_simple(const char *name, bool json, Vmb__Request__KindCase kind)
{
	struct error e;
	int fd = vmm_connect(name, &e), r;

	if (fd < 0)
		return cli_acted(name, json, &e);
	r = vmm_simple_request(fd, kind, NULL, NULL, ANSWER_MS, &e);
	close(fd);
	return cli_acted(name, json, r ? &e : NULL);
}

static int simple(int argc, char **argv, Vmb__Request__KindCase kind)
{
	struct args a;
	int r = parse_args(argc, argv, true, &a);

	return r ? r : vm_simple(a.name, a.json, kind);
}

int pause_main(int argc, char **argv)
{
	return simple(argc, argv, VMB__REQUEST__KIND_PAUSE);
}

/* Of a VM that a broken migration has left stopped.  vmbeam-migrate's answers (migrate/session.h). */
enum where { NOT_ASKED = -1, RUNS_THERE = 0, NO_ANSWER = 1, RUNS_NOT_THERE = 10 };

void outgoing_read(const char *vm, char *text, size_t size, char *lines[4])
{
	char *path = runtime_path(vm, "outgoing"), *save = text;

	read_text(path, text, size);
	free(path);
	memset(lines, 0, 4 * sizeof(*lines));
	for (size_t i = 0; i < 4 && save && *save; i++)
		lines[i] = strsep(&save, "\n");
}

static enum where ask_other_machine(const char *name, char where[256])
{
	char text[1024], *lines[4];
	int status = 0;
	pid_t pid;

	outgoing_read(name, text, sizeof(text), lines);
	if (!lines[2])
		return NOT_ASKED;
	snprintf(where, 256, "%s", lines[0]);
	pid = fork();
	if (pid == 0)
		_exit(network_exec((char *[]){"ask", lines[0], lines[1], lines[2], NULL}));
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return NO_ANSWER;
	return (enum where)WEXITSTATUS(status);
}

static bool needs_memory(const char *name)
{
	char text[1024], *lines[4];

	outgoing_read(name, text, sizeof(text), lines);
	return lines[3] && !strcmp(lines[3], "post-copy");
}

int resume_main(int argc, char **argv)
{
	char where[256];
	struct error e;
	struct args a;
	int r = parse_args(argc, argv, true, &a);

	if (r)
		return r;
	switch (ask_other_machine(a.name, where)) {
	case NOT_ASKED:
		return vm_simple(a.name, a.json, VMB__REQUEST__KIND_RESUME);
	case RUNS_THERE:
		error_set(&e,
			  needs_memory(a.name)
				  ? "it runs at %s, which still needs memory from here: 'vmbeam migrate %s --resume'"
				  : "it runs at %s: 'vmbeam stop %s --force' clears away what is left of it here",
			  where, a.name);
		return cli_acted(a.name, a.json, &e);
	case RUNS_NOT_THERE:
		return vm_simple(a.name, a.json, VMB__REQUEST__KIND_TAKE_BACK);
	default:
		if (a.force)
			return vm_simple(a.name, a.json, VMB__REQUEST__KIND_TAKE_BACK);
		error_set(&e, "%s does not answer; if it does not run there, and only then: --force", where);
		return cli_acted(a.name, a.json, &e);
	}
}

static int print_recent(const char *name)
{
	struct error e;
	size_t len;
	uint8_t *text = vm_recent(name, &len, &e);

	if (!text)
		return cli_fail("%s: %s", name, e.text);
	fwrite(text, 1, len, stdout);
	free(text);
	return EXIT_OK;
}

int console_main(int argc, char **argv)
{
	struct args a;
	int r = parse_args(argc, argv, true, &a);

	if (r)
		return r;
	return a.recent ? print_recent(a.name) : attach_console(a.name, a.hvc);
}

/* Asks, then waits for the end on the same kind of connection that `run` uses.  A guest that is still
 * starting does not see the power button: it is pressed again from time to time. */
static int stop(const char *name, bool force, uint64_t timeout_s, struct error *e)
{
	uint64_t deadline = clock_ns() + timeout_s * 1000000000u, now;
	Vmb__Request r = VMB__REQUEST__INIT, wait = VMB__REQUEST__INIT;
	Vmb__StopRequest s = VMB__STOP_REQUEST__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;
	struct pollfd p = {.fd = vmm_connect(name, e), .events = POLLIN};
	bool ended = false;
	int result = 0;

	if (p.fd < 0)
		return -1;
	r.kind_case = VMB__REQUEST__KIND_STOP;
	r.stop = &s;
	s.force = force;
	wait.kind_case = VMB__REQUEST__KIND_WAIT;
	wait.wait = &empty;
	if (vmm_request(p.fd, &r, NULL, 0, NULL, NULL, ANSWER_MS, e)) {
		close(p.fd);
		return -1;
	}
	/* A closed connection is the end as well: the answer lost the race. */
	ended = wire_send(p.fd, &wait.base, NULL, 0, NULL) != 0;
	while (!ended && !result && (now = clock_ns()) < deadline) {
		Vmb__Reply *reply = NULL;

		if (poll(&p, 1, (int)MIN((deadline - now) / 1000000 + 1, (uint64_t)PRESS_AGAIN_MS)) == 0) {
			if (!force)
				wire_send(p.fd, &r.base, NULL, 0, NULL);
		} else if (vmm_receive_reply(p.fd, &reply, NULL, 0, e)) {
			ended = runtime_exit_record(name, (char[64]){0}, &(int){0});
			result = ended ? 0 : -1;
		} else {
			ended = reply->kind_case == VMB__REPLY__KIND_END;
			vmb__reply__free_unpacked(reply, NULL);
		}
	}
	close(p.fd);
	if (!ended && !result)
		result = error_set(e, "it has not shut down within %llu s; --force stops it at once",
				   (unsigned long long)timeout_s);
	return result;
}

/* A guest hypervisor has nothing to shut down but its guests: they go first, or by force. */
static int check_guests(struct args *a, struct error *e)
{
	Vmb__Reply *reply;
	int r = 0;

	if (a->force || vm_info(a->name, &reply, e))
		return 0; /* who does not answer is asked to stop all the same */
	if (reply->info->n_guests)
		r = error_set(e, "guest VMs run in it (%s%s): move them first, or --force ends them",
			      reply->info->guests[0], reply->info->n_guests > 1 ? ", ..." : "");
	a->force = reply->info->config->window != 0;
	vmb__reply__free_unpacked(reply, NULL);
	return r;
}

/* NULL if it does not say. */
static char *placement_of(const char *name)
{
	Vmb__Reply *reply;
	struct error e;
	char *placement;

	if (vm_info_within(name, BRIEFLY_MS, &reply, &e))
		return NULL;
	placement = xstrdup(reply->info->config->placement);
	vmb__reply__free_unpacked(reply, NULL);
	return placement;
}

int stop_main(int argc, char **argv)
{
	struct args a;
	struct error e;
	int r = parse_args(argc, argv, true, &a);
	char *dir, *placement = NULL;
	uint64_t begin;

	if (r)
		return r;
	dir = runtime_path(a.name, "lock");
	r = access(dir, F_OK);
	free(dir);
	if (r) {
		error_set(&e, "no such VM is running");
		return cli_acted(a.name, a.json, &e);
	}
	if (runtime_clear(a.name, 0))
		return cli_acted(a.name, a.json, NULL); /* nobody held it: only files were left */
	if (check_guests(&a, &e))
		return cli_acted(a.name, a.json, &e);
	if (a.force)
		placement = placement_of(a.name);
	begin = clock_ns();
	if (stop(a.name, a.force, a.timeout_s, &e)) {
		free(placement);
		return cli_acted(a.name, a.json, &e);
	}
	/* (Without force the guest decides how long it takes.) */
	if (placement)
		operation_note(OPERATION_DESTROY, placement, clock_ns() - begin);
	free(placement);
	/* `run` clears up where it is attached; doing it twice does no harm. */
	if (runtime_clear(a.name, ANSWER_MS))
		return cli_acted(a.name, a.json, NULL);
	error_set(&e, "it has ended, but a process of its is still there");
	return cli_acted(a.name, a.json, &e);
}

/* SIZE is what the guest should give back in all; 0 gives everything back to it. */
int balloon_main(int argc, char **argv)
{
	Vmb__Request r = VMB__REQUEST__INIT;
	Vmb__BalloonRequest balloon = VMB__BALLOON_REQUEST__INIT;
	struct args a;
	struct error e;
	int status, fd;

	if (argc < 3)
		return cli_usage("balloon: a VM's name and a size are expected");
	if (parse_size(argv[argc - 1], &balloon.bytes, &e))
		return cli_usage("balloon: %s", e.text);
	status = parse_args(argc - 1, argv, true, &a);
	if (status)
		return status;
	fd = vmm_connect(a.name, &e);
	if (fd < 0)
		return cli_acted(a.name, a.json, &e);
	r.kind_case = VMB__REQUEST__KIND_BALLOON;
	r.balloon = &balloon;
	status = vmm_request(fd, &r, NULL, 0, NULL, NULL, ANSWER_MS, &e);
	close(fd);
	return cli_acted(a.name, a.json, status ? &e : NULL);
}

int dump_main(int argc, char **argv)
{
	Vmb__Request r = VMB__REQUEST__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;
	struct args a;
	struct error e;
	int status = parse_args(argc, argv, true, &a), fd, file;

	if (status)
		return status;
	if (!a.out)
		return cli_usage("dump: --out FILE is missing");
	fd = vmm_connect(a.name, &e);
	if (fd < 0)
		return cli_acted(a.name, a.json, &e);
	file = open(a.out, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (file < 0) {
		error_set_errno(&e, "%s", a.out);
		close(fd);
		return cli_acted(a.name, a.json, &e);
	}
	r.kind_case = VMB__REQUEST__KIND_DUMP;
	r.dump = &empty;
	status = vmm_request(fd, &r, &file, 1, NULL, NULL, DUMP_MS, &e);
	close(fd);
	close(file);
	if (status)
		unlink(a.out);
	return cli_acted(a.name, a.json, status ? &e : NULL);
}
