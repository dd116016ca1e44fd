/* qemu-move.c: moves a guest from a running QEMU to a fresh one, as an operator would by hand but without a shell's delays; bench/qemu.sh
 * and bench/inside.sh time it from outside.
 *
 *   qemu-move cpr QMP NEWQMP PATH -- QEMU ARGUMENTS...          by cpr-transfer (QEMU's docs/devel/migration/CPR.rst)
 *   qemu-move plain|tls QMP NEWQMP HOST:PORT -- QEMU ARGUMENTS...  by pre-copy with multifd; tls: with the objects tls-creds-x509 `client`
 *                                                               and `server` that both have
 *
 * QMP is the source's control socket; the command starts the destination (the same arguments, with its control socket NEWQMP), to which
 * -incoming is added: for cpr, two channels at PATH.main and PATH.cpr (sockets that do not exist yet).  Ends when the guest runs at the
 * destination and the source was told to quit, and prints as JSON what the source's query-migrate says: total_ns, downtime_ns,
 * bytes_sent.
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

enum { DEADLINE_S = 900, POLL_US = 1000, CHANNELS = 2 };

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

/* `first`, `second`: what it waits for; NULL: nothing more. */
static void destination_start(char **argv, int argc, const char *first, const char *second)
{
	char **a = xcalloc((size_t)argc + 5, sizeof(*a));

	memcpy(a, argv, (size_t)argc * sizeof(*a));
	a[argc] = xstrdup("-incoming");
	a[argc + 1] = xstrdup(first);
	if (second) {
		a[argc + 2] = xstrdup("-incoming");
		a[argc + 3] = xstrdup(second);
	}
	destination = vfork();
	if (!destination) {
		execvp(a[0], a);
		_exit(127);
	}
	if (destination < 0)
		err(1, "%s", a[0]);
}

/* Until the source's events say that it has completed. */
static void wait_until_completed(FILE *q)
{
	const char *status = "";

	while (strcmp(status, "completed") != 0) {
		json_t *event = qmp_read(q);

		if (!json_unpack(event, "{s:{s:s}}", "data", "status", &status) && !strcmp(status, "failed"))
			errx(1, "migration failed: %s", json_dumps(qmp(q, "{\"execute\":\"query-migrate\"}"), 0));
	}
}

static void enable(FILE *q, const char *capability, bool on)
{
	qmp(q, xasprintf("{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":"
			 "[{\"capability\":\"%s\",\"state\":%s}]}}", capability, on ? "true" : "false"));
}

static FILE *move_by_cpr(char **argv, const char *path, char **command, int argc)
{
	static const char channel[] = "{\"channel-type\":\"%s\",\"addr\":{\"transport\":\"socket\",\"type\":\"unix\",\"path\":\"%s.%s\"}}";
	char *to_main = xasprintf(channel, "main", path, "main"), *to_cpr = xasprintf(channel, "cpr", path, "cpr");
	char *at = xasprintf("%s.cpr", path);
	FILE *source;

	destination_start(command, argc, xasprintf("unix:%s.main", path), to_cpr);
	source = qmp_open(argv[2]);
	enable(source, "events", true);
	/* (It may have come here by a copy, and keeps what was set for that.) */
	enable(source, "multifd", false);
	enable(source, "auto-converge", false);
	qmp(source, "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"mode\":\"cpr-transfer\",\"tls-creds\":\"\"}}");
	while (!listening(at))
		pause_briefly("cpr channel");
	qmp(source, xasprintf("{\"execute\":\"migrate\",\"arguments\":{\"channels\":[%s,%s]}}", to_main, to_cpr));
	wait_until_completed(source);
	return source;
}

/* Its control socket takes one client at a time: ours goes before the end. */
static FILE *move_by_pre_copy(char **argv, const char *where, bool tls, char **command, int argc)
{
	FILE *both[2];

	destination_start(command, argc, "defer", NULL);
	both[0] = qmp_open(argv[2]);
	both[1] = qmp_open(argv[3]);
	for (int i = 0; i < 2; i++) {
		enable(both[i], "multifd", true);
		qmp(both[i], xasprintf("{\"execute\":\"migrate-set-parameters\",\"arguments\":{%s\"multifd-channels\":%d,"
				       "\"max-bandwidth\":100000000000}}",
				       !tls ? "\"tls-creds\":\"\"," : i ? "\"tls-creds\":\"server\"," : "\"tls-creds\":\"client\",\"tls-hostname\":\"localhost\",",
				       CHANNELS));
	}
	enable(both[0], "auto-converge", true);
	enable(both[0], "events", true);
	qmp(both[1], xasprintf("{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"tcp:%s\"}}", where));
	qmp(both[0], xasprintf("{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp:%s\"}}", where));
	wait_until_completed(both[0]);
	fclose(both[1]);
	return both[0];
}

int main(int argc, char **argv)
{
	json_int_t total = 0, downtime = 0, bytes = 0;
	int running = 0;
	FILE *source, *new;
	json_t *said;

	if (argc < 7 || strcmp(argv[5], "--") != 0)
		errx(2, "usage: qemu-move cpr|plain|tls QMP NEWQMP PATH|HOST:PORT -- QEMU ARGUMENTS...");
	deadline = clock_ns() + DEADLINE_S * 1000000000ull;
	source = !strcmp(argv[1], "cpr") ? move_by_cpr(argv, argv[4], argv + 6, argc - 6)
					 : move_by_pre_copy(argv, argv[4], !strcmp(argv[1], "tls"), argv + 6, argc - 6);
	said = qmp(source, "{\"execute\":\"query-migrate\"}");
	json_unpack(said, "{s:I,s:I}", "total-time", &total, "downtime", &downtime);
	json_unpack(said, "{s:{s:I}}", "ram", "transferred", &bytes);
	qmp(source, "{\"execute\":\"quit\"}");
	new = qmp_open(argv[3]);
	while (json_unpack(qmp(new, "{\"execute\":\"query-status\"}"), "{s:b}", "running", &running), !running)
		pause_briefly("guest at the destination");
	printf("{\n \"total_ns\": %lld,\n \"downtime_ns\": %lld,\n \"bytes_sent\": %lld\n}\n", total * 1000000, downtime * 1000000, bytes);
	return 0;
}
