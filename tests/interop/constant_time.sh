#!/bin/bash
# Is the time of a key, a seal, an open and a tag's compare the same for every secret? Usage: constant_time.sh PROGRAM
# For the kernels that valgrind's processor has; it knows neither VPCLMULQDQ nor AVX-512. Exits 77 where there is no valgrind, or 1 there with CI=true.
set -u
program=$1
command -v valgrind >/dev/null && [ -x "$program" ] || { echo "valgrind cannot be had"; [ "${CI:-}" = true ] && exit 1; exit 77; }
look() { valgrind -q --error-exitcode=99 "$program" "$1"; }
look broken >/dev/null 2>&1
[ $? -eq 99 ] || { echo "FAILED: a branch on a secret goes unnoticed"; exit 1; }
kernels=$(valgrind -q "$(dirname "$program")/kernels")
[[ $kernels == *portable* ]] || { echo "FAILED: no portable kernel in '$kernels'"; exit 1; }
for kernel in $kernels; do
    look "$kernel" || { echo "FAILED: $kernel branches on a secret, or reads at an address made of one"; exit 1; }
    echo "ok $kernel"
done
