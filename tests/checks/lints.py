"""No crate of ours escapes the workspace's lints: argument: what `cargo metadata --no-deps` prints."""

import json
import pathlib
import sys
import tomllib


def toml(path: pathlib.Path) -> dict:
    return tomllib.loads(path.read_text())


metadata = json.loads(pathlib.Path(sys.argv[1]).read_text())
root_path = pathlib.Path(metadata["workspace_root"])
root = toml(root_path / "Cargo.toml")
wrong = []
if root["workspace"]["lints"]["rust"].get("unsafe_code") != "forbid":
    wrong.append("Cargo.toml: [workspace.lints.rust] must have unsafe_code = \"forbid\"")
if root["profile"]["release"].get("overflow-checks") is not True:
    wrong.append("Cargo.toml: [profile.release] must have overflow-checks = true")
# What a profile or a crate of its own says would win.
for name, profile in root["profile"].items():
    if name not in ("dev", "test", "release") and profile.get("overflow-checks", True) is not True:
        wrong.append(f"Cargo.toml: [profile.{name}] takes overflow checks back")
    for package, settings in profile.get("package", {}).items():
        if settings.get("overflow-checks", True) is not True:
            wrong.append(f"Cargo.toml: [profile.{name}.package.{package}] takes overflow checks back")
for package in metadata["packages"]:
    manifest = pathlib.Path(package["manifest_path"])
    if toml(manifest).get("lints") != {"workspace": True}:
        wrong.append(f"{manifest.relative_to(root_path)}: must have [lints] workspace = true and nothing else there")
# A crate that is no member is under no lint of the workspace's.
members = {package["manifest_path"] for package in metadata["packages"]} | {str(root_path / "Cargo.toml")}
for manifest in root_path.rglob("Cargo.toml"):
    if "target" not in manifest.relative_to(root_path).parts and str(manifest) not in members:
        wrong.append(f"{manifest.relative_to(root_path)}: is no member of the workspace")
print("\n".join(wrong), end="\n" if wrong else "")
sys.exit(1 if wrong else 0)
