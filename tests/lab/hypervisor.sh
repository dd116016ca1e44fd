# A guest hypervisor comes up in a host VM, with its beam window, and answers.
refuses "are needed" vmbeam hypervisor start hv --memory 1T
refuses "suffice for" vmbeam hypervisor start hv --memory 512M --window 16G
refuses "not a multiple" vmbeam hypervisor start hv --window 3M
vmbeam hypervisor start hv --memory 1G --window 8G --json >hv.json || fail "start: $(cat hv.json)"
[ "$(json hv.json window)" = 8589934592 ] || fail "the window: $(cat hv.json)"
refuses "exists already" vmbeam hypervisor start hv
[ "$(state_of hv)" = running ] || fail "hv is $(state_of hv)"
check "stop" vmbeam hypervisor stop hv --force
[ -z "$(pgrep -x vmbeam-vmm)" ] || fail "a process is left"
echo "= ready for guests after $(($(json hv.json ready_ns) / 1000000)) ms: $(tr -d ' \n' <hv.json)"
