/* config.c: reads vmbeamd's configuration: config.h.  The keys are in three tables. */
#include "rejuv/daemon/config.h"

#include "vmm/client.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_BYTES = 1 << 20 };

const char *const method_names[METHODS] = {"beam", "warm", "pre-copy"};

/* Sets `column` (from 0, in the value) with an error. */
typedef int set_fn(void *where, const char *value, size_t *column, struct error *e);

struct key {
	const char *name;
	set_fn *set;
	size_t offset; /* in the section's struct */
	bool again;    /* may be given more than once */
};

static const struct {
	const char *name;
	double s;
} units[] = {{"", 1}, {"s", 1}, {"m", 60}, {"min", 60}, {"h", 3600}, {"d", 86400}, {"w", 7 * 86400}};

int parse_duration(const char *text, double *s, struct error *e)
{
	char *end = NULL;
	double n = isdigit((unsigned char)*text) ? strtod(text, &end) : NAN;

	for (size_t i = 0; i < ARRAY_LEN(units) && end && isfinite(n); i++)
		if (!strcmp(end, units[i].name) && n * units[i].s < 1e10) {
			*s = n * units[i].s;
			return 0;
		}
	return error_set(e, "a time is expected: 90s, 10min, 6h or 2d");
}

/* ---- values */

static int set_text(void *where, const char *value, size_t *column, struct error *e)
{
	char **text = where;

	(void)column;
	(void)e;
	free(*text);
	*text = xstrdup(value);
	return 0;
}

static int set_path(void *where, const char *value, size_t *column, struct error *e)
{
	return value[0] == '/' ? set_text(where, value, column, e) : error_set(e, "a path from / on is expected");
}

static int set_allowed(void *where, const char *value, size_t *column, struct error *e)
{
	struct config *c = where;

	if (c->nallowed == CONFIG_WINDOWS)
		return error_set(e, "there are too many");
	if (!strncmp(value, "tap=", 4) && value[4])
		return set_text(&c->allowed[c->nallowed++], value, column, e);
	return set_path(&c->allowed[c->nallowed++], value, column, e);
}

/* ADDRESS:PORT; whether there is such an address only listening shows. */
static int set_address(void *where, const char *value, size_t *column, struct error *e)
{
	const char *colon = strrchr(value, ':');
	uint64_t port;

	if (!colon || parse_uint(colon + 1, 1, 65535, &port, e)) {
		*column = colon ? (size_t)(colon + 1 - value) : 0;
		return error_set(e, "ADDRESS:PORT is expected, with a port of 1 to 65535");
	}
	return set_text(where, value, column, e);
}

static int set_target(void *where, const char *value, size_t *column, struct error *e)
{
	return !strncmp(value, "tls://", 6) && strchr(value + 6, ':') ? set_text(where, value, column, e)
								       : error_set(e, "tls://HOST:PORT is expected");
}

static int set_duration(void *where, const char *value, size_t *column, struct error *e)
{
	(void)column;
	return parse_duration(value, where, e);
}

/* "500ms" too */
static int set_downtime(void *where, const char *value, size_t *column, struct error *e)
{
	double *s = where;
	size_t n = strlen(value);
	char *end;

	if (n > 2 && !strcmp(value + n - 2, "ms") && isdigit((unsigned char)*value)) {
		*s = strtod(value, &end) / 1000;
		return end == value + n - 2 ? 0 : error_set(e, "a time is expected: 500ms or 2s");
	}
	return set_duration(where, value, column, e);
}

static int set_count(void *where, const char *value, size_t *column, struct error *e)
{
	(void)column;
	return parse_uint(value, 1, 1000, where, e);
}

static int set_bool(void *where, const char *value, size_t *column, struct error *e)
{
	(void)column;
	if (strcmp(value, "yes") && strcmp(value, "no"))
		return error_set(e, "yes or no is expected");
	*(bool *)where = !strcmp(value, "yes");
	return 0;
}

