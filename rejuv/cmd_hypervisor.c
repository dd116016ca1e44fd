/* cmd_hypervisor.c: `vmbeam hypervisor`: guest hypervisors, each in a host VM of its own. */
#include "nested/hypervisor.h"
#include "rejuv/cli.h"
#include "vmm/client.h"
#include "vmm/vmm.h"

#include <dirent.h>
#include <getopt.h>
#include <jansson.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>

enum { READY_MS = 300000, HEALTH_MS = 10000, LEAK_MS = 60000, CLEAR_MS = 5000, KERNEL_NEEDS = 384 * MIB };

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

/* A number of /proc/meminfo; 0 where it is not there. */
static uint64_t meminfo(const char *key)
{
	char text[8192], *line;

	read_text("/proc/meminfo", text, sizeof(text));
	line = strstr(text, key);
	return line ? strtoull(line + strlen(key), NULL, 10) : 0;
}

/* Its kernel keeps 64 bytes for each 4 KiB of the window, in its own RAM. */
static uint64_t largest_window(uint64_t memory)
{
	return memory > KERNEL_NEEDS ? (memory - KERNEL_NEEDS) * 64 : 0;
}

/* Then the kernel decides when the memory is mapped. */
static bool may_grow_pool(void)
{
	char text[32];

	read_text("/proc/sys/vm/nr_overcommit_hugepages", text, sizeof(text));
	return strtoull(text, NULL, 10);
}

/* What is there now counts; what running VMs have not touched yet is not taken off.
 * L0 needs its RAM, and what KVM keeps for the window: 2.5 MiB a GiB once guests run there. */
int memory_admit(const Vmb__VmConfig *c, struct error *e)
{
	uint64_t reserved = meminfo("HugePages_Rsvd:"), free_pages = meminfo("HugePages_Free:"); /* in this order */
	uint64_t pool = (free_pages - MIN(reserved, free_pages)) * meminfo("Hugepagesize:") * KIB;
	uint64_t need = (c->hugepages ? 0 : c->memory) + c->window / 400, have = meminfo("MemAvailable:") * KIB;

	if (c->window && c->window > largest_window(c->memory))
		return error_set(e, "window: %llu MiB of memory suffice for %llu MiB, not %llu",
				 (unsigned long long)(c->memory / MIB),
				 (unsigned long long)(largest_window(c->memory) / MIB),
				 (unsigned long long)(c->window / MIB));
	if (c->hugepages && c->memory > pool && !may_grow_pool())
		return error_set(e, "memory: %llu MiB are needed, %llu MiB of huge pages are free"
				    " (/proc/sys/vm/nr_hugepages)",
				 (unsigned long long)(c->memory / MIB), (unsigned long long)(pool / MIB));
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
						{"net", required_argument, NULL, 'n'},
						{"json", no_argument, NULL, 'j'},
						{NULL, 0, NULL, 0}};
	const char *nets[VM_MAX_NETS];
	uint64_t cpus = 1, window = 0;
	size_t nnets = 0;
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
		case 'n':
			if (nnets == VM_MAX_NETS)
				return error_set(e, "--net: at most %d", VM_MAX_NETS);
			nets[nnets++] = optarg;
			break;
		case 'j':
			a->json = true;
			break;
		default:
			return error_set(e, "unknown option or missing value");
		}
	if (optind + 1 != argc)
		return error_set(e, "one name is expected");
	a->config.name = argv[optind];
	if (check_new_name(a->config.name, e))
		return -1;
	for (size_t i = 0; i < nnets; i++)
		if (cli_add_net(&a->config, nets[i], e))
			return -1;
	/* The machine's RAM, as far as its own memory suffices for that. */
	if (!given && !sysinfo(&si))
		window = ALIGN_DOWN(MIN(ALIGN_UP((uint64_t)si.totalram * si.mem_unit, GIB),
					largest_window(a->config.memory)), GIB);
	a->config.window = window;
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

