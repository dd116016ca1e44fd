/* main.c: the vmbeam program: finds the command and calls it. */
#include "rejuv/cli.h"
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
	{"console", console_main, "console NAME [--hvc]"},
	{"pause", pause_main, "pause NAME [--json]"},
	{"resume", resume_main, "resume NAME [--force] [--json]    --force: without an answer of the machine that it may have gone to"},
	{"stop", stop_main, "stop NAME [--force] [--timeout S] [--json]"},
	{"balloon", balloon_main, "balloon NAME [--json] SIZE"},
	{"dump", dump_main, "dump NAME --out FILE [--json]"},
	{"migrate", migrate_main,
	 "migrate NAME --to fresh|host|HYPERVISOR [--mode auto|zero-copy|pre-copy] [--dry-run] [--no-warm] [--timeout S] [--json] | NAME --cancel\n"
	 "             | NAME --to tls://HOST:PORT --tls DIR [--connections N] [--downtime-limit MS] [--bandwidth B/S]\n"
	 "               [--mode auto|pre-copy|post-copy] [--timeout S] [--json]; tcp://HOST:PORT --insecure: not encrypted\n"
	 "             | NAME --resume [--json]: sends the rest after post-copy was interrupted"},
	{"receive", receive_main, "receive --listen ADDR:PORT --tls DIR|--insecure [--allow DIR]..."},
	{"hypervisor", hypervisor_main,
	 "hypervisor start NAME [--memory 1G] [--cpus N] [--window SIZE] [--net tap=T]... [--json] | stop NAME [--force]\n"
	 "             | list [--json] | leak NAME SIZE | hostile NAME | noise NAME (for tests)"},
	{"rejuvenate", rejuvenate_main,
	 "rejuvenate HYPERVISOR [--method auto|beam|warm] [--parallel N] [--dry-run] [--no-warm] [--json]"},
	{"monitor", monitor_main, "monitor [NAME] [--interval S] [--for S] [--json]"},
	{"certs", network_main, "certs DIR [NAME...] [--json]"},
	{"lab", lab_main, "lab [--memory 6G] [--cpus 2] [--machines 2] [--timeout S] [--emulate] [-- COMMAND...]"},
};

int cli_fail(const char *fmt, ...)
{
	va_list ap;

	fputs("vmbeam: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return EXIT_FAILED;
}

int cli_usage(const char *fmt, ...)
{
	va_list ap;

	fputs("vmbeam: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputs(" (see 'vmbeam help')\n", stderr);
	return EXIT_USAGE;
}

void cli_print_json(json_t *j)
{
	json_dumpf(j, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
	putchar('\n');
	json_decref(j);
}

int cli_acted(const char *vm, bool json, const struct error *e)
{
	if (json)
		cli_print_json(json_pack("{s:s, s:s, s:s*}", "vm", vm, "outcome",
					 e ? "failed" : "completed", "error", e ? e->text : NULL));
	return e ? cli_fail("%s: %s", vm, e->text) : EXIT_OK;
}

static void print_help(FILE *out)
{
	fputs("vmbeam keeps virtual machines running while the hypervisor under them is replaced.\n\n",
	      out);
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		fprintf(out, "  vmbeam %s\n", commands[i].usage);
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
			return commands[i].run(argc - 1, argv + 1);
	return cli_usage("%s: no such command", argv[1]);
}
