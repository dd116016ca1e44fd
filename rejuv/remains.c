/* remains.c: what is kept of a hypervisor that is retired, for whoever wants to know what it died of: steps.h. */
#include "rejuv/steps.h"

#include "rejuv/cli.h"
#include "vmm/client.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { KEPT = 20, LOG_MOST = 256 * 1024 };

static void keep_file(const char *dir, const char *file, const void *data, size_t len)
{
	char *path = xasprintf("%s/%s", dir, file);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0 || write_all(fd, data, len) < 0)
		log_line("%s: %s", path, strerror(errno));
	close_fd(&fd);
	free(path);
}

static void keep_console(const char *dir, const char *name)
{
	struct error e;
	size_t len;
	uint8_t *text = vm_recent(name, &len, &e);

	if (text)
		keep_file(dir, "console", text, len);
	free(text);
}

/* The end of a long one. */
static void keep_log(const char *dir, const char *name)
{
	char *path = runtime_path(name, "log"), *text = xcalloc(1, LOG_MOST);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	ssize_t n = -1;

	if (fd >= 0 && !fstat(fd, &st))
		n = pread_all(fd, text, LOG_MOST, MAX(st.st_size - LOG_MOST, 0));
	if (n >= 0)
		keep_file(dir, "log", text, (size_t)n);
	close_fd(&fd);
	free(path);
	free(text);
}

static void keep_info(const char *dir, const char *name)
{
	Vmb__Reply *reply;
	struct error e;
	json_t *j;
	char *text;

	if (vm_info(name, &reply, &e))
		return;
	j = vm_info_json(reply->info);
	text = json_dumps(j, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
	if (text)
		keep_file(dir, "info.json", text, strlen(text));
	free(text);
	json_decref(j);
	vmb__reply__free_unpacked(reply, NULL);
}

/* Names begin with the hypervisor's, and then sort by date. */
static const char *wanted;

static int is_of_it(const struct dirent *d)
{
	size_t n = strlen(wanted);

	return !strncmp(d->d_name, wanted, n) && d->d_name[n] == '@';
}

static void remove_oldest(const char *all, const char *name)
{
	static const char *const files[] = {"console", "log", "info.json"};
	struct dirent **dirs;
	int n;

	wanted = name;
	n = scandir(all, &dirs, is_of_it, alphasort);
	for (int i = 0; i < n; i++) {
		for (size_t k = 0; i < n - KEPT && k <= ARRAY_LEN(files); k++) {
			char *path = k < ARRAY_LEN(files) ? xasprintf("%s/%s/%s", all, dirs[i]->d_name, files[k])
							   : xasprintf("%s/%s", all, dirs[i]->d_name);

			if (k < ARRAY_LEN(files) ? unlink(path) : rmdir(path))
				log_line("%s: %s", path, strerror(errno));
			free(path);
		}
		free(dirs[i]);
	}
	if (n >= 0)
		free(dirs);
}

void remains_keep(const char *name)
{
	char *all = xasprintf("%s/retired", state_dir()), *dir, date[32];
	time_t now = time(NULL);
	struct tm tm;

	gmtime_r(&now, &tm);
	strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", &tm);
	dir = xasprintf("%s/%s@%s", all, name, date);
	mkdir(state_dir(), 0700);
	mkdir(all, 0700);
	if (mkdir(dir, 0700)) {
		log_line("%s: %s; nothing is kept of it", dir, strerror(errno));
	} else {
		keep_log(dir, name);
		keep_console(dir, name);
		keep_info(dir, name);
		remove_oldest(all, name);
	}
	free(dir);
	free(all);
}