static bool tsc_is_trusted(void)
{
	char name[32];

	read_text("/sys/devices/system/clocksource/clocksource0/current_clocksource", name, sizeof(name));
	return !strcmp(name, "tsc\n");
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

Vmb__AgentMessage *hypervisor_launch(const char *name, const Vmb__VmConfig *like, struct error *e)
{
	Vmb__VmConfig c = VMB__VM_CONFIG__INIT;
	Vmb__AgentMessage *m = NULL;

	c.name = (char *)(uintptr_t)name;
	c.memory = like->memory;
	c.cpus = like->cpus;
	c.window = like->window;
	c.nets = like->nets;
	c.n_nets = like->n_nets;
	c.kernel = image("vmlinuz", e);
	c.initrd = c.kernel ? image("initramfs", e) : NULL;
	/* Where this kernel trusts the time stamp counter, the host VM's is the same, on all its CPUs: otherwise its
	 * KVM would give the vCPUs of one guest counters that differ. */
	c.append = xasprintf("console=ttyS0 quiet panic=-1%s%s", tsc_is_trusted() ? " tsc=reliable" : "",
			     getenv("VMBEAM_TEST") ? " vmbeam.test" : "");
	c.rng = c.virtio_console = true;
	if (!strcmp(name, "host") || !strcmp(name, "fresh"))
		error_set(e, "'%s' means another place", name);
	else if (c.initrd && !vm_config_validate(&c, e) && !memory_admit(&c, e) &&
		 !vm_launch(&c, false, NULL, e)) {
		m = await_agent(&c, e);
		if (!m) {
			vm_stop_now(name);
			runtime_clear(name, CLEAR_MS);
		}
	}
	free(c.append);
	free(c.initrd);
	free(c.kernel);
	return m;
}

static int start_main(int argc, char **argv)
{
	struct start_args a = {.json = false};
	uint64_t begin = clock_ns();
	Vmb__AgentMessage *m;
	struct error e;

	if (parse_start(argc, argv, &a, &e))
		return cli_usage("hypervisor start: %s", e.text);
	m = hypervisor_launch(a.config.name, &a.config, &e);
	if (!m)
		return cli_acted(a.config.name, a.json, &e);
	print_hello(a.config.name, m->hello, clock_ns() - begin, a.json);
	vmb__agent_message__free_unpacked(m, NULL);
	return EXIT_OK;
}

Vmb__AgentMessage *hypervisor_health(const char *name, struct error *e)
{
	Vmb__AgentMessage question = VMB__AGENT_MESSAGE__INIT, *m;
	Vmb__Empty empty = VMB__EMPTY__INIT;

	question.kind_case = VMB__AGENT_MESSAGE__KIND_HEALTH_REQUEST;
	question.health_request = &empty;
	m = agent_ask(name, &question, HEALTH_MS, e);
	if (m && m->kind_case != VMB__AGENT_MESSAGE__KIND_HEALTH) {
		error_set(e, "the agent made no sense");
		vmb__agent_message__free_unpacked(m, NULL);
		m = NULL;
	}
	return m;
}

static void list_one(const char *name, const Vmb__InfoReply *i, json_t *array)
{
	struct error e;
	Vmb__AgentMessage *m = hypervisor_health(name, &e);
	json_t *guests = json_array();

	for (size_t k = 0; k < i->n_guests; k++)
		json_array_append_new(guests, json_string(i->guests[k]));
	if (array) {
		json_array_append_new(
			array, json_pack("{s:s, s:s, s:I, s:i, s:I, s:O}", "hypervisor", name, "state",
					 m ? "ready" : "silent", "memory_bytes",
					 (json_int_t)i->config->memory, "cpus", (int)i->config->cpus,
					 "window_bytes", (json_int_t)i->config->window, "guests", guests));
		if (m)
			json_object_set_new(json_array_get(array, json_array_size(array) - 1), "available_bytes",
					    json_integer((json_int_t)m->health->available));
	} else {
		printf("%-20s %-7s %6llu MiB  %6llu MiB  %3u  %6llu MiB  %6zu\n", name,
		       m ? "ready" : "silent", (unsigned long long)(i->config->memory / MIB),
		       (unsigned long long)(m ? m->health->available / MIB : 0), i->config->cpus,
		       (unsigned long long)(i->config->window / MIB), i->n_guests);
	}
	json_decref(guests);
	if (m)
		vmb__agent_message__free_unpacked(m, NULL);
}

static int hypervisor_list(int argc, char **argv)
{
	bool json = argc == 2 && !strcmp(argv[1], "--json");
	json_t *array = json ? json_array() : NULL;
	struct dirent **names;
	int n;

	if (argc > 2 || (argc == 2 && !json))
		return cli_usage("hypervisor list: only --json is expected");
	if (!json)
		printf("%-20s %-7s %10s  %10s  %3s  %10s  %6s\n", "NAME", "STATE", "MEMORY", "AVAILABLE",
		       "CPU", "WINDOW", "GUESTS");
	n = scandir(runtime_dir(), &names, NULL, alphasort);
	for (int i = 0; i < n; i++) {
		Vmb__Reply *reply;
		struct error e;

		if (names[i]->d_name[0] != '.' && !vm_info(names[i]->d_name, &reply, &e)) {
			if (reply->info->config->window)
				list_one(names[i]->d_name, reply->info, array);
			vmb__reply__free_unpacked(reply, NULL);
		}
		free(names[i]);
	}
	if (n >= 0)
		free(names);
	if (json)
		cli_print_json(array);
	return EXIT_OK;
}

/* For tests and demonstrations: it ages at once, does not let go of a guest that has left, or speaks noise (which is
 * all the answer to that). */
static int hypervisor_test(int argc, char **argv)
{
	Vmb__Empty empty = VMB__EMPTY__INIT;
	Vmb__AgentMessage question = VMB__AGENT_MESSAGE__INIT, *m;
	Vmb__AgeingRequest ageing = VMB__AGEING_REQUEST__INIT;
	uint64_t amount = 0, period = 1;
	struct error e;

	if (!strcmp(argv[0], "age") && (argc == 6 || (argc == 4 && !strcmp(argv[3], "none"))) &&
	    (argc == 4 || (!parse_size(argv[4], &amount, &e) && !parse_uint(argv[5], 1, 1000000000, &period, &e)))) {
		ageing.resource = argv[2];
		ageing.shape = argv[3];
		ageing.amount = (double)amount;
		ageing.period = (double)period;
		question.kind_case = VMB__AGENT_MESSAGE__KIND_AGEING_REQUEST;
		question.ageing_request = &ageing;
	} else if (argc == 2 && !strcmp(argv[0], "hostile")) {
		question.kind_case = VMB__AGENT_MESSAGE__KIND_HOSTILE_REQUEST;
		question.hostile_request = &empty;
	} else if (argc == 2 && !strcmp(argv[0], "noise")) {
		question.kind_case = VMB__AGENT_MESSAGE__KIND_NOISE_REQUEST;
		question.noise_request = &empty;
	} else if (argc == 3 && !strcmp(argv[0], "leak") && !parse_size(argv[2], &question.leak_request, &e)) {
		question.kind_case = VMB__AGENT_MESSAGE__KIND_LEAK_REQUEST;
	} else {
		return cli_usage("hypervisor %s: %s", argv[0],
				 strcmp(argv[0], "age") ? "a name, and a size of what leaks, are expected"
							: "NAME RESOURCE none|SHAPE AMOUNT SECONDS is expected");
	}
	/* Its memory comes page by page, while its guests run. */
	m = agent_ask(argv[1], &question, question.kind_case == VMB__AGENT_MESSAGE__KIND_LEAK_REQUEST ? LEAK_MS : HEALTH_MS, &e);
	if (!m)
		return cli_fail("%s: %s", argv[1], e.text);
	vmb__agent_message__free_unpacked(m, NULL);
	return EXIT_OK;
}

int hypervisor_main(int argc, char **argv)
{
	if (argc >= 2 && (!strcmp(argv[1], "leak") || !strcmp(argv[1], "hostile") || !strcmp(argv[1], "noise") ||
			  !strcmp(argv[1], "age")))
		return hypervisor_test(argc - 1, argv + 1);
	if (argc >= 2 && !strcmp(argv[1], "list"))
		return hypervisor_list(argc - 1, argv + 1);
	if (argc >= 2 && !strcmp(argv[1], "start"))
		return start_main(argc - 1, argv + 1);
	if (argc >= 2 && !strcmp(argv[1], "stop"))
		return stop_main(argc - 1, argv + 1);
	return cli_usage("hypervisor: start, stop, list or leak is expected");
}
