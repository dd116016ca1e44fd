# `vmbeam shutdown`, while a rejuvenation is under way: that is waited for; guests are shut down, one after the others, one by force; nothing is left.
start() {
	name=$1
	shift
	start_beat $name $name.log "beat.tick=200 beat.mem=8M beat.rate=idle" --memory 128M "$@"
}
check "hv" vmbeam hypervisor start hv --memory 640M --window 1G >hv.txt
start inner --in hv
start first
start last
start forced
vmbeam rejuvenate hv --json >rejuvenate.json 2>rejuvenate.err &
rejuvenation=$!
wait_for 30 sh -c '[ -e /run/vmbeam/hv.new ]'
check "shutdown" vmbeam shutdown --timeout 60 --last last --force forced >shutdown.txt
wait $rejuvenation || fail "the rejuvenation: $(cat rejuvenate.err rejuvenate.json)"
[ "$(json rejuvenate.json outcome)" = completed ] || fail "the rejuvenation: $(cat rejuvenate.json)"
! ls /run/vmbeam | grep -q . || fail "left: $(ls /run/vmbeam)"
for g in inner first last; do
	grep -q '^BEAT POWEROFF' $g.log || fail "$g was not asked: $(tail -n 3 $g.log)"
done
! grep -q '^BEAT POWEROFF' forced.log || fail "forced was asked"
[ last.log -nt first.log ] && [ last.log -nt inner.log ] || fail "last was not the last: $(ls -lt --full-time *.log)"
sort shutdown.txt | tr -s ' ' >said
printf 'first shut down\nforced by force\nhv shut down\ninner shut down\nlast shut down\n' >expected
diff expected said || fail "it said: $(cat shutdown.txt)"
echo "= shutdown beside a rejuvenation: $(tr -s ' \n' ' ' <shutdown.txt)"