static int set_schedule(void *where, const char *value, size_t *column, struct error *e)
{
	struct hypervisor_policy *p = where;

	if (schedule_parse(value, &p->schedule, column, e))
		return -1;
	return set_text(&p->schedule_text, value, column, e);
}

static int set_window(void *where, const char *value, size_t *column, struct error *e)
{
	struct hypervisor_policy *p = where;

	if (p->nwindows == CONFIG_WINDOWS)
		return error_set(e, "there are too many");
	return window_parse(value, &p->windows[p->nwindows++], column, e);
}

static int set_blackout(void *where, const char *value, size_t *column, struct error *e)
{
	struct hypervisor_policy *p = where;

	if (p->nblackouts == CONFIG_WINDOWS)
		return error_set(e, "there are too many");
	return blackout_parse(value, &p->blackouts[p->nblackouts++], column, e);
}

/* "memory_available < 64M" */
static int set_threshold(void *where, const char *value, size_t *column, struct error *e)
{
	struct hypervisor_policy *p = where;
	size_t n = strspn(value, "abcdefghijklmnopqrstuvwxyz_0123456789"), at = n + strspn(value + n, " \t");
	struct threshold *t = &p->thresholds[p->nthresholds];
	uint64_t bytes;
	char *end;

	if (p->nthresholds == CONFIG_THRESHOLDS)
		return error_set(e, "there are too many");
	if (!n || n >= sizeof(t->indicator))
		return error_set(e, "INDICATOR < VALUE or INDICATOR > VALUE is expected");
	*column = at;
	if (value[at] != '<' && value[at] != '>')
		return error_set(e, "< or > is expected");
	snprintf(t->indicator, sizeof(t->indicator), "%.*s", (int)n, value);
	t->above = value[at] == '>';
	at++;
	at += strspn(value + at, " \t");
	*column = at;
	if (!parse_size(value + at, &bytes, e)) {
		t->value = (double)bytes;
	} else {
		t->value = strtod(value + at, &end);
		if (end == value + at || *end || !isfinite(t->value))
			return error_set(e, "a number or a size is expected");
	}
	p->nthresholds++;
	return 0;
}

/* "beam, warm" */
static int set_methods(void *where, const char *value, size_t *column, struct error *e)
{
	struct hypervisor_policy *p = where;

	p->nmethods = 0;
	for (const char *at = value; *at;) {
		size_t n = strcspn(at, ", \t"), i;

		*column = (size_t)(at - value);
		for (i = 0; i < METHODS && (strlen(method_names[i]) != n || strncmp(at, method_names[i], n)); i++)
			;
		if (i == METHODS)
			return error_set(e, "beam, warm or pre-copy is expected");
		for (size_t k = 0; k < p->nmethods; k++)
			if (p->methods[k] == (enum method)i)
				return error_set(e, "%s is there already", method_names[i]);
		p->methods[p->nmethods++] = (enum method)i;
		at += n;
		at += strspn(at, ", \t");
	}
	return p->nmethods ? 0 : error_set(e, "beam, warm or pre-copy is expected");
}

/* The number of a word among three; -1: it is none of them. */
static int word_among(const char *const names[3], const char *value, struct error *e)
{
	for (int i = 0; i < 3; i++)
		if (!strcmp(value, names[i]))
			return i;
	return error_set(e, "%s, %s or %s is expected", names[0], names[1], names[2]);
}

static int set_move(void *where, const char *value, size_t *column, struct error *e)
{
	static const char *const names[] = {[MOVE_YES] = "yes", [MOVE_LAST] = "last", [MOVE_NEVER] = "never"};
	int i = word_among(names, value, e);

	(void)column;
	if (i >= 0)
		*(enum move_policy *)where = (enum move_policy)i;
	return i < 0 ? -1 : 0;
}

