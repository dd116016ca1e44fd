/* cli.c: what the commands share, those of other programs of ours, too: cli.h. */
#include "rejuv/cli.h"

#include "vmm/client.h"

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ANSWER_MS = 10000 };
/* Of the lock of a rejuvenation: WORK NAME LOCK. */
#define WORK ".work-"
#define LOCK ".lock"
#define REPLACING ".replacing-"

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

char *cli_program(const char *name)
{
	char self[PATH_MAX] = "";
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash = n > 0 ? strrchr(self, '/') : NULL;

	/* (Replaced on the disk while we run, it is called "... (deleted)", and its folder is the same.) */
	return slash ? xasprintf("%.*s/%s", (int)(slash - self), self, name) : xstrdup(name);
}

char *rejuvenation_lock_path(const char *hypervisor)
{
	return xasprintf("%s/" WORK "%s" LOCK, runtime_dir(), hypervisor);
}

/* Of the files PREFIX NAME SUFFIX of the runtime folder, the names. */
static json_t *names_between(const char *prefix, const char *suffix)
{
	json_t *names = json_object();
	struct dirent **files;
	int n = scandir(runtime_dir(), &files, NULL, NULL);

	for (int i = 0; i < n; i++) {
		char *file = files[i]->d_name;
		size_t len = strlen(file), begin = strlen(prefix), end = strlen(suffix);

		if (len > begin + end && !strncmp(file, prefix, begin) && !strcmp(file + len - end, suffix)) {
			file[len - end] = 0;
			json_object_set_new(names, file + begin, json_true());
		}
		free(files[i]);
	}
	if (n >= 0)
		free(files);
	return names;
}

json_t *rejuvenation_locks(void)
{
	return names_between(WORK, LOCK);
}

json_t *replacing_names(void)
{
	return names_between(REPLACING, "");
}

int rejuvenation_lock(const char *hypervisor, struct error *e)
{
	char *path = rejuvenation_lock_path(hypervisor);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0) {
		error_set_errno(e, "%s", path);
	} else if (flock(fd, LOCK_EX | LOCK_NB)) {
		error_set(e, "it is being rejuvenated already");
		close_fd(&fd);
	}
	free(path);
	return fd;
}

char *replacing_path(const char *hypervisor)
{
	return xasprintf("%s/" REPLACING "%s", runtime_dir(), hypervisor);
}

bool is_fresh_name(const char *name)
{
	size_t n = strlen(name), end = strlen(FRESH);

	return n > end && !strcmp(name + n - end, FRESH);
}

void strip_fresh(char *name)
{
	if (is_fresh_name(name))
		name[strlen(name) - strlen(FRESH)] = 0;
}

int check_new_name(const char *name, struct error *e)
{
	return is_fresh_name(name) ? error_set(e, "%s: names that end with " FRESH " are those of fresh hypervisors", name) : 0;
}

bool is_replacing(const char *hypervisor)
{
	char *path = replacing_path(hypervisor);
	bool is = !access(path, F_OK);

	free(path);
	return is;
}

const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

void cli_printable(char *text)
{
	for (char *p = text; *p; p++)
		if (*p < ' ' || *p > '~')
			*p = *p == '\t' ? ' ' : '?';
}

const char *state_dir(void)
{
	const char *dir = getenv("VMBEAM_STATE_DIR");

	return dir && dir[0] ? dir : "/var/lib/vmbeam";
}

const char *cli_state_name(Vmb__RunState s)
{
	switch (s) {
	case VMB__RUN_STATE__RUN_STATE_STARTING:
		return "starting";
	case VMB__RUN_STATE__RUN_STATE_RUNNING:
		return "running";
	case VMB__RUN_STATE__RUN_STATE_PAUSED:
		return "paused";
	case VMB__RUN_STATE__RUN_STATE_MOVING:
		return "moving";
	case VMB__RUN_STATE__RUN_STATE_CRASHED:
		return "crashed";
	default:
		return "unknown";
	}
}

void vm_identity(const char *name, char *text, size_t size)
{
	char *path = runtime_path(name, "lock");
	struct stat st;

	if (!stat(path, &st))
		snprintf(text, size, "%ld.%09ld.%lu", (long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec, (unsigned long)st.st_ino);
	else
		snprintf(text, size, "?");
	free(path);
}

const char *cli_placement(const char *placement)
{
	return placement[0] ? placement : "host";
}

int vm_info_within(const char *name, int ms, Vmb__Reply **reply, struct error *e)
{
	int fd = vmm_connect(name, e), r;

	if (fd < 0)
		return -1;
	r = vmm_simple_request(fd, VMB__REQUEST__KIND_INFO, reply, NULL, ms, e);
	close(fd);
	if (!r && ((*reply)->kind_case != VMB__REPLY__KIND_INFO || !(*reply)->info->config)) {
		vmb__reply__free_unpacked(*reply, NULL);
		return error_set(e, "its process made no sense");
	}
	/* They are asked for by those names. */
	for (size_t i = 0; !r && i < (*reply)->info->n_guests; i++)
		if (!vm_name_is_valid((*reply)->info->guests[i])) {
			vmb__reply__free_unpacked(*reply, NULL);
			return error_set(e, "its process made no sense");
		}
	/* It is printed, and written to files. */
	if (!r && (*reply)->info->config->placement[0] && !vm_name_is_valid((*reply)->info->config->placement)) {
		vmb__reply__free_unpacked(*reply, NULL);
		return error_set(e, "its process made no sense");
	}
	return r;
}

uint8_t *vm_recent(const char *name, size_t *len, struct error *e)
{
	Vmb__Reply *reply;
	uint8_t *text = NULL;
	int fd = vmm_connect(name, e), r;

	if (fd < 0)
		return NULL;
	r = vmm_simple_request(fd, VMB__REQUEST__KIND_RECENT, &reply, NULL, ANSWER_MS, e);
	close(fd);
	if (r)
		return NULL;
	if (reply->kind_case == VMB__REPLY__KIND_RECENT) {
		*len = reply->recent->text.len;
		text = xcalloc(1, *len + 1);
		memcpy(text, reply->recent->text.data, *len);
	} else {
		error_set(e, "its process made no sense");
	}
	vmb__reply__free_unpacked(reply, NULL);
	return text;
}

int vm_info(const char *name, Vmb__Reply **reply, struct error *e)
{
	return vm_info_within(name, ANSWER_MS, reply, e);
}
