/* http.c: serves the metrics (libmicrohttpd, one thread).  Whoever asks is a stranger: only GET and HEAD of one page, few
 * connections, none that is idle.  (Strangers can take all of them: it is for a local or otherwise guarded address.) */
#include "rejuv/monitor/monitor.h"

#include "rejuv/monitor/address.h"

#include <microhttpd.h>
#include <netdb.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { CONNECTIONS = 32, PER_ADDRESS = 16, TIMEOUT_S = 10, HEADERS = 16 * 1024 };

struct http {
	struct MHD_Daemon *daemon;
	pthread_mutex_t lock; /* guards the rest */
	struct MHD_Response *plain, *open;
};

static enum MHD_Result answer_text(struct MHD_Connection *c, unsigned int status, const char *text)
{
	struct MHD_Response *r =
		MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_PERSISTENT);
	enum MHD_Result result = MHD_NO;

	if (!r)
		return MHD_NO;
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
	result = MHD_queue_response(c, status, r);
	MHD_destroy_response(r);
	return result;
}

static enum MHD_Result answer(void *cls, struct MHD_Connection *c, const char *url, const char *method, const char *version,
			      const char *data, size_t *size, void **state)
{
	struct http *h = cls;
	const char *accept = MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_ACCEPT);
	enum MHD_Result result;
	struct MHD_Response *r;

	(void)version;
	(void)data;
	(void)size;
	(void)state;
	if (strcmp(method, MHD_HTTP_METHOD_GET) && strcmp(method, MHD_HTTP_METHOD_HEAD))
		return answer_text(c, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET\n");
	if (!strcmp(url, "/"))
		return answer_text(c, MHD_HTTP_OK, "vmbeam: the ageing monitor's figures are at /metrics\n");
	if (strcmp(url, "/metrics"))
		return answer_text(c, MHD_HTTP_NOT_FOUND, "there is only /metrics\n");
	pthread_mutex_lock(&h->lock);
	r = accept && strstr(accept, "application/openmetrics-text") ? h->open : h->plain;
	result = r ? MHD_queue_response(c, MHD_HTTP_OK, r) : answer_text(c, MHD_HTTP_SERVICE_UNAVAILABLE, "nothing yet\n");
	pthread_mutex_unlock(&h->lock);
	return result;
}

struct http *http_create(const char *listen, struct error *e)
{
	struct addrinfo *info = address_resolve(listen, e);
	struct http *h;

	if (!info)
		return NULL;
	h = xcalloc(1, sizeof(*h));
	pthread_mutex_init(&h->lock, NULL);
	h->daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | (info->ai_family == AF_INET6 ? MHD_USE_IPv6 : 0), 0, NULL, NULL,
				     answer, h, MHD_OPTION_SOCK_ADDR, info->ai_addr, MHD_OPTION_CONNECTION_LIMIT,
				     (unsigned int)CONNECTIONS, MHD_OPTION_PER_IP_CONNECTION_LIMIT, (unsigned int)PER_ADDRESS,
				     MHD_OPTION_CONNECTION_TIMEOUT, (unsigned int)TIMEOUT_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
				     (size_t)HEADERS, MHD_OPTION_END);
	freeaddrinfo(info);
	if (h->daemon)
		return h;
	error_set_errno(e, "--listen: %s", listen);
	http_destroy(h);
	return NULL;
}

static struct MHD_Response *response(char *text, const char *type)
{
	struct MHD_Response *r = text ? MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE) : NULL;

	if (r)
		MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	return r;
}

static void replace(struct http *h, struct MHD_Response *plain, struct MHD_Response *open)
{
	struct MHD_Response *old[2];

	pthread_mutex_lock(&h->lock);
	old[0] = h->plain;
	old[1] = h->open;
	h->plain = plain;
	h->open = open;
	pthread_mutex_unlock(&h->lock);
	/* (What is being sent keeps it.) */
	for (int i = 0; i < 2; i++)
		if (old[i])
			MHD_destroy_response(old[i]);
}

void http_publish(struct http *h, char *plain, char *open)
{
	replace(h, response(plain, "text/plain; version=0.0.4; charset=utf-8"),
		response(open, "application/openmetrics-text; version=1.0.0; charset=utf-8"));
}

void http_destroy(struct http *h)
{
	if (!h)
		return;
	if (h->daemon)
		MHD_stop_daemon(h->daemon);
	replace(h, NULL, NULL);
	pthread_mutex_destroy(&h->lock);
	free(h);
}
