"""What we ask of our manifests beyond what Kubernetes does. Each rule yields what is wrong.

policy.py FILE...: a file is what one kustomization renders to; an overlay's name has "overlay" in it, and is complete.
"""

import ipaddress
import json
import pathlib
import re
import sys

from rendered import containers, label, named, of, pod, ports, read, selected, selects, settings, workloads

ROOT = pathlib.Path(__file__).parents[3]
OURS = ("call-service", "edge")
SECRET = re.compile(r"(DATABASE_URL|_KEYS?|_TOKEN|PASSWORD|SECRET\w*)$")
# Where the programs' settings are read.
SOURCES = ["edge/src/config.rs", "services/call/src/config.rs", "services/runtime/src/objects.rs", "services/runtime/src/telemetry/settings.rs"]


def known_settings():
    text = "".join((ROOT / source).read_text() for source in SOURCES)
    return set(re.findall(r'"([A-Z][A-Z0-9_]{7,})"', text))


def documented():
    return set(re.findall(r"`([A-Za-z][\w*.-]*)`", (ROOT / "k8s/README.md").read_text()))


def seconds(text):
    return float(re.fullmatch(r"([\d.]+)s?", str(text))[1])


def default(name):
    """A setting's default in seconds, as the README's table has it."""
    row = re.search(rf"^\| `{name}` \| (\w+) \|", (ROOT / "README.md").read_text(), re.M)
    return seconds(row[1])


