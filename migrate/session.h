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
#include "migrate/precopy.h"
#include "proto/vmbeam.pb-c.h"

enum {
	NET_VERSION = 1,
	NET_ID = 16,	/* bytes of a migration's id */
	NET_TOKEN = 32, /* of the token that its connections show */
	NET_LINK_FD = 3, /* to the process that started this one */
	NET_MESSAGE_MAX = 2 << 20, /* bytes */
	NET_TIMEOUT_MS = 30000, /* for an answer that takes no work */
	NET_BUILD_MS = 180000,	/* for the VM to be built */
	NET_ASK_MS = 5000,	/* for an answer to a query */
};

/* A whole message; *m is freed with vmb__net_message__free_unpacked().  An error that it tells is *e. */
int net_send(struct conn *c, const Vmb__NetMessage *m, struct error *e);
int net_receive(struct conn *c, Vmb__NetMessage__KindCase kind, Vmb__NetMessage **m, struct error *e);
/* Without content. */
int net_send_mark(struct conn *c, Vmb__NetMessage__KindCase kind, struct error *e);
int net_send_error(struct conn *c, const struct error *why);
/* Socket, handshake, and TLS if ctx is not NULL. */
struct conn *net_connect(const char *address, SSL_CTX *ctx, struct error *e);

/* What a process of this program tells the driver of the handover that it has a part in (NET_LINK_FD); lost if that has
 * gone.  Of progress: false, it has gone, and with it who wanted this. */
void net_reply_mark(Vmb__Reply__KindCase kind);
bool net_tell_progress(const struct precopy_progress *p);
/* Returns 1, an exit status. */
int net_tell_failure(const struct error *e);

/* `vmbeam-migrate ask ADDRESS DIR ID`, what it is told; 1: nobody answers, as a line on stderr says. */
enum { NET_RUNS_THERE = 0, NET_RUNS_NOT_THERE = 10 };
int ask_main(int argc, char **argv);
/* `vmbeam-migrate send`, `copy`, `receive`: exit statuses. */
int send_main(int argc, char **argv);
int copy_main(int argc, char **argv);
int incoming_main(int argc, char **argv);

#endif
