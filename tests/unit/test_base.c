/* test_base.c: numbers and sizes, a VM's configuration, and the names of its descriptors. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

UNIT(base, sizes_are_read_exactly_or_refused)
{
	static const struct {
		const char *text;
		uint64_t bytes; /* WRONG: refused */
	} table[] = {
#define WRONG 0xbadull
		{"0", 0},
		{"1", 1},
		{"512M", 512 * MIB},
		{"4g", 4 * GIB},
		{"64K", 64 * KIB},
		{"1T", 1024 * GIB},
		{"18446744073709551615", UINT64_MAX},
		{"16777215T", 16777215ull * 1024 * GIB},
		{"16777216T", WRONG},
		{"18446744073709551616", WRONG},
		{"17179869184G", WRONG},
		{"", WRONG},
		{"M", WRONG},
		{"-1", WRONG},
		{"+1", WRONG},
		{" 1", WRONG},
		{"1 ", WRONG},
		{"1 M", WRONG},
		{"1MB", WRONG},
		{"1.5G", WRONG},
		{"0x10", WRONG},
		{"1P", WRONG},
		{"1\n", WRONG},
		{"1@", WRONG},
	};
	struct error e;

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		uint64_t v = WRONG;
		int r = parse_size(table[i].text, &v, &e);

		cr_expect_eq(r, table[i].bytes == WRONG ? -1 : 0, "'%s'", table[i].text);
		cr_expect_eq(v, table[i].bytes, "'%s' is %llu", table[i].text, (unsigned long long)v);
	}
}

UNIT(base, whole_numbers_are_read_exactly_or_refused)
{
	static const struct {
		const char *text;
		uint64_t min, max;
		bool good;
	} table[] = {
		{"0", 0, 0, true},
		{"7", 7, 7, true},
		{"6", 7, 9, false},
		{"10", 7, 9, false},
		{"007", 7, 7, true},
		{"18446744073709551615", 0, UINT64_MAX, true},
		{"18446744073709551616", 0, UINT64_MAX, false},
		{"", 0, 9, false},
		{"-1", 0, UINT64_MAX, false},
		{"+1", 0, 9, false},
		{" 1", 0, 9, false},
		{"1 ", 0, 9, false},
		{"1k", 0, 9999, false},
		{"0x1", 0, 9, false},
	};
	struct error e;

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		uint64_t v;

		cr_expect_eq(parse_uint(table[i].text, table[i].min, table[i].max, &v, &e),
			     table[i].good ? 0 : -1, "'%s'", table[i].text);
	}
}

UNIT(base, an_error_is_one_line_whatever_it_quotes)
{
	char long_text[1000];
	struct error e;

	memset(long_text, '\n', sizeof(long_text));
	long_text[sizeof(long_text) - 1] = 0;
	error_set(&e, "%s", long_text);
	cr_assert(!strchr(e.text, '\n') && strlen(e.text) == sizeof(e.text) - 1);
	errno = ENOENT;
	error_set_errno(&e, "%s", long_text);
	cr_assert_eq(errno, ENOENT);
	error_set_errno(&e, "/a\nb");
	cr_assert_str_eq(e.text, "/a b: No such file or directory");
	cr_assert_eq(error_set(NULL, "nobody asks"), -1);
	cr_assert_eq(error_set_errno(NULL, "nobody asks"), -1);
}

/* A configuration that is right, for the tests to spoil. */
struct config {
	Vmb__VmConfig c;
	Vmb__NetConfig net, *nets[VM_MAX_NETS + 1];
	Vmb__DiskConfig disk, *disks[VM_MAX_DISKS + 1];
	char *modules[VM_MAX_MODULES + 1];
	uint8_t mac[7];
};

