/* guest.c: a hostile guest, and the networks, consoles and disks behind its devices.
 *
 * Input: which device's driver is started, with which features, then operations (struct below) until
 * it ends.  At the end the VM is captured and restored: nothing that a guest does may prevent that.
 */
#include "tests/fuzz/fuzz.h"
#include "tests/unit/guest.h"
#include "tests/unit/images.h"

#include <linux/pci_regs.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_pci.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	RAM = 8 << 20,
	BAR_SIZE = 0x8000,
	NOTIFY = 0x3000, /* in BAR 0 */
	MAX_OPERATIONS = 64,
};

enum operation {
	OUT, /* size, port, value */
	IN,
	CONFIG_WRITE, /* slot, offset, size, value */
	CONFIG_READ,
	BAR_WRITE, /* device, size, offset, value */
	BAR_READ,
	MEMORY, /* address, count, bytes */
	DESCRIPTOR, /* queue, index, buffer, length, flags, next */
	AVAILABLE, /* queue, head */
	KICK, /* device, queue */
	LOOP,
	FRAME, /* length, bytes */
	TYPE, /* length, bytes: to the consoles */
	BACKEND, /* how the disk behaves */
	BALLOON, /* target */
	BUTTON,
	PROVISIONAL,
	DRAIN,
	REQUEST, /* type, sector, length: to a disk, well-formed */
	OPERATIONS,
};

static struct vm *vm;
static struct vm_ends ends;
static struct virtio_device *dev;
static int serial_client, hvc_client;

static int kernel_file(void)
{
	static uint8_t image[IMAGE_MAX] __attribute__((aligned(8)));

	return memfd_with(image, make_image(0, image));
}

static int add_client(struct console *c)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair))
		abort();
	console_add_client(c, pair[0]);
	return pair[1];
}

static void turn(void)
{
	if (vm->reset_wanted)
		fake_disk = DISK_WORKS; /* a reset waits for the disk, too long for a fuzzer */
	for (int i = 0; i < 3; i++)
		loop_once(vm->loop, 0);
}

/* As vcpu.c shares out the ports. */
static void port(uint16_t p, uint32_t v, unsigned int len, bool out)
{
	if (p >= 0x3f8 && p <= 0x3ff && out)
		serial_write(vm->serial, p - 0x3f8, (uint8_t)v);
	else if (p >= 0x3f8 && p <= 0x3ff)
		serial_read(vm->serial, p - 0x3f8);
	else if (p >= 0xcf8 && p <= 0xcff && out)
		pci_config_write(vm, p, v, len);
	else if (p >= 0xcf8 && p <= 0xcff)
		pci_config_read(vm, p, len);
	else if (out)
		platform_out(vm, p, v, len);
	else
		platform_in(vm, p, len);
}

static uint16_t choose_port(struct input *in)
{
	static const uint16_t ports[] = {0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff,
					 0xcf8, 0xcfc, 0xcfd, 0xcfe, 0xcff, 0x600, 0x602, 0x604,
					 0x64,  0xf4};
	unsigned int n = (unsigned int)take(in, 1);

	return n < ARRAY_LEN(ports) ? ports[n] : (uint16_t)take(in, 2);
}

static struct virtio_device *device(struct input *in)
{
	unsigned int n = (unsigned int)take(in, 1);

	return n & 0x80 ? vm->virtio[n % vm->nvirtio] : dev;
}

static void bar(struct virtio_device *d, uint32_t off, uint64_t v, unsigned int len, bool write)
{
	pci_mmio(vm, d->pci.bar_addr + off, &v, len, write);
}

static void write_memory(struct input *in)
{
	uint64_t gpa = take(in, 3);
	struct input bytes = take_part(in, take(in, 1));
	void *p = memory_at(&vm->memory, gpa, bytes.left);

	if (p && bytes.left)
		memcpy(p, bytes.at, bytes.left);
}

static void kick(struct virtio_device *d, unsigned int q)
{
	bar(d, NOTIFY + 4 * q, q, 2, true);
	turn();
}

