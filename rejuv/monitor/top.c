/* top.c: `vmbeam top`: this machine's hypervisors and VMs, how busy they are, how they age; full-screen, sorted, redrawn.
 *
 * How busy they are is asked of their processes each time; what is thought of them is in the store.
 */
#include "rejuv/monitor/monitor.h"

#include "aging-monitor/collect.h"
#include "rejuv/cli.h"
#include "vmm/client.h"

#include <dirent.h>
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <ncurses.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ANSWER_MS = 500, MOST = 512 };

struct row {
	char name[64], placement[64];
	bool hypervisor, seen;
	double t, cpu_ns, delay_ns; /* of the time before; t 0: there was none */
	double cpu, steal;	    /* shares; NaN: not known */
	double memory, allocated;
	char state[16];
	/* of the store */
	char health[16], evidence[300];
	double slope, exhausted_in;
	char unit[16];
};

struct top {
	struct aging_store *store; /* NULL: there is none */
	struct row row[MOST];
	size_t n;
	int order; /* a key of `orders` */
	char host[400];
};

/* ---- what there is */

static struct row *row_of(struct top *t, const char *name)
{
	for (size_t i = 0; i < t->n; i++)
		if (!strcmp(t->row[i].name, name))
			return &t->row[i];
	if (t->n == MOST)
		return NULL;
	t->row[t->n] = (struct row){.cpu = NAN, .steal = NAN};
	snprintf(t->row[t->n].name, sizeof(t->row[t->n].name), "%.63s", name);
	return &t->row[t->n++];
}

static double sum(const uint64_t *v, size_t n)
{
	double all = 0;

	for (size_t i = 0; i < n; i++)
		all += (double)v[i];
	return all;
}

/* Of its vCPUs, wherever they run. */
static void take_cpu(struct row *r, const Vmb__InfoReply *info)
{
	double t = (double)clock_ns(), cpu = sum(info->cpu_ns, info->n_cpu_ns), delay = sum(info->delay_ns, info->n_delay_ns);
	double ran = cpu - r->cpu_ns, waited = delay - r->delay_ns;

	r->cpu = r->t > 0 && ran >= 0 && info->n_cpu_ns ? ran / (t - r->t) : NAN;
	r->steal = r->t > 0 && ran >= 0 && waited >= 0 && info->n_delay_ns ? (ran + waited > 0 ? waited / (ran + waited) : 0) : NAN;
	r->t = t;
	r->cpu_ns = cpu;
	r->delay_ns = delay;
}

static void ask(struct top *t, const char *name)
{
	Vmb__Reply *reply;
	struct error e;
	struct row *r;

	if (vm_info_within(name, ANSWER_MS, &reply, &e))
		return;
	r = row_of(t, name);
	if (r) {
		const Vmb__InfoReply *i = reply->info;

		r->seen = true;
		r->hypervisor = i->config->window;
		r->memory = (double)i->config->memory;
		r->allocated = (double)i->allocated;
		snprintf(r->placement, sizeof(r->placement), "%s", cli_placement(i->config->placement));
		snprintf(r->state, sizeof(r->state), "%s", cli_state_name(i->state));
		take_cpu(r, i);
	}
	vmb__reply__free_unpacked(reply, NULL);
}

static void take_verdict(void *ctx, const struct aging_stored *v)
{
	struct top *t = ctx;

	if (!strcmp(v->name, "host")) {
		snprintf(t->host, sizeof(t->host), "this machine: %s: %s", aging_state_name(v->state), v->evidence);
		return;
	}
	for (size_t i = 0; i < t->n; i++) {
		struct row *r = &t->row[i];

		if (strcmp(r->name, v->name))
			continue;
		snprintf(r->health, sizeof(r->health), "%s", aging_state_name(v->state));
		snprintf(r->evidence, sizeof(r->evidence), "%s", v->evidence);
		snprintf(r->unit, sizeof(r->unit), "%s", v->indicator ? aging_unit(v->indicator) : "");
		r->slope = v->slope;
		r->exhausted_in = v->exhausted_in;
	}
}

