/* virtio_blk.c: disks: raw files and block devices, by io_uring and, where the file system has it,
 * O_DIRECT.
 *
 * Source: Virtual I/O Device (VIRTIO) 1.2, chapter 5.2.  A request's buffers are the guest's own
 * memory; where their alignment does not suit O_DIRECT a bounce buffer stands in.  A disk is locked
 * with an open-file-description lock (fcntl(2), F_OFD_SETLK), which goes with the descriptor through
 * a handover.
 */
#include "vmm/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	SECTOR = 512,
	LOCK_TRIES = 20,
	LOCK_INTERVAL_US = 50000,
	SEG_MAX = VIRTQ_MAX_IOV - 2,
	MAX_REQUEST = 8 << 20, /* bytes; Linux stays far below */
	MAX_BOUNCED = 16 << 20, /* bytes a disk, in requests under way that O_DIRECT cannot take as they are */
	BATCH = VIRTQ_MAX_SIZE, /* requests before other devices get their turn */
	ID_LEN = VIRTIO_BLK_ID_BYTES,
};

struct disk {
	struct virtio_device virtio; /* first */
	unsigned int file;	     /* index in the ring */
	uint64_t sectors;
	uint32_t align; /* O_DIRECT's, 1 without */
	bool read_only;
	unsigned int inflight;
	size_t bounced; /* bytes */
	struct request *free;
};

struct request {
	struct ring_request ring; /* first */
	struct disk *disk;
	struct virtq_chain chain;
	struct iovec iov[VIRTQ_MAX_IOV]; /* the data part */
	uint8_t *bounce;
	struct iovec bounce_iov;
	size_t len;
	bool to_guest;
	uint32_t type;
	struct request *next;
};

static struct disk *to_disk(struct virtio_device *d)
{
	return (struct disk *)d;
}

/* ---- opening */

/* A VMM that was killed holds its locks until the kernel has taken its io_uring down: some patience. */
static int lock_disk(int fd, const struct flock *lock)
{
	int tries = LOCK_TRIES;

	while (fcntl(fd, F_OFD_SETLK, lock)) {
		if ((errno != EAGAIN && errno != EACCES) || !tries--)
			return -1;
		poll(NULL, 0, LOCK_INTERVAL_US / 1000);
	}
	return 0;
}

int disk_lock(int fd, const char *path, bool read_only, struct error *e)
{
	struct flock lock = {.l_type = read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};

	if (!lock_disk(fd, &lock))
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return error_set(e, "%s: locked by another VM", path);
	return error_set_errno(e, "%s: cannot lock it", path);
}

void disk_unlock(int fd)
{
	const struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

	if (fcntl(fd, F_OFD_SETLK, &lock))
		log_line("disk: cannot unlock it: %s", strerror(errno));
}

int disk_open(const char *path, bool read_only, bool lock, struct error *e)
{
	int mode = (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC, fd;
	struct stat st;

	fd = open(path, mode | O_DIRECT);
	if (fd < 0 && errno == EINVAL) /* a file system without O_DIRECT */
		fd = open(path, mode);
	if (fd < 0)
		return error_set_errno(e, "%s", path);
	if (fstat(fd, &st) || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)))
		error_set(e, "%s: neither a file nor a block device", path);
	else if (!lock || !disk_lock(fd, path, read_only, e))
		return fd;
	close(fd);
	return -1;
}

static int disk_size(int fd, uint64_t *sectors, struct error *e)
{
	struct stat st;
	uint64_t bytes = 0;

	if (fstat(fd, &st))
		return error_set_errno(e, "fstat");
	bytes = (uint64_t)st.st_size;
	if (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, &bytes))
		return error_set_errno(e, "BLKGETSIZE64");
	*sectors = bytes / SECTOR;
	return 0;
}

static uint32_t direct_io_alignment(int fd)
{
	struct statx sx;
	int n;

	if (!(fcntl(fd, F_GETFL) & O_DIRECT))
		return 1;
#ifdef STATX_DIOALIGN
	if (!statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) && sx.stx_mask & STATX_DIOALIGN &&
	    sx.stx_dio_mem_align)
		return MAX(sx.stx_dio_mem_align, sx.stx_dio_offset_align);
#else
	(void)sx;
#endif
	return ioctl(fd, BLKSSZGET, &n) == 0 && n > 0 ? (uint32_t)n : 4096;
}

/* ---- requests */

static struct request *take_request(struct disk *k)
{
	struct request *r = k->free;

	if (r)
		k->free = r->next;
	else
		r = xcalloc(1, sizeof(*r));
	r->disk = k;
	r->bounce = NULL;
	r->len = 0;
	r->to_guest = false;
	return r;
}

