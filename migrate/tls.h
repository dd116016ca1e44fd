/* tls.h: TLS for migration streams: TLS 1.3, certificates at both ends.
 *
 * A folder has them under the names that libvirt's and QEMU's users know: ca-cert.pem, and server-cert.pem and
 * server-key.pem where migrations are received, client-cert.pem and client-key.pem where they are sent.
 * A peer must show a certificate of that CA, made for its part (extended key usage); a server's must have the
 * name or address that was asked for.
 *
 * Not thread-safe; a connection belongs to one thread at a time.
 */
#ifndef MIGRATE_TLS_H
#define MIGRATE_TLS_H

#include "vmm/base.h"

#include <openssl/ssl.h>

/* To be freed with SSL_CTX_free().  NULL: *e says which file is wrong, and how. */
SSL_CTX *tls_context(const char *dir, bool server, struct error *e);
/* Shakes hands over a connected blocking socket, which stays the caller's.  host: whom a client asked for; NULL for a
 * server.  Returns a connection that is to be freed with SSL_free(); NULL: *e says why, in words. */
SSL *tls_shake_hands(SSL_CTX *ctx, int fd, const char *host, struct error *e);
/* Is it a numeric address, and no name? */
bool tls_is_address(const char *host);
/* What OpenSSL says of the last failure. */
int tls_error(struct error *e, const char *what);

/* Makes a CA and a certificate for each part, for tests and for those who have no CA: DIR/ca-cert.pem, ca-key.pem,
 * server-cert.pem, ...; valid for ten years.  names: what the server is called besides this machine's name,
 * "localhost" and the loopback addresses.  Nothing is overwritten.  Returns 0, or -1 and *e. */
int certs_make(const char *dir, char *const *names, size_t n, struct error *e);

#endif