static int set_shutdown(void *where, const char *value, size_t *column, struct error *e)
{
	static const char *const names[] = {[SHUTDOWN_YES] = "yes", [SHUTDOWN_LAST] = "last", [SHUTDOWN_FORCE] = "force"};
	int i = word_among(names, value, e);

	(void)column;
	if (i >= 0)
		*(enum shutdown_policy *)where = (enum shutdown_policy)i;
	return i < 0 ? -1 : 0;
}

/* ---- keys */

#define OF(type, field) offsetof(struct type, field)
static const struct key daemon_keys[] = {{"socket", set_path, OF(config, socket), false},
					 {"group", set_text, OF(config, group), false},
					 {"metrics", set_address, OF(config, listen), false},
					 {"dashboard", set_address, OF(config, dashboard), false},
					 {"tls", set_path, OF(config, tls), false},
					 {"receive", set_address, OF(config, receive), false},
					 {"allow", set_allowed, 0, true},
					 {"monitor", set_bool, OF(config, monitor), false},
					 {"max-concurrent", set_count, OF(config, max_concurrent), false},
					 {"shutdown-timeout", set_duration, OF(config, shutdown_timeout), false},
					 {NULL, NULL, 0, false}};

static const struct key hypervisor_keys[] = {{"schedule", set_schedule, 0, false},
					     {"predict", set_duration, OF(hypervisor_policy, predict), false},
					     {"critical", set_bool, OF(hypervisor_policy, on_critical), false},
					     {"threshold", set_threshold, 0, true},
					     {"window", set_window, 0, true},
					     {"blackout", set_blackout, 0, true},
					     {"min-interval", set_duration, OF(hypervisor_policy, min_interval), false},
					     {"probation", set_duration, OF(hypervisor_policy, probation), false},
					     {"retry", set_duration, OF(hypervisor_policy, retry), false},
					     {"retry-most", set_duration, OF(hypervisor_policy, retry_most), false},
					     {"step-timeout", set_duration, OF(hypervisor_policy, step_timeout), false},
					     {"jitter", set_duration, OF(hypervisor_policy, jitter), false},
					     {"methods", set_methods, 0, false},
					     {"target", set_target, OF(hypervisor_policy, target), false},
					     {"dry-run", set_bool, OF(hypervisor_policy, dry_run), false},
					     {NULL, NULL, 0, false}};

static const struct key vm_keys[] = {{"move", set_move, OF(vm_policy, move), false},
				     {"post-copy", set_bool, OF(vm_policy, post_copy), false},
				     {"max-downtime", set_downtime, OF(vm_policy, max_downtime), false},
				     {"probe", set_text, OF(vm_policy, probe), false},
				     {"shutdown", set_shutdown, OF(vm_policy, shutdown), false},
				     {NULL, NULL, 0, false}};

/* ---- sections */

static struct hypervisor_policy *new_hypervisor(const char *name)
{
	struct hypervisor_policy *p = xcalloc(1, sizeof(*p));

	p->name = xstrdup(name);
	p->on_critical = true;
	p->min_interval = 3600;
	p->probation = 600;
	p->retry = 600;
	p->retry_most = 6 * 3600;
	p->step_timeout = 600;
	p->methods[0] = METHOD_BEAM;
	p->methods[1] = METHOD_WARM;
	p->nmethods = 2;
	return p;
}

static struct vm_policy *new_vm(const char *name)
{
	struct vm_policy *p = xcalloc(1, sizeof(*p));

	p->name = xstrdup(name);
	return p;
}

/* Where the parser is. */
struct parser {
	struct config *config;
	const char *name;
	unsigned int line;
	const struct key *keys; /* of the section; NULL before the first */
	void *section;
	uint32_t given; /* a bit for each of its keys */
	unsigned int begun; /* the section's line */
	struct error *e;
};

static int fail_at(struct parser *p, unsigned int line, size_t column, const char *what)
{
	return error_set(p->e, "%s:%u:%zu: %s", p->name, line, column + 1, what);
}

