#!/bin/sh
# dashboard.sh: the page that vmbeamd serves, in a headless Chromium that is driven as a user would (WebDriver, https://www.w3.org/TR/webdriver2/);
# natively, on VMs that are files (fake/vmbeam).  Called by `make check-dashboard`.
set -eu
TOP=$(cd "$(dirname "$0")/../.." && pwd)
. "$TOP/tests/lab/lib.sh"
T=$(mktemp -d)
cd "$T"
mkdir bin hv vm
cp "$TOP/build/vmbeamd" "$TOP/tests/native/fake/vmbeam" bin/
# An ageing monitor that says this and no more; what it tells is to be shown as text.
cat >bin/vmbeam-monitor <<'E'
#!/bin/sh
sleep 1
now=$(date +%s)
printf '{"name": "hv", "identity": "?", "state": "ageing", "indicator": "memory_available", "exhausted_in_s": 7200, "evidence": "<img src=x onerror=document.title=1>", "values": {"memory_available": 300000000}, "curve": [[%s, 400000000], [%s, 300000000]]}\n' $((now - 3600)) $now
exec sleep 1000
E
chmod +x bin/vmbeam-monitor
PATH=$T/bin:$PATH
export VMBEAM_RUNTIME_DIR=$T/run FAKE=$T MONITOR=yes
. "$TOP/tests/lab/daemon-lib.sh"
driver= session=
cleanup() {
	[ -z "$daemon" ] || kill -9 "$daemon" 2>/dev/null || true
	[ -z "${session-}" ] || browser "/session/$session" -X DELETE >/dev/null || true
	[ -z "$driver" ] || kill "$driver" 2>/dev/null || true
	pkill -9 -f "$T/" 2>/dev/null || true
	cd / && rm -rf "$T"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
echo first >hv/hv
for g in one two; do echo hv >vm/$g; done
configure "methods = beam
	schedule = 0 3 * * *" true
sed -i 's|^monitor|dashboard = 127.0.0.1:9186\nmonitor|' vmbeamd.conf
start_daemon X=
wait_for 20 daemon_says idle
token=$(cat state/dashboard.token)

# Not without the token, and not all with it.
code() {
	curl -s -o /dev/null -w '%{http_code}' "$@"
}
[ "$(code http://127.0.0.1:9186/v1/vms)" = 401 ] || fail "without the token: $(code http://127.0.0.1:9186/v1/vms)"
[ "$(code -H "Authorization: Bearer ${token%?}x" http://127.0.0.1:9186/v1/vms)" = 401 ] || fail "with a wrong token"
[ "$(code -H "Authorization: Bearer $token" http://127.0.0.1:9186/v1/vms)" = 200 ] || fail "with the token"
[ "$(code -H "Authorization: Bearer $token" http://127.0.0.1:9186/v1/jobs -d '{"command": ["list"]}')" = 404 ] || fail "a browser could begin a job"

chromedriver --port=9515 >driver.out 2>&1 &
driver=$!
browser() {
	path=$1
	shift
	curl -s "http://127.0.0.1:9515$path" -H 'Content-Type: application/json' "$@"
}
wait_for 30 sh -c "curl -s http://127.0.0.1:9515/status | grep -q '\"ready\":true'"
session=$(browser /session -d '{"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": ["--headless=new", "--no-sandbox", "--disable-gpu"]}}}}' |
	sed -n 's/.*"sessionId":"\([0-9a-f]*\)".*/\1/p')
[ -n "$session" ] || fail "no browser: $(tail -n 5 driver.out)"
# run JAVASCRIPT: its value.
run() {
	browser "/session/$session/execute/sync" -d "{\"script\": \"$1\", \"args\": []}" | sed 's/^{"value"://; s/}$//'
}
is_so() {
	[ "$(run "return $1")" = true ]
}
shows() {
	wait_for 20 is_so "$1"
}
click() {
	element=$(browser "/session/$session/element" -d "{\"using\": \"css selector\", \"value\": \"$1\"}" | sed -n 's/.*":"\([^"]*\)"}}$/\1/p')
	[ -n "$element" ] || fail "there is no $1"
	browser "/session/$session/element/$element/click" -d '{}' | tee clicked | grep -q '"value":null' || fail "$1 cannot be clicked: $(head -c 300 clicked)"
}
browser "/session/$session/url" -d "{\"url\": \"http://127.0.0.1:9186/#$token\"}" >/dev/null
shows "document.querySelectorAll('.card').length === 1"
shows "!!document.querySelector('.card .forecast')"
shows "document.querySelector('.card').textContent.includes('onerror=document.title') && document.title === 'vmbeam'"
shows "document.querySelectorAll('#vms tr').length === 3"
shows "!location.href.includes('$token')"
[ -z "${SHOT-}" ] || browser "/session/$session/screenshot" | sed 's/^{"value":"//; s/"}$//' | base64 -d >"$SHOT"

# The button asks, and does nothing if the answer is no.
click ".card button"
shows "document.getElementById('ask').open"
click "#ask button[value=no]"
sleep 1
! grep -qs . steps || fail "no was not no: $(cat steps)"
click ".card button"
click "#yes"
wait_for 20 sh -c "curl -sf --unix-socket sock http://x/v1/rejuvenations | grep -q '\"outcome\": \"completed\"'"
shows "[...document.querySelectorAll('#runs tr')].some(r => r.textContent.includes('completed') && r.textContent.includes('one: 5.0 ms'))"
browser "/session/$session" -X DELETE >/dev/null
session=
echo "dashboard: shown, clicked, rejuvenated"
