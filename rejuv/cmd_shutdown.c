/* cmd_shutdown.c: `vmbeam shutdown`: all VMs of this machine, before it goes down: a step of a rejuvenation or a move that is under way is waited for;
 * guests are shut down, all at once or --last ones after the others, by force (at once, of --force ones) when their time is up; then the
 * hypervisors. */
#include "rejuv/cli.h"
#include "vmm/client.h"
#include "vmm/vmm.h"

#include <dirent.h>
#include <getopt.h>
#include <jansson.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DEFAULT_S = 90, STEPS_MS = 30000, LOOK_MS = 50 };

enum group { FIRST, LAST, HYPERVISORS, GROUPS };

struct one {
	char *name;
	enum group group;
	pid_t pid;
	bool forced, failed;
};

struct all {
	struct one *vm;
	size_t n;
	const char **last, **force; /* names */
	size_t nlast, nforce;
	uint64_t timeout_s;
	bool json;
};

static int parse(int argc, char **argv, struct all *a)
{
	static const struct option options[] = {{"timeout", required_argument, NULL, 't'},
						{"last", required_argument, NULL, 'l'},
						{"force", required_argument, NULL, 'f'},
						{"json", no_argument, NULL, 'j'},
						{NULL, 0, NULL, 0}};
	struct error e;
	int opt;

	a->timeout_s = DEFAULT_S;
	a->last = xcalloc((size_t)argc, sizeof(*a->last));
	a->force = xcalloc((size_t)argc, sizeof(*a->force));
	opterr = 0;
	optind = 1;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) >= 0)
		if (opt == 'j')
			a->json = true;
		else if (opt == 'l')
			a->last[a->nlast++] = optarg;
		else if (opt == 'f')
			a->force[a->nforce++] = optarg;
		else if (opt != 't')
			return cli_usage("shutdown: unknown option or missing value");
		else if (parse_uint(optarg, 0, 86400, &a->timeout_s, &e))
			return cli_usage("shutdown: --timeout: %s", e.text);
	return optind < argc ? cli_usage("shutdown: no name is expected") : 0;
}

static bool is_among(const char *const *names, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(names[i], name))
			return true;
	return false;
}

/* One that does not say what it is is treated as a guest. */
static enum group group_of(const struct all *a, const char *name)
{
	Vmb__Reply *reply;
	struct error e;
	bool hypervisor = false;

	if (is_among(a->last, a->nlast, name))
		return LAST;
	if (!vm_info(name, &reply, &e)) {
		hypervisor = reply->info->config->window;
		vmb__reply__free_unpacked(reply, NULL);
	}
	return hypervisor ? HYPERVISORS : FIRST;
}

static void find_all(struct all *a)
{
	struct dirent **names;
	int n = scandir(runtime_dir(), &names, NULL, alphasort);

	a->vm = xcalloc((size_t)MAX(n, 1), sizeof(*a->vm));
	for (int i = 0; i < n; i++) {
		if (names[i]->d_name[0] != '.' && runtime_is_held(names[i]->d_name)) {
			a->vm[a->n].name = xstrdup(names[i]->d_name);
			a->vm[a->n].group = group_of(a, names[i]->d_name);
			a->n++;
		}
		free(names[i]);
	}
	if (n >= 0)
		free(names);
}

/* Then it takes no word of a shutdown. */
static bool is_moving(const char *name)
{
	Vmb__Reply *reply;
	struct error e;
	bool moving;

	if (vm_info(name, &reply, &e))
		return false;
	moving = reply->info->state == VMB__RUN_STATE__RUN_STATE_MOVING;
	vmb__reply__free_unpacked(reply, NULL);
	return moving;
}

