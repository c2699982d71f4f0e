#!/usr/bin/env bash
# Builds the image.
#   --tag NAME        what it is called (callbridge)
#   --base IMAGE      what the programs are copied into (the Dockerfile's)
#   --builder IMAGE   what compiles them (the Dockerfile's)
#   --programs DIR    takes compiled programs from there; they must have been linked with no newer glibc than the base has
#   --engine COMMAND  podman, docker or buildah, with options (the first that is there)
set -euo pipefail
cd "$(dirname "$0")/../.."
tag=callbridge programs='' engine='' arguments=()
while [ $# -gt 0 ]; do
    case $1 in
        --tag) tag=$2 ;;
        --base) arguments+=(--build-arg "CALLBRIDGE_BASE=$2") ;;
        --builder) arguments+=(--build-arg "CALLBRIDGE_BUILDER=$2") ;;
        --programs) programs=$2 ;;
        --engine) engine=$2 ;;
        *) sed -n '2,7s/^# *//p' "$0" >&2; exit 64 ;;
    esac
    shift 2
done
for candidate in podman docker buildah; do
    [ -n "$engine" ] || ! command -v "$candidate" > /dev/null || engine=$candidate
done
[ -n "$engine" ] || { echo 'there is no podman, docker or buildah to build with: install one, or name it with --engine' >&2; exit 69; }

context=$(mktemp --directory)
trap 'rm -rf "$context"' EXIT
if [ -n "$programs" ]; then
    arguments+=(--build-arg CALLBRIDGE_PROGRAMS=given)
    mkdir "$context/programs"
    for program in call-service edge callbridge echo-agent; do
        cp "$programs/$program" "$context/programs/"
        strip --strip-debug "$context/programs/$program"
    done
    k8s/image/sbom.sh "$context/programs/sbom"
else
    # What git knows, and no target folder.
    git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from - | tar --extract --directory "$context"
fi
# shellcheck disable=SC2086  # a command with its options
$engine build --file k8s/image/Dockerfile --tag "$tag" "${arguments[@]}" "$context"