static void good_config(struct config *g)
{
	memset(g, 0, sizeof(*g));
	vmb__vm_config__init(&g->c);
	vmb__net_config__init(&g->net);
	vmb__disk_config__init(&g->disk);
	g->c.name = (char *)(uintptr_t) "web-1.example_x";
	g->c.kernel = (char *)(uintptr_t) "/vmlinuz";
	g->c.memory = 4 * MIB;
	g->c.cpus = 1;
	g->net.mac = (ProtobufCBinaryData){6, g->mac};
	for (size_t i = 0; i < ARRAY_LEN(g->nets); i++)
		g->nets[i] = &g->net;
	for (size_t i = 0; i < ARRAY_LEN(g->disks); i++)
		g->disks[i] = &g->disk;
	for (size_t i = 0; i < ARRAY_LEN(g->modules); i++)
		g->modules[i] = (char *)(uintptr_t) "m";
	g->c.nets = g->nets;
	g->c.disks = g->disks;
	g->c.modules = g->modules;
}

UNIT(config, names_are_safe_as_file_names)
{
	static const char *const good[] = {"a", "A9", "0", "web-1", "x.y_z",
					   "123456789012345678901234567890123456789012345678901234567890123"};
	static const char *const bad[] = {
		"",    ".",   "..",  ".hidden", "-rf",  "a/b",	  "../x", "a b",
		"a\n", "a\t", "é",   "a%s",	"a;b",	"a\x7f",  "a:",
		"1234567890123456789012345678901234567890123456789012345678901234"};
	struct config g;

	good_config(&g);
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		g.c.name = (char *)(uintptr_t)good[i];
		cr_expect_eq(vm_config_validate(&g.c, NULL), 0, "'%s'", good[i]);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		g.c.name = (char *)(uintptr_t)bad[i];
		cr_expect_eq(vm_config_validate(&g.c, NULL), -1, "'%s'", bad[i]);
	}
}

UNIT(config, sizes_and_counts_have_limits)
{
	static const struct {
		const char *what;
		uint64_t memory;
		uint32_t cpus;
		size_t disks, nets, modules, mac;
		int result;
	} table[] = {
		{"least", 4 * MIB, 1, 0, 0, 0, 6, 0},
		{"most", 1024 * GIB, MAX_VCPUS, VM_MAX_DISKS, VM_MAX_NETS, VM_MAX_MODULES, 6, 0},
		{"no memory", 0, 1, 0, 0, 0, 6, -1},
		{"too little memory", 2 * MIB, 1, 0, 0, 0, 6, -1},
		{"odd memory", 5 * MIB, 1, 0, 0, 0, 6, -1},
		{"one byte more", 4 * MIB + 1, 1, 0, 0, 0, 6, -1},
		{"no cpu", 4 * MIB, 0, 0, 0, 0, 6, -1},
		{"a cpu too many", 4 * MIB, MAX_VCPUS + 1, 0, 0, 0, 6, -1},
		{"a disk too many", 4 * MIB, 1, VM_MAX_DISKS + 1, 0, 0, 6, -1},
		{"a network too many", 4 * MIB, 1, 0, VM_MAX_NETS + 1, 0, 6, -1},
		{"a module too many", 4 * MIB, 1, 0, 0, VM_MAX_MODULES + 1, 6, -1},
		{"a short MAC address", 4 * MIB, 1, 0, 1, 0, 5, -1},
		{"a long MAC address", 4 * MIB, 1, 0, 1, 0, 7, -1},
		{"no MAC address", 4 * MIB, 1, 0, 1, 0, 0, -1},
	};
	struct config g;

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		good_config(&g);
		g.c.memory = table[i].memory;
		g.c.cpus = table[i].cpus;
		g.c.n_disks = table[i].disks;
		g.c.n_nets = table[i].nets;
		g.c.n_modules = table[i].modules;
		g.net.mac.len = table[i].mac;
		cr_expect_eq(vm_config_validate(&g.c, NULL), table[i].result, "%s", table[i].what);
	}
	good_config(&g);
	g.c.kernel = (char *)(uintptr_t) "";
	cr_assert_eq(vm_config_validate(&g.c, NULL), -1);
}

