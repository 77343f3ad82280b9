#!/bin/bash
# Does the loadable provider serve OpenSSL's own programs, by an openssl.cnf alone? Usage: provider_test.sh PROVIDER_TOOL MODULES_FOLDER
# Fetching by every name, TLS 1.2 and 1.3 with ours at either end, CMS to and from OpenSSL's own, and what must not change. Exits 77 where the provider is
# built with a sanitizer, which the system's programs cannot load.
set -euo pipefail
tool=$1
modules=$2
here=$(cd "$(dirname "$0")/../.." && pwd)
if nm -D "$modules/hardplate.so" | grep -E '__(asan|tsan|ubsan|msan)_' >/dev/null; then echo "SKIP the provider is built with a sanitizer"; exit 77; fi
dir=$(mktemp -d)
server=
leave() {
    [ -z "$server" ] || { kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; }
    rm -rf "$dir"
}
trap leave EXIT
fail() { echo "FAILED: $*"; exit 1; }

: >"$dir/default.cnf"
# The one that the manual shows, and legacy beside it.
sed -n '/^openssl_conf = /,/^\.Ed/{/^\.Ed/!p}' "$here/docs/man/hardplate-provider.7" | sed 's/^\[hpl_providers\]$/&\nlegacy = hpl_on/' >"$dir/hardplate.cnf"
# One folder with ours and the system's: legacy is a module too.
both=$dir/modules
mkdir "$both"
ln -s "$modules/hardplate.so" "$both/"
system=$(openssl version -m | sed -n 's/^MODULESDIR: "\(.*\)"$/\1/p')
[ -f "$system/legacy.so" ] || fail "the system's legacy provider is not in '$system'"
ln -s "$system/legacy.so" "$both/"
# The two ways to run a program.
default=(env OPENSSL_CONF="$dir/default.cnf")
hardplate=(env OPENSSL_CONF="$dir/hardplate.cnf" OPENSSL_MODULES="$both")
# as WAY COMMAND...
as() {
    local -n way=$1
    shift
    "${way[@]}" "$@"
}

! grep -F "$here/" "$modules/hardplate.so" >/dev/null || fail "the provider says where it was built"

# gets WHO NAME [PROPERTIES]
gets() {
    local who=$1 found
    shift
    found=$(as hardplate "$tool" "$@")
    [ "$found" = "$who" ] || fail "asking for $* gets $found, not $who"
}
for bits in 128:6 192:26 256:46; do
    for name in "AES-${bits%:*}-GCM" "aes-${bits%:*}-gcm" "id-aes${bits%:*}-GCM" "2.16.840.1.101.3.4.1.${bits#*:}"; do
        gets hardplate "$name"
        gets hardplate "$name" provider=hardplate
        gets default "$name" provider=default
        gets none "$name" fips=yes
        gets none "$name" provider=hardplate,fips=yes
    done
    gets default "AES-${bits%:*}-CBC"
    gets default "AES-${bits%:*}-CCM"
done
gets default ChaCha20-Poly1305
gets legacy RC4
[ "$(as default "$tool" AES-256-GCM)" = default ] || fail "without the configuration it is not OpenSSL's own"
echo "ok fetch"

openssl req -x509 -config /dev/null -newkey rsa:2048 -nodes -keyout "$dir/key.pem" -out "$dir/cert.pem" -days 2 -subj /CN=localhost 2>/dev/null
# Lines of up to a full record; the server sends each back, last byte first.
for length in 1 15 16 17 255 1000 8000 16000; do openssl rand -hex 8000 | cut -c "1-$length"; done >"$dir/lines"
rev "$dir/lines" >"$dir/want"