static void look(struct top *t)
{
	struct dirent **names;
	const char *error;
	struct error e;
	size_t n = 0;
	int found = scandir(runtime_dir(), &names, NULL, alphasort);

	for (size_t i = 0; i < t->n; i++) {
		t->row[i].seen = false;
		t->row[i].health[0] = t->row[i].evidence[0] = 0;
		t->row[i].slope = t->row[i].exhausted_in = NAN;
	}
	for (int i = 0; i < found; i++) {
		if (names[i]->d_name[0] != '.')
			ask(t, names[i]->d_name);
		free(names[i]);
	}
	if (found >= 0)
		free(names);
	for (size_t i = 0; i < t->n; i++)
		if (t->row[i].seen)
			t->row[n++] = t->row[i];
	t->n = n;
	t->host[0] = 0;
	if (!t->store)
		t->store = store_open(&e);
	if (t->store)
		aging_store_each_verdict(t->store, NULL, aging_store_now(t->store) - 3 * AGING_JUDGE_S, true, take_verdict, t, &error);
}

/* ---- in order */

static const struct {
	int key;
	const char *what;
} orders[] = {{'n', "name"}, {'c', "CPU"}, {'s', "steal"}, {'m', "memory"}, {'g', "growth"}, {'t', "time left"}};

static struct top *sorted; /* qsort() has no context */

/* What is not known comes last. */
static int by_number(double a, double b)
{
	if (isnan(a) || isnan(b))
		return isnan(a) - isnan(b);
	return (a < b) - (a > b);
}

static int compare(const void *a, const void *b)
{
	const struct row *x = a, *y = b;
	int r = 0;

	switch (sorted->order) {
	case 'c':
		r = by_number(x->cpu, y->cpu);
		break;
	case 's':
		r = by_number(x->steal, y->steal);
		break;
	case 'm':
		r = by_number(x->allocated, y->allocated);
		break;
	case 'g':
		r = by_number(x->slope, y->slope);
		break;
	case 't':
		r = by_number(-x->exhausted_in, -y->exhausted_in);
		break;
	default:
		break;
	}
	return r ? r : strcmp(x->name, y->name);
}

static void sort(struct top *t)
{
	sorted = t;
	qsort(t->row, t->n, sizeof(t->row[0]), compare);
}

/* ---- as text */

static void heading(char *line, size_t size)
{
	snprintf(line, size, "%-18s %-10s %-9s %-9s %7s %7s %20s %14s %9s", "NAME", "WHERE", "STATE", "HEALTH", "CPU", "STEAL", "MEMORY",
		 "GROWTH", "TIME LEFT");
}

static void row_text(const struct row *r, char *line, size_t size)
{
	char memory[80], growth[40] = "-", name[80];

	snprintf(memory, sizeof(memory), "%s of %s", human(r->allocated, "bytes"), human(r->memory, "bytes"));
	if (!isnan(r->slope))
		snprintf(growth, sizeof(growth), "%s/h", human(r->slope * 3600, r->unit));
	snprintf(name, sizeof(name), "%s%.60s", r->hypervisor ? "*" : " ", r->name);
	snprintf(line, size, "%-18.18s %-10.10s %-9s %-9s %7s %7s %20s %14s %9s", name, r->placement, r->state,
		 r->health[0] ? r->health : "-", human(r->cpu, "ratio"), human(r->steal, "ratio"), memory, growth,
		 isnan(r->exhausted_in) ? "-" : human_duration(r->exhausted_in));
}

static void print_text(struct top *t)
{
	char line[300];

	heading(line, sizeof(line));
	puts(line);
	for (size_t i = 0; i < t->n; i++) {
		row_text(&t->row[i], line, sizeof(line));
		puts(line);
	}
	if (t->host[0])
		puts(t->host);
	else
		log_line("warning: nobody records just now: 'vmbeam monitor --record'");
}

