/* test_tls.c: certificates that `vmbeam certs` makes, and who gets a connection with which. */
#include "migrate/tls.h"
#include "tests/unit/unit.h"

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static char *folder(void)
{
	char *dir = xstrdup("/tmp/vmbeam-tls-XXXXXX");

	cr_assert(mkdtemp(dir));
	return dir;
}

static void remove_folder(char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *f;

	while ((f = readdir(d)))
		unlinkat(dirfd(d), f->d_name, 0);
	closedir(d);
	rmdir(dir);
	free(dir);
}

static char *made(void)
{
	char *dir = folder(), *names[] = {"host.example", "192.0.2.7"};
	struct error e;

	cr_assert_eq(certs_make(dir, names, 2, &e), 0, "%s", e.text);
	return dir;
}

struct end {
	SSL_CTX *ctx;
	int fd;
	const char *host;
	char said[32];
	struct error error;
	bool connected;
};

/* A client knows that it was refused only when it reads: in TLS 1.3 it is done first. */
static void *shake(void *arg)
{
	struct end *x = arg;
	SSL *s = tls_shake_hands(x->ctx, x->fd, x->host, &x->error);

	x->connected = s && SSL_write(s, "hello", 5) == 5 && SSL_read(s, x->said, sizeof(x->said) - 1) == 5;
	if (s && !x->connected)
		tls_error(&x->error, "TLS");
	SSL_free(s);
	shutdown(x->fd, SHUT_RDWR);
	return NULL;
}

/* Did they agree?  The folders' contexts, and whom the client asks for. */
static bool meet(SSL_CTX *server, SSL_CTX *client, const char *host, struct end ends[2])
{
	int fds[2];
	pthread_t t;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	ends[0] = (struct end){.ctx = server, .fd = fds[0]};
	ends[1] = (struct end){.ctx = client, .fd = fds[1], .host = host};
	cr_assert_eq(pthread_create(&t, NULL, shake, &ends[0]), 0);
	shake(&ends[1]);
	pthread_join(t, NULL);
	close(fds[0]);
	close(fds[1]);
	return ends[0].connected && ends[1].connected;
}

static SSL_CTX *context(const char *dir, bool server)
{
	struct error e;
	SSL_CTX *ctx = tls_context(dir, server, &e);

	cr_assert(ctx, "%s", e.text);
	return ctx;
}

UNIT(tls, who_has_certificates_of_one_ca_is_connected_by_the_right_name)
{
	static const struct {
		const char *host;
		bool good;
	} table[] = {
		{"localhost", true}, {"127.0.0.1", true}, {"::1", true},	      {"host.example", true},
		{"192.0.2.7", true}, {"192.0.2.8", false}, {"other.example", false}, {"example", false},
	};
	char *dir = made();
	SSL_CTX *server = context(dir, true), *client = context(dir, false);
	struct end ends[2];

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		cr_expect_eq(meet(server, client, table[i].host, ends), table[i].good, "%s: %s", table[i].host,
			     ends[1].error.text);
		if (!table[i].good)
			cr_expect(strstr(ends[1].error.text, "certificate is refused"), "%s", ends[1].error.text);
	}
	SSL_CTX_free(server);
	SSL_CTX_free(client);
	remove_folder(dir);
}

UNIT(tls, others_are_refused)
{
	char *ours = made(), *theirs = made();
	SSL_CTX *server = context(ours, true), *stranger = context(theirs, false), *bare, *old, *disguised;
	struct end ends[2];

	signal(SIGPIPE, SIG_IGN); /* as in the program: whoever refuses closes */
	cr_expect_not(meet(server, stranger, "localhost", ends), "a CA that the other does not know");
	/* One that does not care whom it talks to learns nothing either. */
	SSL_CTX_set_verify(stranger, SSL_VERIFY_NONE, NULL);
	cr_expect_not(meet(server, stranger, "localhost", ends));
	cr_expect_str_eq(ends[1].said, "");
	cr_expect(strstr(ends[0].error.text, "certificate is refused"), "%s", ends[0].error.text);

	bare = SSL_CTX_new(TLS_client_method());
	cr_expect_not(meet(server, bare, "localhost", ends), "no certificate");
	cr_expect_str_eq(ends[1].said, "");

	old = context(ours, false);
	SSL_CTX_set_min_proto_version(old, 0);
	SSL_CTX_set_max_proto_version(old, TLS1_2_VERSION);
	cr_expect_not(meet(server, old, "localhost", ends), "TLS 1.2");

	disguised = context(ours, true); /* a server's certificate in a client's place */
	cr_expect_not(meet(server, disguised, "localhost", ends), "a server's certificate");
	SSL_CTX_free(disguised);
	SSL_CTX_free(old);
	SSL_CTX_free(bare);
	SSL_CTX_free(stranger);
	SSL_CTX_free(server);
	remove_folder(ours);
	remove_folder(theirs);
}

UNIT(tls, certs_overwrites_nothing_and_keeps_keys_to_its_user)
{
	char *dir = made(), *key = xasprintf("%s/server-key.pem", dir), *bad[] = {"a,IP:1.2.3.4"};
	struct stat before, after;
	struct error e;

	cr_assert_eq(stat(key, &before), 0);
	cr_expect_eq(before.st_mode & 0777, 0600);
	cr_expect_eq(certs_make(dir, NULL, 0, &e), -1);
	cr_expect(strstr(e.text, "File exists"), "%s", e.text);
	cr_assert_eq(stat(key, &after), 0);
	cr_expect_eq(before.st_ino, after.st_ino);
	remove_folder(dir);
	dir = folder();
	cr_expect_eq(certs_make(dir, bad, 1, &e), -1);
	cr_expect(strstr(e.text, "no name of a machine"), "%s", e.text);
	cr_expect_null(tls_context(dir, true, &e));
	cr_expect(strstr(e.text, "ca-cert.pem"), "%s", e.text);
	remove_folder(dir);
	free(key);
}
