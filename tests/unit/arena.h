/* arena.h: an allocator for messages that are spoilt on purpose: all of it is freed at once, whatever
 * the message has become.
 */
#ifndef TESTS_ARENA_H
#define TESTS_ARENA_H

#include <protobuf-c/protobuf-c.h>
#include <stdlib.h>

struct arena {
	ProtobufCAllocator allocator;
	void **all;
	size_t count, room;
};

static inline void *arena_alloc(void *arena, size_t size)
{
	struct arena *a = arena;

	if (a->count == a->room) {
		a->room = a->room ? 2 * a->room : 64;
		a->all = realloc(a->all, a->room * sizeof(*a->all));
		if (!a->all)
			abort();
	}
	return a->all[a->count++] = calloc(1, size ? size : 1);
}

static inline void arena_ignore(void *arena, void *p)
{
	(void)arena, (void)p;
}

static inline void arena_init(struct arena *a)
{
	a->allocator = (ProtobufCAllocator){arena_alloc, arena_ignore, a};
	a->all = NULL;
	a->count = a->room = 0;
}

static inline void arena_clear(struct arena *a)
{
	while (a->count)
		free(a->all[--a->count]);
	free(a->all);
	a->all = NULL;
	a->room = 0;
}

#endif
