/* cmd_hypervisor.c: `vmbeam hypervisor`: guest hypervisors, each in a host VM of its own. */
#include "nested/hypervisor.h"
#include "rejuv/cli.h"
#include "vmm/client.h"
#include "vmm/vmm.h"

#include <getopt.h>
#include <jansson.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>

enum { READY_MS = 300000, CLEAR_MS = 5000, KERNEL_NEEDS = 384 * MIB };

struct start_args {
	Vmb__VmConfig config;
	bool json;
};

/* A file of the image: beside the program, or where $VMBEAM_HYPERVISOR_DIR says. */
static char *image(const char *file, struct error *e)
{
	const char *dir = getenv("VMBEAM_HYPERVISOR_DIR");
	char exe[PATH_MAX] = "", *path;
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	if (dir && dir[0])
		path = xasprintf("%s/%s", dir, file);
	else
		path = xasprintf("%s/hypervisor/%s", n > 0 ? dirname(exe) : ".", file);
	if (access(path, R_OK)) {
		error_set_errno(e, "%s ('make hypervisor' makes it)", path);
		free(path);
		return NULL;
	}
	return path;
}

static uint64_t available_memory(void)
{
	char line[128];
	unsigned long long kib = 0;
	FILE *f = fopen("/proc/meminfo", "re");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib * KIB;
}

/* Its kernel keeps 64 bytes for each 4 KiB of the window, in its own RAM. */
static uint64_t largest_window(uint64_t memory)
{
	return memory > KERNEL_NEEDS ? (memory - KERNEL_NEEDS) * 64 : 0;
}

/* L0 needs its RAM, and what KVM keeps for the window: 2.5 MiB a GiB once guests run there. */
static int admit(const Vmb__VmConfig *c, struct error *e)
{
	uint64_t need = c->memory + c->window / 400, have = available_memory();

	if (c->window > largest_window(c->memory))
		return error_set(e, "window: %llu MiB of memory suffice for %llu MiB, not %llu",
				 (unsigned long long)(c->memory / MIB),
				 (unsigned long long)(largest_window(c->memory) / MIB),
				 (unsigned long long)(c->window / MIB));
	if (need > have)
		return error_set(e, "memory: %llu MiB are needed, %llu MiB are available",
				 (unsigned long long)(need / MIB), (unsigned long long)(have / MIB));
	return 0;
}

static int parse_start(int argc, char **argv, struct start_args *a, struct error *e)
{
	static const struct option options[] = {{"memory", required_argument, NULL, 'm'},
						{"cpus", required_argument, NULL, 'c'},
						{"window", required_argument, NULL, 'w'},
						{"json", no_argument, NULL, 'j'},
						{NULL, 0, NULL, 0}};
	uint64_t cpus = 1, window = 0;
	bool given = false;
	struct sysinfo si;
	int opt;

	vmb__vm_config__init(&a->config);
	a->config.memory = GIB;
	opterr = 0;
	optind = 1;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) >= 0)
		switch (opt) {
		case 'm':
			if (parse_size(optarg, &a->config.memory, e))
				return -1;
			break;
		case 'c':
			if (parse_uint(optarg, 1, 64, &cpus, e))
				return -1;
			break;
		case 'w':
			if (parse_size(optarg, &window, e))
				return -1;
			given = true;
			break;
		case 'j':
			a->json = true;
			break;
		default:
			return error_set(e, "unknown option or missing value");
		}
	if (optind + 1 != argc)
		return error_set(e, "one name is expected");
	/* The machine's RAM, as far as its own memory suffices for that. */
	if (!given && !sysinfo(&si))
		window = ALIGN_DOWN(MIN(ALIGN_UP((uint64_t)si.totalram * si.mem_unit, GIB),
					largest_window(a->config.memory)), GIB);
	a->config.window = window;
	a->config.name = argv[optind];
	a->config.cpus = (uint32_t)cpus;
	return 0;
}

static void print_hello(const char *name, const Vmb__AgentHello *h, uint64_t ns, bool json)
{
	json_t *phases;

	if (!json) {
		printf("%s: ready for guests after %.1f ms: Linux %s, window %llu MiB\n", name,
		       (double)ns / 1e6, h->kernel, (unsigned long long)(h->window / MIB));
		for (size_t i = 0; i < h->n_boot; i++)
			printf("  %-9s %9.1f ms\n", h->boot[i]->name, (double)h->boot[i]->ns / 1e6);
		return;
	}
	phases = json_array();
	for (size_t i = 0; i < h->n_boot; i++)
		json_array_append_new(phases, json_pack("{s:s, s:I}", "name", h->boot[i]->name, "ns",
							(json_int_t)h->boot[i]->ns));
	cli_print_json(json_pack("{s:s, s:s, s:s, s:I, s:I, s:o}", "hypervisor", name, "outcome",
				 "completed", "kernel", h->kernel, "window", (json_int_t)h->window,
				 "ready_ns", (json_int_t)ns, "phases", phases));
}

/* Waits for the agent and looks at what it says of itself. */
static Vmb__AgentMessage *await_agent(const Vmb__VmConfig *c, struct error *e)
{
	Vmb__AgentMessage question = VMB__AGENT_MESSAGE__INIT, *m;
	Vmb__Empty empty = VMB__EMPTY__INIT;

	question.kind_case = VMB__AGENT_MESSAGE__KIND_HELLO_REQUEST;
	question.hello_request = &empty;
	m = agent_ask(c->name, &question, READY_MS, e);
	if (!m)
		return NULL;
	if (m->kind_case != VMB__AGENT_MESSAGE__KIND_HELLO)
		error_set(e, "the agent made no sense");
	else if (m->hello->failed[0])
		error_set(e, "it came up wrong: %s", m->hello->failed);
	else if (!m->hello->kvm || m->hello->window != c->window)
		error_set(e, "it came up wrong: no KVM, or another window");
	else
		return m;
	vmb__agent_message__free_unpacked(m, NULL);
	return NULL;
}

static int start_main(int argc, char **argv)
{
	struct start_args a = {.json = false};
	uint64_t begin = clock_ns();
	Vmb__AgentMessage *m = NULL;
	struct error e;

	if (parse_start(argc, argv, &a, &e))
		return cli_usage("hypervisor start: %s", e.text);
	a.config.kernel = image("vmlinuz", &e);
	a.config.initrd = a.config.kernel ? image("initramfs", &e) : NULL;
	a.config.append = (char *)(uintptr_t) "console=ttyS0 quiet panic=-1";
	a.config.rng = a.config.virtio_console = true;
	if (a.config.initrd && !vm_config_validate(&a.config, &e) && !admit(&a.config, &e) &&
	    !vm_launch(&a.config, false, NULL, &e)) {
		m = await_agent(&a.config, &e);
		if (!m) {
			vm_stop_now(a.config.name);
			runtime_clear(a.config.name, CLEAR_MS);
		}
	}
	free(a.config.initrd);
	free(a.config.kernel);
	if (!m)
		return cli_acted(a.config.name, a.json, &e);
	print_hello(a.config.name, m->hello, clock_ns() - begin, a.json);
	vmb__agent_message__free_unpacked(m, NULL);
	return EXIT_OK;
}

int hypervisor_main(int argc, char **argv)
{
	if (argc >= 2 && !strcmp(argv[1], "start"))
		return start_main(argc - 1, argv + 1);
	if (argc >= 2 && !strcmp(argv[1], "stop"))
		return stop_main(argc - 1, argv + 1);
	return cli_usage("hypervisor: start or stop is expected");
}
