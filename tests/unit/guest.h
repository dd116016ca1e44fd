/* guest.h: what a guest's drivers do, for the tests: ports, BARs, virtqueues.
 *
 * A queue's rings lie at fixed places in guest memory (struct guest_queue); tests write nonsense
 * there themselves.
 */
#ifndef TESTS_GUEST_H
#define TESTS_GUEST_H

#include "vmm/internal.h"

#include <linux/virtio_ring.h>

/* Guest memory, of at least 8 MiB, as the drivers use it. */
enum {
	GUEST_RINGS = 0x100000, /* GUEST_RING_SIZE a queue */
	GUEST_RING_SIZE = 0x10000,
	GUEST_BUFFERS = 0x200000,
};

uint32_t pci_read(struct vm *vm, unsigned int slot, unsigned int off, unsigned int len);
void pci_write(struct vm *vm, unsigned int slot, unsigned int off, uint32_t v, unsigned int len);
/* Off is in BAR 0, where the device decodes it. */
uint64_t bar_get(struct virtio_device *d, uint32_t off, unsigned int len);
void bar_set(struct virtio_device *d, uint32_t off, uint64_t v, unsigned int len);

/* BAR 0's offset of a structure of the given type (VIRTIO_PCI_CAP_...), found as a driver finds it;
 * *cap (may be NULL) is the capability's offset. */
uint32_t virtio_structure(struct virtio_device *d, uint8_t type, unsigned int *cap);

/* A driver's whole start: reset, features (of those offered), queues of qsize entries, MSI-X with
 * vector i for queue i, DRIVER_OK. */
void driver_start(struct virtio_device *d, uint64_t features, uint16_t qsize);
/* The same up to, and without, enabling the queues. */
void driver_prepare(struct virtio_device *d, uint64_t features);
void driver_queue(struct virtio_device *d, unsigned int q, uint16_t qsize);

struct guest_queue {
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t *used_event, *avail_event;
	uint16_t size;
	uint64_t desc_gpa, avail_gpa, used_gpa;
};
struct guest_queue guest_queue(struct virtio_device *d, unsigned int q);
/* One more available chain. */
void guest_add(struct virtio_device *d, unsigned int q, uint16_t head);
/* Rings the doorbell and runs the loop until it has nothing to do. */
void guest_kick(struct virtio_device *d, unsigned int q);
void run_loop(struct vm *vm);
void *guest_memory(struct vm *vm, uint64_t gpa);
/* Has this vector's interrupt been sent since the last time? */
bool took_interrupt(struct virtio_device *d, unsigned int vector);

#endif
