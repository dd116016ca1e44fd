# bench.mk: vmbeam beside other programs; included by the top Makefile.
#   bench        the paper's plots: vmbeam bench (bench/bench.sh)
#   bench-qemu   QEMU's cpr-transfer and `vmbeam migrate --to fresh`, in one lab run (bench/qemu.sh)
#   bench-stream the migration engine over loopback, and QEMU's (bench/stream.sh)
#   bench-downtime  whether pre-copy keeps its downtime limit (bench/downtime.sh)
#   bench-aging  how early the ageing monitor sees a leak, how often it is wrong (bench/aging.c)

PACKAGES_BENCH := libjansson-dev debian-archive-keyring gnuplot-nox

BENCH := build/bench

.PHONY: bench
bench:                                    ## the paper's plots (BENCH_ARGS="quick" or "all", P1 to P10, --out, --systems; DOCS=docs)
	$(Q)$(MAKE) --no-print-directory deps PACKAGES_TEST='$(PACKAGES_BENCH) socat sqlite3 curl iputils-ping'
	$(Q)$(MAKE) --no-print-directory build lab-kernel hypervisor nest-image guests \
		$(addprefix $(BENCH)/,stamp report stream qemu-move qemu10.stamp)
	$(Q)DOCS='$(DOCS)' build/vmbeam bench $(BENCH_ARGS)

$(BENCH)/report: $(wildcard $(foreach f,report page recordings results model,bench/$(f).c bench/$(f).h)) vmm/base.c vmm/base.h
	@mkdir -p $(@D)
	@echo "  CC   $@"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(WARN) -o $@ $(filter %.c, $^) -ljansson -lm

.PHONY: bench-qemu
bench-qemu:                               ## compare with QEMU 10.0 (RUNS=5 SIZES="512 1024" CPUS=2 HUGE=)
	$(Q)$(MAKE) --no-print-directory deps PACKAGES_TEST='$(PACKAGES_BENCH)'
	$(Q)$(MAKE) --no-print-directory build lab-kernel guest-beat guest-tools \
		$(BENCH)/stamp $(BENCH)/qemu-move $(BENCH)/qemu10.stamp
	$(Q)RUNS='$(RUNS)' SIZES='$(SIZES)' CPUS='$(CPUS)' HUGE='$(HUGE)' bench/qemu.sh

$(BENCH)/stamp $(BENCH)/qemu-move: $(BENCH)/%: bench/%.c vmm/base.c vmm/base.h
	@mkdir -p $(@D)
	@echo "  CC   $@"
	$(Q)$(CC) $(GUEST_CFLAGS) -o $@ $(filter %.c, $^) -ljansson

$(BENCH)/qemu10.stamp: bench/qemu-fetch.sh
	@mkdir -p $(@D)
	@echo "  GET  $(BENCH)/qemu10"
	$(Q)bench/qemu-fetch.sh $(BENCH)/qemu10
	$(Q)touch $@

.PHONY: bench-stream
bench-stream:                             ## the migration engine beside QEMU's, natively (MEMORY=8G CONNECTIONS=1,2,4,8 RUNS=2)
	$(Q)$(MAKE) --no-print-directory deps PACKAGES_TEST='$(PACKAGES_BENCH) socat openssl'
	$(Q)$(MAKE) --no-print-directory build $(BENCH)/stream $(BENCH)/qemu10.stamp
	$(Q)MEMORY='$(MEMORY)' CONNECTIONS='$(CONNECTIONS)' RUNS='$(RUNS)' bench/stream.sh

.PHONY: bench-downtime
bench-downtime: build $(BENCH)/stream     ## does pre-copy keep its downtime limit? natively (MEMORY=512M RUNS=5 RATES= LIMITS= SWITCH=)
	$(Q)MEMORY='$(MEMORY)' RUNS='$(RUNS)' RATES='$(RATES)' LIMITS='$(LIMITS)' SWITCH='$(SWITCH)' bench/downtime.sh

# The migration engine alone; with the program's own objects.
$(BENCH)/stream: bench/stream.c $(addprefix $(OBJ)/,$(addprefix migrate/,conn.o tls.o stream.o sender.o precopy.o receive.o faults.o) vmm/base.o)
	@mkdir -p $(@D)
	@echo "  CC   $@"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(SANFLAGS) $(WARN) -o $@ $^ -l:liburing.a -pthread $(MIG_LIBS)

.PHONY: bench-aging
bench-aging: $(BENCH)/aging               ## the ageing monitor on simulated hypervisors, natively (DAYS=300 LEAKS=200 SEED=)
	$(Q)$(BENCH)/aging $(or $(DAYS),300) $(or $(LEAKS),200) $(or $(SEED),20261123) \
		bench/aging-noise-hypervisor.txt bench/aging-noise.txt

$(BENCH)/aging: bench/aging.c $(filter-out %/store.c,$(wildcard aging-monitor/*.c)) $(wildcard aging-monitor/*.h)
	@mkdir -p $(@D)
	@echo "  CC   $@"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(WARN) -o $@ $(filter %.c, $^) -lm

include bench/nest.mk
