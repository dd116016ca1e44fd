/* fuzz.h: what every fuzz target is made of.
 *
 * A target is one file of this folder: fuzz_one() does with an input what the product does with it,
 * on the fake KVM of the unit tests, and fuzz_seeds() writes the inputs to begin with.  An input
 * that leaves a descriptor behind is a failure like any other; memory is libFuzzer's to check.
 *
 *   build/fuzz/tests/fuzz/NAME --seeds=FOLDER     writes the seeds
 *   build/fuzz/tests/fuzz/NAME FILE               runs one input again
 */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include "tests/unit/fake_kvm.h"

void fuzz_one(const uint8_t *data, size_t len);
void fuzz_seeds(void);

/* Writes one seed. */
void add_seed(const void *data, size_t len);

/* An input that is read from its beginning; zeroes behind its end. */
struct input {
	const uint8_t *at;
	size_t left;
};
uint64_t take(struct input *in, size_t bytes);
/* Cuts off the next part of it, at most len bytes. */
struct input take_part(struct input *in, size_t len);

/* Makes a VM that has no input behind it, as far as that can be had faster than by making a new one:
 * devices and memory are as after a reset.  False: it must be made anew. */
bool renew_vm(struct vm *vm, const struct vm_ends *ends);

/* Reads all that is in it. */
void empty_socket(int fd);

/* A part with its length before it, so that a sequence of them can be taken apart again. */
struct input take_packet(struct input *in);
size_t put_packet(uint8_t *out, const void *data, size_t len);

/* Changes one thing in a packed message of that type; bytes that are none are changed as bytes.
 * Returns the new length. */
size_t mutate_message(const ProtobufCMessageDescriptor *d, uint8_t *data, size_t len, size_t max,
		      unsigned int seed);

/* The same with one packet of a sequence that begins at `start`, with a gap before each. */
size_t mutate_packet(const ProtobufCMessageDescriptor *d, uint8_t *data, size_t len, size_t max,
		     size_t start, size_t gap, unsigned int seed);

/* Called in place of wire_connect(), if set. */
extern int (*fuzz_connect)(void);

/* Descriptors as a peer may send them, each chosen by one byte of the input. */
enum fd_kind { FD_MEMFD, FD_NULL, FD_SOCKET_CLOSED, FD_SOCKET_PACKET, FD_STATE, FD_KINDS };
/* FD_SOCKET_PACKET holds `packet`, and FD_STATE is a sealed state file of it. */
int make_fd(enum fd_kind kind, struct input packet);
/* One packet with n (at most WIRE_MAX_FDS) descriptors; false if it could not be sent. */
bool send_packet(int sock, struct input packet, const int *fds, size_t n);
/* A sealed memfd of a state's header, with the right length and checksum, and these bytes. */
int make_state(struct input body);
/* A message, packed; free with free(). */
size_t pack_message(const ProtobufCMessage *m, uint8_t **out);

#endif
