#!/bin/sh
# api.sh: vmbeamd's API against clients that are many, slow, silent, talk nonsense or may not ask; natively, no VM is needed.  Called by
# `make check-native`.  The loop must not stall, memory stays what it is, and who asks properly is answered.
set -eu
TOP=$(cd "$(dirname "$0")/../.." && pwd)
PATH=$TOP/build:$PATH
T=$(mktemp -d)
cd "$T"
. "$TOP/tests/lab/lib.sh"
export VMBEAM_RUNTIME_DIR=$T/run VMBEAM_STATE_DIR=$T/state
daemon=
cleanup() {
	[ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
	pkill -P $$ 2>/dev/null || true
	cd / && rm -rf "$T"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

cat >conf <<E
[daemon]
socket = $T/sock
group = nogroup
monitor = no
[hypervisor *]
schedule = 0 3 * * *
E
vmbeamd --config conf >out 2>&1 &
daemon=$!
get() {
	path=$1
	shift
	curl -s -m 20 --unix-socket sock "http://vmbeamd$path" "$@"
}
# code PATH [options]: the status.
code() {
	path=$1
	shift
	curl -s -m 20 -o /dev/null -w '%{http_code}' --unix-socket sock "http://vmbeamd$path" "$@" || true
}
# is CODE PATH [options]
is() {
	want=$1
	shift
	have=$(code "$@")
	[ "$have" = "$want" ] || fail "$*: $have, not $want"
}
wait_for 20 get /v1/status
rss() {
	awk '/^VmRSS/ { print $2 }' "/proc/$daemon/status"
}
slowest() {
	get /v1/status | sed -n 's/.*"slowest_turn_ms": \([0-9.]*\).*/\1/p'
}

# One with another state folder does not take its socket.
status=0
VMBEAM_STATE_DIR=$PWD/other vmbeamd --config conf >second 2>&1 || status=$?
[ $status = 1 ] && grep -q "somebody listens there already" second && get /v1/status >/dev/null || fail "a second daemon: $status: $(cat second)"

# The description tells of each route, and each that it tells of is there.
sed -n 's/^\t{"\([A-Z]*\)", "\([^"]*\)", .*/\1 \2/p' "$TOP/rejuv/daemon/api.c" | sort >routes
get /v1/openapi.json | sed -n 's/^  "\(\/v1[^"]*\)": {$/P \1/p; s/^   "\(get\|post\|delete\)": {$/M \1/p' |
	awk '$1 == "P" { p = $2 } $1 == "M" { print toupper($2), p }' | sort >described
[ -s routes ] && diff routes described || fail "the API and its description differ"
while read -r method path; do
	have=$(code "$(echo "$path" | sed 's/{name}/1/')" -X "$method")
	case $have in 200 | 202 | 400) ;; 404) echo "$path" | grep -q '{name}' || fail "$method $path: $have" ;; *) fail "$method $path: $have" ;; esac
done <described

# Jobs.
get /v1/jobs -d '{"command": ["list", "--json"]}' >job
id=$(json job id)
is_over() {
	get "/v1/jobs/$id" | grep -q '"state": "ended"'
}
wait_for 20 is_over
get "/v1/jobs/$id" | grep -q '"status": 0' || fail "list: $(get "/v1/jobs/$id")"
get /v1/jobs -d '{"command": ["info", "nobody"]}' >job
id=$(json job id)
wait_for 20 is_over
get "/v1/jobs/$id" | grep -q '"stderr": "vmbeam: nobody: no such VM is running' || fail "info: $(get "/v1/jobs/$id")"
# What one prints is told from where it is asked for.
get /v1/jobs -d '{"command": ["list", "--json"]}' >job
id=$(json job id)
wait_for 20 is_over
get "/v1/jobs/$id" | grep -q '"stdout": "\[\]\\n"' || fail "list: $(get "/v1/jobs/$id")"
get "/v1/jobs/$id?stdout=1" >part
grep -q '"stdout": "\]\\n"' part && [ "$(json part stdout_next)" = 3 ] || fail "a part: $(cat part)"
is 400 "/v1/jobs/$id?stdout=-1"
for body in '{"command": ["lab"]}' '{"command": "list"}' '{"command": []}' '{"command": ["events", "--follow"]}' '{"command": ["run", "x"]}' \
	'{"command": ["list\u0000x"]}' '[' '{}' 'null' '{"command": [1]}'; do
	is 400 /v1/jobs -d "$body"