static void fill_files(struct vm_files *f)
{
	/* Every member is an int: all of them get a number of their own. */
	int *p = (int *)f;

	for (size_t i = 0; i < sizeof(*f) / sizeof(int); i++)
		p[i] = 5000 + (int)i;
}

UNIT(files, each_descriptor_arrives_under_its_own_name)
{
	struct vm_files in, out;
	int fds[VM_MAX_FILES];
	char names[VM_MAX_FILES][16];
	size_t n;

	cr_assert_eq(sizeof(in), VM_MAX_FILES * sizeof(int), "a member that VM_MAX_FILES lacks");
	fill_files(&in);
	n = vm_files_list(&in, fds, names);
	cr_assert_eq(n, VM_MAX_FILES);
	vm_files_init(&out);
	cr_assert_eq(vm_files_list(&out, (int[VM_MAX_FILES]){0}, (char[VM_MAX_FILES][16]){""}), 0);
	while (n-- > 0) { /* in any order */
		for (size_t k = 0; k < n; k++)
			cr_assert_str_neq(names[n], names[k]);
		cr_assert_eq(vm_files_set(&out, names[n], fds[n]), 0, "%s", names[n]);
	}
	cr_assert_arr_eq((int *)&out, (int *)&in, VM_MAX_FILES);
}

UNIT(files, unknown_names_are_refused_and_a_second_descriptor_replaces_the_first)
{
	static const char *const unknown[] = {"",	 "disk",    "disk16", "disk-1", "disk01", "tap8",
					      "module8", "Kernel",  "ram0",   "ram ",	"exit2"};
	struct vm_files f;
	int first = open("/dev/null", O_RDONLY), second = open("/dev/null", O_RDONLY);

	vm_files_init(&f);
	for (size_t i = 0; i < ARRAY_LEN(unknown); i++)
		cr_expect_eq(vm_files_set(&f, unknown[i], first), -1, "'%s'", unknown[i]);
	cr_assert_eq(vm_files_set(&f, "disk3", first), 0);
	cr_assert_eq(vm_files_set(&f, "disk3", second), 0);
	cr_assert_eq(fcntl(first, F_GETFD), -1);
	cr_assert_eq(f.disks[3], second);
	vm_files_close(&f);
	cr_assert_eq(f.disks[3], -1);
}

/* vm_create() with one disk and one network; its descriptors are made here. */
static struct vm *try_create(const Vmb__VmConfig *c, struct error *e)
{
	struct vm_files f;

