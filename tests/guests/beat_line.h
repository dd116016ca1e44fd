/* beat_line.h: the check sum at the end of a tick line; guest (beat.c) and checker (beatcheck.c).
 */
#ifndef BEAT_LINE_H
#define BEAT_LINE_H

#include <stddef.h>
#include <stdint.h>

/* FNV-1a folded to 16 bits. */
static inline unsigned beat_line_sum(const char *line, size_t len)
{
	uint32_t hash = 2166136261u;

	while (len--)
		hash = (hash ^ (unsigned char)*line++) * 16777619u;
	return (hash ^ hash >> 16) & 0xffff;
}

#endif
