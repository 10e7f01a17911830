# shellcheck shell=bash
# What in a kernel's log means that something is broken, whatever the tests say.

KLOG_BAD='(^|[] ])BUG[: ]|kernel BUG at|WARNING: |INFO: (possible|task .* blocked|rcu|lockdep|trying to register)|INFO: suspicious RCU|possible (recursive locking|circular locking|irq lock)|inconsistent lock state|suspicious RCU usage|KASAN: |KFENCE: |UBSAN: |KCSAN: |unable to handle|Oops[: ]|general protection fault|Kernel panic|soft lockup|hard LOCKUP|(detected|self-detected) stall|sleeping function called from invalid context|scheduling while atomic|blocked for more than|refcount_t: |list_(add|del) corruption|ODEBUG: |kmemleak: [0-9]+ new|bad page state|Bad page|double fault|stack-protector|rust_kernel: panicked|panicked at'

# kernel_complaint LOG TAINT: prints what is wrong, or nothing.
kernel_complaint() {
	local first
	# The command line, which is in it, may name what the kernel is to watch for.
	first=$(tr -d '\r' <"$1" | sed 's/[Cc]ommand line: .*//' |
		grep -nEm1 "$KLOG_BAD" | cut -d: -f1 || true)
	if [ -n "$first" ]; then
		tr -d '\r' <"$1" | sed -n "$((first > 3 ? first - 3 : 1)),$((first + 45))p" | sed 's/^/    /'
		return
	fi
	# Died (7), bad page (5), warned (9), soft lockup (14): were the log cut off,
	# this still tells.
	if (($2 & (1 << 7 | 1 << 5 | 1 << 9 | 1 << 14))); then
		printf '    the kernel is tainted: %s\n' "$2"
	fi
}
