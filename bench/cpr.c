/* cpr.c: moves a guest from a running QEMU to a fresh one by `cpr-transfer` (QEMU's
 * docs/devel/migration/CPR.rst), as an operator would by hand but without a shell's delays.  Called by
 * bench/round.sh, which times it from outside.
 *
 *   cpr QMP NEWQMP MAIN CPR -- QEMU ARGUMENTS...
 *
 * QMP is the source's control socket; the command starts the destination (the same arguments, with
 * its control socket NEWQMP), to which -incoming for the two channels MAIN and CPR (sockets that do
 * not exist yet) is added.  Ends when the guest runs at the destination and the source was told to
 * quit, and prints what the source's query-migrate says, in ms: "total downtime setup".
 */
#include "vmm/base.h"

#include <err.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DEADLINE_S = 120, POLL_US = 1000 };

static pid_t destination;
static uint64_t deadline;

/* Between two looks at something that has no event; ends us if it takes for ever. */
static void pause_briefly(const char *awaited)
{
	int status;

	if (waitpid(destination, &status, WNOHANG) == destination)
		errx(1, "the destination ended while waiting for %s", awaited);
	if (clock_ns() > deadline)
		errx(1, "no %s within %d s", awaited, DEADLINE_S);
	usleep(POLL_US);
}

static json_t *qmp_read(FILE *q)
{
	static char *line;
	static size_t size;
	json_t *j = NULL;

	if (getline(&line, &size, q) <= 0 || !(j = json_loads(line, 0, NULL)))
		errx(1, "QMP: the other side is gone or makes no sense");
	return j;
}

/* Sends a command; returns its "return" value.  Events that come before it are dropped. */
static json_t *qmp(FILE *q, const char *command)
{
	if (dprintf(fileno(q), "%s\n", command) < 0)
		err(1, "QMP: %s", command);
	for (;;) {
		json_t *j = qmp_read(q);

		if (json_object_get(j, "error"))
			errx(1, "QMP: %s: %s", command, json_dumps(j, 0));
		if (json_object_get(j, "return"))
			return json_object_get(j, "return");
	}
}

static FILE *qmp_open(const char *path)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	FILE *q;

	snprintf(to.sun_path, sizeof(to.sun_path), "%s", path);
	while (connect(fd, (struct sockaddr *)&to, sizeof(to)))
		pause_briefly(path);
	q = fdopen(fd, "r");
	if (!q)
		err(1, "%s", path);
	qmp_read(q); /* the greeting */
	qmp(q, "{\"execute\":\"qmp_capabilities\"}");
	return q;
}

/* Connecting to see whether somebody listens would use up the one connection it accepts. */
static bool listening(const char *path)
{
	FILE *f = fopen("/proc/net/unix", "re");
	char line[512];
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f))
		found = strstr(line, path) && strstr(line, " 00010000 ");
	if (f)
		fclose(f);
	return found;
}

static void destination_start(char **argv, int argc, const char *main_path, const char *cpr_path)
{
	char **a = xcalloc((size_t)argc + 5, sizeof(*a));

	memcpy(a, argv, (size_t)argc * sizeof(*a));
	a[argc] = a[argc + 2] = xstrdup("-incoming");
	a[argc + 1] = xasprintf("unix:%s", main_path);
	a[argc + 3] = xasprintf("{\"channel-type\":\"cpr\",\"addr\":{\"transport\":\"socket\","
				"\"type\":\"unix\",\"path\":\"%s\"}}", cpr_path);
	destination = vfork();
	if (!destination) {
		execvp(a[0], a);
		_exit(127);
	}
	if (destination < 0)
		err(1, "%s", a[0]);
}

static void migrate(FILE *q, const char *main_path, const char *cpr_path)
{
	static const char channel[] = "{\"channel-type\":\"%s\",\"addr\":{\"transport\":\"socket\","
				      "\"type\":\"unix\",\"path\":\"%s\"}}";
	char *a = xasprintf(channel, "main", main_path), *b = xasprintf(channel, "cpr", cpr_path);
	const char *status = "";

	qmp(q, xasprintf("{\"execute\":\"migrate\",\"arguments\":{\"channels\":[%s,%s]}}", a, b));
	while (strcmp(status, "completed")) {
		json_t *event = qmp_read(q);

		if (!json_unpack(event, "{s:{s:s}}", "data", "status", &status) &&
		    !strcmp(status, "failed"))
			errx(1, "migration failed: %s",
			     json_dumps(qmp(q, "{\"execute\":\"query-migrate\"}"), 0));
	}
}

int main(int argc, char **argv)
{
	int total = 0, downtime = 0, setup = 0, running = 0;
	FILE *source, *new;

	if (argc < 7 || strcmp(argv[5], "--"))
		errx(2, "usage: cpr QMP NEWQMP MAIN CPR -- QEMU ARGUMENTS...");
	deadline = clock_ns() + DEADLINE_S * 1000000000ull;
	destination_start(argv + 6, argc - 6, argv[3], argv[4]);
	source = qmp_open(argv[1]);
	qmp(source, "{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":"
		    "[{\"capability\":\"events\",\"state\":true}]}}");
	qmp(source, "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"mode\":\"cpr-transfer\"}}");
	while (!listening(argv[4]))
		pause_briefly("cpr channel");
	migrate(source, argv[3], argv[4]);
	json_unpack(qmp(source, "{\"execute\":\"query-migrate\"}"), "{s:i,s:i,s:i}", "total-time",
		    &total, "downtime", &downtime, "setup-time", &setup);
	qmp(source, "{\"execute\":\"quit\"}");
	new = qmp_open(argv[2]);
	while (json_unpack(qmp(new, "{\"execute\":\"query-status\"}"), "{s:b}", "running", &running),
	       !running)
		pause_briefly("guest at the destination");
	printf("%d %d %d\n", total, downtime, setup);
	return 0;
}
