/* client.h: the command line as a client of vmbeamd (rejuv/daemon/openapi.json), where one runs. */
#ifndef REJUV_CLIENT_H
#define REJUV_CLIENT_H

#include "vmm/base.h"

#include <jansson.h>

/* Is there a daemon that may be asked? */
bool daemon_is_there(void);
/* Asks; *reply (may be NULL) is the caller's.  -1 with *e set: nobody answered, or what it said was an error. */
int daemon_ask(const char *method, const char *path, const json_t *body, json_t **reply, struct error *e);
/* Does it look after that hypervisor? */
bool daemon_manages(const char *hypervisor);

/* Has it do the command, prints what that prints, and returns its exit status. */
int daemon_command(int argc, char **argv);
/* Has it rejuvenate that hypervisor, says how it goes, and returns the exit status. */
int daemon_rejuvenate(const char *hypervisor, bool json);

#endif
