/* beat_disk.c: the disk oracle of beat.  beat.disk=N threads, so N requests in flight, each with a
 * part of /dev/vda of its own: it writes chunks of growing size with O_DIRECT, reads each one back,
 * and before it writes one again reads what the pass before left there.  So a write that was lost,
 * torn, done twice after a later one, or went to another place shows.  Every FLUSH_EVERY chunks
 * comes an fdatasync, which is the virtio flush.
 *
 * A block of 4 KiB: its number, the pass, then pattern(pass, block, word).
 */
#include "tests/guests/beat.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BLOCK_BYTES 4096u
#define BLOCK_WORDS (BLOCK_BYTES / 8)
#define FLUSH_EVERY 32

/* Blocks of the chunks, one after the other. */
static const unsigned chunk_blocks[] = {1, 4, 16, 2, 64, 1};
#define MAX_CHUNK 64

struct disk_worker {
	uint64_t first, blocks; /* its part of the disk, in blocks */
};

static int disk;
static bool running;
static _Atomic uint64_t disk_written, disk_bad;

static uint64_t word_of(uint64_t block, uint64_t pass, unsigned word)
{
	return word == 0 ? block : word == 1 ? pass : pattern(pass, block, word);
}

static bool may_report(void)
{
	return atomic_fetch_add(&disk_bad, 1) < MAX_REPORTS;
}

static void transfer(bool write, uint64_t *buf, uint64_t block, unsigned count)
{
	size_t len = count * BLOCK_BYTES;
	off_t at = (off_t)(block * BLOCK_BYTES);
	ssize_t done = write ? pwrite(disk, buf, len, at) : pread(disk, buf, len, at);

	if (done != (ssize_t)len && may_report())
		say("BEAT DISK %s block=%llu count=%u: %s", write ? "WRITE" : "READ",
		    (unsigned long long)block, count, done < 0 ? strerror(errno) : "short");
}

static void check_chunk(uint64_t *buf, uint64_t block, unsigned count, uint64_t pass)
{
	memset(buf, 0, count * BLOCK_BYTES);
	transfer(false, buf, block, count);
	for (unsigned b = 0; b < count; b++, buf += BLOCK_WORDS) {
		for (unsigned i = 0; i < BLOCK_WORDS; i++) {
			uint64_t want = word_of(block + b, pass, i);

			if (buf[i] == want)
				continue;
			if (may_report())
				say("BEAT DISK MISMATCH block=%llu want=%llx got=%llx word=%u "
				    "pass=%llu",
				    (unsigned long long)(block + b), (unsigned long long)want,
				    (unsigned long long)buf[i], i, (unsigned long long)pass);
			break;
		}
	}
}

static void write_chunk(uint64_t *buf, uint64_t block, unsigned count, uint64_t pass)
{
	for (unsigned b = 0; b < count; b++) {
		for (unsigned i = 0; i < BLOCK_WORDS; i++)
			buf[b * BLOCK_WORDS + i] = word_of(block + b, pass, i);
	}
	transfer(true, buf, block, count);
	atomic_fetch_add(&disk_written, count * BLOCK_BYTES);
}

static void *work(void *arg)
{
	struct disk_worker *me = arg;
	uint64_t *buf = aligned_alloc(BLOCK_BYTES, MAX_CHUNK * BLOCK_BYTES);
	unsigned chunk = 0;

	for (uint64_t pass = 1;; pass++) {
		uint64_t at = 0;

		while (at < me->blocks) {
			unsigned count = chunk_blocks[chunk++ % ARRAY_LEN(chunk_blocks)];

			count = MIN(count, me->blocks - at);
			if (pass > 1)
				check_chunk(buf, me->first + at, count, pass - 1);
			write_chunk(buf, me->first + at, count, pass);
			check_chunk(buf, me->first + at, count, pass);
			if (chunk % FLUSH_EVERY == 0 && fdatasync(disk) && may_report())
				say("BEAT DISK FLUSH: %s", strerror(errno));
			at += count;
		}
	}
	return NULL;
}

void disk_start(void)
{
	uint64_t threads = opt_number("disk", 0), bytes, use = opt_number("disksize", 64 * MIB);

	if (!threads)
		return;
	load_virtio();
	load_modules((const char *const[]){"virtio_blk", NULL});
	disk = open("/dev/vda", O_RDWR | O_DIRECT | O_CLOEXEC);
	if (disk < 0 || ioctl(disk, BLKGETSIZE64, &bytes))
		die("beat.disk: /dev/vda: %s", strerror(errno));
	use = MIN(use, bytes) / BLOCK_BYTES / threads;
	if (!use)
		die("beat.disk: /dev/vda: too small");
	running = true;
	for (uint64_t i = 0; i < threads; i++) {
		struct disk_worker *w = malloc(sizeof(*w));

		*w = (struct disk_worker){.first = i * use, .blocks = use};
		start_thread(work, w);
	}
}

bool disk_stats(uint64_t *written, uint64_t *bad)
{
	*written = atomic_load(&disk_written);
	*bad = atomic_load(&disk_bad);
	return running;
}
