#!/usr/bin/env bash
# Writes what each program is made of, as CycloneDX in JSON: k8s/image/sbom.sh FOLDER makes FOLDER/PROGRAM.cdx.json. The image has them in
# /sbom. cargo-cyclonedx is installed into the target folder where it is not there.
set -euo pipefail
[ $# -eq 1 ] || { sed -n '2,3s/^# *//p' "$0" >&2; exit 64; }
mkdir -p "$1"
folder=$(realpath "$1")
cd "$(dirname "$0")/../.."
version=0.5.9
tools=$(realpath -m "${CARGO_TARGET_DIR:-target}")/tools
if ! "$tools/bin/cargo-cyclonedx" cyclonedx --version 2> /dev/null | grep -q " $version\$"; then
    CARGO_PROFILE_DEV_DEBUG=none cargo install --quiet --locked --debug --root "$tools" --version "$version" cargo-cyclonedx
fi
# It writes beside the manifests, of every crate.
name=callbridge-sbom
trap 'find . -path ./target -prune -o -name "$name.json" -print0 | xargs -0 --no-run-if-empty rm' EXIT
# Without the build's own tools: they are in no program. The lock file says the versions, and nothing changes it.
"$tools/bin/cargo-cyclonedx" cyclonedx --quiet --format json --spec-version 1.5 --no-build-deps --override-filename "$name"
for program in call-service:services/call edge:edge callbridge:services/cli echo-agent:services/echo-agent; do
    # Our crates are named by their place in the tree, wherever the tree is.
    sed "s#file://$PWD/#file:///#g" "${program#*:}/$name.json" > "$folder/${program%:*}.cdx.json"
done
