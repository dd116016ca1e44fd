/* tls.c: TLS contexts from a folder, and handshakes; the contract is in tls.h. */
#include "migrate/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* AES first: CPUs have instructions for it. */
#define CIPHERS "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256"

int tls_error(struct error *e, const char *what)
{
	unsigned long code = ERR_peek_last_error();
	const char *reason = code ? ERR_reason_error_string(code) : NULL;

	ERR_clear_error();
	return error_set(e, "%s: %s", what, reason ? reason : errno ? strerror(errno) : "unknown error");
}

static char *file_in(const char *dir, const char *name, struct error *e)
{
	char *path = xasprintf("%s/%s", dir, name);

	if (!access(path, R_OK))
		return path;
	error_set_errno(e, "%s", path);
	free(path);
	return NULL;
}

static int load(SSL_CTX *ctx, const char *dir, const char *name,
		int (*use)(SSL_CTX *ctx, const char *path), struct error *e)
{
	char *path = file_in(dir, name, e);
	int r;

	if (!path)
		return -1;
	r = use(ctx, path) == 1 ? 0 : tls_error(e, path);
	free(path);
	return r;
}

static int use_ca(SSL_CTX *ctx, const char *path)
{
	return SSL_CTX_load_verify_file(ctx, path);
}

static int use_key(SSL_CTX *ctx, const char *path)
{
	return SSL_CTX_use_PrivateKey_file(ctx, path, SSL_FILETYPE_PEM);
}

SSL_CTX *tls_context(const char *dir, bool server, struct error *e)
{
	SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	const char *cert = server ? "server-cert.pem" : "client-cert.pem";
	const char *key = server ? "server-key.pem" : "client-key.pem";

	if (!ctx || !SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) || !SSL_CTX_set_ciphersuites(ctx, CIPHERS)) {
		tls_error(e, "TLS");
		goto fail;
	}
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_num_tickets(ctx, 0);
	if (load(ctx, dir, "ca-cert.pem", use_ca, e) ||
	    load(ctx, dir, cert, SSL_CTX_use_certificate_chain_file, e) || load(ctx, dir, key, use_key, e))
		goto fail;
	if (SSL_CTX_check_private_key(ctx) != 1) {
		error_set(e, "%s/%s is not the key of %s", dir, key, cert);
		goto fail;
	}
	return ctx;
fail:
	SSL_CTX_free(ctx);
	return NULL;
}

bool tls_is_address(const char *host)
{
	unsigned char buf[sizeof(struct in6_addr)];

	return inet_pton(AF_INET, host, buf) == 1 || inet_pton(AF_INET6, host, buf) == 1;
}

static int expect(SSL *s, const char *host)
{
	return tls_is_address(host) ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(s), host)
				: SSL_set1_host(s, host) && SSL_set_tlsext_host_name(s, host);
}

SSL *tls_shake_hands(SSL_CTX *ctx, int fd, const char *host, struct error *e)
{
	SSL *s = SSL_new(ctx);
	long verdict;

	ERR_clear_error();
	errno = 0;
	if (!s || !SSL_set_fd(s, fd) || (host && !expect(s, host))) {
		tls_error(e, "TLS");
		goto fail;
	}
	if ((host ? SSL_connect(s) : SSL_accept(s)) == 1)
		return s;
	verdict = SSL_get_verify_result(s);
	if (verdict != X509_V_OK)
		error_set(e, "the other side's certificate is refused: %s", X509_verify_cert_error_string(verdict));
	else if (errno == EAGAIN)
		error_set(e, "TLS handshake: no answer in time");
	else
		tls_error(e, "TLS handshake");
fail:
	SSL_free(s);
	return NULL;
}
