# Bad input: one clear line, status 1, nothing left running that was not before, no file changed.
run() {
	refuses "$1" vmbeam run "$2" --kernel "$3" --initrd "$GUESTS/beat.cpio" --append "quiet" --detach $4
	[ ! -e "/run/vmbeam/$2" ] || fail "$2: its runtime folder is left"
	[ -z "$(pgrep -x vmbeam-vmm)" ] || fail "$2: a vmm process is left"
}

run "No such file" a /nonexistent ""
head -c 2000000 "$LAB/vmlinuz" >cut
run "truncated" a cut ""
head -c 100 "$LAB/vmlinuz" >cut
run "too short" a cut ""
head -c 100000 /dev/urandom >noise
run "neither a bzImage" a noise ""
run "MiB are available" a "$LAB/vmlinux" "--memory 900G"
run "of huge pages are free" a "$LAB/vmlinux" "--memory 64M --hugepages"
run "No such file" a "$LAB/vmlinux" "--disk /nonexistent"
run "neither a file nor a block device" a "$LAB/vmlinux" "--disk /dev/null"
run "no such interface" a "$LAB/vmlinux" "--net tap=nosuch"
status=0
vmbeam run a --kernel x --cpus 0 2>err || status=$?
[ $status = 2 ] || fail "--cpus 0: status $status, not 2"

# a second VM of the same name, and a disk that another VM has
truncate -s 4M d.img
sum=$(sha256sum d.img)
start_beat b b.log "beat.rate=1M" --disk "$PWD/d.img"
refuses "exists already" vmbeam run b --kernel "$LAB/vmlinux" --detach
refuses "locked by another VM" vmbeam run c --kernel "$LAB/vmlinux" --disk d.img --detach
refuses "locked by another VM" vmbeam run c --kernel "$LAB/vmlinux" --disk d.img,ro --detach
[ ! -e /run/vmbeam/c ] || fail "c: its runtime folder is left"
refuses "no such VM" vmbeam pause nosuch
refuses "no such VM" vmbeam migrate nosuch --to fresh
refuses "it is running" vmbeam dump b --out core
[ ! -e core ] || fail "a dump that was refused left a file"

# control messages that are cut short or noise: refused, and the VM runs on
printf '\012\377\377' | socat - UNIX-CONNECT:/run/vmbeam/b/control,type=5 >/dev/null 2>&1 || true
head -c 3000 /dev/urandom | socat - UNIX-CONNECT:/run/vmbeam/b/control,type=5 >/dev/null 2>&1 || true
in_state b running || fail "b: $(state_of b) after noise on its control socket"

# a VM that is being moved refuses a second move, and a pause
VMBEAM_FAULT=driver.warmed=hold vmbeam migrate b --to fresh >first.out 2>&1 &
driver=$!
wait_for 20 grep -q '^State:.T' /proc/$driver/status
refuses "being moved" vmbeam migrate b --to fresh
refuses "being moved" vmbeam pause b
kill -CONT $driver
wait $driver || fail "the first move: $(cat first.out)"

# a driver that has stopped holds nothing up: its handover can be cancelled, and the VM be stopped
refuses "no handover is under way" vmbeam migrate b --cancel
VMBEAM_FAULT=driver.warmed=hold vmbeam migrate b --to fresh --json >first.out 2>first.err &
driver=$!
wait_for 20 grep -q '^State:.T' /proc/$driver/status
check "cancel" vmbeam migrate b --cancel
in_state b running || fail "b: $(state_of b), not running, after a cancelled move"
kill -CONT $driver
! wait $driver || fail "a cancelled move says that it was completed"
[ "$(json first.out outcome)" = cancelled ] || fail "a cancelled move says: $(cat first.out first.err)"
wait_for 10 sh -c '[ "$(pgrep -cx vmbeam-vmm)" = 1 ]'

# dry run, pause and moving while paused
check "dry run" vmbeam migrate b --to fresh --dry-run
check "pause" vmbeam pause b
check "move while paused" vmbeam migrate b --to fresh
in_state b paused || fail "b: $(state_of b), not paused, after a move while paused"
ticks=$(grep -c '^tick' b.log)
sleep 1
[ "$(grep -c '^tick' b.log)" = "$ticks" ] || fail "b runs while paused"
check "dump" vmbeam dump b --out core
check "resume" vmbeam resume b
wait_for 10 sh -c "[ \$(grep -c '^tick' b.log) -gt $ticks ]"

# each party can fail at each point where it asks: the guest runs on
for point in source.begun source.paused source.drained source.captured source.sealed source.sent \
	destination.received destination.built destination.captured destination.restored; do
	VMBEAM_FAULT=$point=fail refuses "handover failed in phase" vmbeam migrate b --to fresh --mode zero-copy
	wait_for 10 in_state b running
done
check "stop" vmbeam stop b
beatcheck b.log || fail "b: $(beatcheck b.log 2>&1)"
[ "$sum" = "$(sha256sum d.img)" ] || fail "d.img was changed"
