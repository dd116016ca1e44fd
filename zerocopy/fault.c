/* fault.c: fault injection for the handover's tests; the contract is in fault.h. */
#include "zerocopy/fault.h"
#include "vmm/base.h"

#include <signal.h>
#include <string.h>

const char *const fault_points[] = {
	"driver.offered",	 "driver.prepared",	 "driver.warmed",
	"driver.going",		 "driver.done",		 "source.offered",
	"source.begun",		 "source.paused",	 "source.drained",
	"source.captured",	 "source.sealed",	 "source.sent",
	"destination.received",	 "destination.built",	 "destination.warmed",
	"destination.captured",	 "destination.restored", "destination.committed",
	"destination.started",
};
const size_t fault_points_count = ARRAY_LEN(fault_points);

static char armed[64];

void fault_arm(const char *fault)
{
	snprintf(armed, sizeof(armed), "%s", fault ? fault : "");
}

bool fault_point(const char *point)
{
	size_t len = strlen(point);
	const char *action = armed + len + 1;

	if (!armed[0] || strncmp(armed, point, len) || armed[len] != '=')
		return false;
	log_line("fault: %s", armed);
	if (!strcmp(action, "kill"))
		raise(SIGKILL);
	if (!strcmp(action, "hold"))
		raise(SIGSTOP);
	return !strcmp(action, "fail");
}
