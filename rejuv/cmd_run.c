/* cmd_run.c: `vmbeam run`: starts a VM and, unless detached, stays with its console. */
#include "rejuv/cli.h"
#include "rejuv/operations.h"
#include "vmm/client.h"
#include "vmm/vmm.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { START_TIMEOUT_MS = 60000, CLEAR_MS = 5000 };

struct run_options {
	Vmb__VmConfig config;
	Vmb__DiskConfig disks[VM_MAX_DISKS], *disk_ptrs[VM_MAX_DISKS];
	char *modules[VM_MAX_MODULES];
	bool detach, attach, paused, json;
	char *memory; /* of strings made here; freed at the end of the process */
};

/* The vmm process has another working directory soon: paths are made absolute here. */
static char *absolute(const char *path)
{
	char *full = realpath(path, NULL);

	return full ? full : xstrdup(path);
}

static int add_disk(struct run_options *o, const char *arg, struct error *e)
{
	char *path = xstrdup(arg), *comma = strrchr(path, ',');
	Vmb__DiskConfig *d;

	if (o->config.n_disks == VM_MAX_DISKS)
		return error_set(e, "--disk: at most %d", VM_MAX_DISKS);
	d = &o->disks[o->config.n_disks];
	vmb__disk_config__init(d);
	if (comma && !strcmp(comma, ",ro")) {
		d->read_only = true;
		*comma = 0;
	}
	d->path = absolute(path);
	o->disk_ptrs[o->config.n_disks++] = d;
	free(path);
	return 0;
}

static int parse_mac(const char *s, uint8_t mac[6])
{
	unsigned int v[6];
	char end;

	if (sscanf(s, "%2x:%2x:%2x:%2x:%2x:%2x%c", &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &end) != 6)
		return -1;
	for (int i = 0; i < 6; i++)
		mac[i] = (uint8_t)v[i];
	return mac[0] & 1 ? -1 : 0; /* not a group address */
}

/* A locally administered address that is the same for the same VM and interface every time. */
static void default_mac(const char *name, size_t index, uint8_t mac[6])
{
	uint32_t h = 2166136261u + (uint32_t)index;

	for (; *name; name++)
		h = (h ^ (uint8_t)*name) * 16777619u;
	memcpy(mac, (uint8_t[]){0x52, 0x54, 0, (uint8_t)(h >> 16), (uint8_t)(h >> 8), (uint8_t)h}, 6);
}

int cli_add_net(Vmb__VmConfig *c, const char *arg, struct error *e)
{
	char *copy = xstrdup(arg), *save = NULL;
	uint8_t *mac = xcalloc(1, 6);
	Vmb__NetConfig *n = xcalloc(1, sizeof(*n));
	bool have_mac = false;

	if (c->n_nets == VM_MAX_NETS)
		return error_set(e, "--net: at most %d", VM_MAX_NETS);
	vmb__net_config__init(n);
	for (char *part = strtok_r(copy, ",", &save); part; part = strtok_r(NULL, ",", &save)) {
		if (!strncmp(part, "tap=", 4))
			n->tap = xstrdup(part + 4);
		else if (!strncmp(part, "mac=", 4) && !parse_mac(part + 4, mac))
			have_mac = true;
		else
			return error_set(e, "--net %s: tap=IFNAME[,mac=M] is expected", arg);
	}
	if (!n->tap[0])
		return error_set(e, "--net %s: tap=IFNAME is missing", arg);
	if (!have_mac)
		default_mac(c->name, c->n_nets, mac);
	n->mac.data = mac;
	n->mac.len = 6;
	c->nets = xrealloc(c->nets, (c->n_nets + 1) * sizeof(*c->nets));
	c->nets[c->n_nets++] = n;
	free(copy);
	return 0;
}

static int set_serial(struct run_options *o, const char *arg)
{
	o->attach = !strcmp(arg, "stdio");
	if (o->attach || !strcmp(arg, "socket"))
		return 0;
	o->config.serial = VMB__SERIAL_KIND__SERIAL_FILE;
	/* It need not exist yet. */
	o->config.serial_file = arg[0] == '/' ? xstrdup(arg) : NULL;
	if (!o->config.serial_file) {
		char cwd[PATH_MAX];

		if (!getcwd(cwd, sizeof(cwd)))
			return -1;
		o->config.serial_file = xasprintf("%s/%s", cwd, arg);
	}
	return 0;
}

enum { OPT_KERNEL = 256, OPT_INITRD, OPT_APPEND, OPT_MEMORY, OPT_CPUS, OPT_DISK, OPT_NET,
       OPT_SERIAL, OPT_HUGEPAGES, OPT_DETACH, OPT_MODULE, OPT_DEBUG_EXIT, OPT_PAUSED, OPT_JSON, OPT_IN,
       OPT_VIRTIO_CONSOLE };

static const struct option options[] = {
	{"kernel", required_argument, NULL, OPT_KERNEL},
	{"initrd", required_argument, NULL, OPT_INITRD},
	{"append", required_argument, NULL, OPT_APPEND},
	{"memory", required_argument, NULL, OPT_MEMORY},
	{"cpus", required_argument, NULL, OPT_CPUS},
	{"disk", required_argument, NULL, OPT_DISK},
	{"net", required_argument, NULL, OPT_NET},
	{"serial", required_argument, NULL, OPT_SERIAL},
	{"hugepages", no_argument, NULL, OPT_HUGEPAGES},
	{"detach", no_argument, NULL, OPT_DETACH},
	{"module", required_argument, NULL, OPT_MODULE},
	{"debug-exit", no_argument, NULL, OPT_DEBUG_EXIT},
	{"paused", no_argument, NULL, OPT_PAUSED},
	{"json", no_argument, NULL, OPT_JSON},
	{"virtio-console", no_argument, NULL, OPT_VIRTIO_CONSOLE},
	{"in", required_argument, NULL, OPT_IN},
	{NULL, 0, NULL, 0},
};