static void give_back(struct request *r)
{
	if (r->bounce)
		r->disk->bounced -= r->len;
	free(r->bounce);
	r->bounce = NULL;
	r->next = r->disk->free;
	r->disk->free = r;
}

/* The status byte is the last of what the device may write. */
static void finish(struct request *r, uint8_t status)
{
	struct disk *k = r->disk;
	struct virtq *q = &k->virtio.queues[0];
	const struct virtq_chain *c = &r->chain;

	if (virtio_running(&k->virtio)) {
		uint32_t written = (r->to_guest && status == VIRTIO_BLK_S_OK ? (uint32_t)r->len : 0) + 1;

		iov_write(c->iov + c->nout, c->nin, c->in_len - 1, &status, 1);
		virtq_push(q, c->head, written);
		virtq_notify(q);
	}
	give_back(r);
}

static void on_done(struct ring_request *ring, int res)
{
	struct request *r = (struct request *)ring;
	struct disk *k = r->disk;
	bool ok = res >= 0 && (size_t)res == r->len;
	uint8_t failed = VIRTIO_BLK_S_IOERR;

	if (r->type == VIRTIO_BLK_T_FLUSH || r->type == VIRTIO_BLK_T_DISCARD ||
	    r->type == VIRTIO_BLK_T_WRITE_ZEROES)
		ok = res == 0;
	if (r->type == VIRTIO_BLK_T_DISCARD && res == -EOPNOTSUPP)
		ok = true; /* a hint; the disk keeps its data */
	if (r->type == VIRTIO_BLK_T_WRITE_ZEROES && res == -EOPNOTSUPP)
		failed = VIRTIO_BLK_S_UNSUPP; /* the guest writes the zeroes itself */
	if (ok && r->bounce && r->to_guest)
		iov_write(r->chain.iov + r->chain.nout, r->chain.nin, 0, r->bounce, r->len);
	k->inflight--;
	finish(r, ok ? VIRTIO_BLK_S_OK : failed);
	virtio_quiesced(&k->virtio);
}

static bool is_aligned(const struct iovec *iov, unsigned int n, uint32_t align)
{
	for (unsigned int i = 0; i < n; i++)
		if (((uintptr_t)iov[i].iov_base | iov[i].iov_len) & (align - 1))
			return false;
	return true;
}

/* Returns a virtio status for what can be answered now, -1 if the request is under way, -2 if the
 * ring is full. */
static int start_rw(struct request *r, uint64_t sector)
{
	struct disk *k = r->disk;
	struct ring *ring = k->virtio.pci.vm->ring;
	bool in = r->type == VIRTIO_BLK_T_IN;
	const struct virtq_chain *c = &r->chain;
	struct iovec *iov = r->iov;
	unsigned int n;

	r->len = in ? c->in_len - 1 : c->out_len - sizeof(struct virtio_blk_outhdr);
	r->to_guest = in;
	if (!in && k->read_only)
		return VIRTIO_BLK_S_IOERR;
	if (!r->len || r->len % SECTOR || r->len > MAX_REQUEST || sector > k->sectors ||
	    r->len / SECTOR > k->sectors - sector)
		return VIRTIO_BLK_S_IOERR;
	if (in)
		n = iov_slice(r->iov, VIRTQ_MAX_IOV, c->iov + c->nout, c->nin, 0, r->len);
	else
		n = iov_slice(r->iov, VIRTQ_MAX_IOV, c->iov, c->nout,
			      sizeof(struct virtio_blk_outhdr), r->len);
	if (!is_aligned(r->iov, n, k->align)) {
		if (k->bounced && k->bounced + r->len > MAX_BOUNCED)
			return -2;
		if (posix_memalign((void **)&r->bounce, MAX(k->align, 512u), r->len)) {
			r->bounce = NULL;
			return VIRTIO_BLK_S_IOERR;
		}
		k->bounced += r->len;
		if (!in)
			iov_read(r->iov, n, 0, r->bounce, r->len);
		r->bounce_iov = (struct iovec){r->bounce, r->len};
		iov = &r->bounce_iov;
		n = 1;
	}
	if (!(in ? ring_readv : ring_writev)(ring, &r->ring, k->file, iov, n, sector * SECTOR))
		return -2;
	return -1;
}

static int start_zeroes(struct request *r)
{
	struct disk *k = r->disk;
	struct virtio_blk_discard_write_zeroes z;
	const struct virtq_chain *c = &r->chain;
	uint64_t sector, count;

	/* One segment a request: max_discard_seg and max_write_zeroes_seg say so. */
	if (k->read_only || c->out_len != sizeof(struct virtio_blk_outhdr) + sizeof(z))
		return VIRTIO_BLK_S_IOERR;
	iov_read(c->iov, c->nout, sizeof(struct virtio_blk_outhdr), &z, sizeof(z));
	sector = z.sector;
	count = z.num_sectors;
	if (!count || sector > k->sectors || count > k->sectors - sector)
		return VIRTIO_BLK_S_IOERR;
	if (!ring_fallocate(k->virtio.pci.vm->ring, &r->ring, k->file,
			    FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, sector * SECTOR, count * SECTOR))
		return -2;
	return -1;
}

