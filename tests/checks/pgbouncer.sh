#!/usr/bin/env bash
# The stories through Debian's PgBouncer (1.18) in transaction mode, with three sessions for each database (F36).
# `pgbouncer.sh NAME…` runs those whose names hold one of these.
set -euo pipefail
cd "$(dirname "$0")/../.."
pgbouncer=$(command -v pgbouncer || true)
if [ -z "$pgbouncer" ]; then
    folder=$PWD/target/checks/pgbouncer
    pgbouncer=$folder/run
    if [ ! -x "$pgbouncer" ]; then
        mkdir -p "$folder"
        # Unpacked, not installed: nobody's PgBouncer is started or altered.
        if ! (cd "$folder" && apt-get download --quiet --quiet pgbouncer libc-ares2 libevent-2.1-7); then
            echo 'pgbouncer: it is not installed, and Debian'\''s packages could not be fetched: install it, or run apt-get update'
            exit 1
        fi
        for package in "$folder"/*.deb; do
            dpkg-deb --extract "$package" "$folder"
        done
        libraries=$(dirname "$(find "$folder" -name 'libcares.so.2' -print -quit)")
        printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$libraries" "$folder/usr/sbin/pgbouncer" > "$pgbouncer"
        chmod 755 "$pgbouncer"
    fi
fi
# PgBouncer leaves root, and has to read its program all the same.
"$pgbouncer" --version | head -n 1
stories=("$@")
if [ "${#stories[@]}" -eq 0 ]; then
    # Dials, callbacks and what two replicas do; caps, rates and locks; imports by COPY; campaigns; news; rows of every kind.
    stories=(outbound:: inbound:: queue:: idempotency:: imports:: campaigns:: watch:: settling:: schema::)
fi
TEST_PGBOUNCER=$pgbouncer cargo test --workspace --locked --quiet --test e2e -- "${stories[@]}"
