/* certs.c: a CA and certificates to test with; the contract is in tls.h.  X.509: RFC 5280. */
#include "migrate/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DAYS = 3650, MAX_NAMES = 2000 };

struct identity {
	EVP_PKEY *key;
	X509 *cert;
};

static void identity_free(struct identity *i)
{
	X509_free(i->cert);
	EVP_PKEY_free(i->key);
}

static bool add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *x;
	bool ok;

	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	x = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	ok = x && X509_add_ext(cert, x, -1);
	X509_EXTENSION_free(x);
	return ok;
}

static bool set_serial(X509 *cert)
{
	uint64_t serial;

	return RAND_bytes((unsigned char *)&serial, sizeof(serial)) == 1 &&
	       ASN1_INTEGER_set_uint64(X509_get_serialNumber(cert), serial >> 1);
}

/* issuer NULL: a CA that signs itself. */
static int identity_make(struct identity *i, const char *name, const struct identity *issuer, const char *usage,
			 const char *names, struct error *e)
{
	const char *basic = issuer ? "critical,CA:FALSE" : "critical,CA:TRUE,pathlen:0";
	const char *key_usage = issuer ? "critical,digitalSignature,keyEncipherment" : "critical,keyCertSign,cRLSign";
	const struct identity *by = issuer ? issuer : i;
	X509_NAME *subject;

	i->key = EVP_EC_gen("P-256");
	i->cert = X509_new();
	if (!i->key || !i->cert || !X509_set_version(i->cert, X509_VERSION_3) || !set_serial(i->cert) ||
	    !X509_gmtime_adj(X509_getm_notBefore(i->cert), -24L * 3600) ||
	    !X509_gmtime_adj(X509_getm_notAfter(i->cert), 24L * 3600 * DAYS) || !X509_set_pubkey(i->cert, i->key))
		return tls_error(e, name);
	subject = X509_get_subject_name(i->cert);
	if (!X509_NAME_add_entry_by_txt(subject, "O", MBSTRING_UTF8, (const unsigned char *)"vmbeam", -1, -1, 0) ||
	    !X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)name, -1, -1, 0) ||
	    !X509_set_issuer_name(i->cert, X509_get_subject_name(by->cert)) ||
	    !add_extension(i->cert, by->cert, NID_basic_constraints, basic) ||
	    !add_extension(i->cert, by->cert, NID_key_usage, key_usage) ||
	    !add_extension(i->cert, by->cert, NID_subject_key_identifier, "hash") ||
	    !add_extension(i->cert, by->cert, NID_authority_key_identifier, "keyid") ||
	    (usage && !add_extension(i->cert, by->cert, NID_ext_key_usage, usage)) ||
	    (names && !add_extension(i->cert, by->cert, NID_subject_alt_name, names)) ||
	    !X509_sign(i->cert, by->key, EVP_sha256()))
		return tls_error(e, name);
	return 0;
}

static FILE *create(const char *dir, const char *part, const char *what, mode_t mode, struct error *e)
{
	char *path = xasprintf("%s/%s-%s.pem", dir, part, what);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	FILE *f = fd >= 0 ? fdopen(fd, "w") : NULL;

	if (!f)
		error_set_errno(e, "%s", path);
	if (!f && fd >= 0)
		close(fd);
	free(path);
	return f;
}

static int identity_write(const struct identity *i, const char *dir, const char *part, struct error *e)
{
	FILE *cert = create(dir, part, "cert", 0644, e), *key = cert ? create(dir, part, "key", 0600, e) : NULL;
	bool ok = key && PEM_write_X509(cert, i->cert) == 1 &&
		  PEM_write_PKCS8PrivateKey(key, i->key, NULL, NULL, 0, NULL, NULL) == 1;

	if (key && !ok)
		tls_error(e, part);
	if (key && fclose(key) && ok) {
		error_set_errno(e, "%s/%s-key.pem", dir, part);
		ok = false;
	}
	if (cert && fclose(cert) && ok) {
		error_set_errno(e, "%s/%s-cert.pem", dir, part);
		ok = false;
	}
	return ok ? 0 : -1;
}

/* "DNS:a,IP:b,..." as OpenSSL reads it: what would end an item is not taken. */
static int add_name(char *list, const char *name, struct error *e)
{
	bool address = tls_is_address(name);
	size_t len = strlen(list);

	if (!address && (!*name || strcspn(name, ",:\"\\ ") != strlen(name)))
		return error_set(e, "'%s' is no name of a machine", name);
	if (len + strlen(name) + 8 > MAX_NAMES)
		return error_set(e, "too many names");
	snprintf(list + len, MAX_NAMES - len, "%s%s:%s", len ? "," : "", address ? "IP" : "DNS", name);
	return 0;
}

int certs_make(const char *dir, char *const *names, size_t n, struct error *e)
{
	struct identity ca = {NULL, NULL}, server = {NULL, NULL}, client = {NULL, NULL};
	char list[MAX_NAMES] = "", host[65] = "";
	int r;

	if (mkdir(dir, 0755) && errno != EEXIST)
		return error_set_errno(e, "%s", dir);
	gethostname(host, sizeof(host) - 1);
	if (add_name(list, "localhost", e) || add_name(list, "127.0.0.1", e) || add_name(list, "::1", e) ||
	    (*host && add_name(list, host, e)))
		return -1;
	for (size_t i = 0; i < n; i++)
		if (add_name(list, names[i], e))
			return -1;
	r = identity_make(&ca, "vmbeam CA", NULL, NULL, NULL, e) ||
	    identity_make(&server, *host ? host : "server", &ca, "serverAuth", list, e) ||
	    identity_make(&client, "client", &ca, "clientAuth", NULL, e) || identity_write(&ca, dir, "ca", e) ||
	    identity_write(&server, dir, "server", e) || identity_write(&client, dir, "client", e);
	identity_free(&ca);
	identity_free(&server);
	identity_free(&client);
	return r ? -1 : 0;
}
