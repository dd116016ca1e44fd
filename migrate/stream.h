/* stream.h: what pages look like on a connection of a migration.
 *
 * Records, each a header of 24 bytes, little endian, and perhaps data:
 *   u32 kind, u32 number, u64 data, u64 zero
 *   CHUNK   number: which 64 pages (256 KiB) of the VM's memory; data: bit i says that page i follows, in order;
 *           zero: bit i says that page i is all zeros, and nothing follows
 *   ROUND   number of the round that ends here (from 1).  A page of a later round replaces the same page of an earlier
 *           one: nothing of a round is read before all connections have come to the end of the one before.
 *   END     no more records follow
 * The receiver trusts no number of it.
 */
#ifndef MIGRATE_STREAM_H
#define MIGRATE_STREAM_H

#include "vmm/base.h"

enum {
	STREAM_PAGE = 4096,
	STREAM_CHUNK_PAGES = 64,
	STREAM_CHUNK = STREAM_PAGE * STREAM_CHUNK_PAGES,
	STREAM_HEADER = 24,
};

enum stream_kind { STREAM_CHUNK_RECORD = 1, STREAM_ROUND = 2, STREAM_END = 3 };

struct stream_record {
	uint32_t kind, number;
	uint64_t data, zero;
};

void stream_pack(const struct stream_record *r, uint8_t out[STREAM_HEADER]);
/* -1 and *e if it makes no sense for a memory of `pages`. */
int stream_unpack(const uint8_t in[STREAM_HEADER], uint64_t pages, struct stream_record *r, struct error *e);

#endif
