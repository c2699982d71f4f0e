#!/usr/bin/env bash
# Fuzzes one target of tests/fuzz with libFuzzer, on stable Rust and with nothing to install besides a C++ compiler.
#   tests/checks/fuzz.sh TARGET [RUNS] [libFuzzer's options]   RUNS executions (1,000,000), beginning with the corpus
#   tests/checks/fuzz.sh all [SECONDS]                         each target for so many seconds (5)
# Its last line has the figures; what breaks a target is written to tests/fuzz/crashes/TARGET, where `cargo test` replays it.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || { sed -n '2,5s/^# *//p' "$0" >&2; exit 64; }
target=$1 amount=${2:-}
shift; [ $# -eq 0 ] || shift
triple=$(rustc -vV | sed -n 's/^host: //p')
folder=${FUZZ_TARGET_DIR:-target/fuzz}
# What cargo-fuzz passes without a sanitizer: our code is safe Rust. A triple of its own keeps the flags from build scripts and macros.
export CARGO_TARGET_DIR=$folder CARGO_INCREMENTAL=0
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
export RUSTC_WRAPPER=$PWD/tests/checks/instrument.sh
targets=("$target")
[ "$target" != all ] || mapfile -t targets < <(basename --suffix .rs --multiple tests/fuzz/fuzz_targets/*.rs)
build=()
for name in "${targets[@]}"; do build+=(--bin "$name"); done
${CARGO:-cargo} build --quiet --locked --profile fuzz --target "$triple" --package fuzz --features libfuzzer "${build[@]}"

wrong=0
for name in "${targets[@]}"; do
    limit=(-runs="${amount:-1000000}")
    [ "$target" != all ] || limit=(-max_total_time="${amount:-5}")
    dictionary=tests/fuzz/dictionaries/$name.dict
    [ ! -f "$dictionary" ] || limit+=(-dict="$dictionary")
    # What is found goes to a folder beside the committed corpus.
    found=$folder/corpus/$name log=$folder/$name.log
    mkdir -p "$found" "tests/fuzz/crashes/$name"
    # One execution that takes ten seconds hangs. What is longer is mostly slower; an option of one's own (-max_len=4096) counts.
    begin=$(date +%s%N) status=0
    "$folder/$triple/fuzz/$name" "$found" "tests/fuzz/corpus/$name" "${limit[@]}" -timeout=10 -max_len=320 -print_final_stats=1 \
        -artifact_prefix="tests/fuzz/crashes/$name/" "$@" > "$log" 2>&1 || status=$?
    seconds=$((($(date +%s%N) - begin) / 1000000))
    figure() { sed -n "s/^stat::$1: *//p" "$log" | tail -n 1; }
    executions=$(figure number_of_executed_units)
    count() { grep -c "ERROR: libFuzzer: $1" "$log" || true; }
    crashes=$(($(count 'deadly signal') + $(count 'fuzz target exited'))) hangs=$(count timeout) memory=$(count out-of-memory)
    [ "$status" -eq 0 ] || { wrong=1; grep -A 12 'panicked at\|ERROR: libFuzzer' "$log" | head -n 40 || true; }
    rmdir --ignore-fail-on-non-empty "tests/fuzz/crashes/$name"
    per_second=0
    [ "$seconds" -eq 0 ] || per_second=$((${executions:-0} * 1000 / seconds))
    echo "fuzz: target=$name executions=${executions:-0} seconds=$((seconds / 1000)) execs_per_second=$per_second corpus=$(find "$found" -type f | wc -l) crashes=$crashes hangs=$hangs out_of_memory=$memory"
done
rmdir --ignore-fail-on-non-empty tests/fuzz/crashes 2> /dev/null || true
exit "$wrong"
