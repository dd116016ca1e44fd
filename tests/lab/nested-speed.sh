# What a guest VM pays for being in a guest hypervisor: jobs of a known amount of work, timed by the guest itself
# at host and in a hypervisor, in turns; and its own speed after a move between hypervisors: the time to
# touch its memory before and after, in 4 KiB and 2 MiB pages, with and without warming.  Medians of ROUNDS
# (default 5).
N=${ROUNDS:-5}
thp=/sys/kernel/mm/transparent_hugepage/shmem_enabled

# answers GUEST JOB: how long it took each time so far, ns.
answers() {
	sed -n "s/^job $2 ns=//p" $1.log
}
more_answers() {
	[ "$(answers $1 $2 | wc -l)" -gt $3 ]
}
# ask GUEST JOB: how long the guest takes for it, ns.
ask() {
	before=$(answers $1 $2 | wc -l)
	printf '%s\n' $2 | socat -t 0.2 - UNIX-CONNECT:/run/vmbeam/$1/console >/dev/null
	wait_for 120 more_answers $1 $2 $before
	answers $1 $2 | tail -n 1
}
# start NAME [run options...]
start() {
	name=$1
	shift
	check "start $name" vmbeam run $name --kernel "$LAB/vmlinux" --initrd "$GUESTS/beat.cpio" --append \
		"console=ttyS0 quiet panic=-1 beat.jobs=1 beat.mem=160M" --serial "$PWD/$name.log" --memory 256M --detach "$@"
	wait_for 90 grep -q '^jobs ready' $name.log
}

echo advise >$thp
check "hv-a" vmbeam hypervisor start hv-a --memory 1G --window 2G >hv-a.txt
check "hv-b" vmbeam hypervisor start hv-b --memory 1G --window 2G >hv-b.txt
start host
start nested --in hv-a
for _ in $(seq $N); do
	for job in cpu mem touch exit io; do
		ask host $job >>host.$job
		ask nested $job >>nested.$job
	done
done
for job in cpu mem touch exit io; do
	echo "$job $(median <host.$job) $(median <nested.$job)"
done | awk '{ printf "= %s: host %.1f ms, in a hypervisor %.1f ms, %.2f times\n", $1, $2 / 1e6, $3 / 1e6, $3 / $2 }'
check "stop" vmbeam stop host --force
echo never >$thp
start small --in hv-a
for guest in nested small; do
	echo "$guest: $(vmbeam info $guest >/dev/null; vmbeam info $guest | grep '^pages')"
done
for _ in $(seq $N); do
	for warm in warmed not-warmed; do
		option=
		[ $warm = warmed ] || option=--no-warm
		for guest in nested small; do
			to=$([ "$(info_of $guest placement)" = hv-a ] && echo hv-b || echo hv-a)
			ask $guest touch >>$guest.before.$warm
			check "move" vmbeam migrate $guest --to $to $option --json >move.json
			ask $guest touch >>$guest.first.$warm
			ask $guest touch >>$guest.second.$warm
		done
	done
done
for guest in nested small; do
	for warm in warmed not-warmed; do
		echo "= 160 MiB in pages of $([ $guest = small ] && echo 4 KiB || echo 2 MiB), $warm: touched in" \
			"$(median <$guest.before.$warm) ns, right after a move $(median <$guest.first.$warm), once more" \
			"$(median <$guest.second.$warm)"
	done
done
check "stop" vmbeam stop nested --force
check "stop" vmbeam stop small --force
