/* main.c: vmbeam-monitor, the program that `vmbeam` calls for `monitor`, `top` and `events`: monitor.h says why there is one. */
#include "rejuv/monitor/monitor.h"

#include "rejuv/cli.h"

#include <signal.h>
#include <string.h>

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(int argc, char **argv);
	} commands[] = {{"monitor", monitor_main}, {"top", top_main}, {"events", events_main}};

	signal(SIGPIPE, SIG_IGN);
	for (size_t i = 0; argc > 1 && i < ARRAY_LEN(commands); i++)
		if (!strcmp(argv[1], commands[i].name))
			return commands[i].run(argc - 1, argv + 1);
	return cli_usage("vmbeam-monitor is called by vmbeam");
}
