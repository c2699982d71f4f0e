#!/usr/bin/env bash
# What may be in the tree: ring is the one TLS provider, nothing is there twice that must not be, and the edge has no database.
set -euo pipefail
cd "$(dirname "$0")/../.."
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
[ "$wrong" -eq 0 ] && echo "dependencies: one TLS provider, single versions, no database outside call-service"
exit "$wrong"