# talks SERVER CLIENT VERSION CIPHER
talks() {
    local port= offered=(-cipher "$4")
    local -n serving=$1
    [ "$3" != tls1_3 ] || offered=(-ciphersuites "$4")
    : >"$dir/server"
    "${serving[@]}" openssl s_server "-$3" "${offered[@]}" -accept 127.0.0.1:0 -naccept 1 -cert "$dir/cert.pem" -key "$dir/key.pem" -rev >"$dir/server" 2>&1 </dev/null &
    server=$!
    for ((i = 0; i < 1200; i++)); do
        port=$(sed -n 's/^ACCEPT .*:\([0-9]*\)$/\1/p' "$dir/server")
        [ -z "$port" ] && kill -0 "$server" 2>/dev/null || break
        sleep 0.05
    done
    [ -n "$port" ] || fail "s_server does not listen: $(tail -n 3 "$dir/server")"
    [ "$1" = default ] || grep -q 'hardplate\.so$' "/proc/$server/maps" || fail "the provider is not in s_server"
    [ "$1" != default ] || ! grep -q 'hardplate\.so$' "/proc/$server/maps" || fail "the provider is in an s_server that does not ask for it"
    { cat "$dir/lines"; echo CLOSE; } | as "$2" timeout 60 openssl s_client "-$3" -connect "127.0.0.1:$port" -CAfile "$dir/cert.pem" -verify_return_error \
        -quiet >"$dir/got" 2>"$dir/client" || true
    wait "$server" || true
    server=
    cmp -s "$dir/got" "$dir/want" || fail "$3 $4, server $1, client $2: $(cat "$dir/server" "$dir/client" | tail -n 6)"
    grep -q "Ciphersuite: $4" "$dir/server" || fail "$4 was not negotiated"
}
for ends in "hardplate hardplate" "hardplate default" "default hardplate"; do
    for suite in ECDHE-RSA-AES256-GCM-SHA384 ECDHE-RSA-AES128-GCM-SHA256 AES128-GCM-SHA256; do talks $ends tls1_2 $suite; done
    for suite in TLS_AES_256_GCM_SHA384 TLS_AES_128_GCM_SHA256 TLS_CHACHA20_POLY1305_SHA256; do talks $ends tls1_3 $suite; done
    echo "ok TLS $ends"
done

head -c 300001 /dev/urandom >"$dir/plain"
for bits in 128 192 256; do
    for ends in "hardplate hardplate" "hardplate default" "default hardplate"; do
        read -r from to <<<"$ends"
        as "$from" openssl cms -encrypt -binary "-aes-$bits-gcm" -in "$dir/plain" -outform DER -out "$dir/cms" "$dir/cert.pem"
        as "$to" openssl cms -decrypt -binary -inform DER -in "$dir/cms" -inkey "$dir/key.pem" -out "$dir/opened" || fail "CMS of $from, AES-$bits, is not opened by $to"
        cmp "$dir/plain" "$dir/opened"
    done
    changed=$(($(od -A n -t u1 -j 200000 -N 1 "$dir/cms") ^ 1))
    printf "\\x$(printf %02x "$changed")" | dd of="$dir/cms" bs=1 seek=200000 conv=notrunc status=none
    ! as hardplate openssl cms -decrypt -binary -inform DER -in "$dir/cms" -inkey "$dir/key.pem" -out "$dir/opened" 2>/dev/null || fail "changed CMS, AES-$bits, is opened"
    ! as hardplate openssl enc "-aes-$bits-gcm" -K 00 -iv 00 -in "$dir/plain" >/dev/null 2>"$dir/said" || fail "openssl enc offers AES-$bits-GCM"
    grep -qi 'AEAD' "$dir/said" || fail "openssl enc says something else: $(tail -n 1 "$dir/said")"
done
echo "ok CMS, enc"

# What is configured and not there is OpenSSL's matter; the programs go on with its own.
as hardplate openssl list -providers | grep '^ *name: hardplate$' >/dev/null || fail "openssl list does not name it"
! OPENSSL_CONF=$dir/hardplate.cnf OPENSSL_MODULES=$dir/nowhere openssl list -providers 2>/dev/null | grep hardplate >/dev/null || fail "it is there without its module"
echo "ok list"
