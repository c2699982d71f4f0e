"""Every object against its schema, in which a field that Kubernetes does not know is wrong.

schemas.py CRDS FILE...: Kubernetes' own schemas are in the package kubernetes-validate, those of Gateway API in the npm package that is
unpacked in the folder CRDS, and that of Envoy Gateway's EnvoyProxy beside this file.
"""

import json
import pathlib
import re
import sys

import jsonschema
import kubernetes_validate
import yaml

# The oldest that has all that the manifests use, and the newest that the package knows.
VERSIONS = ["1.34", "1.37"]


# What Gateway API has had since the release that the npm package was made from (v1.1, GatewayInfrastructure.parametersRef).
SINCE = {
    "Gateway": {
        "infrastructure": {
            "parametersRef": {
                "type": "object",
                "properties": {name: {"type": "string", "minLength": 1, "maxLength": 253} for name in ("group", "kind", "name")},
                "required": ["group", "kind", "name"],
            }
        }
    }
}


def strict(schema):
    """A custom resource's schema as the API server's strict field validation has it."""
    if isinstance(schema, dict):
        if "properties" in schema and schema.get("type", "object") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        # What stands below these narrows a schema that is strict itself.
        return {key: value if key in ("oneOf", "anyOf", "allOf", "not") else strict(value) for key, value in schema.items()}
    return [strict(item) for item in schema] if isinstance(schema, list) else schema


def custom(crds, group_version, kind):
    beside = pathlib.Path(__file__).with_name(f"{kind.lower()}.json")
    packaged = crds / "package" / group_version / f"{kind}.js"
    if beside.exists():
        schema = json.loads(beside.read_text())
    elif packaged.exists():
        text = re.search(r"^const schema = (\{.*?^\});$", packaged.read_text(), re.S | re.M)
        schema = json.loads(text[1])["properties"]["spec"]
        for field, later in SINCE.get(kind, {}).items():
            schema["properties"][field]["properties"] |= later
    else:
        return None
    return strict(schema)


def problem(crds, thing):
    schema = custom(crds, thing["apiVersion"], thing["kind"]) if "." in thing["apiVersion"].split("/")[0] else None
    try:
        if schema is None:
            for version in VERSIONS:
                kubernetes_validate.validate(thing, version, strict=True)
        else:
            if extra := thing.keys() - {"apiVersion", "kind", "metadata", "spec"}:
                return f"has {extra}"
            jsonschema.Draft202012Validator(schema).validate(thing["spec"])
            # Any object's metadata will do.
            bare = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": thing["metadata"]}
            kubernetes_validate.validate(bare, VERSIONS[-1], strict=True)
    except kubernetes_validate.SchemaNotFoundError as error:
        return error.message
    except jsonschema.ValidationError as error:
        return f"{error.json_path}: {error.message[:300]}"
    return None


def main(crds, files):
    count, wrong = 0, 0
    for file in files:
        for thing in yaml.safe_load_all(pathlib.Path(file).read_text()):
            count += 1
            if found := problem(pathlib.Path(crds), thing):
                wrong += 1
                print(f"{file}: {thing['kind']} {thing['metadata']['name']}: {found}")
    print(f"schemas: {count} objects in {len(files)} files, {wrong} wrong, by Kubernetes {' and '.join(VERSIONS)}")
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1], sys.argv[2:])))