	vm_files_init(&f);
	f.ram = memfd_with("", 0);
	f.disks[0] = memfd_with("", 0);
	f.taps[0] = eventfd(0, EFD_CLOEXEC);
	if (ftruncate(f.ram, (off_t)c->memory) ||
	    fcntl(f.ram, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		abort();
	e->text[0] = 0;
	return vm_create(c, &f, false, e);
}

static void spare_config(struct config *g)
{
	good_config(g);
	g->c.n_disks = g->c.n_nets = 1;
	g->c.cpus = 2;
}

/* Whatever step fails, nothing of what vm_create() took over stays open. */
UNIT(files, that_came_from_elsewhere_are_complete_and_of_the_right_kind)
{
	enum { REGULAR, NONE };
	static const struct {
		const char *name;
		int kind;
		bool good;
	} table[] = {
		{"ram", REGULAR, true},	  {"ram", NONE, false},	   {"control", NONE, false},
		{"control", REGULAR, false}, {"console", NONE, true}, {"console", REGULAR, false},
		{"hvc", NONE, true},	  {"hvc", REGULAR, false},   {"disk1", NONE, false},
		{"tap0", NONE, false},	  {"tap0", REGULAR, false},
	};
	Vmb__VmConfig c = VMB__VM_CONFIG__INIT;

	c.n_disks = 2;
	c.n_nets = 1;
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		static const char *const sockets[] = {"control", "console", "hvc", "tap0"};
		struct vm_files f;
		int pair[2];

		vm_files_init(&f);
		vm_files_set(&f, "ram", memfd_with("", 0));
		vm_files_set(&f, "disk0", memfd_with("", 0));
		vm_files_set(&f, "disk1", memfd_with("", 0));
		for (size_t k = 0; k < ARRAY_LEN(sockets); k++) {
			cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
			vm_files_set(&f, sockets[k], pair[0]);
			close(pair[1]);
		}
		cr_assert_eq(vm_files_check(&f, &c, NULL), 0);
		vm_files_set(&f, table[i].name, table[i].kind == NONE ? -1 : memfd_with("", 0));
		cr_expect_eq(vm_files_check(&f, &c, NULL), table[i].good ? 0 : -1, "row %zu", i);
		vm_files_close(&f);
	}
}

UNIT(config, a_vm_that_cannot_be_built_leaves_nothing)
{
	static const struct {
		unsigned long request;
		unsigned int times; /* at least so often: each of them is to fail once */
	} steps[] = {
		{0, 1}, /* no /dev/kvm at all */
		{KVM_GET_API_VERSION, 1},
		{KVM_CREATE_VM, 1},
		{KVM_SET_TSS_ADDR, 1},
		{KVM_SET_IDENTITY_MAP_ADDR, 1},
		{KVM_CREATE_IRQCHIP, 1},
		{KVM_CREATE_PIT2, 1},
		{KVM_GET_SUPPORTED_CPUID, 1},
		{KVM_GET_MSR_INDEX_LIST, 2},
		{KVM_SET_USER_MEMORY_REGION, 1},
		{KVM_GET_VCPU_MMAP_SIZE, 2},
		{KVM_CREATE_VCPU, 2},
		{KVM_SET_CPUID2, 2},
		{KVM_IRQFD, 5},
		{KVM_GET_REGS, 2},
		{KVM_GET_MSRS, 1},
		{KVM_GET_DEVICE_ATTR, 2},
		{KVM_GET_PIT2, 1},
		{KVM_GET_IRQCHIP, 3},
	};
	struct config g;
	struct error e;

	spare_config(&g);
	for (size_t i = 0; i < ARRAY_LEN(steps); i++)
		for (unsigned int n = 0; n < steps[i].times; n++) {
			size_t before = count_fds();

			fake.absent = !steps[i].request;
			fake.fail = steps[i].request;
			fake.fail_after = n;
			cr_assert_null(try_create(&g.c, &e), "step %zu, time %u", i, n);
			cr_assert(e.text[0]);
			cr_assert_eq(count_fds(), before, "step %zu: %s", i, e.text);
			cr_assert_geq(fcntl(STDIN_FILENO, F_GETFD), 0, "step %zu: closed stdin", i);
		}
}

UNIT(config, a_vm_that_runs_out_of_descriptors_leaves_nothing)
{
	size_t before = count_fds(), failures = 0;
	struct rlimit old, limit;
	struct vm *vm = NULL;
	struct config g;
	struct error e;

	spare_config(&g);
	getrlimit(RLIMIT_NOFILE, &old);
	limit = old;
	/* Those that try_create() itself needs, and one more each time. */
	for (limit.rlim_cur = before + 3; !vm; limit.rlim_cur++) {
		setrlimit(RLIMIT_NOFILE, &limit);
		vm = try_create(&g.c, &e);
		setrlimit(RLIMIT_NOFILE, &old);
		if (vm)
			break;
		failures++;
		cr_assert(e.text[0]);
		cr_assert_eq(count_fds(), before, "with %llu descriptors: %s",
			     (unsigned long long)limit.rlim_cur, e.text);
		cr_assert_geq(fcntl(STDIN_FILENO, F_GETFD), 0, "closed stdin");
	}
	cr_assert_geq(failures, 10);
	vm_destroy(vm);
}