done
is 404 /v1/hypervisors/nobody/rejuvenate -X POST
is 404 /v1/vms/..%2f..%2fetc
is 405 /v1/status -X PUT
is 413 /v1/jobs -d @/bin/busybox
is 400 '/v1/events?after=-1'

# Events, as they happen.
get /v1/events -N -H 'Accept: text/event-stream' >stream &
streamer=$!
wait_for 10 sh -c "grep -q . /proc/$streamer/stat"
sleep 1
get /v1/jobs -d '{"command": ["list"]}' >/dev/null
wait_for 20 grep -q '"kind":"ended"' stream
kill $streamer

# Those who may not.
if setpriv --reuid=65533 --regid=65533 --clear-groups curl -s --unix-socket sock http://x/v1/status >strange; then
	fail "a stranger could connect: $(cat strange)"
fi
chmod 711 "$T" && chmod 777 sock
setpriv --reuid=65533 --regid=65533 --clear-groups curl -s --unix-socket "$T/sock" http://x/v1/status | grep -q 'only root and group' || fail "a stranger was answered"
setpriv --reuid=65533 --regid=65533 --groups="$(getent group nogroup | cut -d: -f3)" curl -s --unix-socket "$T/sock" http://x/v1/status |
	grep -q '"program"' || fail "a member of the group was not answered"
chmod 660 sock

# The vmbeam command of somebody who is not root has the daemon do it.
chmod 777 sock
VMBEAM_SOCKET=$T/sock setpriv --reuid=65533 --regid=65533 --groups="$(getent group nogroup | cut -d: -f3)" "$TOP/build/vmbeam" list >listed
grep -q '^NAME' listed || fail "list by way of the daemon: $(cat listed)"

# Noise, headers without end, and those who say nothing, or very slowly.
before=$(rss)
[ "$(awk -v s="$(slowest)" 'BEGIN { print s < 50 }')" = 1 ] || fail "a turn of the loop took $(slowest) ms"
for i in $(seq 20); do
	head -c 100000 /dev/urandom | timeout 10 socat -t 2 - UNIX-CONNECT:sock >/dev/null 2>&1 || true
done
{
	printf 'GET /v1/status HTTP/1.1\r\nHost: x\r\nX-Long: '
	head -c 1048576 /dev/zero | tr '\0' a
	printf '\r\n\r\n'
} | timeout 10 socat -t 5 - UNIX-CONNECT:sock >long 2>/dev/null || true
! grep -q ' 200 ' long || fail "a header of a megabyte was taken"
printf 'POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n' | timeout 10 socat -t 2 - UNIX-CONNECT:sock >/dev/null 2>&1 || true
for i in $(seq 60); do
	sleep 8 | socat -u - UNIX-CONNECT:sock 2>/dev/null &
	{ for b in G E T ' ' / v 1 / s; do
		printf %s "$b"
		sleep 1
	done; } | socat -u - UNIX-CONNECT:sock 2>/dev/null &
done
for i in $(seq 20); do
	get /v1/events -N -H 'Accept: text/event-stream' >/dev/null &
done
# A hundred at once, beside them.
seq 100 | xargs -P 100 -I{} curl -s -m 20 -o /dev/null -w '%{http_code}\n' --unix-socket sock http://x/v1/hypervisors >codes
[ "$(grep -c '^200$' codes)" = 100 ] || fail "of 100 clients were answered: $(sort codes | uniq -c | tr '\n' ' ')"
for i in $(seq 10); do
	seq 20 | xargs -P 20 -I{} curl -s -m 20 -o /dev/null --unix-socket sock http://x/v1/rejuvenations
done
seq 40 | xargs -P 40 -I{} curl -s -m 20 -o /dev/null --unix-socket sock http://x/v1/jobs -d '{"command": ["list"]}'
sleep 10
after=$(rss)
worst=$(slowest)
[ "$after" -lt $((before + 8192)) ] || fail "memory: $before KiB before, $after after"
[ "$(awk -v s="$worst" 'BEGIN { print s < 50 }')" = 1 ] || fail "a turn of the loop took $worst ms"
is 200 /v1/status
kill $daemon
wait $daemon || fail "vmbeamd ended with $?: $(cat out)"
daemon=
[ ! -e sock ] || fail "its socket is left"
echo "api: 100 clients at once beside 140 idle or slow ones answered; the loop's longest turn $worst ms; memory $before, then $after KiB"
