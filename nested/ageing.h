/* ageing.h: how a hypervisor for tests grows old, or only looks as if: the agent holds ever more of a resource, as a shape of
 * time says.  Only where the host VM was started for tests (`vmbeam.test` on its kernel's command line). */
#ifndef NESTED_AGEING_H
#define NESTED_AGEING_H

#include "proto/vmbeam.pb-c.h"
#include "vmm/base.h"

/* Begins, or changes, what is held of a resource; shape "none": gives it back.  Returns 0, -1 with *e set.  Each resource is
 * held by a process of its own, "aged-RESOURCE", in pieces; where no more is to be had it stays with what it has. */
int ageing_set(const Vmb__AgeingRequest *r, struct error *e);
/* By how much each answer is to be late now, ms: the resource "delay". */
int ageing_delay_ms(void);

#endif