static struct guest_queue ring(unsigned int q)
{
	return guest_queue(dev, q % dev->ops->nqueues);
}

static void write_descriptor(struct input *in)
{
	struct guest_queue q = ring((unsigned int)take(in, 1));
	unsigned int i = (unsigned int)take(in, 1);
	uint64_t addr = take(in, 3);

	q.desc[i] = (struct vring_desc){
		.addr = addr >= RAM ? addr << 36 : addr,
		.len = (uint32_t)take(in, 3),
		.flags = (uint16_t)take(in, 1),
		.next = (uint16_t)take(in, 1),
	};
}

static void make_available(struct input *in)
{
	unsigned int q = (unsigned int)take(in, 1);
	struct guest_queue g = ring(q);

	if (g.size)
		guest_add(dev, q % dev->ops->nqueues, (uint16_t)take(in, 1));
}

static void disk_request(struct input *in)
{
	struct virtio_blk_outhdr h = {.type = (uint32_t)take(in, 1), .sector = take(in, 2)};
	uint16_t write = h.type == VIRTIO_BLK_T_IN || h.type == VIRTIO_BLK_T_GET_ID ? VRING_DESC_F_WRITE : 0;
	struct guest_queue q = ring(0);

	if (!q.size)
		return;
	memcpy(guest_memory(vm, GUEST_BUFFERS), &h, sizeof(h));
	q.desc[0] = (struct vring_desc){GUEST_BUFFERS, sizeof(h), VRING_DESC_F_NEXT, 1};
	q.desc[1] = (struct vring_desc){GUEST_BUFFERS + 4096, (uint32_t)take(in, 2),
					(uint16_t)(VRING_DESC_F_NEXT | write), 2};
	q.desc[2] = (struct vring_desc){GUEST_BUFFERS + 64, 1, VRING_DESC_F_WRITE, 0};
	guest_add(dev, 0, 0);
	kick(dev, 0);
}

