/* wire.c: any packet, with descriptors, received as any message; one that is taken for a message can
 * be packed again and read again as the same.
 *
 * Input: which message, how many descriptors, then the packet.
 */
#include "tests/fuzz/fuzz.h"
#include "vmm/wire.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const ProtobufCMessageDescriptor *const descriptors[] = {
#define MESSAGE(descriptor) &descriptor,
#include "tests/unit/messages.h"
};

static void check_again(const ProtobufCMessage *m)
{
	uint8_t *first, *second;
	size_t len = pack_message(m, &first);
	ProtobufCMessage *again = protobuf_c_message_unpack(m->descriptor, NULL, len, first);

	/* The library reads a field of number 0 in a long form, and writes it in the short one that it
	 * refuses. */
	if (again) {
		if (pack_message(again, &second) != len || memcmp(first, second, len))
			abort();
		free(second);
		protobuf_c_message_free_unpacked(again, NULL);
	}
	free(first);
}

void fuzz_one(const uint8_t *data, size_t len)
{
	struct input in = {data, len};
	const ProtobufCMessageDescriptor *d = descriptors[take(&in, 1) % ARRAY_LEN(descriptors)];
	unsigned int nfds = (unsigned int)take(&in, 1);
	int sent[WIRE_MAX_FDS];
	bool wanted = nfds & 1;
	ProtobufCMessage *m = NULL;
	struct wire_fds fds;
	struct error e = {""};
	int pair[2], r;

	if (wire_pair(pair, NULL))
		abort();
	nfds = nfds / 2 % (WIRE_MAX_FDS + 1);
	for (unsigned int i = 0; i < nfds; i++)
		sent[i] = pair[0];
	if (!send_packet(pair[0], in, sent, nfds))
		abort();
	close(pair[0]);
	r = wire_recv(pair[1], d, &m, wanted ? &fds : NULL, 1000, &e);
	if (r < 0 ? !e.text[0] : r == 0 && in.left)
		abort();
	if (r > 0) {
		check_again(m);
		protobuf_c_message_free_unpacked(m, NULL);
		if (wanted) {
			if (fds.count != nfds)
				abort();
			close(wire_take_fd(&fds, 0)); /* -1 if there are none */
			wire_close_fds(&fds);
		}
	}
	close(pair[1]);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t max, unsigned int seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t len, size_t max);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t max, unsigned int seed)
{
	if (len < 2 || seed % 4 == 0)
		return LLVMFuzzerMutate(data, len, max);
	return 2 + mutate_message(descriptors[data[0] % ARRAY_LEN(descriptors)], data + 2, len - 2,
				  max - 2, seed);
}

/* Of each message an empty one: the mutator fills it. */
void fuzz_seeds(void)
{
	for (size_t i = 0; i < ARRAY_LEN(descriptors); i++)
		add_seed((uint8_t[]){(uint8_t)i, (uint8_t)(i * 5)}, 2);
}
