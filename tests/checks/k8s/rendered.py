"""What was rendered, and how its objects find each other."""

import pathlib

import yaml


def read(file):
    return list(yaml.safe_load_all(pathlib.Path(file).read_text()))


def of(objects, *kinds):
    return [thing for thing in objects if thing["kind"] in kinds]


def named(objects, kind, name):
    return next((thing for thing in of(objects, kind) if thing["metadata"]["name"] == name), None)


def label(thing):
    return f"{thing['kind']} {thing['metadata']['name']}"


def workloads(objects):
    return of(objects, "Deployment", "StatefulSet", "Job")


def pod(workload):
    return workload["spec"]["template"]


def containers(workload):
    spec = pod(workload)["spec"]
    return spec["containers"] + spec.get("initContainers", [])


def selects(selector, labels):
    """Whether a label selector (with matchLabels and In alone) takes these labels."""
    assert selector.keys() <= {"matchLabels", "matchExpressions"}, selector
    wanted = [(key, [value]) for key, value in selector.get("matchLabels", {}).items()]
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", expression
        wanted.append((expression["key"], expression["values"]))
    return all(labels.get(key) in values for key, values in wanted)


def selected(objects, selector):
    return [w for w in workloads(objects) if selects(selector, pod(w)["metadata"].get("labels", {}))]


def ports(workload):
    return {port["name"]: port["containerPort"] for c in containers(workload) for port in c.get("ports", [])}


def settings(objects, container):
    """The settings that a container gets, but for those in Secrets."""
    values = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            found = named(objects, "ConfigMap", source["configMapRef"]["name"])
            values |= found["data"] if found else {}
    return values | {env["name"]: env["value"] for env in container.get("env", []) if "value" in env}
