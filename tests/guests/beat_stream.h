/* beat_stream.h: the bytes that beat (beat_net.c) and beatpeer.c send each other over TCP.
 *
 * The peer connects and sends a seed of 8 bytes.  Then both send an endless pseudo-random stream:
 * the peer that of the seed, the guest that of the seed's complement, as many bytes as it has
 * received; so the peer sets the pace of both.  When the peer shuts its side down, the guest sends
 * what is due and closes.  Each checks every byte, and the peer also the count.
 */
#ifndef BEAT_STREAM_H
#define BEAT_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define STREAM_PORT  7000 /* UDP echo on the next one */
#define STREAM_CHUNK 65536

struct stream {
	uint64_t seed, offset;
};

/* The next `len` bytes (splitmix64 of the word's number). */
static inline void stream_fill(struct stream *s, unsigned char *buf, size_t len)
{
	while (len) {
		uint64_t z = s->seed + s->offset / 8 * 0x9e3779b97f4a7c15ull;
		size_t skip = s->offset % 8, n = 8 - skip < len ? 8 - skip : len;

		z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
		z = (z ^ z >> 27) * 0x94d049bb133111ebull;
		z ^= z >> 31;
		memcpy(buf, (unsigned char *)&z + skip, n);
		s->offset += n;
		buf += n;
		len -= n;
	}
}

/* Are these the next `len` (at most STREAM_CHUNK) bytes? */
static inline bool stream_check(struct stream *s, const unsigned char *buf, size_t len)
{
	unsigned char want[STREAM_CHUNK];

	stream_fill(s, want, len);
	return !memcmp(want, buf, len);
}

#endif