static void send_frame(struct input *in)
{
	static uint8_t frame[70000];
	size_t len = take(in, 2) + sizeof(struct virtio_net_hdr_mrg_rxbuf);

	send(ends.tap[0], frame, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	turn();
}

static void type(struct input *in)
{
	struct input bytes = take_part(in, take(in, 1));

	send(serial_client, bytes.at, bytes.left, MSG_DONTWAIT | MSG_NOSIGNAL);
	send(hvc_client, bytes.at, bytes.left, MSG_DONTWAIT | MSG_NOSIGNAL);
	turn();
}

static void must(int r, const struct error *e)
{
	if (!r)
		return;
	fprintf(stderr, "a guest can prevent this: %s\n", e->text);
	abort();
}

/* What a destination would be told now is fit to be loaded. */
static void provisional(void)
{
	Vmb__VmState *s = vm_provisional(vm);
	struct error e;

	must(vm_load_provisional(vm, s, &e), &e);
	vmb__vm_state__free_unpacked(s, NULL);
}

static void drain(uint64_t timeout_ns)
{
	if (!vm_drain(vm, timeout_ns, NULL))
		vm_uncapture(vm, NULL);
}

static void operate(struct input *in)
{
	static const unsigned int sizes[] = {1, 2, 4, 8};
	uint8_t code = (uint8_t)take(in, 1);
	unsigned int len = sizes[code / OPERATIONS % 3], slot;
	struct virtio_device *d;
	uint32_t off;
	struct error e;

	switch ((enum operation)(code % OPERATIONS)) {
	case OUT:
	case IN: {
		uint16_t p = choose_port(in);

		port(p, (uint32_t)take(in, len), len, code % OPERATIONS == OUT);
		break;
	}
	case CONFIG_WRITE:
		slot = (unsigned int)take(in, 1) % 32;
		off = (uint32_t)take(in, 1);
		pci_write(vm, slot, off, (uint32_t)take(in, len), len);
		break;
	case CONFIG_READ:
		slot = (unsigned int)take(in, 1) % 32;
		pci_read(vm, slot, (unsigned int)take(in, 1), len);
		break;
	case BAR_WRITE:
	case BAR_READ:
		d = device(in);
		off = (uint32_t)take(in, 2) % BAR_SIZE;
		len = sizes[code / OPERATIONS % 4];
		bar(d, off, take(in, len), len, code % OPERATIONS == BAR_WRITE);
		break;
	case MEMORY:
		write_memory(in);
		break;
	case DESCRIPTOR:
		write_descriptor(in);
		break;
	case AVAILABLE:
		make_available(in);
		break;
	case KICK:
		d = device(in);
		kick(d, (unsigned int)take(in, 1) % 8);
		break;
	case LOOP:
		turn();
		break;
	case FRAME:
		send_frame(in);
		break;
	case TYPE:
		type(in);
		break;
	case BACKEND:
		fake_disk = (enum fake_disk)(take(in, 1) % (DISK_RING_FULL + 1));
		break;
	case BALLOON:
		balloon_set_target(vm, take(in, 3), &e);
		break;
	case BUTTON:
		platform_power_button(vm);
		break;
	case PROVISIONAL:
		provisional();
		break;
	case DRAIN:
		drain(0);
		break;
	case REQUEST:
		disk_request(in);
		break;
	case OPERATIONS:
		break;
	}
}

/* vCPUs are not this target's: they would only make it slow. */
static void capture_and_restore(void)
{
	struct error e = {""};
	Vmb__SerialState *serial;
	Vmb__PlatformState *platform;

	fake_disk = DISK_WORKS;
	must(vm_drain(vm, 1000000000, &e), &e);
	serial = serial_state_get(vm->serial);
	platform = platform_state_get(vm);
	provisional();
	must(serial_state_set(vm->serial, serial, &e), &e);
	platform_state_set(vm, platform);
	vmb__serial_state__free_unpacked(serial, NULL);
	vmb__platform_state__free_unpacked(platform, NULL);
	vm_uncapture(vm, NULL);
	turn();
}

static void start_driver(struct input *in)
{
	static const uint16_t sizes[] = {256, 4, 1, 64};
	unsigned int choice = (unsigned int)take(in, 1), bits = (unsigned int)take(in, 1);
	uint64_t features;

	dev = vm->virtio[choice % vm->nvirtio];
	if (choice & 0x80)
		return;
	/* Low bits are the device's own features, high ones the rings'. */
	features = bits & 7 ? dev->features & 0xffffff : 0;
	features |= (bits & 16 ? 1ull << VIRTIO_RING_F_INDIRECT_DESC : 0) |
		    (bits & 32 ? 1ull << VIRTIO_RING_F_EVENT_IDX : 0);
	if (bits & 8)
		features &= ~(1ull << VIRTIO_NET_F_MRG_RXBUF);
	driver_prepare(dev, features | 1ull << VIRTIO_F_VERSION_1);
	for (unsigned int q = 0; q < dev->ops->nqueues; q++)
		if (!(bits >> 6 >> q & 1)) /* some drivers forget one */
			driver_queue(dev, q, sizes[choice / 16 % ARRAY_LEN(sizes)]);
	bar(dev, VIRTIO_PCI_COMMON_STATUS, 15, 1, true);
	turn();
}

static void open_vm(void)
{
	vm = make_vm(&(struct vm_spec){.memory = RAM, .disks = 1, .nets = 1, .rng = true, .balloon = true,
				       .virtio_console = true, .debug_exit = true, .kernel = kernel_file()},
		     &ends);
	serial_client = add_client(vm->console);
	hvc_client = add_client(vm->hvc);
	vm->user_paused = true; /* a reset starts no vCPU */
}

static void close_vm(void)
{
	close(serial_client);
	close(hvc_client);
	destroy_vm(vm, &ends);
}

void fuzz_one(const uint8_t *data, size_t len)
{
	struct input in = {data, len};

	if (!vm)
		open_vm();
	start_driver(&in);
	for (unsigned int i = 0; in.left && i < MAX_OPERATIONS; i++)
		operate(&in);
	turn();
	capture_and_restore();
	empty_socket(serial_client);
	empty_socket(hvc_client);
	if (renew_vm(vm, &ends))
		return;
	close_vm();
	open_vm();
}

/* A chain of three descriptors: 16 bytes out, 512 and 1 in, made available and kicked. */
#define CHAIN(q, first_flags, data_flags)                                                          \
	DESCRIPTOR, q, 0, 0, 0, 0x20, 16, 0, 0, first_flags, 1,                                    \
	DESCRIPTOR, q, 1, 0, 0x10, 0x20, 0, 2, 0, data_flags, 2,                                   \
	DESCRIPTOR, q, 2, 0x40, 0, 0x20, 1, 0, 0, 2, 0,                                            \
	AVAILABLE, q, 0, KICK, 0, q

/* One operation of each kind on each device, with features and without, and a seed without drivers. */
void fuzz_seeds(void)
{
	static const uint8_t features[] = {0, 7, 7 + 16 + 32, 8 + 7 + 32, 7 + 64, 7 + 128};
	static const uint8_t operations[] = {
		CHAIN(0, 1, 3), CHAIN(1, 1, 1), CHAIN(0, 3, 3), CHAIN(2, 3, 3), CHAIN(0, 1, 1),
		REQUEST, VIRTIO_BLK_T_IN, 1, 0, 0, 4, REQUEST, VIRTIO_BLK_T_OUT, 1, 0, 0, 2,
		REQUEST, VIRTIO_BLK_T_FLUSH, 0, 0, 0, 0, REQUEST, VIRTIO_BLK_T_DISCARD, 0, 0, 16, 0,
		MEMORY, 0, 0, 0, 4, 1, 2, 3, 4, MEMORY, 0, 0x10, 0x20, 4, 1, 0, 0, 0, FRAME, 60, 0, FRAME, 0, 4, LOOP,
		TYPE, 3, 'a', 'b', 'c', BACKEND, DISK_HANGS, REQUEST, VIRTIO_BLK_T_IN, 1, 0, 0, 4,
		BAR_WRITE, 0, VIRTIO_PCI_COMMON_STATUS, 0, 0, BACKEND, DISK_WORKS, LOOP,
		BALLOON, 0, 0, 1, BUTTON, PROVISIONAL, DRAIN,
	};
	static const uint8_t others[] = {
		0x80, 0, OUT, 0, 'x', OUT, 1, 3, IN, 0, IN, 2, OUT, 4, 0x10, OUT, 0, 'y', IN, 0,
		OUT, 15, 0, OUT, 13, 0xff, IN, 13, OUT, 2, 7,
		CONFIG_WRITE, 1, PCI_COMMAND, 2, CONFIG_READ, 1, 0, BAR_READ, 0, 0, 0,
		OPERATIONS + BAR_WRITE, 0x81, VIRTIO_PCI_COMMON_Q_SIZE, 0, 0, 1,
		2 * OPERATIONS + CONFIG_WRITE, 1, PCI_BASE_ADDRESS_0, 0, 0, 2, 0xd0,
		2 * OPERATIONS + BAR_WRITE, 0x82, 0, 0x40, 0, 0, 0xe0, 0xfe,
		OUT, 16, 0xfe, LOOP, 2 * OPERATIONS + OUT, 17, 1, 0, 0, 0, LOOP,
		OPERATIONS + OUT, 15, 0, 0x34, LOOP,
	};
	uint8_t seed[2 + sizeof(operations)];

	for (uint8_t d = 0; d < 5; d++)
		for (size_t f = 0; f < ARRAY_LEN(features); f++) {
			seed[0] = (uint8_t)(d + 15 * (f & 1));
			seed[1] = features[f];
			memcpy(seed + 2, operations, sizeof(operations));
			add_seed(seed, sizeof(seed));
		}
	add_seed(others, sizeof(others));
}
