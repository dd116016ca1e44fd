# qemu.awk: the table of `make bench-qemu`: medians of the runs, ratios, and the verdict on each target.
# Input: lines of qemu.csv without the heading; called by qemu.sh, which says what the columns are.
# Exit 1 if QEMU or vmbeam has no run to compare.

{
	size = $7
	if (!(size in seen)) {
		seen[size] = 1
		sizes[++nsizes] = size
	}
	where = $3; qemu = $6; vmbeam = $5; cpus = $8; huge = $9; machine = $2
	labs = $4 > labs ? $4 : labs
	tried[size, $11]++
	if ($12 != "\"ok\"")
		next
	n = ++good[size, $11]
	for (i = 13; i <= NF; i++)
		v[size, $11, i, n] = $i
}

function median(size, arm, column,    n, i, j, t, a) {
	n = good[size, arm]
	for (i = 1; i <= n; i++) {
		t = v[size, arm, column, i] + 0
		for (j = i - 1; j > 0 && a[j] > t; j--)
			a[j + 1] = a[j]
		a[j + 1] = t
	}
	return n % 2 ? a[(n + 1) / 2] : (a[n / 2] + a[n / 2 + 1]) / 2
}

# One line: the figure of all three; vmbeam's against QEMU's and the target (0: none).
function row(size, text, column, unit, ratio, limit,    warm, cold, other, verdict) {
	warm = median(size, "vmbeam", column) / unit
	cold = median(size, "vmbeam-no-warm", column) / unit
	other = median(size, "qemu", column) / unit
	if (ratio)
		verdict = sprintf("at most %.2f of QEMU's: %s", ratio, result(warm, ratio * other) "/" result(cold, ratio * other))
	else if (limit)
		verdict = sprintf("at most %d: %s", limit, result(warm, limit) "/" result(cold, limit))
	printf "  %-38s %10.1f %10.1f %10.1f %7s %7s  %s\n", text, warm, cold, other,
		over(warm, other), over(cold, other), verdict
}

function over(value, other) {
	return other ? sprintf("%.2f", value / other) : "-"
}

function result(value, limit) {
	return value <= limit ? "pass" : "FAIL"
}

END {
	printf "\nvmbeam %s (migrate --to fresh) beside QEMU %s (cpr-transfer)\n", vmbeam, qemu
	printf "guest: beat, %d vCPU%s at full speed on half its memory%s; on %s\n", cpus, (cpus > 1) ? "s" : "",
		huge ? ", hugetlb pages" : "", machine
	if (where == "emulated")
		print "EMULATED: taken in the lab under QEMU's TCG; only the ratios mean anything" \
			(labs > 1 ? ", and " labs " labs were needed" : "")
	for (s = 1; s <= nsizes; s++) {
		size = sizes[s]
		printf "\n%d MiB: medians of %d, %d and %d runs (%d, %d and %d tried)\n", size, good[size, "vmbeam"],
			good[size, "vmbeam-no-warm"], good[size, "qemu"], tried[size, "vmbeam"],
			tried[size, "vmbeam-no-warm"], tried[size, "qemu"]
		if (!good[size, "vmbeam"] || !good[size, "vmbeam-no-warm"] || !good[size, "qemu"]) {
			print "  nothing to compare"
			bad = 1
			continue
		}
		printf "  %-38s %10s %10s %10s %7s %7s  %s\n", "", "vmbeam", "--no-warm", "QEMU", "ratio", "ratio",
			"target: with/without warming"
		row(size, "total, ms (total_ns | wall clock)", 15, 1e6, 0.1)
		row(size, "total, ms, wall clock for both", 17, 1e6, 0.1)
		row(size, "downtime, ms, as each reports it", 18, 1e6, 0.5)
		row(size, "downtime, ms, kvm_exit to kvm_entry", 19, 1e6, 0.5)
		row(size, "pause by the guest's own clock, ms", 20, 1e6)
		row(size, "start to first instruction, ms", 13, 1e6, 0.1)
		row(size, "not guest RAM, MiB (RSS)", 22, 1024, 0, 8)
		row(size, "not guest RAM, MiB (PSS)", 23, 1024, 0, 8)
		row(size, "memory in 2 MiB pages, MiB", 24, 1024)
	}
	print "\nQEMU's first instruction is its firmware's (SeaBIOS), vmbeam's the kernel's.  QEMU's own downtime"
	print "ends before the destination loads its state, and it stops the guest's clock meanwhile: of the"
	print "three downtimes kvm_exit to kvm_entry measures both alike.  vmbeam's total_ns is without warming."
	exit bad
}
