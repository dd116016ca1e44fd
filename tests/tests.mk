# tests.mk: what `make check` runs.
#   check-unit   natively, criterion, ASan and UBSan; no KVM needed
#   check-fuzz   the fuzz targets of tests/fuzz, a few seconds each; no KVM needed
#   check-native tests/native: vmbeamd without VMs, the benchmark's report; no KVM needed
#   check-lab    tests/lab/*.sh with real KVM: in the lab, or here where KVM nests

include tests/guests/guests.mk

.PHONY: check check-unit check-lab check-fuzz check-native fuzz
comma := ,
check:                                    ## all tests; installs what they need
	$(Q)$(MAKE) --no-print-directory deps
	$(Q)$(MAKE) --no-print-directory check-guests check-unit check-fuzz check-native check-lab

check-lab: build lab-kernel hypervisor nest-image guest-beat guest-debian guest-tools  ## the KVM tests (TESTS="a b" for some)
	$(Q)tests/lab/check.sh $(TESTS)

check-native: build build/bench/report       ## vmbeamd's API against bad clients, its engine on VMs that are files, the benchmark's report; no KVM needed
	$(Q)tests/native/api.sh
	$(Q)tests/native/engine.sh
	$(Q)tests/native/report.sh

.PHONY: check-dashboard
check-dashboard:                          ## the page for browsers, in a headless Chromium; installs that
	$(Q)$(MAKE) --no-print-directory deps build PACKAGES_TEST="$(PACKAGES_TEST) chromium chromium-driver"
	$(Q)tests/native/dashboard.sh

.PHONY: check-package
check-package:                            ## the Debian package and its systemd units, on an emulated Debian 12 (ten minutes)
	$(Q)$(MAKE) --no-print-directory deps
	$(Q)$(MAKE) --no-print-directory lab-kernel guest-beat deb
	$(Q)tests/native/package.sh

.PHONY: check-long
check-long: build lab-kernel hypervisor nest-image guest-beat guest-debian guest-tools check-dashboard check-package  ## 200 handovers, 50 nested moves, sizes, every kill, 200 migrations (many hours)
	$(Q)HANDOVERS=200 KILL_ALL=1 TEST_TIMEOUT=3600 MIGRATIONS=100 NESTED=50 NESTED_ALL=1 REJUVENATIONS=50 \
		tests/lab/check.sh handover stream size nested nested-speed nested-copy fence leaks kill copy network network-faults limits nest aging contention clock shutdown daemon daemon-faults daemon-kills daemon-network
	$(Q)SOAK=30 TEST_TIMEOUT=14400 tests/lab/check.sh soak soak-forecast
	$(Q)tests/native/power.sh
	$(Q)LAB_MEMORY=12G TEST_TIMEOUT=3000 tests/lab/check.sh nested-size

# ---- unit tests: the project's objects on a fake KVM (tests/unit/fake_kvm.c)

UNIT_SRC  := $(wildcard tests/unit/*.c)
UNIT_OBJS := $(UNIT_SRC:%.c=$(OBJ)/%.o)
UNIT_RUN  := $(OBJ)/tests/unit/run
# What the tests put something of theirs in the place of.
WRAPPED   := open fcntl ioctl log_line raise sandbox_drop_privileges sandbox_filter_calls ring_create \
	ring_destroy ring_readv ring_writev ring_fdatasync ring_fallocate ring_submit ring_wait virtq_push
WRAP      := $(addprefix -Wl$(comma)--wrap=,$(WRAPPED))

# Runs as UNIT_ARGS says: --filter 'suite/name', --verbose, ...
check-unit:                               ## the unit tests (UNIT_ARGS="--filter owner/*" for some)
	$(Q)$(MAKE) --no-print-directory SAN=asan build/asan/tests/unit/run
	$(Q)ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1 \
		UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 VMBEAM_CGROUP= \
		build/asan/tests/unit/run $(UNIT_ARGS)

# The names of all messages' descriptors.
$(OBJ)/tests/unit/messages.h: proto/vmbeam.proto
	@mkdir -p $(@D)
	$(Q)sed -n 's/^message \([A-Za-z0-9]*\).*/\1/p' $< | sed 's/\([a-z0-9]\)\([A-Z]\)/\1_\2/g' | \
		tr A-Z a-z | sed 's/.*/MESSAGE(vmb__&__descriptor)/' >$@
$(UNIT_OBJS): | $(OBJ)/proto/vmbeam.pb-c.h $(OBJ)/vmm/dsdt.h $(OBJ)/tests/unit/messages.h
# The program's own main() under another name.
$(OBJ)/tests/unit/vmbeam_main.o: $(OBJ)/rejuv/main.o
	@mkdir -p $(@D)
	$(Q)objcopy --redefine-sym main=vmbeam_main $< $@
$(UNIT_RUN): $(LIBOBJS) $(filter-out %/main.o,$(MIG_OBJS) $(MON_OBJS) $(DAEMON_OBJS)) $(OBJ)/tests/unit/vmbeam_main.o $(UNIT_OBJS)
	@echo "  LD   $@"
	$(Q)$(CC) $(SANFLAGS) $(LDFLAGS) $(WRAP) -o $@ $^ $(LDLIBS) $(MIG_LIBS) $(MON_LIBS) -lsystemd -lcriterion
-include $(UNIT_OBJS:.o=.d)

# ---- fuzz targets: tests/fuzz/NAME.c on the same fake KVM, each a program of its own

FUZZ_SECONDS ?= 60
FUZZ_TARGETS := $(filter-out fuzz,$(notdir $(basename $(wildcard tests/fuzz/*.c))))
FUZZ_OBJ     := $(OBJ)/tests/fuzz
FUZZ_PARTS   := $(OBJ)/tests/unit/vmbeam_main.o $(FUZZ_OBJ)/fuzz.o $(addprefix $(OBJ)/rejuv/daemon/,config.o schedule.o) $(addprefix $(OBJ)/tests/unit/,fake_kvm.o guest.o images.o)
FUZZ_WRAP    := $(filter-out %=virtq_push,$(WRAP)) -Wl,--wrap=raise,--wrap=wire_connect
$(FUZZ_TARGETS:%=$(FUZZ_OBJ)/%.o) $(FUZZ_PARTS): | $(OBJ)/proto/vmbeam.pb-c.h $(OBJ)/tests/unit/messages.h
$(FUZZ_TARGETS:%=$(FUZZ_OBJ)/%): %: %.o $(LIBOBJS) $(filter-out %/main.o,$(MIG_OBJS)) $(FUZZ_PARTS)
	@echo "  LD   $@"
	$(Q)$(CC) $(SANFLAGS) -fsanitize=fuzzer $(LDFLAGS) $(FUZZ_WRAP) -o $@ $^ $(LDLIBS) $(MIG_LIBS)

# What is found lands in build/fuzz/found, the inputs that reach new code in build/fuzz/corpus.
fuzz:                                     ## all fuzz targets, FUZZ_SECONDS=60 each (FUZZ="a b" for some)
	$(Q)$(MAKE) --no-print-directory SAN=fuzz \
		$(addprefix build/fuzz/tests/fuzz/,$(or $(FUZZ),$(FUZZ_TARGETS)))
	$(Q)FUZZ_SECONDS=$(FUZZ_SECONDS) tests/fuzz/run.sh $(or $(FUZZ),$(FUZZ_TARGETS))
check-fuzz:                               ## the same, a second each
	$(Q)$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=1
-include $(FUZZ_TARGETS:%=$(FUZZ_OBJ)/%.d)