/* By a process of its own: `vmbeam stop`, whose lines are not for anybody here. */
static void begin(struct one *vm, bool force, uint64_t timeout_s)
{
	char timeout[24], *argv[] = {(char *)(uintptr_t) "stop", vm->name, force ? (char *)(uintptr_t) "--force" : (char *)(uintptr_t) "--timeout", timeout, NULL};
	uint64_t until = clock_ns() + MIN(timeout_s * 1000, (uint64_t)STEPS_MS) * 1000000;

	snprintf(timeout, sizeof(timeout), "%llu", (unsigned long long)timeout_s);
	if (force)
		argv[3] = NULL;
	fflush(NULL);
	vm->forced = force;
	vm->pid = fork();
	if (!vm->pid) {
		if (!freopen("/dev/null", "w", stderr))
			_exit(1);
		while (!force && is_moving(vm->name) && clock_ns() < until)
			poll(NULL, 0, LOOK_MS);
		_exit(stop_main(force ? 3 : 4, argv));
	}
}

static bool has_stopped(struct one *vm)
{
	int status;

	return vm->pid > 0 && waitpid(vm->pid, &status, 0) == vm->pid && status == 0;
}

static void stop_group(struct all *a, enum group g)
{
	bool gently = g != HYPERVISORS && a->timeout_s;

	for (size_t i = 0; i < a->n; i++)
		if (a->vm[i].group == g)
			begin(&a->vm[i], !gently || is_among(a->force, a->nforce, a->vm[i].name), a->timeout_s);
	for (size_t i = 0; i < a->n; i++) {
		struct one *vm = &a->vm[i];

		if (vm->group != g)
			continue;
		if (has_stopped(vm))
			vm->pid = 0;
		else if (gently)
			begin(vm, true, 0);
		else
			vm->failed = true;
	}
	for (size_t i = 0; i < a->n && gently; i++)
		if (a->vm[i].group == g && a->vm[i].pid)
			a->vm[i].failed = !has_stopped(&a->vm[i]);
}

/* The lock of a rejuvenation, until we end: nothing new is begun.  What is under way is waited for, but not for ever. */
static void wait_for_step(const char *hypervisor, uint64_t until)
{
	struct error e;

	while (rejuvenation_lock(hypervisor, &e) < 0) {
		if (clock_ns() >= until) {
			log_line("%s: %s; that is not waited for any longer", hypervisor, e.text);
			return;
		}
		poll(NULL, 0, LOOK_MS);
	}
}

/* Of hypervisors that are there, and of those that something was done to: their guests may be held while they are not. */
static void wait_for_steps(const struct all *a)
{
	uint64_t until = clock_ns() + STEPS_MS * 1000000ull;
	json_t *names = rejuvenation_locks(), *v;
	const char *name;

	for (size_t i = 0; i < a->n; i++)
		if (a->vm[i].group == HYPERVISORS) {
			char *base = xstrdup(a->vm[i].name);

			strip_fresh(base);
			json_object_set_new(names, base, json_true());
			free(base);
		}
	json_object_foreach(names, name, v)
		wait_for_step(name, until);
	json_decref(names);
}

static void forget_all(struct all *a)
{
	for (size_t i = 0; i < a->n; i++)
		free(a->vm[i].name);
	free(a->vm);
	a->n = 0;
}

int shutdown_main(int argc, char **argv)
{
	struct all a = {.n = 0};
	int r = parse(argc, argv, &a);
	json_t *array;
	size_t failed = 0;

	if (r)
		return r;
	find_all(&a);
	wait_for_steps(&a);
	forget_all(&a); /* a step may have begun, renamed or ended one */
	find_all(&a);
	for (enum group g = FIRST; g < GROUPS; g++)
		stop_group(&a, g);
	array = json_array();
	for (size_t i = 0; i < a.n; i++) {
		struct one *vm = &a.vm[i];
		const char *how = vm->failed ? "still there" : vm->forced && vm->group != HYPERVISORS ? "by force" : "shut down";

		failed += vm->failed;
		json_array_append_new(array, json_pack("{s:s, s:s}", "vm", vm->name, "outcome", how));
		if (!a.json)
			printf("%-20s %s\n", vm->name, how);
	}
	forget_all(&a);
	if (a.json)
		cli_print_json(json_incref(array));
	json_decref(array);
	return failed ? cli_fail("shutdown: %zu VMs are still there", failed) : EXIT_OK;
}
