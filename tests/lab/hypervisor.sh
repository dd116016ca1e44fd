# A guest hypervisor comes up in a host VM, with its beam window, and answers.
refuses "are needed" vmbeam hypervisor start hv --memory 1T
refuses "suffice for" vmbeam hypervisor start hv --memory 512M --window 16G
refuses "not a multiple" vmbeam hypervisor start hv --window 3M
vmbeam hypervisor start hv --memory 1G --window 8G --json >hv.json || fail "start: $(cat hv.json)"
[ "$(json hv.json window)" = 8589934592 ] || fail "the window: $(cat hv.json)"
refuses "exists already" vmbeam hypervisor start hv
[ "$(state_of hv)" = running ] || fail "hv is $(state_of hv)"

# One that says nothing but noise is refused in time; its process stays, and so does the other hypervisor.
check "the other" vmbeam hypervisor start other --memory 768M --window 1G >other.txt
pid=$(info_of hv pid)
[ "$(cat /proc/$pid/cgroup)" = 0::/vmbeam/hv ] || fail "its cgroup: $(cat /proc/$pid/cgroup)"
export VMBEAM_STATE_DIR=$PWD/state
vmbeam monitor --record --for 75 >monitor.txt 2>&1 &
monitor=$!
# First it tells lies, then it says nothing but noise.
check "hostile" vmbeam hypervisor hostile hv
sleep 15
timeout 60 vmbeam hypervisor noise hv 2>noise.err && fail "noise was an answer"
timeout 60 vmbeam run g --in hv --kernel "$LAB/vmlinux" --detach 2>run.err && fail "a guest runs in noise"
grep -q "made no sense" run.err || fail "$(cat run.err)"
[ ! -e /run/vmbeam/g ] || fail "g: its runtime folder is left"
timeout 60 vmbeam rejuvenate hv --method beam --dry-run || fail "its guests, of which it has none, cannot be moved"
timeout 60 vmbeam hypervisor list >list.txt
grep -q "other *ready" list.txt || fail "the other does not answer: $(cat list.txt)"
[ "$(info_of hv pid)" = "$pid" ] || fail "its process is another"
in_state hv running || fail "hv is $(state_of hv)"
# Nor does it change what is thought of the others.
wait $monitor || fail "monitor: $(cat monitor.txt)"
vmbeam monitor >last 2>/dev/null || fail "monitor: $(cat last)"
grep -q "^hv *nonsense *[0-9]* samples of its agent made no sense" monitor.txt || fail "monitor: $(cat monitor.txt)"
grep -q "^hv *silent *its agent does not answer" monitor.txt || fail "monitor: $(cat monitor.txt)"
grep -q "^hv *\(unknown\|contended\) " last || fail "monitor: $(cat last)"
grep -q "^other *learning *less than" last || fail "monitor: $(cat last)"
grep -q "^host *learning *less than" last || fail "monitor: $(cat last)"
echo "= noise: $(cat noise.err run.err | tr '\n' ';') $(grep hv list.txt)"
check "stop" vmbeam hypervisor stop other
check "stop" vmbeam hypervisor stop hv --force
[ -z "$(pgrep -x vmbeam-vmm)" ] || fail "a process is left"
echo "= ready for guests after $(($(json hv.json ready_ns) / 1000000)) ms: $(tr -d ' \n' <hv.json)"
