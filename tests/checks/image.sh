#!/usr/bin/env bash
# The image: built for real on a base made of Debian's packages, since no registry of images need be reached, and started as Kubernetes
# would: as 65532, with a root that is not written to, no capability and no new privileges. It migrates a Postgres, both pieces
# become ready with the development overlay's Secrets, and end in order.
#   --programs DIR   what is compiled (target/release, which is built when it is not there)
# It needs root and Debian: it installs buildah, podman and runc, and Postgres where there is none.
set -euo pipefail
cd "$(dirname "$0")/../.."
programs=${CARGO_TARGET_DIR:-target}/release
[ "${1:-}" != --programs ] || programs=$2
base=${PORT_BASE:-21700}
work=$(mktemp --directory /tmp/callbridge-image-XXXXXX)
store=(--storage-driver vfs --root "$work/store" --runroot "$work/run")
export BUILDAH_ISOLATION=chroot
buildah=(buildah "${store[@]}")
podman=(podman "${store[@]}" --cgroup-manager cgroupfs --runtime runc)
bad() { echo "image: $*" >&2; exit 1; }

finish() {
    "${podman[@]}" rm --force --all --time 0 > /dev/null 2>&1 || true
    if [ -s "$work/postgres.pid" ]; then
        kill -INT "$(cat "$work/postgres.pid")" 2> /dev/null || true
        wait "$(cat "$work/postgres.pid")" 2> /dev/null || true
    fi
    rm -rf "$work" 2> /dev/null || true
}
trap finish EXIT