static int start(struct request *r)
{
	struct disk *k = r->disk;
	const struct virtq_chain *c = &r->chain;
	struct virtio_blk_outhdr hdr;

	iov_read(c->iov, c->nout, 0, &hdr, sizeof(hdr));
	r->type = hdr.type;
	switch (hdr.type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		return start_rw(r, hdr.sector);
	case VIRTIO_BLK_T_FLUSH:
		return ring_fdatasync(k->virtio.pci.vm->ring, &r->ring, k->file) ? -1 : -2;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return start_zeroes(r);
	case VIRTIO_BLK_T_GET_ID: {
		char id[ID_LEN] = "";

		snprintf(id, sizeof(id), "vmb-%s", k->virtio.id);
		r->to_guest = true;
		r->len = iov_write(c->iov + c->nout, c->nin, 0, id, MIN(c->in_len - 1, sizeof(id)));
		return VIRTIO_BLK_S_OK;
	}
	default:
		return VIRTIO_BLK_S_UNSUPP;
	}
}

static void serve(struct disk *k)
{
	struct virtq *q = &k->virtio.queues[0];
	unsigned int served = 0;

	do {
		virtq_disable_kicks(q);
		for (;; served++) {
			struct request *r;
			int got, status;

			if (served == BATCH) {
				virtq_serve_again(q);
				goto out;
			}
			r = take_request(k);
			got = virtq_pop(q, &r->chain);
			if (got <= 0) {
				give_back(r);
				if (got < 0)
					goto out;
				break;
			}
			if (r->chain.in_len < 1 || r->chain.out_len < sizeof(struct virtio_blk_outhdr)) {
				give_back(r);
				virtio_fail(&k->virtio, "a request without header or status");
				goto out;
			}
			if (k->inflight >= q->size) {
				give_back(r);
				virtio_fail(&k->virtio, "more requests than its queue holds");
				goto out;
			}
			r->ring.done = on_done;
			k->inflight++;
			status = start(r);
			if (status >= 0) {
				k->inflight--;
				finish(r, (uint8_t)status);
			} else if (status == -2) {
				k->inflight--;
				give_back(r);
				virtq_unpop(q);
				virtq_serve_again(q); /* until there is room */
				goto out;
			}
		}
	} while (virtq_enable_kicks(q));
out:
	ring_submit(k->virtio.pci.vm->ring);
}

static void kicked(struct virtio_device *d, struct virtq *q)
{
	(void)q;
	serve(to_disk(d));
}

static unsigned int inflight(struct virtio_device *d)
{
	return to_disk(d)->inflight;
}

static void destroy(struct virtio_device *d)
{
	struct disk *k = to_disk(d);

	while (k->free) {
		struct request *r = k->free;

		k->free = r->next;
		free(r);
	}
}

static const struct virtio_ops ops = {
	.name = "disk",
	.type = VIRTIO_ID_BLOCK,
	.class_rev = 0x01800000,
	.nqueues = 1,
	.features = 1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_BLK_SIZE |
		    1ull << VIRTIO_BLK_F_FLUSH,
	.kicked = kicked,
	.inflight = inflight,
	.destroy = destroy,
};

int virtio_blk_create(struct vm *vm, unsigned int n, int fd, bool read_only, struct error *e)
{
	struct disk *k = xcalloc(1, sizeof(*k));
	struct virtio_blk_config *cfg = (void *)k->virtio.config;

	_Static_assert(sizeof(*cfg) <= sizeof(k->virtio.config), "room for the configuration");
	k->file = n;
	k->read_only = read_only;
	k->align = direct_io_alignment(fd);
	if (virtio_init(&k->virtio, vm, &ops, n, e) || disk_size(fd, &k->sectors, e))
		return -1; /* vm_destroy frees what is registered */
	if (read_only)
		k->virtio.features |= 1ull << VIRTIO_BLK_F_RO;
	else
		k->virtio.features |=
			1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES;
	k->virtio.config_len = sizeof(*cfg);
	cfg->capacity = k->sectors;
	cfg->seg_max = SEG_MAX;
	cfg->blk_size = MAX(k->align, (uint32_t)SECTOR);
	cfg->max_discard_sectors = cfg->max_write_zeroes_sectors = 1 << 22;
	cfg->max_discard_seg = cfg->max_write_zeroes_seg = 1;
	cfg->discard_sector_alignment = cfg->blk_size / SECTOR;
	return 0;
}