def pods_are_restricted(objects):
    for workload in workloads(objects):
        spec = pod(workload)["spec"]
        of_pod = spec.get("securityContext", {})
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{label(workload)} mounts a service account's token"
        if spec.get("enableServiceLinks") is not False:
            yield f"{label(workload)} gets other Services as settings (enableServiceLinks)"
        if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{label(workload)} shares its node's namespaces"
        for container in containers(workload):
            who, of_it = f"{label(workload)}, container {container['name']},", container.get("securityContext", {})
            both = of_pod | of_it
            if both.get("runAsNonRoot") is not True or not both.get("runAsUser"):
                yield f"{who} may run as root"
            if both.get("seccompProfile") != {"type": "RuntimeDefault"}:
                yield f"{who} has no seccomp profile"
            if of_it.get("readOnlyRootFilesystem") is not True:
                yield f"{who} can write to its root"
            if of_it.get("allowPrivilegeEscalation") is not False or of_it.get("privileged"):
                yield f"{who} can gain privileges"
            if of_it.get("capabilities") != {"drop": ["ALL"]}:
                yield f"{who} keeps capabilities"
            resources = container.get("resources", {})
            if not resources.get("limits", {}).get("memory") or resources["limits"]["memory"] != resources.get("requests", {}).get("memory"):
                yield f"{who} has no memory limit, or another request"
            if not resources.get("requests", {}).get("cpu") or "cpu" in resources.get("limits", {}):
                yield f"{who} asks for no processor time, or has a limit of it, which makes audio stutter"
    for namespace in of(objects, "Namespace"):
        if namespace["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"{label(namespace)} does not enforce the restricted pod security standard"


def probes_mean_what_they_say(objects):
    for workload in of(objects, "Deployment"):
        for container in containers(workload):
            for probe, path in ("startup", "/livez"), ("liveness", "/livez"), ("readiness", "/readyz"):
                asked = container.get(f"{probe}Probe", {}).get("httpGet", {})
                if (asked.get("path"), asked.get("port")) != (path, "internal"):
                    yield f"{label(workload)}: the {probe} probe does not ask {path} on the port internal"
        notes = pod(workload)["metadata"].get("annotations", {})
        if notes.get("prometheus.io/scrape") != "true" or notes.get("prometheus.io/port") != str(ports(workload).get("internal")):
            yield f"{label(workload)}: Prometheus is not sent to the port internal"


def drains_fit_into_the_grace_period(objects):
    for workload in of(objects, "Deployment"):
        spec, container = pod(workload)["spec"], containers(workload)[0]
        values = settings(objects, container)
        pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if not pause:
            yield f"{label(workload)} has no pause before SIGTERM"
        if workload["metadata"]["name"] == "edge":
            # Closing what is left, the last reports, requests that were begun, telemetry.
            drain = seconds(values.get("EDGE_DRAIN_SECONDS") or default("EDGE_DRAIN_SECONDS")) + 7 + 5 + 12 + 2
        else:
            # Open streams, then what was begun, then telemetry.
            drain = 2 * seconds(values.get("DRAIN_TIMEOUT") or default("DRAIN_TIMEOUT")) + 3
        if spec.get("terminationGracePeriodSeconds", 30) <= pause + drain:
            yield f"{label(workload)} is killed before its drain of {pause} + {drain:.0f} s is over"
        for proxy in of(objects, "EnvoyProxy"):
            if workload["metadata"]["name"] == "edge" and seconds(proxy["spec"]["shutdown"]["drainTimeout"]) < seconds(
                values.get("EDGE_DRAIN_SECONDS") or default("EDGE_DRAIN_SECONDS")
            ):
                yield f"{label(proxy)} ends before the edges' calls do"


def deployments_have_a_budget(objects):
    for workload in of(objects, "Deployment"):
        labels = pod(workload)["metadata"]["labels"]
        budgets = [b for b in of(objects, "PodDisruptionBudget") if selects(b["spec"]["selector"], labels)]
        if len(budgets) != 1:
            yield f"{label(workload)} has {len(budgets)} PodDisruptionBudgets"
        if any(b["spec"].get("maxUnavailable") != 1 for b in budgets):
            yield f"{label(workload)}: its budget is not one pod at a time"
        if workload["spec"].get("strategy", {}).get("rollingUpdate", {}).get("maxUnavailable") != 0:
            yield f"{label(workload)}: a roll-out takes pods away before there are new ones"


def names_meet(objects):
    for workload in of(objects, "Deployment", "StatefulSet"):
        if not selects(workload["spec"]["selector"], pod(workload)["metadata"]["labels"]):
            yield f"{label(workload)} does not select its own pods"
    for service in of(objects, "Service"):
        found = selected(objects, {"matchLabels": service["spec"]["selector"]})
        if not found:
            yield f"{label(service)} selects no pods"
        for port in service["spec"]["ports"]:
            if any(port["targetPort"] not in ports(workload) for workload in found):
                yield f"{label(service)}: no container has the port {port['targetPort']}"
    for budget in of(objects, "PodDisruptionBudget"):
        if not selected(objects, budget["spec"]["selector"]):
            yield f"{label(budget)} selects no pods"
    for workload in workloads(objects):
        account = pod(workload)["spec"].get("serviceAccountName")
        if account and not named(objects, "ServiceAccount", account):
            yield f"{label(workload)}: there is no ServiceAccount {account}"
        for source in (s["configMapRef"]["name"] for c in containers(workload) for s in c.get("envFrom", []) if "configMapRef" in s):
            if not named(objects, "ConfigMap", source) or not re.search(r"-[a-z0-9]{10}$", source):
                yield f"{label(workload)}: the ConfigMap {source} is not there, or has no hash in its name and a change rolls no pods"
    yield from scaling_meets(objects)
    yield from routes_meet(objects)


def scaling_meets(objects):
    dashboard = (ROOT / "k8s/components/monitoring/dashboard.json").read_text()
    adapter = (ROOT / "k8s/components/autoscaling/prometheus-adapter.yaml").read_text()
    for scaler in of(objects, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        found = named(objects, target["kind"], target["name"])
        if not found:
            yield f"{label(scaler)}: there is no {target['kind']} {target['name']}"
        elif "replicas" in found["spec"]:
            yield f"{label(found)} says how many replicas it has, and so does {label(scaler)}"
        for metric in (m["pods"]["metric"]["name"] for m in scaler["spec"]["metrics"] if m["type"] == "Pods"):
            # A test holds the dashboard's names against what the processes show.
            if not all(re.search(rf"\b{metric}\b", text) for text in (dashboard, adapter)):
                yield f"{label(scaler)}: {metric} is not on the dashboard or not in the adapter's rules"
        if scaler["spec"].get("behavior", {}).get("scaleDown", {}).get("stabilizationWindowSeconds", 0) < 600:
            yield f"{label(scaler)} scales down in a hurry"


def routes_meet(objects):
    for route in of(objects, "HTTPRoute"):
        gateways = [(named(objects, "Gateway", p["name"]), p.get("sectionName")) for p in route["spec"]["parentRefs"]]
        listeners = [li for g, section in gateways if g for li in g["spec"]["listeners"] if li["name"] == section]
        if not listeners or any(li["protocol"] != "HTTPS" for li in listeners):
            yield f"{label(route)} is not on a TLS listener of a Gateway"
        base = [settings(objects, c).get("WEBHOOK_BASE_URL") for w in of(objects, "Deployment") for c in containers(w)]
        hosts = {f"https://{name}" for name in route["spec"]["hostnames"]} | {f"https://{li.get('hostname')}" for li in listeners}
        if any(base) and hosts != set(base):
            yield f"{label(route)}: {sorted(hosts)} are not WEBHOOK_BASE_URL"
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                service = named(objects, "Service", backend["name"])
                if not service or backend["port"] not in [p["port"] for p in service["spec"]["ports"]]:
                    yield f"{label(route)}: there is no Service {backend['name']} with port {backend['port']}"
            if any(m["path"]["value"].startswith("/ws") for m in rule["matches"]) and rule.get("timeouts", {}).get("request") != "0s":
                yield f"{label(route)} ends the audio of calls"
    for proxy in of(objects, "EnvoyProxy"):
        if proxy["spec"].get("telemetry", {}).get("accessLog", {}).get("disable") is not True:
            yield f"{label(proxy)} logs paths, and they hold tokens"
    for gateway in of(objects, "Gateway"):
        reference = gateway["spec"].get("infrastructure", {}).get("parametersRef", {})
        if not named(objects, reference.get("kind"), reference.get("name")):
            yield f"{label(gateway)}: its parameters are not there"


def settings_are_known(objects):
    known, told = known_settings(), documented()
    for workload in workloads(objects):
        for container in containers(workload):
            names = set(settings(objects, container)) | {env["name"] for env in container.get("env", [])}
            for name in sorted(names if workload["kind"] != "StatefulSet" else []):
                if name not in known and not name.startswith("OTEL_"):
                    yield f"{label(workload)}: no program reads {name}"
                if name not in told and not (name.startswith("OTEL_") and "OTEL_*" in told):
                    yield f"{label(workload)}: k8s/README.md does not tell of {name}"
            secrets = [s["secretRef"]["name"] for s in container.get("envFrom", []) if "secretRef" in s]
            keys = [env["valueFrom"]["secretKeyRef"] for env in container.get("env", []) if "secretKeyRef" in env.get("valueFrom", {})]
            for name in secrets + [k["name"] for k in keys] + [k["key"] for k in keys]:
                if name not in told:
                    yield f"{label(workload)}: k8s/README.md does not tell of the secret {name}"


def no_secret_is_written_down(objects):
    for secret in of(objects, "Secret"):
        yield f"{label(secret)} is in the manifests"
    literals = [(label(m), key, value) for m in of(objects, "ConfigMap") for key, value in m.get("data", {}).items()]
    literals += [(label(w), e["name"], e["value"]) for w in workloads(objects) for c in containers(w) for e in c.get("env", []) if "value" in e]
    for where, key, value in literals:
        if SECRET.search(key) or re.search(r"://[^/\s:]+:[^/\s@]+@|\bck_[a-z0-9]+_|BEGIN [A-Z ]*PRIVATE KEY", value):
            yield f"{where}: {key} is a secret, or holds one"


def the_job_can_be_applied_again(objects):
    for job in of(objects, "Job"):
        tag = containers(job)[0]["image"].rsplit(":", 1)[-1]
        if not job["metadata"]["name"].endswith(f"-{tag}"):
            yield f"{label(job)} is not named for its image's tag {tag}: the next version cannot be applied, since a Job does not change"
        if "ttlSecondsAfterFinished" not in job["spec"]:
            yield f"{label(job)} stays for ever"


def production_is_prepared(objects):
    for workload in workloads(objects):
        for container in containers(workload):
            if not re.search(r":\d|@sha256:[0-9a-f]{64}$", container["image"]):
                yield f"{label(workload)}: {container['image']} is no tag of a version and no digest"
    for workload in of(objects, "Deployment"):
        spec, name = pod(workload)["spec"], workload["metadata"]["name"]
        least = [s["spec"]["minReplicas"] for s in of(objects, "HorizontalPodAutoscaler") if s["spec"]["scaleTargetRef"]["name"] == name]
        if min(least or [workload["spec"].get("replicas", 1)]) < 3:
            yield f"{label(workload)} may have fewer than three replicas"
        spread = {c["topologyKey"] for c in spec["topologySpreadConstraints"] if selects(c["labelSelector"], pod(workload)["metadata"]["labels"])}
        if not {"topology.kubernetes.io/zone", "kubernetes.io/hostname"} <= spread:
            yield f"{label(workload)} is not spread over zones and nodes"
        if not named(objects, "PriorityClass", spec.get("priorityClassName")):
            yield f"{label(workload)} has no priority class"


# Who may talk to whom (design.md §1 and §2): what is let in, and what is let out. A namespace by its label, ours by their names.
FLOWS = {
    "in: envoy-gateway-system -> edge http", "in: envoy-gateway-system -> acme TCP/8089",
    "in: edge -> call-service grpc", "out: edge -> call-service grpc", "in: callers -> call-service grpc",
    "out: edge -> agents TCP", "out: call-service -> agents TCP",
    "in: monitoring -> call-service internal", "in: monitoring -> edge internal",
    *(f"out: * -> kube-system/kube-dns {port}" for port in ("UDP/53", "TCP/53")),
    *(f"out: {who} -> monitoring TCP/4317" for who in OURS),
    *(f"out: {who} -> {to} TCP/{port}" for who in ("call-service", "migrate") for to in ("postgres", "10.0.0.0/8") for port in (5432, 6432)),
    *(f"out: {who} -> {to} TCP/443" for who in OURS for to in ("0.0.0.0/0", "2000::/3")),
}  # fmt: skip
METADATA = ["169.254.169.254", "169.254.170.2", "fd00:ec2::254", "100.100.100.200"]


def peer(of_rule):
    if "ipBlock" in of_rule:
        return of_rule["ipBlock"]["cidr"]
    labels = [v["matchLabels"] for v in (of_rule.get("namespaceSelector"), of_rule.get("podSelector")) if v]
    words = [key.removeprefix("callbridge/") if value == "true" else value for each in labels for key, value in each.items()]
    return "/".join(words) or "anybody"


def only_our_flows(objects):
    policies = of(objects, "NetworkPolicy")
    deny = named(objects, "NetworkPolicy", "default-deny")
    if not deny or deny["spec"] != {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}:
        yield "there is no policy that denies all, both ways"
    flows = set()
    for policy in policies:
        spec = policy["spec"]
        is_acme = "acme.cert-manager.io/http01-solver" in spec["podSelector"].get("matchLabels", {})
        found = selected(objects, spec["podSelector"])
        if not found and not is_acme:
            yield f"{label(policy)} selects no pods"
        names = ["*"] if not spec["podSelector"] else ["acme"] if is_acme else [w["metadata"]["name"].split("-0")[0] for w in found]
        for way, ends in ("ingress", "from"), ("egress", "to"):
            if spec.get(way) and way.capitalize() not in spec["policyTypes"]:
                yield f"{label(policy)} has rules for {way} that do not count"
            for rule in spec.get(way, []):
                if not rule.get(ends) or not rule.get("ports"):
                    yield f"{label(policy)}: a rule for {way} names no peers or no ports"
                for block in (p["ipBlock"] for p in rule.get(ends, []) if "ipBlock" in p):
                    for address in map(ipaddress.ip_address, METADATA):
                        inside = [address in ipaddress.ip_network(n) for n in [block["cidr"], *block.get("except", [])]]
                        if inside[0] and not any(inside[1:]):
                            yield f"{label(policy)} lets {block['cidr']} be reached, and with it the cloud's metadata at {address}"
                for name in names:
                    for end in map(peer, rule.get(ends, [])):
                        for port in rule.get("ports", []):
                            number = port.get("port")
                            # A port's name is one of the pods that listen.
                            listeners = found if way == "ingress" else selected(objects, {"matchLabels": {"app.kubernetes.io/name": end}})
                            if isinstance(number, str) and not all(number in ports(w) for w in listeners):
                                yield f"{label(policy)}: no container has the port {number}"
                            what = number if isinstance(number, str) else "/".join(filter(None, [port["protocol"], number and str(number)]))
                            flows.add(f"in: {end} -> {name} {what}" if way == "ingress" else f"out: {name} -> {end} {what}")
    for flow in sorted(flows - FLOWS):
        yield f"the policies let too much through, {flow}"
    for flow in sorted(FLOWS - flows):
        yield f"the policies do not let through, {flow}"


ALWAYS = [
    pods_are_restricted, probes_mean_what_they_say, drains_fit_into_the_grace_period, deployments_have_a_budget, names_meet,
    settings_are_known, no_secret_is_written_down,
]  # fmt: skip
OVERLAYS = [*ALWAYS, the_job_can_be_applied_again]
PRODUCTION = [*OVERLAYS, production_is_prepared, only_our_flows]


def rules(file):
    return PRODUCTION if "overlay-production" in file else OVERLAYS if "overlay" in file else ALWAYS


def main(files):
    wrong = 0
    for file in files:
        objects = read(file)
        for rule in rules(pathlib.Path(file).name):
            for problem in rule(objects):
                wrong += 1
                print(f"{file}: {problem} ({rule.__name__})")
    print(f"policy: {len(PRODUCTION)} rules on {len(files)} renderings, {wrong} problems")
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:])))
