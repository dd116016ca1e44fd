/* stream.h: what pages look like on a connection of a migration.
 *
 * Records, each a header of 24 bytes, little endian, and perhaps data:
 *   u32 kind, u32 number, u64 data, u64 zero
 *   CHUNK   number: which 64 pages (256 KiB) of the VM's memory; data: bit i says that page i follows, in order;
 *           zero: bit i says that page i is all zeros, and nothing follows
 *   ROUND   number of the round that ends here (from 1).  A page of a later round replaces the same page of an earlier
 *           one: nothing of a round is read before all connections have come to the end of the one before.
 *   MISSING number: which 64 pages; data: bit i says that page i will come after this round, perhaps only when it is wanted
 *   WANTED  from the receiver, once there are missing ones: data: bit i asks for page i
 *   END     no more records follow
 * The receiver trusts no number of it.
 */
#ifndef MIGRATE_STREAM_H
#define MIGRATE_STREAM_H

#include "migrate/conn.h"

enum {
	STREAM_PAGE = 4096,
	STREAM_CHUNK_PAGES = 64,
	STREAM_CHUNK = STREAM_PAGE * STREAM_CHUNK_PAGES,
	STREAM_HEADER = 24,
};

enum stream_kind {
	STREAM_CHUNK_RECORD = 1,
	STREAM_ROUND = 2,
	STREAM_END = 3,
	STREAM_MISSING = 4,
	STREAM_WANTED = 5,
};

struct stream_record {
	uint32_t kind, number;
	uint64_t data, zero;
};

/* Takes the first run of set bits out of *bits: which it was.  False: there is none. */
static inline bool stream_take_run(uint64_t *bits, unsigned int *first, unsigned int *n)
{
	uint64_t rest;

	if (!*bits)
		return false;
	*first = (unsigned int)__builtin_ctzll(*bits);
	rest = ~(*bits >> *first);
	*n = rest ? (unsigned int)__builtin_ctzll(rest) : STREAM_CHUNK_PAGES;
	*bits &= *n == STREAM_CHUNK_PAGES ? 0 : ~(((1ull << *n) - 1) << *first);
	return true;
}

static inline unsigned int stream_count(uint64_t bits)
{
	return (unsigned int)__builtin_popcountll(bits);
}

void stream_pack(const struct stream_record *r, uint8_t out[STREAM_HEADER]);
/* Without its pages; what is written goes with the next conn_flush(). */
int stream_write(struct conn *c, const struct stream_record *r, struct error *e);
/* The next record's header, unpacked. */
int stream_read(struct conn *c, uint64_t pages, struct stream_record *r, struct error *e);
/* -1 and *e if it makes no sense for a memory of `pages`. */
int stream_unpack(const uint8_t in[STREAM_HEADER], uint64_t pages, struct stream_record *r, struct error *e);

#endif
