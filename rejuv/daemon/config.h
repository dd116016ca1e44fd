/* config.h: vmbeamd's configuration file (vmbeamd.conf(5)).
 *
 *   [daemon]              key = value; a line that begins with # is a comment
 *   [hypervisor NAME]     or *: of all that have no section of their own
 *   [vm NAME]             or *
 */
#ifndef REJUV_DAEMON_CONFIG_H
#define REJUV_DAEMON_CONFIG_H

#include "rejuv/daemon/schedule.h"

enum method { METHOD_BEAM, METHOD_WARM, METHOD_PRE_COPY };
enum { METHODS = 3 };
extern const char *const method_names[METHODS];

enum { CONFIG_WINDOWS = 16, CONFIG_THRESHOLDS = 16 };

struct threshold {
	char indicator[48]; /* of the ageing monitor */
	bool above;
	double value;
};

struct hypervisor_policy {
	struct hypervisor_policy *next;
	char *name;
	unsigned int line; /* where its section begins */
	char *schedule_text; /* NULL: none */
	struct schedule schedule;
	double predict; /* s: rejuvenate if it will be exhausted within; 0: no */
	bool on_critical;
	struct threshold thresholds[CONFIG_THRESHOLDS];
	size_t nthresholds;
	struct window windows[CONFIG_WINDOWS]; /* none: always */
	size_t nwindows;
	struct blackout blackouts[CONFIG_WINDOWS];
	size_t nblackouts;
	double min_interval; /* s: from the end of one to the beginning of the next */
	double probation;    /* s: if the new one turns bad so soon, it is replaced whatever min_interval says */
	double retry, retry_most; /* s: after a failure, and doubled with each up to */
	double step_timeout;	  /* s */
	double jitter;		  /* s: a schedule's time is so much later at most, another on each machine */
	enum method methods[METHODS];
	size_t nmethods;
	char *target; /* tls://HOST:PORT, for what cannot stay; NULL: none */
	bool dry_run;
};

enum move_policy { MOVE_YES, MOVE_LAST, MOVE_NEVER };

enum shutdown_policy { SHUTDOWN_YES, SHUTDOWN_LAST, SHUTDOWN_FORCE };

struct vm_policy {
	struct vm_policy *next;
	char *name;
	enum move_policy move;
	bool post_copy;	     /* it may run on the other machine before its memory is there */
	double max_downtime; /* s; 0: no limit */
	char *probe;	     /* a shell command; NULL: none */
	enum shutdown_policy shutdown; /* before the machine goes down */
};

struct config {
	char *socket, *group;
	char *dashboard; /* ADDRESS:PORT of the page for browsers; NULL: none */
	char *listen; /* the ageing monitor's /metrics; NULL: none */
	char *tls;    /* folder of certificates */
	char *receive; /* ADDRESS:PORT for VMs from other machines; NULL: none come */
	char *allowed[CONFIG_WINDOWS]; /* folders whose files these may open, "tap=IFNAME" */
	size_t nallowed;
	bool monitor;
	uint64_t max_concurrent;
	double shutdown_timeout; /* s, for those that go first, and again for the last */
	struct hypervisor_policy *hypervisors;
	struct vm_policy *vms;
};

/* NULL with *e: "FILE:LINE:COLUMN: what". */
struct config *config_read(const char *path, struct error *e);
/* The same of a text; `name` is what its errors begin with. */
struct config *config_parse(const char *text, const char *name, struct error *e);
void config_destroy(struct config *c);
/* What is said of that name, or of "*"; NULL: nothing. */
const struct hypervisor_policy *config_hypervisor(const struct config *c, const char *name);
/* Never NULL. */
const struct vm_policy *config_vm(const struct config *c, const char *name);

/* "90", "90s", "10min", "6h", "2d": seconds. */
int parse_duration(const char *text, double *s, struct error *e);

#endif