/* What only all of a section can show. */
static int check_section(struct parser *p)
{
	const struct hypervisor_policy *h = p->section;
	const struct vm_policy *v = p->section;

	if (p->keys == daemon_keys && p->config->receive && !p->config->tls)
		return fail_at(p, p->begun, 0, "receive needs tls, a folder of certificates");
	if (p->keys == vm_keys && !strcmp(v->name, "*") && v->shutdown != SHUTDOWN_YES)
		return fail_at(p, p->begun, 0, "shutdown is of a VM with a name");
	if (p->keys != hypervisor_keys)
		return 0;
	for (size_t i = 0; i < h->nmethods; i++)
		if (h->methods[i] == METHOD_PRE_COPY && !h->target)
			return fail_at(p, p->begun, 0, "method pre-copy needs a target");
	return 0;
}

/* What only all of it can show: certificates may be named last. */
static int check_all(struct parser *p)
{
	for (const struct hypervisor_policy *h = p->config->hypervisors; h && !p->config->tls; h = h->next)
		for (size_t i = 0; i < h->nmethods; i++)
			if (h->methods[i] == METHOD_PRE_COPY)
				return fail_at(p, h->line, 0, "method pre-copy needs tls, a folder of certificates, in [daemon]");
	return 0;
}

static bool is_known(const struct parser *p, bool hypervisor, const char *name)
{
	for (const struct hypervisor_policy *h = p->config->hypervisors; hypervisor && h; h = h->next)
		if (!strcmp(h->name, name))
			return true;
	for (const struct vm_policy *v = p->config->vms; !hypervisor && v; v = v->next)
		if (!strcmp(v->name, name))
			return true;
	return false;
}

/* "[hypervisor NAME]"; the line is ours to write in. */
static int begin_section(struct parser *p, char *line, size_t column)
{
	char *end = strchr(line, ']'), *kind = line + 1, *name;
	bool hypervisor;

	if (!end || end[1 + strspn(end + 1, " \t\r")])
		return fail_at(p, p->line, column + (end ? (size_t)(end - line) + 1 : strlen(line)), "] is expected at the end");
	*end = 0;
	if (check_section(p))
		return -1;
	p->given = 0;
	p->begun = p->line;
	name = kind + strcspn(kind, " \t");
	if (*name)
		*name++ = 0;
	name += strspn(name, " \t");
	hypervisor = !strcmp(kind, "hypervisor");
	if (!strcmp(kind, "daemon") && !*name) {
		p->keys = daemon_keys;
		p->section = p->config;
		return 0;
	}
	if (!hypervisor && strcmp(kind, "vm"))
		return fail_at(p, p->line, column + 1, "[daemon], [hypervisor NAME] or [vm NAME] is expected");
	if (strcmp(name, "*") && !vm_name_is_valid(name))
		return fail_at(p, p->line, column + (size_t)(name - line), "a name or * is expected");
	if (is_known(p, hypervisor, name))
		return fail_at(p, p->line, column + (size_t)(name - line), "it has a section already");
	if (hypervisor) {
		struct hypervisor_policy *h = new_hypervisor(name);

		h->line = p->begun;
		h->next = p->config->hypervisors;
		p->section = p->config->hypervisors = h;
		p->keys = hypervisor_keys;
	} else {
		struct vm_policy *v = new_vm(name);

		v->next = p->config->vms;
		p->section = p->config->vms = v;
		p->keys = vm_keys;
	}
	return 0;
}

static void trim(char *text)
{
	size_t n = strlen(text);

	while (n && isspace((unsigned char)text[n - 1]))
		text[--n] = 0;
}

