/* session.h: one migration between two machines, at each end; the protocol is in proto/vmbeam.proto, "between machines".
 *
 * At the source a process of this program takes the destination's part in a handover (zerocopy/zerocopy.h): it is
 * prepared when the other machine has built the VM, warmed when all but the last pages are there, and restores, commits
 * and starts by having the other machine do it.  There it takes the source's part.  Neither can do more than its
 * descriptors allow: starting VMs is another process's (`vmbeam receive`).
 */
#ifndef MIGRATE_SESSION_H
#define MIGRATE_SESSION_H

#include "migrate/conn.h"
#include "proto/vmbeam.pb-c.h"

enum {
	NET_VERSION = 1,
	NET_ID = 16,	/* bytes of a migration's id */
	NET_TOKEN = 32, /* of the token that its connections show */
	NET_LINK_FD = 3, /* to the process that started this one */
	NET_TIMEOUT_MS = 30000, /* for an answer that takes no work */
	NET_BUILD_MS = 120000,	/* for the VM to be built */
};

/* A whole message; *m is freed with vmb__net_message__free_unpacked().  An error that it tells is *e. */
int net_send(struct conn *c, const Vmb__NetMessage *m, struct error *e);
int net_receive(struct conn *c, Vmb__NetMessage__KindCase kind, Vmb__NetMessage **m, struct error *e);
/* Without content. */
int net_send_mark(struct conn *c, Vmb__NetMessage__KindCase kind, struct error *e);
int net_send_error(struct conn *c, const struct error *why);
/* Socket, handshake, and TLS if ctx is not NULL. */
struct conn *net_connect(const char *address, SSL_CTX *ctx, struct error *e);

/* `vmbeam-migrate send`, `receive`: exit statuses. */
int send_main(int argc, char **argv);
int incoming_main(int argc, char **argv);

#endif
