/* test_messages.c: every message of proto/vmbeam.proto survives a round trip, byte by byte.
 *
 * The messages are found in the .proto file when the tests are built (messages.h), their fields by
 * their descriptors: a new one is tested without a line here.
 */
#include "tests/unit/arena.h"
#include "tests/unit/unit.h"

static const ProtobufCMessageDescriptor *const descriptors[] = {
#define MESSAGE(descriptor) &descriptor,
#include "tests/unit/messages.h"
};

struct fill {
	struct arena *arena;
	uint64_t n;	     /* counts the values: no two fields have the same */
	unsigned int choice; /* which member of each oneof */
	size_t large;	     /* bytes fields named "xsave" and "nested" have this length */
	unsigned int fields; /* set so far */
};

static ProtobufCMessage *fill_message(struct fill *f, const ProtobufCMessageDescriptor *d);

static void fill_bytes(struct fill *f, const ProtobufCFieldDescriptor *field, ProtobufCBinaryData *b)
{
	bool large = !strcmp(field->name, "xsave") || !strcmp(field->name, "nested");

	b->len = large ? f->large : 1 + f->n % 300;
	b->data = arena_alloc(f->arena, b->len);
	for (size_t i = 0; i < b->len; i++)
		b->data[i] = (uint8_t)(f->n + i * 37 + i / 251);
}

static void fill_value(struct fill *f, const ProtobufCFieldDescriptor *field, void *at)
{
	uint64_t v = 0x8182838485868788u + ++f->n * 0x0101010101010101u;

	f->fields++;
	switch (field->type) {
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
	case PROTOBUF_C_TYPE_FLOAT:
		*(uint32_t *)at = (uint32_t)v;
		break;
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		*(uint64_t *)at = v;
		break;
	case PROTOBUF_C_TYPE_BOOL:
		*(protobuf_c_boolean *)at = 1;
		break;
	case PROTOBUF_C_TYPE_ENUM: {
		const ProtobufCEnumDescriptor *e = field->descriptor;

		*(int *)at = e->values[1 + f->n % (e->n_values - 1)].value;
		break;
	}
	case PROTOBUF_C_TYPE_STRING: {
		char *s = arena_alloc(f->arena, 40);

		snprintf(s, 40, "%s %llu \xc3\xa9\n", "text", (unsigned long long)f->n);
		*(char **)at = s;
		break;
	}
	case PROTOBUF_C_TYPE_BYTES:
		fill_bytes(f, field, at);
		break;
	case PROTOBUF_C_TYPE_MESSAGE:
		*(ProtobufCMessage **)at = fill_message(f, field->descriptor);
		break;
	}
}

static size_t size_of(ProtobufCType t)
{
	switch (t) {
	case PROTOBUF_C_TYPE_BOOL:
		return sizeof(protobuf_c_boolean);
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
	case PROTOBUF_C_TYPE_FLOAT:
	case PROTOBUF_C_TYPE_ENUM:
		return 4;
	default:
		return 8;
	}
}

static void fill_field(struct fill *f, const ProtobufCFieldDescriptor *field, uint8_t *msg)
{
	enum { REPEAT = 3 };
	size_t size = size_of(field->type);
	uint8_t *array;

	if (field->label != PROTOBUF_C_LABEL_REPEATED) {
		fill_value(f, field, msg + field->offset);
		return;
	}
	array = arena_alloc(f->arena, REPEAT * size);
	for (size_t i = 0; i < REPEAT; i++)
		fill_value(f, field, array + i * size);
	*(size_t *)(msg + field->quantifier_offset) = REPEAT;
	*(uint8_t **)(msg + field->offset) = array;
}

static ProtobufCMessage *fill_message(struct fill *f, const ProtobufCMessageDescriptor *d)
{
	ProtobufCMessage *m = arena_alloc(f->arena, d->sizeof_message);
	unsigned int in_oneof = 0, members = 0;

	protobuf_c_message_init(d, m);
	for (unsigned int i = 0; i < d->n_fields; i++)
		members += !!(d->fields[i].flags & PROTOBUF_C_FIELD_FLAG_ONEOF);
	for (unsigned int i = 0; i < d->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &d->fields[i];

		if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
			if (in_oneof++ != f->choice % members)
				continue;
			*(int *)((uint8_t *)m + field->quantifier_offset) = (int)field->id;
		}
		fill_field(f, field, (uint8_t *)m);
	}
	return m;
}

static size_t pack(const ProtobufCMessage *m, struct arena *a, uint8_t **out)
{
	size_t len = protobuf_c_message_get_packed_size(m);

	*out = arena_alloc(a, len);
	cr_assert_eq(protobuf_c_message_pack(m, *out), len);
	return len;
}

/* Returns how many fields the message had. */
static unsigned int round_trip(const ProtobufCMessageDescriptor *d, unsigned int choice, size_t large)
{
	static struct arena a;
	struct fill f = {.arena = &a, .choice = choice, .large = large};
	uint8_t *first, *second;
	ProtobufCMessage *m;
	size_t len;

	arena_init(&a);
	len = pack(fill_message(&f, d), &a, &first);
	m = protobuf_c_message_unpack(d, &a.allocator, len, first);
	cr_assert(m, "%s cannot be read", d->name);
	cr_assert_eq(m->n_unknown_fields, 0u);
	cr_assert_eq(pack(m, &a, &second), len, "%s has another length", d->name);
	cr_assert_arr_eq(first, second, len, "%s is another message", d->name);
	arena_clear(&a);
	return f.fields;
}

UNIT(messages, every_message_survives_a_round_trip)
{
	enum { CHOICES = 16 }; /* more than any oneof has members */
	/* This machine's, and larger ones (AMX: 11 KiB). */
	static const size_t large[] = {0, 4096, 11 << 10, 64 << 10};

	cr_assert_gt(ARRAY_LEN(descriptors), 25);
	for (size_t i = 0; i < ARRAY_LEN(descriptors); i++)
		for (unsigned int choice = 0; choice < CHOICES; choice++) {
			unsigned int fields = round_trip(descriptors[i], choice, 300);

			cr_assert(fields || !descriptors[i]->n_fields, "%s: nothing was tested",
				  descriptors[i]->name);
		}
	for (size_t i = 0; i < ARRAY_LEN(large); i++)
		cr_assert_gt(round_trip(&vmb__vm_state__descriptor, 0, large[i]), 200);
}

UNIT(messages, a_message_cut_short_anywhere_is_refused_or_another_message)
{
	static struct arena a, b;
	struct fill f = {.arena = &a, .large = 300};
	uint8_t *whole, *again;
	size_t len;

	arena_init(&a);
	len = pack(fill_message(&f, &vmb__vm_state__descriptor), &a, &whole);
	for (size_t i = 0; i < len; i++) {
		uint8_t *cut = malloc(i ? i : 1); /* of its exact size, for ASan */
		ProtobufCMessage *m;

		memcpy(cut, whole, i);
		arena_init(&b);
		m = protobuf_c_message_unpack(&vmb__vm_state__descriptor, &b.allocator, i, cut);
		cr_assert(!m || pack(m, &b, &again) < len);
		arena_clear(&b);
		free(cut);
	}
	arena_clear(&a);
}
