/* main.c: vmbeam-migrate, the program that `vmbeam` calls for what goes over the network.  A program of its own:
 * OpenSSL is in no process that runs a VM.
 */
#include "migrate/session.h"
#include "migrate/tls.h"

#include <getopt.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE };

static int usage(const char *why)
{
	fprintf(stderr, "vmbeam: %s (see 'vmbeam help')\n", why);
	return EXIT_USAGE;
}

static int certs_main(int argc, char **argv)
{
	static const struct option options[] = {{"json", no_argument, NULL, 'j'}, {NULL, 0, NULL, 0}};
	bool json = false;
	const char *dir;
	struct error e;
	int opt, r;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (opt != 'j')
			return usage("certs: unknown option");
		json = true;
	}
	if (optind == argc)
		return usage("certs: a folder is expected");
	dir = argv[optind];
	r = certs_make(dir, argv + optind + 1, (size_t)(argc - optind - 1), &e);
	if (json) {
		json_t *j = json_pack("{s:s, s:s, s:s*}", "dir", dir, "outcome", r ? "failed" : "completed", "error",
				      r ? e.text : NULL);

		json_dumpf(j, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
		putchar('\n');
		json_decref(j);
	}
	if (r)
		fprintf(stderr, "vmbeam: certs: %s\n", e.text);
	return r ? EXIT_FAILED : EXIT_OK;
}

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_IGN); /* a connection whose other end has gone is an error like any other */
	if (argc > 1 && !strcmp(argv[1], "certs"))
		return certs_main(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "send"))
		return send_main(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "copy"))
		return copy_main(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "ask"))
		return ask_main(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "receive"))
		return incoming_main(argc - 1, argv + 1);
	return usage("vmbeam-migrate is called by vmbeam");
}
