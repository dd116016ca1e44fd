# vmbeam: build, test, demonstrate.  `make help` lists the targets.
# V=1 shows every command; SAN=asan, SAN=tsan or SAN=fuzz builds into a folder of its own.

SAN   ?=
MODE  := $(or $(SAN),release)
OBJ   := build/$(MODE)
BIN   := $(if $(SAN),$(OBJ),build)
Q     := $(if $(V),,@)
CC    ?= gcc
ifeq ($(SAN),fuzz)
CC     := clang
CFLAGS ?= -O1 -g
endif

# Debian packages: what the product is built with, what its tests and demonstrations need besides.
PACKAGES_BUILD := gcc make pkg-config liburing-dev libprotobuf-c-dev protobuf-c-compiler \
	libnuma-dev libseccomp-dev libcap-ng-dev libjansson-dev libssl-dev libsqlite3-dev libmicrohttpd-dev \
	libncurses-dev libsystemd-dev acpica-tools xxd dpkg-dev
PACKAGES_LAB   := qemu-system-x86 busybox-static cpio kmod xz-utils zstd e2fsprogs mmdebstrap iproute2
PACKAGES_TEST  := clang clang-tidy libcriterion-dev dmsetup iputils-ping mount procps socat sqlite3 curl prometheus gnuplot-nox

LIBS    := libprotobuf-c libseccomp libcap-ng jansson
CPPFLAGS += -D_GNU_SOURCE -I. -isystem $(OBJ) $(shell pkg-config --cflags $(LIBS) 2>/dev/null)
CFLAGS  ?= -O2 -g
WARN    := -std=gnu11 -Wall -Wextra -Wshadow -Wcast-qual -Wstrict-prototypes -Wvla $(if $(CI),-Werror)
ifeq ($(SAN),fuzz)
WARN    := -std=gnu11 -Wall -Wno-gnu-variable-sized-type-not-at-end # gcc has warned of the rest
endif
# liburing 2.3 does not export io_uring_register_restrictions from its shared library.
LDLIBS  += $(shell pkg-config --libs $(LIBS) 2>/dev/null) -lnuma -l:liburing.a -lm -pthread
ifeq ($(SAN),asan)
SANFLAGS := -fsanitize=address,undefined -fno-omit-frame-pointer
else ifeq ($(SAN),fuzz)
SANFLAGS := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
else ifeq ($(SAN),tsan)
SANFLAGS := -fsanitize=thread
else
SANFLAGS := -fstack-protector-strong -D_FORTIFY_SOURCE=2
# One file without libraries: starts faster, and is all that a guest hypervisor's image needs.  What the
# linker warns of (libnuma and libcap-ng call the resolver and the user database) is never called.
STATIC  := -static-pie -Wl,--no-warnings
endif

