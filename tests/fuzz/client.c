/* client.c: the commands, asked of a VM's process that lies: a guest may have got hold of it.
 *
 * Input: which command, a packet that is the VM's exit record and a number on the command line, then the
 * packets (fuzz.h) that each connection gets for answers.
 */
#include "tests/fuzz/fuzz.h"
#include "rejuv/cli.h"
#include "vmm/client.h"
#include "vmm/wire.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 16 };

static struct input answers;
static int peers[MAX_CONNECTIONS];
static unsigned int npeers;

/* Instead of the VM's control socket: all answers are there before anything is asked. */
static int connect_to_liar(void)
{
	struct input in = answers;
	int pair[2];

	if (npeers == MAX_CONNECTIONS || wire_pair(pair, NULL))
		abort();
	for (unsigned int i = 0; in.left && i < 4; i++) {
		struct input p = take_packet(&in);

		send(pair[1], p.at, p.left, MSG_DONTWAIT);
	}
	shutdown(pair[1], SHUT_WR);
	peers[npeers++] = pair[1];
	return pair[0];
}

static void clean_up(void)
{
	runtime_remove("vm");
	rmdir(runtime_dir());
}

/* The commands' output goes nowhere; libFuzzer has its own way to the terminal. */
static void open_all(void)
{
	static char dir[] = "/tmp/vmbeam-fuzz-XXXXXX";

	if (!mkdtemp(dir) || setenv("VMBEAM_RUNTIME_DIR", dir, 1) || runtime_claim("vm", NULL) < 0 ||
	    !(stdout = fopen("/dev/null", "we")))
		abort();
	atexit(clean_up);
	fuzz_connect = connect_to_liar;
}

static void write_record(struct input text)
{
	char *path = runtime_path("vm", "exit");
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write_all(fd, text.at, text.left) != (ssize_t)text.left)
		abort();
	close(fd);
	free(path);
}

void fuzz_one(const uint8_t *data, size_t len)
{
	static char text[64];
	static const struct {
		int (*run)(int argc, char **argv);
		int argc;
		const char *argv[7];
	} commands[] = {
		{info_main, 2, {"info", "vm"}},
		{info_main, 3, {"info", "vm", "--json"}},
		{list_main, 1, {"list"}},
		{list_main, 2, {"list", "--json"}},
		{pause_main, 2, {"pause", "vm"}},
		{balloon_main, 3, {"balloon", "vm", text}},
		{migrate_main, 5, {"migrate", "vm", "--to", "fresh", "--dry-run"}},
		{migrate_main, 7, {"migrate", "vm", "--to", "fresh", "--dry-run", "--timeout", text}},
		{migrate_main, 6, {"migrate", "vm", "--to", "fresh", "--dry-run", "--json"}},
	};
	struct input in = {data, len}, record;
	unsigned int c = (unsigned int)take(&in, 1) % ARRAY_LEN(commands);
	static FILE *nowhere;
	FILE *messages = stderr;
	char *argv[8] = {NULL};

	if (!nowhere) {
		open_all();
		nowhere = fopen("/dev/null", "we");
	}
	record = take_packet(&in);
	write_record(record);
	snprintf(text, sizeof(text), "%.*s", (int)record.left, (const char *)record.at);
	answers = in;
	memcpy(argv, commands[c].argv, sizeof(commands[c].argv));
	stderr = nowhere;
	commands[c].run(commands[c].argc, argv);
	stderr = messages;
	while (npeers)
		close(peers[--npeers]);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t max, unsigned int seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t len, size_t max);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t max, unsigned int seed)
{
	struct input in = {data, len};

	take(&in, 1);
	take_packet(&in);
	if (seed % 8 == 0 || !in.left)
		return LLVMFuzzerMutate(data, len, max);
	return mutate_packet(&vmb__reply__descriptor, data, len, max, (size_t)(in.at - data), 0,
			     seed);
}

static void seed_of(const Vmb__Reply *r)
{
	static uint8_t seed[8192];
	uint8_t *p;
	size_t n = pack_message(&r->base, &p), at = 1;

	for (uint8_t c = 0; c < 9; c++) {
		static const char *const texts[] = {"shutdown 0\n", "64M"};
		const char *text = texts[c == 5 || c == 7];

		seed[0] = c;
		at = 1 + put_packet(seed + 1, text, strlen(text));
		at += put_packet(seed + at, p, n);
		add_seed(seed, at);
	}
	free(p);
}

void fuzz_seeds(void)
{
	Vmb__Reply r = VMB__REPLY__INIT;
	Vmb__InfoReply info = VMB__INFO_REPLY__INIT;
	Vmb__HandoverOffer offer = VMB__HANDOVER_OFFER__INIT;
	Vmb__VmState state = VMB__VM_STATE__INIT;
	Vmb__VmConfig config = VMB__VM_CONFIG__INIT;
	Vmb__DiskConfig disk = VMB__DISK_CONFIG__INIT, *disks[1] = {&disk};
	Vmb__NetConfig net = VMB__NET_CONFIG__INIT, *nets[1] = {&net};

	r.kind_case = VMB__REPLY__KIND_READY;
	r.ready = &(Vmb__Empty)VMB__EMPTY__INIT;
	seed_of(&r);
	config.disks = disks;
	config.n_disks = 1;
	config.nets = nets;
	config.n_nets = 1;
	r.kind_case = VMB__REPLY__KIND_INFO;
	r.info = &info;
	info.config = &config;
	seed_of(&r);
	r.kind_case = VMB__REPLY__KIND_OFFER;
	r.offer = &offer;
	offer.provisional = &state;
	state.config = &config;
	seed_of(&r);
}
