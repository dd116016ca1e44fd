/* step.c: the processes that do the steps: subject.h. */
#include "rejuv/daemon/subject.h"

#include "vmm/client.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DEFAULT_TIMEOUT_S = 600 };

/* s, after which a step is ended */
static double timeout_of(const struct subject *s)
{
	const struct hypervisor_policy *p = policy_of(s);

	return p ? p->step_timeout : DEFAULT_TIMEOUT_S;
}

static char *output_path(const struct subject *s, int64_t step, const char *end)
{
	return xasprintf("%s/.work-%s.%lld.%s", runtime_dir(), s->name, (long long)step, end);
}

void step_remove_output(const struct subject *s, int64_t step)
{
	char *out = output_path(s, step, "out"), *err = output_path(s, step, "err");

	unlink(out);
	unlink(err);
	free(out);
	free(err);
}

json_t *current_guest(const struct subject *s)
{
	return json_array_get(s->guests, s->guest);
}

bool goes_far(const json_t *guest)
{
	return !strcmp(text_of(guest, "by"), method_names[METHOD_PRE_COPY]);
}

static void add(char **argv, size_t *n, const char *a, const char *b)
{
	argv[(*n)++] = (char *)(uintptr_t)a;
	if (b)
		argv[(*n)++] = (char *)(uintptr_t)b;
}

/* The command of the state's step. */
static void fill_command(const struct subject *s, char **argv, char text[32])
{
	const struct hypervisor_policy *p = policy_of(s);
	const json_t *guest = current_guest(s);
	const struct vm_policy *vm = config_vm(s->g->d->config, text_of(guest, "name"));
	bool at_guest = s->state == REJUV_MOVING || s->state == REJUV_VERIFYING;
	size_t n = 0;

	add(argv, &n, "vmbeam", NULL);
	if (s->state == REJUV_MOVING && goes_far(guest)) {
		add(argv, &n, "migrate", text_of(guest, "name"));
		add(argv, &n, "--to", p && p->target ? p->target : "");
		if (s->g->d->config->tls)
			add(argv, &n, "--tls", s->g->d->config->tls);
		add(argv, &n, "--mode", vm->post_copy ? "auto" : "pre-copy");
		if (vm->max_downtime > 0) {
			snprintf(text, 32, "%.0f", fmin(fmax(vm->max_downtime * 1000, 30), 100000));
			add(argv, &n, "--downtime-limit", text);
		}
	} else {
		add(argv, &n, "rejuvenate", s->name);
		add(argv, &n, "--step", rejuv_step(s->state));
		if (s->state == REJUV_PREPARING)
			add(argv, &n, "--method", p && s->method < p->nmethods && p->methods[s->method] == METHOD_BEAM ? "beam" : "auto");
		if (at_guest)
			add(argv, &n, "--guest", text_of(guest, "name"));
		if (s->state == REJUV_VERIFYING && vm->probe)
			add(argv, &n, "--probe", vm->probe);
		if (s->state == REJUV_RETIRING)
			add(argv, &n, "--identity", s->identity);
	}
	add(argv, &n, "--json", NULL);
	argv[n] = NULL;
}

static void step_ended(void *ctx, int status, bool timed_out);

void step_begin(struct subject *s)
{
	char *out = output_path(s, s->step, "out"), *err = output_path(s, s->step, "err"), *argv[24], text[32];
	struct child_options o = {.argv = argv, .in = -1, .out = -1, .err = -1, .timeout = timeout_of(s), .ended = step_ended, .ctx = s};
	struct error e;

	s->others = false;
	s->step_begun = boot_s();
	o.keep = rejuvenation_lock(s->name, NULL);
	if (o.keep < 0) {
		s->others = true; /* `vmbeam rejuvenate`, by hand: after it */
	} else {
		o.out = open(out, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		o.err = open(err, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		fill_command(s, argv, text);
		s->child = o.out < 0 || o.err < 0 ? NULL : child_start(s->g->d->children, &o, &e);
		if (!s->child) {
			set_text(&s->cannot, o.out < 0 || o.err < 0 ? strerror(errno) : e.text);
		} else if (ftruncate(o.keep, 0) || dprintf(o.keep, "%d\n", (int)child_pid(s->child)) < 0) {
			log_line("%s: %s", s->name, strerror(errno));
		}
	}
	close_fd(&o.keep);
	close_fd(&o.out);
	close_fd(&o.err);
	free(out);
	free(err);
	fault(s, ".begun");
}

/* What the step has said; NULL: nothing of use. */
static json_t *output_of(const struct subject *s)
{
	char *path = output_path(s, s->step, "out");
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	json_t *j = read_json(fd);

	close_fd(&fd);
	free(path);
	return j;
}

/* The first line of what it said on its standard error. */
static void first_line(const char *path, char *text, size_t size)
{
	read_text(path, text, size);
	text[strcspn(text, "\n")] = 0;
}

static void step_ended(void *ctx, int status, bool timed_out)
{
	struct subject *s = ctx;
	char *err = output_path(s, s->step, "err"), error[400];
	json_t *result = output_of(s);

	first_line(err, error, sizeof(error));
	if (timed_out)
		snprintf(error, sizeof(error), "it was not over in time");
	else if (!error[0] && WIFSIGNALED(status))
		snprintf(error, sizeof(error), "it was ended by signal %d", WTERMSIG(status));
	else if (!error[0])
		snprintf(error, sizeof(error), "it ended with status %d and said nothing", WEXITSTATUS(status));
	free(err);
	step_over(s, timed_out ? NULL : result, error);
	json_decref(result);
}

void step_look_after_others(struct subject *s)
{
	int lock = rejuvenation_lock(s->name, NULL);
	char *path, text[32];
	json_t *result;

	if (lock < 0) {
		if (boot_s() - s->step_begun < timeout_of(s))
			return;
		path = rejuvenation_lock_path(s->name);
		read_text(path, text, sizeof(text));
		if (atoi(text) > 1 && process_holds(atoi(text), path)) {
			event(s->g->d, s->name, "killed", "process %d was not over in time", atoi(text));
			kill(-atoi(text), SIGKILL);
		}
		free(path);
		s->step_begun = boot_s();
		return;
	}
	close(lock);
	s->others = false;
	result = output_of(s);
	if (result)
		step_over(s, result, "");
	else
		step_cut_off(s);
	json_decref(result);
}

void step_remove_lock(const struct subject *s)
{
	char *lock = rejuvenation_lock_path(s->name);

	unlink(lock);
	free(lock);
}