static int set_key(struct parser *p, char *line, size_t column)
{
	size_t n = strcspn(line, "= \t"), at = n + strspn(line + n, " \t"), fault = 0;
	struct error why;
	char *value;

	if (!p->keys)
		return fail_at(p, p->line, column, "a section is expected first: [daemon], [hypervisor NAME] or [vm NAME]");
	if (line[at] != '=')
		return fail_at(p, p->line, column + at, "= is expected");
	at++;
	at += strspn(line + at, " \t");
	value = line + at;
	trim(value);
	line[n] = 0;
	for (size_t i = 0; p->keys[i].name; i++) {
		const struct key *k = &p->keys[i];

		if (strcmp(k->name, line))
			continue;
		if (p->given >> i & 1 && !k->again)
			return fail_at(p, p->line, column, "it has been given before");
		p->given |= 1u << i;
		if (!*value)
			return fail_at(p, p->line, column + at, "a value is expected");
		if (k->set((char *)p->section + k->offset, value, &fault, &why))
			return fail_at(p, p->line, column + at + fault, why.text);
		return 0;
	}
	return fail_at(p, p->line, column, "there is no such key");
}

static int parse_line(struct parser *p, char *line)
{
	size_t column = strspn(line, " \t\r");

	trim(line);
	if (!line[column] || line[column] == '#')
		return 0;
	for (size_t i = column; line[i]; i++)
		if (iscntrl((unsigned char)line[i]) && line[i] != '\t')
			return fail_at(p, p->line, i, "this is no text");
	return line[column] == '[' ? begin_section(p, line + column, column) : set_key(p, line + column, column);
}

struct config *config_parse(const char *text, const char *name, struct error *e)
{
	struct config *c = xcalloc(1, sizeof(*c));
	struct parser p = {.config = c, .name = name, .e = e};
	char *copy = xstrdup(text), *at = copy;
	int r = 0;

	c->socket = xasprintf("%s/vmbeamd.sock", runtime_dir());
	c->group = xstrdup("vmbeam");
	c->monitor = true;
	c->max_concurrent = 1;
	c->shutdown_timeout = 90;
	while (at && !r) {
		char *line = strsep(&at, "\n");

		p.line++;
		r = parse_line(&p, line);
	}
	if (!r)
		r = check_section(&p) || check_all(&p) ? -1 : 0;
	free(copy);
	if (!r)
		return c;
	config_destroy(c);
	return NULL;
}

struct config *config_read(const char *path, struct error *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *text = xcalloc(1, MOST_BYTES + 1);
	ssize_t n = fd < 0 ? -1 : pread_all(fd, text, MOST_BYTES + 1, 0);
	struct config *c = NULL;

	if (n < 0)
		error_set_errno(e, "%s", path);
	else if (n > MOST_BYTES)
		error_set(e, "%s: it is too large", path);
	else if (memchr(text, 0, (size_t)n))
		error_set(e, "%s: this is no text", path);
	else
		c = config_parse(text, path, e);
	close_fd(&fd);
	free(text);
	return c;
}

void config_destroy(struct config *c)
{
	if (!c)
		return;
	while (c->hypervisors) {
		struct hypervisor_policy *h = c->hypervisors;

		c->hypervisors = h->next;
		free(h->name);
		free(h->schedule_text);
		free(h->target);
		free(h);
	}
	while (c->vms) {
		struct vm_policy *v = c->vms;

		c->vms = v->next;
		free(v->name);
		free(v->probe);
		free(v);
	}
	free(c->socket);
	free(c->group);
	free(c->listen);
	free(c->dashboard);
	free(c->receive);
	for (size_t i = 0; i < c->nallowed; i++)
		free(c->allowed[i]);
	free(c->tls);
	free(c);
}

const struct hypervisor_policy *config_hypervisor(const struct config *c, const char *name)
{
	const struct hypervisor_policy *all = NULL;

	for (const struct hypervisor_policy *h = c->hypervisors; h; h = h->next) {
		if (!strcmp(h->name, name))
			return h;
		if (!strcmp(h->name, "*"))
			all = h;
	}
	return all;
}

const struct vm_policy *config_vm(const struct config *c, const char *name)
{
	static const struct vm_policy none;
	const struct vm_policy *all = &none;

	for (const struct vm_policy *v = c->vms; v; v = v->next) {
		if (!strcmp(v->name, name))
			return v;
		if (!strcmp(v->name, "*"))
			all = v;
	}
	return all;
}
