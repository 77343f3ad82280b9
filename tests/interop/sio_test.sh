#!/bin/bash
# Does minio/sio open what we seal, and do we open what it seals, byte for byte the same? Usage: sio_test.sh SEAL_TOOL
# HPL_SIO_DIR is the part's folder where the caller has it already. Exits 77 where sio cannot be had, or 1 there with CI=true.
set -eu
tool=$1
here=$(cd "$(dirname "$0")" && pwd)
sio=${HPL_SIO_DIR:-$("$here/../../scripts/part" sio)}/sio && [ -x "$sio" ] || { [ "${CI:-}" = true ] && exit 1; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() { echo "FAILED: $1 at $size bytes"; exit 1; }

instance=000102030405060708090a0b0c0d0e0f
for size in 1 65535 65536 65537 1048576 5242883; do
    key=$(openssl rand -hex 32) salt=$(openssl rand -hex 32)
    part=("$key" "$salt" bucket path/object "$instance" 7)
    head -c "$size" /dev/urandom >"$dir/plain"
    { read -r package_key; read -r nonce; } < <("$tool" secrets "${part[@]}")

    "$tool" seal "${part[@]}" <"$dir/plain" >"$dir/ours"
    "$sio" open "$package_key" <"$dir/ours" | cmp - "$dir/plain" || fail "sio opens ours"
    "$sio" seal "$package_key" "$nonce" <"$dir/plain" >"$dir/theirs"
    "$tool" open "${part[@]}" "$size" <"$dir/theirs" | cmp - "$dir/plain" || fail "we open sio's"
    cmp "$dir/ours" "$dir/theirs" || fail "both write the same bytes"
    python3 -B "$here/read_stored.py" open "${part[@]}" "$size" <"$dir/ours" | cmp - "$dir/plain" || fail "the independent reader opens ours"

    if [ "$size" -gt 65536 ]; then # a range: everything from the second package on
        tail -c +65569 "$dir/ours" | "$sio" open "$package_key" 1 | cmp - <(tail -c +65537 "$dir/plain") || fail "sio opens our range"
    fi
    printf '\001' | dd of="$dir/ours" bs=1 seek=16 conv=notrunc status=none
    printf '\002' | dd of="$dir/theirs" bs=1 seek=16 conv=notrunc status=none
    for damaged in ours theirs; do # one of the two may have been that byte already
        cmp -s "$dir/$damaged" <("$sio" seal "$package_key" "$nonce" <"$dir/plain") && continue
        ! "$sio" open "$package_key" <"$dir/$damaged" >/dev/null 2>&1 || fail "sio refuses a damaged byte"
        ! "$tool" open "${part[@]}" "$size" <"$dir/$damaged" >/dev/null 2>&1 || fail "we refuse a damaged byte"
    done
    echo "ok $size"
done
