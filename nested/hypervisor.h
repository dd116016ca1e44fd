/* hypervisor.h: guest hypervisors: what runs inside a host VM, and how L0 talks to it. */
#ifndef NESTED_HYPERVISOR_H
#define NESTED_HYPERVISOR_H

#include "proto/vmbeam.pb-c.h"
#include "vmm/base.h"

/* Asks the agent of a host VM and waits for its answer, at most timeout_ms, asking again while nothing
 * comes.  `question` gets its version and id here.  Returns the answer (free with
 * vmb__agent_message__free_unpacked), NULL with *e set if there is none or it is an error. */
Vmb__AgentMessage *agent_ask(const char *vm, Vmb__AgentMessage *question, int timeout_ms,
			     struct error *e);

/* Process 1 of a guest hypervisor.  Does not return. */
void agent_main(void) __attribute__((noreturn));

/* KVM patches its code (jump labels) when the first VM comes, the last one goes, or the only vCPU with an
 * APIC switched off changes that, as each new vCPU does.  Where other vCPUs are running that code just
 * then, QEMU 7.2's TCG may keep what it has translated in between, an int3, and all CPUs end in an endless
 * loop of traps (seen about once in 100 handovers; before 8.0 code is translated without its page's lock).
 * A VM that stays and never runs leaves nothing to patch. */
void hold_a_vm(void);

#endif
