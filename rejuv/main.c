/* main.c: the vmbeam program: finds the command and calls it. */
#include "rejuv/cli.h"
#include "rejuv/client.h"
#include "nested/hypervisor.h"
#include "nested/lab.h"
#include "vmm/base.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *usage;
} commands[] = {
	{"run", run_main,
	 "run NAME --kernel F [--initrd F] [--append S] [--memory 512M] [--cpus N] [--disk F[,ro]]...\n"
	 "             [--net tap=IFNAME[,mac=M]]... [--serial stdio|FILE|socket] [--hugepages]\n"
	 "             [--in HYPERVISOR] [--module F]... [--virtio-console] [--debug-exit] [--paused] [--detach [--json]]"},
	{"list", list_main, "list [--json]"},
	{"info", info_main, "info NAME [--json]"},
	{"console", console_main, "console NAME [--hvc | --recent]     --recent: what it has said last, and no more"},
	{"pause", pause_main, "pause NAME [--json]"},
	{"resume", resume_main, "resume NAME [--force] [--json]    --force: without an answer of the machine that it may have gone to"},
	{"stop", stop_main, "stop NAME [--force] [--timeout S] [--json]"},
	{"shutdown", shutdown_main, "shutdown [--timeout 90] [--last NAME]... [--force NAME]... [--json]      all VMs, before the machine goes down"},
	{"balloon", balloon_main, "balloon NAME [--json] SIZE"},
	{"dump", dump_main, "dump NAME --out FILE [--json]"},
	{"migrate", migrate_main,
	 "migrate NAME --to fresh|host|HYPERVISOR [--mode auto|zero-copy|pre-copy] [--dry-run] [--no-warm] [--timeout S] [--json] | NAME --cancel\n"
	 "             | NAME --to tls://HOST:PORT --tls DIR [--connections N] [--downtime-limit MS] [--bandwidth B/S]\n"
	 "               [--mode auto|pre-copy|post-copy] [--timeout S] [--json]; tcp://HOST:PORT --insecure: not encrypted\n"
	 "             | NAME --resume [--json]: sends the rest after post-copy was interrupted"},
	{"receive", receive_main, "receive --listen ADDR:PORT --tls DIR|--insecure --allow DIR|tap=IFNAME..."},
	{"hypervisor", hypervisor_main,
	 "hypervisor start NAME [--memory 1G] [--cpus N] [--window SIZE] [--net tap=T]... [--json] | stop NAME [--force]\n"
	 "             | list [--json]\n"
	 "             | leak NAME SIZE | age NAME heap|slab|descriptors|threads|processes|disk|delay none|SHAPE AMOUNT SECONDS\n"
	 "               | hostile NAME | noise NAME: of hypervisors for tests ($VMBEAM_TEST=1 when they are started)\n"
	 "               SHAPE: leak (AMOUNT in each SECONDS), cache, cycle, step, burst"},
	{"rejuvenate", rejuvenate_main,
	 "rejuvenate HYPERVISOR [--method auto|beam|warm] [--parallel N] [--dry-run] [--no-warm] [--json]"},
	{"monitor", watch_main,
	 "monitor [NAME] [--since 2h|DATE] [--json]\n"
	 "             | NAME --plot FILE.svg|FILE.png [--indicator I] [--since ...]\n"
	 "             | --record [--listen ADDR:PORT] [--interval S] [--for S] [--max-size 512M]: watches, and keeps what it sees"},
	{"top", watch_main, "top [--interval S] [--json]"},
	{"events", watch_main, "events [NAME] [--since 2h|DATE] [--follow] [--json]"},
	{"certs", network_main, "certs DIR [NAME...] [--json]"},
	{"lab", lab_main, "lab [--memory 6G] [--cpus 2] [--machines 2] [--timeout S] [--emulate] [-- COMMAND...] | --where"},
	{"bench", bench_main, "bench [quick|all|P1...P10]... [--out DIR] [--systems beam,nest,...]"},
};

static void print_help(FILE *out)
{
	fputs("vmbeam keeps virtual machines running while the hypervisor under them is replaced.\n\n",
	      out);
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		fprintf(out, "  vmbeam %s\n", commands[i].usage);
}

/* Who is not root has the daemon do it, where there is one; it decides whether he may. */
static bool goes_to_daemon(const char *command)
{
	static const char *const own[] = {"lab", "bench", "receive", "console", "certs", "top", "shutdown"};

	for (size_t i = 0; i < ARRAY_LEN(own); i++)
		if (!strcmp(command, own[i]))
			return false;
	return geteuid() && daemon_is_there();
}

int main(int argc, char **argv)
{
	if (getpid() == 1 && !strcmp(argv[0], "/init"))
		agent_main();
	if (argc < 2) {
		print_help(stderr);
		return EXIT_USAGE;
	}
	if (!strcmp(argv[1], "help") || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		print_help(stdout);
		return EXIT_OK;
	}
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (!strcmp(argv[1], commands[i].name))
			return goes_to_daemon(argv[1]) ? daemon_command(argc - 1, argv + 1) : commands[i].run(argc - 1, argv + 1);
	return cli_usage("%s: no such command", argv[1]);
}
