#!/usr/bin/env bash
# The API: lint, format, and no change that breaks a client of the committed image.
# `protos.sh --accept` commits today's API as the new image, for a change that is meant.
set -euo pipefail
cd "$(dirname "$0")/../.."
buf=$(command -v buf || true)
if [ -z "$buf" ]; then
    python3 -m venv target/checks/buf
    target/checks/buf/bin/pip install --quiet 'buf-bin==1.75.0'
    buf=target/checks/buf/bin/buf
fi
if [ "${1:-}" = --accept ]; then
    "$buf" build --exclude-source-info --output tests/checks/api.binpb
    exit
fi
"$buf" lint
"$buf" format --diff --exit-code
"$buf" breaking --against tests/checks/api.binpb
echo "protos: lint, format and breaking are clean"
