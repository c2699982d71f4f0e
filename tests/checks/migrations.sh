#!/usr/bin/env bash
# The migrations do nothing that stops calls, or that the programs of the release before do not survive (F38).
set -euo pipefail
cd "$(dirname "$0")/../.."
tools=target/checks/squawk
if [ ! -x "$tools/bin/squawk" ]; then
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet 'squawk-cli==2.70.0'
fi
# Caps and counts of one call are small; what runs in a transaction is run again from its start; the runner has a statement take as
# long as it takes, since its locks are what is bounded.
exclude=prefer-bigint-over-int,prefer-bigint-over-smallint,prefer-robust-stmts,require-statement-timeout
# Tables were empty until the first release.
indexes=require-concurrent-index-creation,require-concurrent-index-deletion
lint() { "$tools/bin/squawk" --no-error-on-unmatched-pattern "$@"; }
for folder in migrations/*/; do
    name=$(basename "$folder")
    if grep --quiet --no-messages 'run_in_transaction = false' "$folder/metadata.toml"; then
        lint --exclude="$exclude,require-lock-timeout" "$folder/up.sql"
    elif [[ $name < 2026-11-27 ]]; then
        lint --assume-in-transaction --exclude="$exclude,$indexes" "$folder/up.sql"
    else
        lint --assume-in-transaction --exclude="$exclude" "$folder/up.sql"
    fi
done > target/checks/migrations.txt || { cat target/checks/migrations.txt; exit 1; }
echo "migrations: $(ls -d migrations/*/ | wc -l) of them stop nobody's calls"
