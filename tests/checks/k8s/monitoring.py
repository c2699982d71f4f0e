"""What Prometheus and Grafana ask is PromQL, and each alert says what to do first."""

import json
import pathlib
import sys

import promql_parser
import yaml

folder = pathlib.Path(sys.argv[1])
groups = yaml.safe_load((folder / "alerts.yaml").read_text())["groups"]
alerts = [rule for group in groups for rule in group["rules"]]
for rule in alerts:
    promql_parser.parse(rule["expr"])
    assert rule["annotations"].keys() == {"summary", "runbook"}, rule["alert"]
    assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule["alert"]
assert len({rule["alert"] for rule in alerts}) == len(alerts), "two alerts have one name"

panels = json.loads((folder / "dashboard.json").read_text())["panels"]
expressions = [target["expr"] for panel in panels for target in panel.get("targets", [])]
for expression in expressions:
    promql_parser.parse(expression)
print(f"monitoring: {len(alerts)} alerts with a runbook line each, {len(expressions)} expressions on the dashboard")
