"""Each rule is seen to fail: the production overlay, broken in one place, must be complained of by the rule that is named.

mutations.py CRDS FILE
"""

import copy
import sys

import policy
import schemas
from rendered import containers, named, of, pod, read


def edge(objects):
    return named(objects, "Deployment", "edge")


def spec(objects):
    return pod(edge(objects))["spec"]


def container(objects):
    return containers(edge(objects))[0]


def security(objects):
    return container(objects)["securityContext"]


def one(objects, kind, name="edge"):
    return named(objects, kind, name)["spec"]


def config(objects):
    return next(m for m in of(objects, "ConfigMap") if "CALL_SERVICE_URL" in m["data"])


def drop(objects, kind, name):
    objects.remove(named(objects, kind, name))


def anywhere(objects):
    one(objects, "NetworkPolicy", "outside")["egress"][0]["to"][0]["ipBlock"]["except"].remove("169.254.0.0/16")


# What is broken, the rule that must say so, and words of what it says.
MUTATIONS = [
    ("pods_are_restricted", "may run as root", lambda o: spec(o)["securityContext"].pop("runAsNonRoot")),
    ("pods_are_restricted", "may run as root", lambda o: security(o).update(runAsUser=0)),
    ("pods_are_restricted", "seccomp", lambda o: spec(o)["securityContext"].pop("seccompProfile")),
    ("pods_are_restricted", "write to its root", lambda o: security(o).pop("readOnlyRootFilesystem")),
    ("pods_are_restricted", "gain privileges", lambda o: security(o).pop("allowPrivilegeEscalation")),
    ("pods_are_restricted", "capabilities", lambda o: security(o).update(capabilities={"drop": ["ALL"], "add": ["NET_ADMIN"]})),
    ("pods_are_restricted", "service account's token", lambda o: spec(o).pop("automountServiceAccountToken")),
    ("pods_are_restricted", "enableServiceLinks", lambda o: spec(o).pop("enableServiceLinks")),
    ("pods_are_restricted", "namespaces", lambda o: spec(o).update(hostNetwork=True)),
    ("pods_are_restricted", "memory limit", lambda o: container(o)["resources"].pop("limits")),
    ("pods_are_restricted", "stutter", lambda o: container(o)["resources"]["limits"].update(cpu="1")),
    ("pods_are_restricted", "pod security standard", lambda o: named(o, "Namespace", "callbridge")["metadata"].pop("labels")),
    ("probes_mean_what_they_say", "liveness probe", lambda o: container(o)["livenessProbe"]["httpGet"].update(path="/readyz")),
    ("probes_mean_what_they_say", "startup probe", lambda o: container(o).pop("startupProbe")),
    ("probes_mean_what_they_say", "readiness probe", lambda o: container(o)["readinessProbe"]["httpGet"].update(port="http")),
    ("probes_mean_what_they_say", "Prometheus", lambda o: pod(edge(o))["metadata"]["annotations"].update({"prometheus.io/port": "9091"})),
    ("drains_fit_into_the_grace_period", "killed before", lambda o: spec(o).update(terminationGracePeriodSeconds=3600)),
    ("drains_fit_into_the_grace_period", "killed before", lambda o: config(o)["data"].update(EDGE_DRAIN_SECONDS="5400")),
    ("drains_fit_into_the_grace_period", "killed before", lambda o: config(o)["data"].update(DRAIN_TIMEOUT="90s")),
    ("drains_fit_into_the_grace_period", "no pause", lambda o: container(o).pop("lifecycle")),
    ("drains_fit_into_the_grace_period", "before the edges' calls", lambda o: one(o, "EnvoyProxy")["shutdown"].update(drainTimeout="60s")),
    ("deployments_have_a_budget", "0 PodDisruptionBudgets", lambda o: drop(o, "PodDisruptionBudget", "edge")),
    ("deployments_have_a_budget", "one pod at a time", lambda o: one(o, "PodDisruptionBudget").update(maxUnavailable="50%")),
    ("deployments_have_a_budget", "roll-out", lambda o: edge(o)["spec"].pop("strategy")),
    ("names_meet", "own pods", lambda o: pod(edge(o))["metadata"]["labels"].update({"app.kubernetes.io/name": "egde"})),
    ("names_meet", "selects no pods", lambda o: one(o, "Service")["selector"].update({"app.kubernetes.io/name": "egde"})),
    ("names_meet", "has the port", lambda o: one(o, "Service")["ports"][0].update(targetPort="https")),
    ("names_meet", "ServiceAccount", lambda o: drop(o, "ServiceAccount", "edge")),
    ("names_meet", "ConfigMap", lambda o: config(o)["metadata"].update(name="callbridge")),
    ("names_meet", "there is no Deployment", lambda o: one(o, "HorizontalPodAutoscaler")["scaleTargetRef"].update(name="egde")),
    ("names_meet", "how many replicas", lambda o: edge(o)["spec"].update(replicas=3)),
    ("names_meet", "adapter", lambda o: one(o, "HorizontalPodAutoscaler")["metrics"][0]["pods"]["metric"].update(name="callbridge_sessions")),
    ("names_meet", "hurry", lambda o: one(o, "HorizontalPodAutoscaler")["behavior"].pop("scaleDown")),
    ("names_meet", "TLS listener", lambda o: one(o, "HTTPRoute")["parentRefs"][0].update(sectionName="acme")),
    ("names_meet", "WEBHOOK_BASE_URL", lambda o: one(o, "HTTPRoute").update(hostnames=["www.example.com"])),
    ("names_meet", "Service edge with port", lambda o: one(o, "HTTPRoute")["rules"][0]["backendRefs"][0].update(port=8081)),
    ("names_meet", "audio of calls", lambda o: one(o, "HTTPRoute")["rules"][0]["timeouts"].update(request="3600s")),
    ("names_meet", "logs paths", lambda o: one(o, "EnvoyProxy").pop("telemetry")),
    ("names_meet", "parameters", lambda o: drop(o, "EnvoyProxy", "edge")),
    ("settings_are_known", "no program reads", lambda o: config(o)["data"].update(EDGE_DRAIN="60")),
    ("settings_are_known", "does not tell of EDGE_STALL_SECONDS", lambda o: config(o)["data"].update(EDGE_STALL_SECONDS="9")),
    ("settings_are_known", "the secret edge-keys", lambda o: container(o)["envFrom"][1]["secretRef"].update(name="edge-keys")),
    ("no_secret_is_written_down", "is a secret", lambda o: config(o)["data"].update(TOKEN_KEYS="1:c2VjcmV0")),
    ("no_secret_is_written_down", "holds one", lambda o: config(o)["data"].update(RECORDING_STORE="https://me:secret@example.com")),
    ("no_secret_is_written_down", "in the manifests", lambda o: o.append({"kind": "Secret", "metadata": {"name": "edge"}})),
    ("the_job_can_be_applied_again", "is not named", lambda o: named(o, "Job", "migrate-0.1.0")["metadata"].update(name="migrate")),
    ("the_job_can_be_applied_again", "for ever", lambda o: one(o, "Job", "migrate-0.1.0").pop("ttlSecondsAfterFinished")),
    ("production_is_prepared", "no digest", lambda o: container(o).update(image="registry.example.com/callbridge:latest")),
    ("production_is_prepared", "three replicas", lambda o: one(o, "HorizontalPodAutoscaler").update(minReplicas=2)),
    ("production_is_prepared", "zones", lambda o: spec(o)["topologySpreadConstraints"].pop(0)),
    ("production_is_prepared", "priority", lambda o: spec(o).pop("priorityClassName")),
    ("only_our_flows", "denies all", lambda o: drop(o, "NetworkPolicy", "default-deny")),
    ("only_our_flows", "selects no pods", lambda o: one(o, "NetworkPolicy")["podSelector"]["matchLabels"].update({"app.kubernetes.io/name": "x"})),
    ("only_our_flows", "do not count", lambda o: one(o, "NetworkPolicy").update(policyTypes=["Ingress"])),
    ("only_our_flows", "names no peers", lambda o: one(o, "NetworkPolicy")["ingress"].append({})),
    ("only_our_flows", "metadata at 169.254.169.254", anywhere),
    ("only_our_flows", "has the port", lambda o: one(o, "NetworkPolicy")["ingress"][0]["ports"][0].update(port="https")),
    ("only_our_flows", "too much through, in: envoy-gateway-system -> edge TCP/9090",
     lambda o: one(o, "NetworkPolicy")["ingress"][0]["ports"].append({"protocol": "TCP", "port": 9090})),
    ("only_our_flows", "do not let through, out: edge -> call-service grpc", lambda o: drop(o, "NetworkPolicy", "edge")),
    ("schemas", "unexpected", lambda o: container(o).update(readOnlyRootFilesystem=True)),
    ("schemas", "not of type", lambda o: one(o, "PodDisruptionBudget").update(selector="edge")),
    ("schemas", "unexpected", lambda o: one(o, "HTTPRoute")["rules"][0].update(timeout="0s")),
    ("schemas", "unexpected", lambda o: one(o, "EnvoyProxy")["telemetry"]["accessLog"].update(disabled=True)),
    ("schemas", "Couldn't find schema", lambda o: one(o, "Service") and named(o, "Service", "edge").update(kind="Servise")),
]  # fmt: skip


def complaints(crds, rule, objects):
    if rule == "schemas":
        return filter(None, (schemas.problem(crds, thing) for thing in objects))
    return getattr(policy, rule)(objects)


def main(crds, file):
    whole, unseen = read(file), []
    for rule, words, break_it in MUTATIONS:
        broken = copy.deepcopy(whole)
        break_it(broken)
        found = list(complaints(crds, rule, broken))
        if not any(words in complaint for complaint in found):
            unseen.append(rule)
            print(f"{rule} does not say {words!r}, but {found}")
    untried = {rule.__name__ for rule in policy.PRODUCTION} - {rule for rule, _, _ in MUTATIONS}
    if untried:
        print(f"no mutation shows that these fail: {untried}")
    print(f"mutations: {len(MUTATIONS) - len(unseen)} of {len(MUTATIONS)} broken manifests were told by the rule that is for them")
    return len(unseen) + len(untried)


if __name__ == "__main__":
    sys.exit(bool(main(schemas.pathlib.Path(sys.argv[1]), sys.argv[2])))
