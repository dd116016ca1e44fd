/* stream.c: records' headers; the contract is in stream.h. */
#include "migrate/stream.h"

#include <endian.h>
#include <string.h>

void stream_pack(const struct stream_record *r, uint8_t out[STREAM_HEADER])
{
	uint32_t kind = htole32(r->kind), number = htole32(r->number);
	uint64_t data = htole64(r->data), zero = htole64(r->zero);

	memcpy(out, &kind, 4);
	memcpy(out + 4, &number, 4);
	memcpy(out + 8, &data, 8);
	memcpy(out + 16, &zero, 8);
}

/* The pages of a chunk that exist: the last one of a memory may be short. */
static uint64_t existing(uint32_t chunk, uint64_t pages)
{
	uint64_t first = (uint64_t)chunk * STREAM_CHUNK_PAGES;

	if (first >= pages)
		return 0;
	return pages - first >= STREAM_CHUNK_PAGES ? ~0ull : (1ull << (pages - first)) - 1;
}

int stream_unpack(const uint8_t in[STREAM_HEADER], uint64_t pages, struct stream_record *r, struct error *e)
{
	memcpy(&r->kind, in, 4);
	memcpy(&r->number, in + 4, 4);
	memcpy(&r->data, in + 8, 8);
	memcpy(&r->zero, in + 16, 8);
	r->kind = le32toh(r->kind);
	r->number = le32toh(r->number);
	r->data = le64toh(r->data);
	r->zero = le64toh(r->zero);
	if (r->kind < STREAM_CHUNK_RECORD || r->kind > STREAM_WANTED)
		return error_set(e, "migration stream: no such record");
	if (r->kind == STREAM_ROUND || r->kind == STREAM_END)
		return r->data || r->zero ? error_set(e, "migration stream: a mark with pages") : 0;
	if ((r->data | r->zero) & ~existing(r->number, pages))
		return error_set(e, "migration stream: a page outside memory");
	if (r->data & r->zero || !(r->data | r->zero) || (r->kind != STREAM_CHUNK_RECORD && r->zero))
		return error_set(e, "migration stream: a chunk that contradicts itself");
	return 0;
}

int stream_write(struct conn *c, const struct stream_record *r, struct error *e)
{
	uint8_t header[STREAM_HEADER];

	stream_pack(r, header);
	return conn_write(c, header, sizeof(header), e);
}

int stream_read(struct conn *c, uint64_t pages, struct stream_record *r, struct error *e)
{
	uint8_t header[STREAM_HEADER];
	int got = conn_read(c, header, sizeof(header), e);

	if (got)
		return got < 0 ? -1 : error_set(e, "the other side has closed the connection");
	return stream_unpack(header, pages, r, e);
}
