/* events.c: what has happened: daemon.h. */
#include "rejuv/daemon/daemon.h"

#include "rejuv/cli.h"

#include <stdlib.h>
#include <string.h>

enum { KEPT = 1000 };

struct one {
	int64_t id;
	time_t clock;
	char *name, *kind, *text;
};

struct events {
	struct daemon *d;
	struct one kept[KEPT]; /* number id at id % KEPT */
	int64_t last;
};

struct events *events_create(struct daemon *d)
{
	struct events *e = xcalloc(1, sizeof(*e));

	e->d = d;
	return e;
}

static void clear(struct one *o)
{
	free(o->name);
	free(o->kind);
	free(o->text);
	memset(o, 0, sizeof(*o));
}

void events_destroy(struct events *e)
{
	for (size_t i = 0; e && i < KEPT; i++)
		clear(&e->kept[i]);
	free(e);
}

void event(struct daemon *d, const char *name, const char *kind, const char *fmt, ...)
{
	struct events *e = d->events;
	char text[600];
	struct one *o;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	cli_printable(text); /* some of it is what others have said */
	o = &e->kept[++e->last % KEPT];
	clear(o);
	o->id = e->last;
	o->clock = time(NULL);
	o->name = xstrdup(name ? name : "");
	o->kind = xstrdup(kind);
	o->text = xstrdup(text);
	printf("%-20s %-12s %s\n", name ? name : "vmbeamd", kind, text);
	if (d->feed)
		feed_event(d->feed, name ? name : "vmbeamd", kind, text);
	if (d->api)
		api_event(d->api);
}

int64_t events_last(const struct events *e)
{
	return e->last;
}

json_t *events_after(const struct events *e, int64_t after)
{
	json_t *array = json_array();

	for (int64_t id = MAX(after + 1, e->last - KEPT + 1); id <= e->last; id++) {
		const struct one *o = &e->kept[id % KEPT];

		if (o->id == id)
			json_array_append_new(array, json_pack("{s:I, s:I, s:s, s:s, s:s}", "id", (json_int_t)id, "clock_s",
							       (json_int_t)o->clock, "name", o->name, "kind", o->kind, "text", o->text));
	}
	return array;
}
