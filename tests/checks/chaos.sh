#!/usr/bin/env bash
# A short seeded round of each way to break a running system, all at one time: they wait more than they work.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${CARGO_TARGET_DIR:-target}/chaos
mkdir -p "$folder"
# Built before, so that they do not wait for each other.
cargo build --quiet --locked --workspace --bin chaos
declare -A running
for round in kills:40 postgres:8 callbacks:6 zombie:6 campaign:6 rolling:2 edge-detach:2; do
    what=${round%:*}
    cargo chaos "$what" --rounds "${round#*:}" --seed 1 --contacts 300 --calls 10 >"$folder/$what.txt" 2>&1 &
    running[$what]=$!
done
failed=0
for what in "${!running[@]}"; do
    wait "${running[$what]}" || { failed=1; echo "cargo chaos $what failed:"; tail -n 40 "$folder/$what.txt"; }
done
for what in kills postgres callbacks zombie campaign rolling edge-detach; do
    echo "$what: $(tail -n 1 "$folder/$what.txt")"
done
exit "$failed"