# Sources: every .c file of a folder belongs to it; rejuv/main.c is the vmbeam program.
FOLDERS := proto vmm zerocopy nested rejuv
SRC     := $(wildcard $(addsuffix /*.c,$(FOLDERS))) aging-monitor/collect.c
PROTO_O := $(OBJ)/proto/vmbeam.pb-c.o
OBJS    := $(PROTO_O) $(SRC:%.c=$(OBJ)/%.o)
LIBOBJS := $(filter-out $(OBJ)/rejuv/main.o,$(OBJS))
# vmbeam-migrate, a program of its own: OpenSSL is in no process that runs a VM.
MIG_SRC  := $(wildcard migrate/*.c)
MIG_OBJS := $(MIG_SRC:%.c=$(OBJ)/%.o)
MIG_LIBS := -lssl -lcrypto
# vmbeam-monitor, another: SQLite, HTTP and the screen.
MON_SRC  := $(wildcard rejuv/monitor/*.c) $(filter-out aging-monitor/collect.c,$(wildcard aging-monitor/*.c))
MON_OBJS := $(MON_SRC:%.c=$(OBJ)/%.o)
MON_LIBS := -lsqlite3 -lmicrohttpd -lncurses -ltinfo
# vmbeamd: what it does with VMs it has vmbeam do.
DAEMON_SRC  := $(wildcard rejuv/daemon/*.c)
DAEMON_OBJS := $(DAEMON_SRC:%.c=$(OBJ)/%.o)
DAEMON_LIBS := -lsqlite3 -lmicrohttpd -lsystemd

.PHONY: all build help deps clean
all: build
build: $(addprefix $(BIN)/,vmbeam vmbeam-migrate vmbeam-monitor vmbeamd) ## build build/vmbeam, build/vmbeamd

help:                                     ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## */\1\t/p' $(MAKEFILE_LIST) | expand -t 16

$(BIN)/vmbeam: $(OBJS)
	@echo "  LD   $@"
	$(Q)$(CC) $(SANFLAGS) $(STATIC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BIN)/vmbeam-migrate: $(MIG_OBJS) $(PROTO_O) $(addprefix $(OBJ)/,$(addprefix vmm/,base.o cgroup.o client.o wire.o sandbox.o) zerocopy/owner.o zerocopy/fault.o)
	@echo "  LD   $@"
	$(Q)$(CC) $(SANFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS) $(MIG_LIBS)

$(BIN)/vmbeam-monitor: $(MON_OBJS) $(PROTO_O) $(addprefix $(OBJ)/,aging-monitor/collect.o $(addprefix rejuv/,cli.o operations.o) \
		$(addprefix vmm/,base.o cgroup.o client.o wire.o) $(addprefix nested/,hypervisor.o channel.o))
	@echo "  LD   $@"
	$(Q)$(CC) $(SANFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS) $(MON_LIBS)

$(BIN)/vmbeamd: $(DAEMON_OBJS) $(PROTO_O) $(addprefix $(OBJ)/,rejuv/cli.o rejuv/monitor/address.o $(addprefix vmm/,base.o cgroup.o client.o wire.o))
	@echo "  LD   $@"
	$(Q)$(CC) $(SANFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS) $(DAEMON_LIBS)

$(OBJ)/%.o: %.c
	@mkdir -p $(@D)
	@echo "  CC   $<"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(SANFLAGS) $(WARN) -MMD -MP -c -o $@ $<

# Generated: the messages, and the guest's DSDT as a C array.
$(OBJ)/proto/%.pb-c.c $(OBJ)/proto/%.pb-c.h &: proto/%.proto
	@mkdir -p $(@D)
	@echo "  GEN  $@"
	$(Q)protoc-c --c_out=$(OBJ) $<
$(OBJ)/proto/%.pb-c.o: $(OBJ)/proto/%.pb-c.c
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(SANFLAGS) -MMD -MP -c -o $@ $<
$(OBJ)/vmm/dsdt.h: vmm/dsdt.asl
	@mkdir -p $(@D)
	@echo "  GEN  $@"
	$(Q)iasl -p $(OBJ)/vmm/dsdt $< >$(OBJ)/vmm/dsdt.log || { cat $(OBJ)/vmm/dsdt.log; exit 1; }
	$(Q)xxd -i -n dsdt_aml $(OBJ)/vmm/dsdt.aml >$@
$(OBJ)/rejuv/daemon/openapi.h: rejuv/daemon/openapi.json
	@mkdir -p $(@D)
	@echo "  GEN  $@"
	$(Q)xxd -i -n openapi_json $< >$@
$(OBJ)/rejuv/daemon/dashboard.h: rejuv/daemon/dashboard.html
	@mkdir -p $(@D)
	@echo "  GEN  $@"
	$(Q)xxd -i -n dashboard_html $< >$@
$(OBJ)/rejuv/daemon/api.o: $(OBJ)/rejuv/daemon/openapi.h $(OBJ)/rejuv/daemon/dashboard.h
$(OBJS) $(MON_OBJS) $(DAEMON_OBJS): | $(OBJ)/proto/vmbeam.pb-c.h $(OBJ)/vmm/dsdt.h

deps:                                     ## install the Debian packages that are missing (as root)
	@missing=$$(for p in $(PACKAGES_BUILD) $(PACKAGES_LAB) $(PACKAGES_TEST); do \
		dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then echo "  APT  $$missing" | tr '\n' ' '; echo; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
		--no-install-recommends $$missing >/dev/null; fi

.PHONY: demo
demo:                                     ## a guest hypervisor is rejuvenated under load; installs what it needs
	$(Q)$(MAKE) --no-print-directory deps
	$(Q)$(MAKE) --no-print-directory build lab-kernel hypervisor guest-debian guest-tools
	$(Q)tests/demo.sh

.PHONY: lint
lint: build                               ## clang-tidy over the product's sources
	$(Q)clang-tidy -quiet $(SRC) $(MIG_SRC) $(MON_SRC) $(DAEMON_SRC) -- $(CPPFLAGS) -std=gnu11 2>/dev/null

# ---- installed

PREFIX  ?= /usr
VERSION := 0.6
LIBDIR  := $(DESTDIR)$(PREFIX)/lib/vmbeam
.PHONY: install deb
install: build hypervisor                 ## into $(DESTDIR)$(PREFIX), and the configuration into $(DESTDIR)/etc
	$(Q)install -d $(LIBDIR)/hypervisor $(DESTDIR)$(PREFIX)/bin $(DESTDIR)/etc/vmbeam $(DESTDIR)$(PREFIX)/lib/systemd/system/session-.scope.d \
		$(addprefix $(DESTDIR)$(PREFIX)/share/,bash-completion/completions man/man1 man/man5 man/man8 vmbeam)
	$(Q)install -s $(addprefix build/,vmbeam vmbeam-migrate vmbeam-monitor vmbeamd) $(LIBDIR)
	$(Q)install -m 644 build/hypervisor/vmlinuz build/hypervisor/initramfs $(LIBDIR)/hypervisor
	$(Q)ln -sf ../lib/vmbeam/vmbeam ../lib/vmbeam/vmbeamd $(DESTDIR)$(PREFIX)/bin
	$(Q)install -m 644 rejuv/install/vmbeamd.service rejuv/install/vmbeam-guests.service $(DESTDIR)$(PREFIX)/lib/systemd/system
	$(Q)install -m 644 rejuv/install/session.conf $(DESTDIR)$(PREFIX)/lib/systemd/system/session-.scope.d/vmbeam.conf
	$(Q)[ -e $(DESTDIR)/etc/vmbeam/vmbeamd.conf ] || install -m 644 rejuv/install/vmbeamd.conf $(DESTDIR)/etc/vmbeam
	$(Q)install -m 644 rejuv/install/vmbeam.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/vmbeam
	$(Q)ln -sf vmbeam $(DESTDIR)$(PREFIX)/share/bash-completion/completions/vmbeamd
	$(Q)install -m 644 rejuv/monitor/grafana.json rejuv/daemon/openapi.json $(DESTDIR)$(PREFIX)/share/vmbeam
	$(Q)for p in 1 5 8; do install -m 644 docs/man/*.$$p $(DESTDIR)$(PREFIX)/share/man/man$$p; done

deb:                                      ## a Debian package, build/vmbeam_VERSION_amd64.deb
	$(Q)rm -rf build/deb
	$(Q)$(MAKE) --no-print-directory install DESTDIR=$(CURDIR)/build/deb/root PREFIX=/usr
	$(Q)rejuv/install/deb.sh $(VERSION)

include nested/lab.mk
include nested/hypervisor.mk
include tests/tests.mk
include bench/bench.mk

clean:                                    ## remove all that was built, downloads included
	$(Q)rm -rf build

-include $(OBJS:.o=.d) $(MIG_OBJS:.o=.d) $(MON_OBJS:.o=.d) $(DAEMON_OBJS:.o=.d)