missing=()
command -v buildah > /dev/null || missing+=(buildah)
command -v podman > /dev/null || missing+=(podman)
command -v runc > /dev/null || missing+=(runc)
postgres() { ls -d ${PG_BIN:+"$PG_BIN"} /usr/lib/postgresql/*/bin 2> /dev/null | sort --version-sort | tail -n 1; }
if [ -z "$(postgres)" ]; then
    # The package's own cluster is not started.
    mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf
    missing+=(postgresql)
fi
if [ ${#missing[@]} -gt 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends "${missing[@]}" > /dev/null
fi
if [ ! -x "$programs/call-service" ]; then
    cargo build --release --locked --package call-service --package edge --package callbridge-cli --package echo-agent
fi

# The base: glibc, libgcc, the authorities' roots, and nothing else.
mkdir -p "$work/base/rootfs" "$work/packages"
chmod 777 "$work/packages"
(cd "$work/packages" && apt-get download -qq libc6 libgcc-s1 ca-certificates 2> /dev/null)
for package in "$work"/packages/*.deb; do
    dpkg-deb --extract "$package" "$work/base/rootfs"
done
(
    cd "$work/base/rootfs"
    mkdir -p etc/ssl/certs tmp
    cat usr/share/ca-certificates/mozilla/*.crt > etc/ssl/certs/ca-certificates.crt
    rm -rf usr/share usr/bin usr/sbin sbin usr/lib/x86_64-linux-gnu/gconv
    printf 'root:x:0:0::/:/none\nnonroot:x:65532:65532::/:/none\n' > etc/passwd
)
printf 'FROM scratch\nCOPY rootfs/ /\n' > "$work/base/Dockerfile"
"${buildah[@]}" build --quiet --tag localhost/callbridge-base "$work/base" > /dev/null

k8s/image/build.sh --engine "${buildah[*]}" --tag localhost/callbridge:check --base localhost/callbridge-base --programs "$programs" \
    > "$work/build.log" 2>&1 || { cat "$work/build.log"; bad 'it does not build'; }
mib() { awk '{ printf "%.1f MiB", $1 / 1048576 }' <<< "$1"; }
size() { mib "$("${podman[@]}" image inspect --format '{{.Size}}' "$1")"; }
echo "image: $(size localhost/callbridge:check), of which the base is $(size localhost/callbridge-base)"
container=$("${buildah[@]}" from localhost/callbridge:check)
root=$("${buildah[@]}" mount "$container")
for program in call-service edge callbridge echo-agent; do
    echo "image: /$program is $(mib "$(stat --format %s "$root/$program")")"
done
for program in call-service edge callbridge echo-agent; do
    # Every program has the crate that all of them are built on, with the version of the lock file.
    python3 - "$root/sbom/$program.cdx.json" << 'PY' || bad "/sbom/$program.cdx.json is not what it is made of"
import json, sys, tomllib
bom = json.load(open(sys.argv[1]))
locked = {(p["name"], p["version"]) for p in tomllib.load(open("Cargo.lock", "rb"))["package"]}
parts = {(c["name"], c["version"]) for c in bom["components"]}
assert bom["bomFormat"] == "CycloneDX" and parts <= locked and any(name == "tokio" for name, _ in parts)
PY
done
user=$("${podman[@]}" image inspect --format '{{.Config.User}} {{.Config.Entrypoint}}' localhost/callbridge:check)
[ "$user" = '65532:65532 [/call-service]' ] || bad "user and entry point are $user"
privileged=$(find "$root" -xdev \( -perm /6000 -o -name sh -o -name bash \) -print -quit)
[ -z "$privileged" ] || bad "${privileged#"$root"} is in it"
"${buildah[@]}" rm "$container" > /dev/null

# As Kubernetes would. `/tmp` is no exception: nothing needs it.
run() {
    local name=$1
    shift
    "${podman[@]}" run --name "$name" --network host --read-only --read-only-tmpfs=false --cap-drop ALL --security-opt no-new-privileges \
        --ulimit nofile=1024:1024 --ulimit nproc=4096:4096 "$@"
}

CALL_SERVICE=$programs/call-service k8s/overlays/dev/secrets.sh > "$work/secrets.yaml" 2> /dev/null
# The keys of one Secret as an environment file.
secret() {
    awk -v name="$1" '$1 == "name:" { on = $2 == name } on && /^  [A-Z_]+: "/ { key = $1; sub(/:$/, "", key); sub(/^  [A-Z_]+: "/, ""); sub(/"$/, ""); print key "=" $0 }' \
        "$work/secrets.yaml" | sed "s|@postgres/|@127.0.0.1:$base/|" > "$work/$1.env"
    [ -s "$work/$1.env" ] || bad "secrets.sh prints no Secret $1"
}
for name in postgres call-service-migrate call-service edge; do secret "$name"; done

as_nobody=(setpriv --reuid 65534 --regid 65534 --clear-groups)
bin=$(postgres)
mkdir "$work/postgres"
chown 65534:65534 "$work/postgres"
chmod 755 "$work"
sed 's/^[^=]*=//' "$work/postgres.env" > "$work/postgres/password"
chown 65534:65534 "$work/postgres/password"
"${as_nobody[@]}" "$bin/initdb" --pgdata "$work/postgres/data" --username callbridge --pwfile "$work/postgres/password" --auth scram-sha-256 --no-sync > "$work/postgres.log"
"${as_nobody[@]}" "$bin/postgres" -D "$work/postgres/data" -p "$base" -h 127.0.0.1 -k "$work/postgres" -c fsync=off >> "$work/postgres.log" 2>&1 &
echo $! > "$work/postgres.pid"
for _ in $(seq 100); do
    ! "$bin/pg_isready" --quiet --host 127.0.0.1 --port "$base" || break
    sleep 0.1
done
export PGPASSWORD; PGPASSWORD=$(cat "$work/postgres/password")
"$bin/createdb" --host 127.0.0.1 --port "$base" --username callbridge callbridge || { cat "$work/postgres.log"; bad 'no Postgres'; }

run migrate --timeout 120 --env-file "$work/call-service-migrate.env" localhost/callbridge:check migrate > "$work/migrate.log" 2>&1 \
    || { tail -n 20 "$work/migrate.log"; bad 'migrate failed'; }
echo "image: migrate applied $(grep -c '"applied"\|applied' "$work/migrate.log") migrations"

run call-service --detach --env-file "$work/call-service.env" --env WEBHOOK_BASE_URL=http://127.0.0.1:$((base + 2)) \
    --env CALL_SERVICE_ADDR=127.0.0.1:$((base + 1)) --env CALL_SERVICE_INTERNAL_ADDR=127.0.0.1:$((base + 3)) localhost/callbridge:check serve > /dev/null
run edge --detach --env-file "$work/edge.env" --env CALL_SERVICE_URL=http://127.0.0.1:$((base + 1)) --tmpfs /spool:rw,mode=1777 --env RECORDING_SPOOL=/spool \
    --env EDGE_ADDR=127.0.0.1:$((base + 2)) --env EDGE_INTERNAL_ADDR=127.0.0.1:$((base + 4)) --env EDGE_ACCEPT_SECONDS=1 \
    --entrypoint /edge localhost/callbridge:check > /dev/null

for piece in call-service:$((base + 3)) edge:$((base + 4)); do
    name=${piece%:*} port=${piece#*:} begin=$(date +%s%N) status=''
    for _ in $(seq 300); do
        status=$(curl --silent --output /dev/null --max-time 5 --write-out '%{http_code}' "http://127.0.0.1:$port/readyz" || true)
        [ "$status" != 200 ] || break
        sleep 0.1
    done
    live=$(curl --silent --output /dev/null --max-time 5 --write-out '%{http_code}' "http://127.0.0.1:$port/livez" || true)
    [ "$live $status" = '200 200' ] || { "${podman[@]}" logs "$name"; bad "$name: /livez is $live, /readyz is $status"; }
    curl --silent --max-time 5 "http://127.0.0.1:$port/metrics" > "$work/metrics"
    grep -q '^callbridge_\|^otel_' "$work/metrics" || bad "$name: /metrics has nothing of ours"
    process=$("${podman[@]}" inspect --format '{{.State.Pid}}' "$name")
    who=$(awk '$1 == "Uid:" || $1 == "Gid:" { print $1 $2 $3 $4 $5 } $1 == "CapEff:" || $1 == "NoNewPrivs:" { print $1 $2 }' "/proc/$process/status" | xargs)
    [ "$who" = 'Uid:65532655326553265532 Gid:65532655326553265532 CapEff:0000000000000000 NoNewPrivs:1' ] || bad "$name runs as $who"
    # Not even root could write to it.
    ! touch "/proc/$process/root/written" 2> "$work/touch" || bad "$name can write to its root"
    grep -q 'Read-only file system' "$work/touch" || bad "$name: its root is not read-only: $(cat "$work/touch")"
    [ "$(readlink "/proc/$process/exe")" = "/$name" ] || bad "$name is not process 1: $(readlink "/proc/$process/exe")"
    echo "image: $name answers 200 to /livez and /readyz after $((($(date +%s%N) - begin) / 1000000)) ms, as 65532, without capabilities, its root read-only"
done

run callbridge --timeout 20 --entrypoint /callbridge localhost/callbridge:check --version > "$work/version" 2>&1 || { cat "$work/version"; bad 'callbridge does not start'; }
run echo-agent --detach --env ECHO_AGENT_ADDR=127.0.0.1:$((base + 5)) --entrypoint /echo-agent localhost/callbridge:check > /dev/null
for _ in $(seq 100); do
    ! (: < "/dev/tcp/127.0.0.1/$((base + 5))") 2> /dev/null || break
    sleep 0.1
done

for name in echo-agent edge call-service; do
    begin=$(date +%s%N)
    "${podman[@]}" kill --signal TERM "$name" > /dev/null
    code=$(timeout 60 "${podman[@]}" wait "$name") || bad "$name does not end after SIGTERM"
    [ "$code" = 0 ] || { "${podman[@]}" logs "$name"; bad "$name ended with $code after SIGTERM"; }
    echo "image: $name ended with 0, $((($(date +%s%N) - begin) / 1000000)) ms after SIGTERM"
done
