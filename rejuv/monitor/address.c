/* address.c: where to listen: address.h. */
#include "rejuv/monitor/address.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

struct addrinfo *address_resolve(const char *listen, struct error *e)
{
	const struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
	char *host = xstrdup(listen), *colon = strrchr(host, ':');
	struct addrinfo *info = NULL;
	int r = EAI_NONAME;

	if (colon) {
		char *name = host;

		*colon = 0;
		if (name[0] == '[' && colon > name + 1 && colon[-1] == ']') {
			name++;
			colon[-1] = 0;
		}
		r = getaddrinfo(name[0] ? name : NULL, colon + 1, &hints, &info);
	}
	free(host);
	if (!r)
		return info;
	error_set(e, "'%s' is no ADDRESS:PORT", listen);
	return NULL;
}
