#!/usr/bin/env bash
# Prints the Secrets of the development overlay, with new random keys, for `kubectl apply -f -`; and on standard error an API key. With
# other keys an old database cannot be read: delete its volume, too.
set -euo pipefail
cd "$(dirname "$0")/../../.."
call_service=${CALL_SERVICE:-cargo run --quiet --package call-service --}

password=$(openssl rand -hex 16)
database="postgres://callbridge:$password@postgres/callbridge?sslmode=disable"
token_keys="1:$(openssl rand -base64 32)"
# shellcheck disable=SC2086  # a command with its options
edge_token_keys=$(TOKEN_KEYS=$token_keys $call_service derive-edge-keys)
for_operator="ck_ops_$(openssl rand -hex 24)"
for_edge="ck_edge_$(openssl rand -hex 24)"
digest() { printf %s "$1" | sha256sum | cut -d' ' -f1; }

secret() {
    printf -- '---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\n  namespace: callbridge\nstringData:\n' "$1"
    shift
    printf '  %s: "%s"\n' "$@"
}
secret postgres POSTGRES_PASSWORD "$password"
secret call-service-migrate DATABASE_URL "$database"
secret call-service DATABASE_URL "$database" TOKEN_KEYS "$token_keys" CREDENTIAL_KEYS "1:$(openssl rand -base64 32)" \
    API_KEYS "ops:calls.read+calls.write+campaigns.write+credentials.write:$(digest "$for_operator"),edge:ingest+media:$(digest "$for_edge")"
secret edge CALL_SERVICE_API_KEY "$for_edge" EDGE_TOKEN_KEYS "$edge_token_keys"
echo "your API key: $for_operator" >&2
