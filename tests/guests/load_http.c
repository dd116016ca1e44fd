/* load_http.c: HTTP/1.1 for load.c: gets one static page (--path, default /) over connections that
 * stay open.  Every body must be the same as the first one.
 */
#include "tests/guests/load.h"
#include "vmm/base.h"

#include <stdlib.h>
#include <string.h>

static const char *path = "/";
static char *first_body;
static size_t first_size;

static int http_option(const char *name, const char *value)
{
	if (strcmp(name, "path"))
		return -1;
	path = value;
	return 0;
}

static void *http_client(unsigned index)
{
	(void)index;
	return NULL;
}

static size_t http_request(void *client, char *buf)
{
	(void)client;
	return (size_t)snprintf(buf, LOAD_REQUEST_BYTES,
				"GET %.900s HTTP/1.1\r\nHost: guest\r\n\r\n", path);
}

static ssize_t wrong(const char *why)
{
	fprintf(stderr, "httpload: %s\n", why);
	return REPLY_WRONG;
}

static ssize_t http_reply(void *client, const char *buf, size_t len)
{
	const char *body = memmem(buf, len, "\r\n\r\n", 4), *length;
	size_t size;

	(void)client;
	if (!body)
		return REPLY_PARTIAL;
	body += 4;
	length = memmem(buf, (size_t)(body - buf), "\r\nContent-Length: ", 18);
	if (strncmp(buf, "HTTP/1.1 200 ", 13) || !length)
		return wrong("not a page of known length");
	size = strtoul(length + 18, NULL, 10);
	if (size > LOAD_REPLY_BYTES / 2)
		return wrong("the page is too large");
	if (len < (size_t)(body - buf) + size)
		return REPLY_PARTIAL;
	if (!first_body) {
		first_body = xcalloc(1, size + 1);
		first_size = size;
		memcpy(first_body, body, size);
	}
	if (size != first_size || memcmp(body, first_body, size))
		return wrong("not the page that came first");
	return body - buf + (ssize_t)size;
}

static void http_lost(void *client)
{
	(void)client;
}

const struct load_protocol load_protocol = {
	.name = "http",
	.port = "80",
	.usage = " [--path /PAGE]",
	.option = http_option,
	.client = http_client,
	.request = http_request,
	.reply = http_reply,
	.lost = http_lost,
};
