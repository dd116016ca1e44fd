# A multiboot1 image with a module, and the debug-exit port: the process ends with (code << 1) | 1, and
# its own failures with something else.
printf 'M is what the module begins with' >module
status=0
vmbeam run mb --kernel "$GUESTS/multiboot" --module "$PWD/module hello" --append "a b" --memory 16M --debug-exit \
	>mb.log 2>mb.err </dev/null || status=$?
[ $status = 33 ] || fail "status $status, not 33: $(cat mb.err)"
[ "$(cat mb.log)" = "multiboot ok" ] || fail "it said: $(cat mb.log)"

status=0
vmbeam run mb --kernel "$GUESTS/multiboot" --memory 16M --debug-exit >mb.log 2>mb.err </dev/null || status=$?
[ $status = 7 ] || fail "without its module: status $status, not 7"

status=0
vmbeam run mb --kernel /nonexistent --memory 16M --debug-exit >mb.log 2>mb.err </dev/null || status=$?
case $status in
0 | 1 | 3 | 77 | 127) fail "a failure of the VMM's own looks like the guest's: $status" ;;
esac
