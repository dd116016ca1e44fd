/* cli.h: the commands of the vmbeam program; each gets argv with argv[0] its own name. */
#ifndef REJUV_CLI_H
#define REJUV_CLI_H

#include "proto/vmbeam.pb-c.h"

#include <stdbool.h>

/* Exit statuses of the command line (DESIGN: 0 only on success). */
enum {
	EXIT_OK = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	/* `run --debug-exit` reports the guest's own odd codes; its own failures must not look so. */
	EXIT_RUN_FAILED = 4,
};

/* "vmbeam: what: why" on stderr; returns EXIT_FAILED. */
int cli_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The same for a wrong call; returns EXIT_USAGE. */
int cli_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

struct error;
/* The path of a program of ours, beside this one; the caller's to free. */
char *cli_program(const char *name);
/* A hypervisor that is to take the place of NAME is called NAME.new until then.  Is it called so? */
#define FRESH ".new"
bool is_fresh_name(const char *name);
/* NAME.new becomes NAME, in its place; another name stays. */
void strip_fresh(char *name);
/* A user may not call one so. */
int check_new_name(const char *name, struct error *e);
/* Who is at a rejuvenation of that hypervisor holds it, and so does who does a step for him: a descriptor, or -1 with *e set. */
int rejuvenation_lock(const char *hypervisor, struct error *e);
/* The note of a rejuvenation in place that is under way (warm.c); the caller's to free. */
char *replacing_path(const char *hypervisor);
/* Is there one, or has it been cut off?  Then its guests may be held, and that is gone on with before anything else. */
bool is_replacing(const char *hypervisor);
/* Of the lock above; the caller's to free. */
char *rejuvenation_lock_path(const char *hypervisor);
/* Objects, the caller's, whose keys are the names of hypervisors that have such a lock, whoever may hold it, or such a note. */
struct json_t *rejuvenation_locks(void);
struct json_t *replacing_names(void);
/* What others have said, made fit for a line, JSON and a terminal: all but printable ASCII becomes '?'. */
void cli_printable(char *text);
/* What is kept over a reboot: $VMBEAM_STATE_DIR or /var/lib/vmbeam. */
const char *state_dir(void);

/* Prints the object on stdout and drops the reference. */
struct json_t;
void cli_print_json(struct json_t *j);
/* How a command that acts on a VM has ended (e NULL: well), in words or as JSON; returns its status. */
int cli_acted(const char *vm, bool json, const struct error *e);

/* Asks a VM's process about it: 0 and *reply (its info is there), or -1 with *e set. */
int vm_info(const char *name, Vmb__Reply **reply, struct error *e);
int vm_info_within(const char *name, int ms, Vmb__Reply **reply, struct error *e);
const char *cli_state_name(Vmb__RunState s);
/* Who a VM is for as long as it lives, whatever its name: its lock is made with it, and stays when its process or its name is replaced
 * by another.  "?" of one that is not there. */
void vm_identity(const char *name, char *text, size_t size);
enum { VM_IDENTITY = 64 };
/* Text of an object; "" if there is none. */
const char *text_of(const struct json_t *object, const char *key);
/* A placement (VmConfig) as users know it. */
const char *cli_placement(const char *placement);

/* What `info --json` prints. */
struct json_t *vm_info_json(const Vmb__InfoReply *i);
/* The last of what its serial port has said; the caller's to free.  NULL with *e set. */
uint8_t *vm_recent(const char *name, size_t *len, struct error *e);

/* Is there memory for a host VM like this, or for a guest VM that is to run in one? */
int memory_admit(const Vmb__VmConfig *c, struct error *e);
/* Starts a guest hypervisor with memory, CPUs, window and networks as `like` has and waits until it is ready for guests: its hello, or NULL with *e set and nothing
 * left of it. */
Vmb__AgentMessage *hypervisor_launch(const char *name, const Vmb__VmConfig *like, struct error *e);
/* What its agent says of itself; NULL with *e set. */
Vmb__AgentMessage *hypervisor_health(const char *name, struct error *e);

/* What `migrate --json` prints. */
struct handover_report;
struct json_t *handover_json(const char *vm, const char *to, const struct handover_report *r, int result);

/* A request without more than its kind; as cli_acted(). */
int vm_simple(const char *name, bool json, Vmb__Request__KindCase kind);

/* "tap=IFNAME[,mac=M]" becomes one more network of c, whose name is known; the lists are never freed. */
int cli_add_net(Vmb__VmConfig *c, const char *arg, struct error *e);

/* Starts the VM's process; with console (may be NULL) our end of its serial console. */
int vm_launch(Vmb__VmConfig *config, bool keep_paused, int *console, struct error *e);

/* Asks for a stop by force; runtime_clear() waits for the end. */
void vm_stop_now(const char *name);

int run_main(int argc, char **argv);
int network_main(int argc, char **argv);
int receive_main(int argc, char **argv);
int hypervisor_main(int argc, char **argv);
/* monitor, top, events */
int watch_main(int argc, char **argv);
int bench_main(int argc, char **argv);
int rejuvenate_main(int argc, char **argv);
int list_main(int argc, char **argv);
int info_main(int argc, char **argv);
int console_main(int argc, char **argv);
int pause_main(int argc, char **argv);
int resume_main(int argc, char **argv);
int stop_main(int argc, char **argv);
int shutdown_main(int argc, char **argv);
int balloon_main(int argc, char **argv);
int dump_main(int argc, char **argv);
int migrate_main(int argc, char **argv);

/* Sockets and the exit record in the VM's folder, which is the caller's by runtime_claim(). */
struct vm_files;
int vmm_open_runtime_files(const Vmb__VmConfig *c, struct vm_files *f, struct error *e);
/* Becomes vmbeam-migrate with these arguments (argv[0] is its command); returns only if that fails. */
int network_exec(char *const *argv);

/* vmm_main.c: what a process started by vmm_spawn() does; returns its exit status. */
int vmm_process(void);

/* attach.c: relays the terminal and a console until the VM has ended; returns the exit status.
 * console (may be -1) is taken over.  *crashed tells that the status is not the VM's own. */
int attach_until_end(const char *vm, int console, bool *crashed);
/* Relays the serial or the virtio console until the user leaves (Ctrl-]) or the VM ends. */
int attach_console(const char *vm, bool hvc);

/* A VM's runtime file `outgoing` (vmm/client.h), line by line within `text`; NULL: there is none.  The fourth is "post-copy"
 * once it runs there and lacks memory. */
void outgoing_read(const char *vm, char *text, size_t size, char *lines[4]);

#endif
