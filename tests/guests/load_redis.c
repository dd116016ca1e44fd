/* load_redis.c: redis for load.c.  Each client has KEYS keys of its own; it sets one and gets
 * another by turns, and a value that is not the last one set is a wrong reply: a lost or a stale
 * write.  After a request that failed its key may hold either value and is not checked until it is
 * set again.
 */
#include "tests/guests/load.h"
#include "vmm/base.h"

#include <stdlib.h>
#include <string.h>

#define KEYS  64
#define VALUE "%016llx-%016llx-%016llx-%016llx" /* 67 characters */

struct redis_client {
	unsigned index;
	uint64_t number;     /* of the request under way */
	uint64_t held[KEYS]; /* number of the request that set it; 0: not known */
};

static void *redis_client(unsigned index)
{
	struct redis_client *c = xcalloc(1, sizeof(*c));

	c->index = index;
	return c;
}

static bool is_set(const struct redis_client *c)
{
	return c->number % 2;
}

/* Sets go through the keys in order, gets in steps that meet old and new ones. */
static unsigned key_of(const struct redis_client *c)
{
	return (unsigned)(is_set(c) ? c->number / 2 : c->number / 2 * 23) % KEYS;
}

static void write_value(char *buf, size_t size, const struct redis_client *c, uint64_t number)
{
	unsigned long long a = number, b = number * 0x9e3779b97f4a7c15ull;

	snprintf(buf, size, VALUE, a, b, b ^ c->index, ~a);
}

static size_t redis_request(void *client, char *buf)
{
	struct redis_client *c = client;
	char key[32], value[80];
	int len;

	c->number++;
	snprintf(key, sizeof(key), "load:%u:%u", c->index, key_of(c));
	write_value(value, sizeof(value), c, c->number);
	if (is_set(c))
		len = snprintf(buf, LOAD_REQUEST_BYTES,
			       "*3\r\n$3\r\nSET\r\n$%zu\r\n%s\r\n$%zu\r\n%s\r\n", strlen(key), key,
			       strlen(value), value);
	else
		len = snprintf(buf, LOAD_REQUEST_BYTES, "*2\r\n$3\r\nGET\r\n$%zu\r\n%s\r\n",
			       strlen(key), key);
	return (size_t)len;
}

static ssize_t redis_reply(void *client, const char *buf, size_t len)
{
	struct redis_client *c = client;
	uint64_t held = c->held[key_of(c)];
	const char *line = memmem(buf, len, "\r\n", 2);
	size_t size = line ? (size_t)(line - buf) + 2 : 0;
	char want[100] = "+OK\r\n", value[80];

	if (!line)
		return REPLY_PARTIAL;
	if (buf[0] == '$' && buf[1] != '-')
		size += strtoul(buf + 1, NULL, 10) + 2;
	if (len < size)
		return REPLY_PARTIAL;
	if (is_set(c)) {
		c->held[key_of(c)] = c->number;
	} else {
		write_value(value, sizeof(value), c, held);
		snprintf(want, sizeof(want), "$%zu\r\n%s\r\n", strlen(value), value);
		if (!held && (buf[0] == '$'))
			return (ssize_t)size;
	}
	if (strlen(want) == size && !memcmp(buf, want, size))
		return (ssize_t)size;
	fprintf(stderr, "redisload: key %u: got %.*s, want %s\n", key_of(c), (int)size, buf, want);
	return REPLY_WRONG;
}

static void redis_lost(void *client)
{
	struct redis_client *c = client;

	if (is_set(c))
		c->held[key_of(c)] = 0;
}

static int no_option(const char *name, const char *value)
{
	(void)name, (void)value;
	return -1;
}

const struct load_protocol load_protocol = {
	.name = "redis",
	.port = "6379",
	.usage = "",
	.option = no_option,
	.client = redis_client,
	.request = redis_request,
	.reply = redis_reply,
	.lost = redis_lost,
};
