#!/bin/bash
# Does an old processor get the kernel that it can run, and not one instruction more? Usage: old_cpus.sh FOLDER-WITH-THE-TESTS
# qemu's user mode refuses what the processor it plays has not. It knows neither VPCLMULQDQ nor AVX-512: those kernels are tested natively.
# Exits 77 where there is no qemu, or 1 there with CI=true.
set -u
bin=$1
qemu=$(command -v qemu-x86_64 || command -v qemu-x86_64-static) || { echo "qemu-x86_64 cannot be had"; [ "${CI:-}" = true ] && exit 1; exit 77; }
unset HPL_CAVP_DIR HPL_WYCHEPROOF_DIR
said=$(mktemp)
trap 'rm -f "$said"' EXIT
while read -r cpu want; do
    got=$("$qemu" -cpu "$cpu" "$bin/kernels" | head -n 1)
    [ "$got" = "$want" ] || { echo "FAILED: $cpu gets '$got', not $want"; exit 1; }
    for test in gcm_test aead_test; do
        "$qemu" -cpu "$cpu" "$bin/$test" >"$said" 2>&1 || { tail -n 20 "$said"; echo "FAILED: $test on $cpu"; exit 1; }
    done
    echo "ok $cpu: $want"
done <<'CPUS'
core2duo portable
Westmere aesni
CPUS
