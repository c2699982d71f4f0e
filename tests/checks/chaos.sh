#!/usr/bin/env bash
# A short seeded round of each way to break a running system. Those that wait more than they work run at one time; then those in
# which people talk, which a machine that is too busy would cut off.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${CARGO_TARGET_DIR:-target}/chaos
mkdir -p "$folder"
# Built before, so that they do not wait for each other.
cargo build --quiet --locked --workspace --bin chaos
failed=0
together() {
    local -A running=()
    local round what
    for round in "$@"; do
        what=${round%:*}
        if [ "$what" = rotate ]; then
            cargo chaos rotate --rows 3000 --kills "${round#*:}" --seed 1 >"$folder/$what.txt" 2>&1 &
        else
            cargo chaos "$what" --rounds "${round#*:}" --seed 1 --contacts 300 --calls 10 >"$folder/$what.txt" 2>&1 &
        fi
        running[$what]=$!
    done
    for what in "${!running[@]}"; do
        wait "${running[$what]}" || { failed=1; echo "cargo chaos $what failed:"; tail -n 40 "$folder/$what.txt"; }
    done
    for round in "$@"; do
        what=${round%:*}
        echo "$what: $(tail -n 1 "$folder/$what.txt")"
    done
}
together kills:40 postgres:8 callbacks:6 zombie:6 campaign:6 rotate:12
together rolling:2 edge-detach:2
exit "$failed"