static void print_json(struct top *t)
{
	json_t *array = json_array();

	for (size_t i = 0; i < t->n; i++) {
		const struct row *r = &t->row[i];

		json_array_append_new(array, json_pack("{s:s, s:b, s:s, s:s, s:s?, s:o, s:o, s:o, s:o, s:o, s:o, s:s}", "name", r->name,
						       "hypervisor", r->hypervisor, "placement", r->placement, "state", r->state, "health",
						       r->health[0] ? r->health : NULL, "cpu", json_number(r->cpu), "steal", json_number(r->steal),
						       "memory_bytes", json_number(r->memory), "allocated_bytes", json_number(r->allocated),
						       "slope_per_s", json_number(r->slope), "exhausted_in_s", json_number(r->exhausted_in),
						       "evidence", r->evidence));
	}
	cli_print_json(array);
}

/* ---- on the screen */

static void draw(const struct top *t, size_t chosen)
{
	char line[300];

	erase();
	mvaddnstr(0, 0, t->host[0] ? t->host : "nobody records: 'vmbeam monitor --record' does", COLS);
	heading(line, sizeof(line));
	attron(A_REVERSE);
	mvhline(2, 0, ' ', COLS);
	mvaddnstr(2, 0, line, COLS);
	attroff(A_REVERSE);
	for (size_t i = 0; i < t->n && (int)i + 5 < LINES; i++) {
		row_text(&t->row[i], line, sizeof(line));
		if (i == chosen)
			attron(A_BOLD);
		mvaddnstr(3 + (int)i, 0, line, COLS);
		attroff(A_BOLD);
	}
	if (chosen < t->n && t->row[chosen].evidence[0])
		mvprintw(LINES - 2, 0, "%.60s: %.*s", t->row[chosen].name, COLS - 1, t->row[chosen].evidence);
	move(LINES - 1, 0);
	printw("* hypervisor   order:");
	for (size_t i = 0; i < ARRAY_LEN(orders); i++) {
		if (orders[i].key == t->order)
			attron(A_BOLD);
		printw(" %c %s", orders[i].key, orders[i].what);
		attroff(A_BOLD);
	}
	printw("   arrows choose   q leaves");
	refresh();
}

static void full_screen(struct top *t, int interval_ms)
{
	size_t chosen = 0;

	initscr();
	cbreak();
	noecho();
	keypad(stdscr, TRUE);
	curs_set(0);
	for (uint64_t next = 0;;) {
		uint64_t now = clock_ns();
		int key;

		if (now >= next) {
			look(t);
			next = clock_ns() + (uint64_t)interval_ms * 1000000;
		}
		sort(t);
		draw(t, chosen);
		now = clock_ns();
		timeout(next > now ? (int)((next - now) / 1000000) + 1 : 0);
		key = getch();
		if (key == 'q' || key == 'Q' || key == 27)
			break;
		if (key == KEY_DOWN && chosen + 1 < t->n)
			chosen++;
		if (key == KEY_UP && chosen > 0)
			chosen--;
		for (size_t i = 0; i < ARRAY_LEN(orders); i++)
			if (key == orders[i].key)
				t->order = key;
	}
	endwin();
}

int top_main(int argc, char **argv)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, 'j'}, {"interval", required_argument, NULL, 'i'}, {NULL, 0, NULL, 0}};
	static struct top t = {.order = 't'};
	uint64_t interval = 2;
	bool json = false;
	struct error e;
	int opt;

	opterr = 0;
	optind = 1;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) >= 0)
		if (opt == 'j')
			json = true;
		else if (opt != 'i' || parse_uint(optarg, 1, 60, &interval, &e))
			return cli_usage("top: unknown option or no number");
	if (optind < argc)
		return cli_usage("top: nothing more is expected");
	if (!json && isatty(STDOUT_FILENO) && isatty(STDIN_FILENO)) {
		full_screen(&t, (int)interval * 1000);
	} else { /* two looks: there is no load without a time between */
		look(&t);
		poll(NULL, 0, (int)interval * 1000);
		look(&t);
		sort(&t);
		(json ? print_json : print_text)(&t);
	}
	aging_store_close(t.store);
	return EXIT_OK;
}
