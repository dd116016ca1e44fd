/* config.c: vmbeamd's configuration, its schedules among it.  What is taken can be asked when it is due; what is not is told with a place. */
#include "rejuv/daemon/config.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

void fuzz_one(const uint8_t *data, size_t len)
{
	char *text = xcalloc(1, len + 1);
	struct error e = {""};
	struct config *c;
	unsigned int line, column;

	memcpy(text, data, len);
	c = config_parse(text, "f", &e);
	if (!c && sscanf(e.text, "f:%u:%u: ", &line, &column) != 2)
		abort();
	for (const struct hypervisor_policy *h = c ? c->hypervisors : NULL; h; h = h->next) {
		if (h->schedule_text && schedule_next(&h->schedule, 1795836293) <= 1795836293)
			abort();
		for (size_t i = 0; i < h->nwindows; i++)
			window_is_open(&h->windows[i], 1795836293);
		if (config_hypervisor(c, h->name) != h || !h->nmethods)
			abort();
	}
	config_destroy(c);
	free(text);
}

void fuzz_seeds(void)
{
	static const char *const seeds[] = {
		"[daemon]\nsocket = /run/x\ngroup = g\nmetrics = 127.0.0.1:9105\nmax-concurrent = 3\n",
		"[hypervisor *]\nschedule = */5 0-6,12 1,15 jan-mar mon-fri/2\nwindow = Sat,Sun 22:00-04:00\nblackout = 2026-12-24..2027-01-02\n",
		"[hypervisor a]\nmethods = beam, warm, pre-copy\ntarget = tls://h:1\nthreshold = memory_available < 64M\npredict = 6h\n",
		"[vm a]\nmove = last\npost-copy = yes\nmax-downtime = 250ms\nprobe = true\n"};

	for (size_t i = 0; i < ARRAY_LEN(seeds); i++)
		add_seed(seeds[i], strlen(seeds[i]));
}
