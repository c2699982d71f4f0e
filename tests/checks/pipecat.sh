#!/usr/bin/env bash
# A bot that was written for Exotel needs no change: a stock pipecat pipeline with its Exotel serializer talks on a real call
# through `cargo dev`. Its packages are installed from PyPI into target/ (some 500 MB, once).
set -euo pipefail
cd "$(dirname "$0")/../.."
tools=target/checks/pipecat
state=target/checks/pipecat-dev
here=tests/checks/pipecat
base=${PORT_BASE:-21600}
bot_port=$((base + 9))
if ! cmp -s "$here/requirements.txt" "$tools/installed.txt"; then
    rm -rf "$tools"
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$tools/installed.txt"
fi

rm -rf "$state/dev.json" "$state/bot"
mkdir -p "$state/bot"
"$tools/bin/python" "$here/bot.py" "$state/bot" "$bot_port" > "$state/bot.out" 2>&1 &
bot=$!
cargo dev --port-base "$base" --state-dir "$state" > "$state.out" 2>&1 &
dev=$!
trap 'kill "$bot" "$dev" 2> /dev/null || true; wait "$bot" "$dev" || true' EXIT
# dev.json is there before the demonstration's calls, and has them once all is up.
ready='import json, socket, sys; socket.create_connection(("127.0.0.1", int(sys.argv[2])), 1); sys.exit(not json.load(open(sys.argv[1]))["calls"])'
for _ in $(seq 1200); do
    if "$tools/bin/python" -c "$ready" "$state/dev.json" "$bot_port" 2> /dev/null; then
        up=1
        break
    fi
    kill -0 "$dev" 2> /dev/null || break
    kill -0 "$bot" 2> /dev/null || break
    sleep 0.5
done
[ -n "${up:-}" ] || { echo 'pipecat: the bot or `cargo dev` did not start'; cat "$state.out" "$state/bot.out"; exit 1; }
"$tools/bin/python" "$here/call.py" "$state/dev.json" "$state/bot" "ws://127.0.0.1:$bot_port/bot" "$tools/bin/grpcurl" || { tail -50 "$state/bot.out"; exit 1; }
