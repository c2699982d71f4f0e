#!/usr/bin/env bash
# Releases that run side by side (F38, F105): builds the programs of the previous one, and replaces processes of the one by those of
# the other and back, on the schema of this one, while people talk.
set -euo pipefail
previous=d94f1ba
cd "$(dirname "$0")/../.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
folder=$target/previous
git cat-file -e "$previous^{commit}" 2>/dev/null ||
    git fetch --quiet --unshallow 2>/dev/null ||
    git fetch --quiet origin "$previous" 2>/dev/null || true
git cat-file -e "$previous^{commit}" 2>/dev/null || {
    echo "previous.sh: the previous release, commit $previous, is not in this clone and cannot be fetched; use a full clone" >&2
    exit 1
}
mkdir -p "$folder"
git worktree remove --force "$folder/source" 2>/dev/null || true
git worktree prune
git worktree add --quiet --detach "$folder/source" "$previous"
trap 'git worktree remove --force "$folder/source"' EXIT
# Into the same folder, so that what both releases depend on is built once; under a version of its own, since cargo would take
# the crates of the one for those of the other.
sed -i '/^\[workspace.package\]/,/^\[/ s/^version = .*/version = "0.0.0"/' "$folder/source/Cargo.toml"
(cd "$folder/source" && CARGO_TARGET_DIR=$target cargo build --quiet --workspace --bin call-service --bin edge)
cp "$target/debug/call-service" "$target/debug/edge" "$folder/"
cargo chaos rolling --rounds 4 --seed 1 --calls 20 --previous "$folder" --state-dir "$target/chaos/previous"
