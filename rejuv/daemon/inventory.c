/* inventory.c: what hypervisors and VMs there are, by asking each: a process does, since one of them may hang.  daemon.h. */
#include "rejuv/daemon/daemon.h"

#include "rejuv/cli.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { EVERY_S = 5 };
#define TIMEOUT_S 120.0

struct inventory {
	struct daemon *d;
	struct child *child; /* that looks right now */
	int out;
	double next;
	bool again; /* what it sees may be old already */
	json_t *vms;
};

struct inventory *inventory_create(struct daemon *d)
{
	struct inventory *i = xcalloc(1, sizeof(*i));

	i->d = d;
	i->out = -1;
	return i;
}

void inventory_destroy(struct inventory *i)
{
	if (!i)
		return;
	if (i->child) {
		child_kill(i->child);
		child_forget(i->child);
	}
	close_fd(&i->out);
	json_decref(i->vms);
	free(i);
}

static void ended(void *ctx, int status, bool timed_out)
{
	struct inventory *i = ctx;
	json_t *j = status || timed_out ? NULL : read_json(i->out);

	i->child = NULL;
	close_fd(&i->out);
	i->next = boot_s() + (i->again ? 0 : EVERY_S);
	i->again = false;
	if (json_is_array(j)) {
		json_decref(i->vms);
		i->vms = json_incref(j);
		engine_inventory(i->d->engine);
	} else {
		event(i->d, NULL, "blind", "'vmbeam list' said nothing of use");
	}
	json_decref(j);
}

void inventory_tick(struct inventory *i)
{
	static char *argv[] = {(char *)(uintptr_t) "vmbeam", (char *)(uintptr_t) "list", (char *)(uintptr_t) "--json", NULL};
	struct child_options o = {.argv = argv, .in = -1, .err = -1, .keep = -1, .timeout = TIMEOUT_S, .ended = ended, .ctx = i};
	struct error e;

	if (i->child || boot_s() < i->next)
		return;
	i->out = o.out = memfd_create("inventory", MFD_CLOEXEC);
	i->child = i->out < 0 ? NULL : child_start(i->d->children, &o, &e);
	if (!i->child) {
		close_fd(&i->out);
		i->next = boot_s() + EVERY_S;
	}
}

void inventory_soon(struct inventory *i)
{
	i->next = 0;
	i->again = i->child != NULL;
}

const json_t *inventory_vms(const struct inventory *i)
{
	return i->vms;
}

const json_t *inventory_vm(const struct inventory *i, const char *name)
{
	json_t *vm;
	size_t k;

	json_array_foreach(i->vms, k, vm)
		if (!strcmp(text_of(vm, "vm"), name))
			return vm;
	return NULL;
}

bool is_hypervisor(const json_t *vm)
{
	return json_integer_value(json_object_get(vm, "window_bytes")) > 0;
}
