/* conn.h: one connection of a migration: TCP, with TLS 1.3 or plain.
 *
 * Blocking; what is written waits in a buffer until it is full or conn_flush().  A connection belongs to one thread at
 * a time, but conn_cut() may be called by any: whoever reads or writes then fails at once.
 *
 * Data goes through io_uring, in pieces of CONN_BUFFER: OpenSSL reads and writes a record of 16 KiB at a time, each of
 * which would be a system call or two.
 */
#ifndef MIGRATE_CONN_H
#define MIGRATE_CONN_H

#include "vmm/base.h"

#include <openssl/ssl.h>

enum { CONN_BUFFER = 256 * 1024, CONN_TIMEOUT_MS = 60000 };

struct conn;

/* Takes over a connected socket and, if it is encrypted, a connection that tls_shake_hands() gave for it (else NULL),
 * in every case. */
struct conn *conn_new(int fd, SSL *ssl, struct error *e);
void conn_free(struct conn *c);
/* How long a read waits for the next bytes; 0: for ever.  CONN_TIMEOUT_MS to begin with. */
void conn_set_timeout(struct conn *c, int ms);
int conn_write(struct conn *c, const void *data, size_t len, struct error *e);
int conn_flush(struct conn *c, struct error *e);
/* All of len bytes; 0.  The other end has closed before the first: 1.  Else -1 and *e. */
int conn_read(struct conn *c, void *data, size_t len, struct error *e);
void conn_cut(struct conn *c);
/* For poll(); and is there something to read already that poll() does not see? */
int conn_fd(const struct conn *c);
bool conn_has_input(const struct conn *c);
/* Bytes that went out on the wire (without TCP's headers). */
uint64_t conn_sent(const struct conn *c);

/* A listening socket; a connection to it.  address: "HOST:PORT", "[V6]:PORT".  -1 and *e. */
int conn_listen(const char *address, struct error *e);
int conn_connect(const char *address, int timeout_ms, struct error *e);
/* The part before the port, without brackets; to be freed.  NULL and *e if it is no such address. */
char *conn_host(const char *address, struct error *e);

#endif
