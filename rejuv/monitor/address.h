/* address.h: where to listen, for those of our programs that serve HTTP. */
#ifndef REJUV_MONITOR_ADDRESS_H
#define REJUV_MONITOR_ADDRESS_H

#include "vmm/base.h"

#include <netdb.h>

/* Of "127.0.0.1:80", "[::1]:80" or ":80" (any address); the caller's, for freeaddrinfo().  NULL with *e set. */
struct addrinfo *address_resolve(const char *listen, struct error *e);

#endif