static int parse_option(struct run_options *o, int opt, char *arg, struct error *e)
{
	uint64_t n;

	switch (opt) {
	case OPT_KERNEL:
		o->config.kernel = absolute(arg);
		return 0;
	case OPT_INITRD:
		o->config.initrd = absolute(arg);
		return 0;
	case OPT_APPEND:
		o->config.append = arg;
		return 0;
	case OPT_MEMORY:
		if (parse_size(arg, &n, e))
			return -1;
		o->config.memory = n;
		return 0;
	case OPT_CPUS:
		if (parse_uint(arg, 1, 64, &n, e))
			return -1;
		o->config.cpus = (uint32_t)n;
		return 0;
	case OPT_DISK:
		return add_disk(o, arg, e);
	case OPT_NET:
		return cli_add_net(&o->config, arg, e);
	case OPT_SERIAL:
		return set_serial(o, arg);
	case OPT_HUGEPAGES:
		o->config.hugepages = true;
		return 0;
	case OPT_DETACH:
		o->detach = true;
		return 0;
	case OPT_MODULE:
		if (o->config.n_modules == VM_MAX_MODULES)
			return error_set(e, "--module: at most %d", VM_MAX_MODULES);
		o->modules[o->config.n_modules++] = arg;
		return 0;
	case OPT_DEBUG_EXIT:
		o->config.debug_exit = true;
		return 0;
	case OPT_JSON:
		o->json = true;
		return 0;
	case OPT_PAUSED:
		o->paused = true;
		return 0;
	case OPT_VIRTIO_CONSOLE:
		o->config.virtio_console = true;
		return 0;
	case OPT_IN:
		o->config.placement = arg;
		return 0;
	default:
		return error_set(e, "unknown option or missing value");
	}
}

static int parse(struct run_options *o, int argc, char **argv, struct error *e)
{
	int opt;

	vmb__vm_config__init(&o->config);
	o->config.memory = 512 * MIB;
	o->config.cpus = 1;
	o->config.rng = true;
	o->config.balloon = true;
	o->config.disks = o->disk_ptrs;
	o->config.modules = o->modules;
	o->attach = true;
	if (argc < 2 || argv[1][0] == '-')
		return error_set(e, "the VM's name is missing");
	o->config.name = argv[1];
	opterr = 0;
	optind = 2;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) >= 0)
		if (parse_option(o, opt, optarg, e))
			return -1;
	if (optind < argc)
		return error_set(e, "%s: unexpected", argv[optind]);
	return check_new_name(o->config.name, e) || vm_config_validate(&o->config, e) ? -1 : 0;
}

int vm_launch(Vmb__VmConfig *config, bool keep_paused, int *console, struct error *e)
{
	Vmb__Request r = VMB__REQUEST__INIT;
	Vmb__CreateRequest create = VMB__CREATE_REQUEST__INIT;
	int pair[2] = {-1, -1}, link, result;
	pid_t pid;

	if (console && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return error_set_errno(e, "socketpair");
	create.config = config;
	create.keep_paused = keep_paused;
	r.kind_case = VMB__REQUEST__KIND_CREATE;
	r.create = &create;
	pid = vmm_spawn(vmm_process, &link, e);
	if (pid < 0) {
		close_fd(&pair[0]);
		close_fd(&pair[1]);
		return -1;
	}
	result = vmm_request(link, &r, &pair[1], console != NULL, NULL, NULL, START_TIMEOUT_MS, e);
	close(link);
	close_fd(&pair[1]);
	if (result) {
		close_fd(&pair[0]);
		/* In its sandbox already, perhaps, where it cannot remove what it has made. */
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		runtime_clear(config->name, 0);
	}
	if (console)
		*console = pair[0];
	return result;
}

void vm_stop_now(const char *name)
{
	Vmb__Request r = VMB__REQUEST__INIT;
	Vmb__StopRequest stop = VMB__STOP_REQUEST__INIT;
	struct error e;
	int fd = vmm_connect(name, &e);

	if (fd < 0)
		return;
	stop.force = true;
	r.kind_case = VMB__REQUEST__KIND_STOP;
	r.stop = &stop;
	vmm_request(fd, &r, NULL, 0, NULL, NULL, 5000, &e);
	close(fd);
}

int run_main(int argc, char **argv)
{
	static struct run_options o;
	struct error e = {""};
	int console = -1, status;
	bool crashed = false;
	uint64_t begin;

	if (parse(&o, argc, argv, &e))
		return cli_usage("run: %s", e.text);
	begin = clock_ns();
	if (memory_admit(&o.config, &e) ||
	    vm_launch(&o.config, o.paused, o.attach && !o.detach ? &console : NULL, &e)) {
		cli_acted(o.config.name, o.json, &e);
		return o.config.debug_exit ? EXIT_RUN_FAILED : EXIT_FAILED;
	}
	operation_note(OPERATION_CREATE, o.config.placement, clock_ns() - begin);
	if (o.detach)
		return cli_acted(o.config.name, o.json, NULL);
	status = attach_until_end(o.config.name, console, &crashed);
	if (crashed)
		return o.config.debug_exit ? EXIT_RUN_FAILED : EXIT_FAILED;
	if (status < 0) { /* interrupted: what was started in the foreground ends with it */
		vm_stop_now(o.config.name);
		status = 130;
	}
	if (!runtime_clear(o.config.name, CLEAR_MS) && status == 130)
		return cli_fail("%s: could not be stopped and runs on", o.config.name);
	return status;
}
