"""The files in deploy/ say the same things as each other and as the node."""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from ruamel.yaml import YAML

from medseg.config.yaml_model import load_yaml_model
from medseg.node.options import NodeConfig

DEPLOY = Path(__file__).parents[3] / "deploy"
pytestmark = pytest.mark.skipif(not DEPLOY.is_dir(), reason="deploy/ is not part of an installed package")


def documents(name: str) -> list[Any]:
    return list(YAML(typ="safe", pure=True).load_all((DEPLOY / name).read_text()))


def secrets_of_settings() -> set[str]:
    return set(re.findall(r"/run/secrets/([\w.]+)", (DEPLOY / "node.yaml").read_text()))


@pytest.fixture(scope="module")
def config() -> NodeConfig:
    return load_yaml_model(DEPLOY / "node.yaml", NodeConfig).config


@pytest.fixture(scope="module")
def kinds() -> dict[str, Any]:
    return {one["kind"]: one for one in documents("kubernetes/medseg.yaml")}


def test_compose_gives_the_node_its_ports_secrets_and_little_else(config: NodeConfig):
    (compose,) = documents("compose.yaml")
    node = compose["services"]["medseg"]
    assert config.dimse is not None
    assert config.http is not None
    assert [port.split(":")[-1] for port in node["ports"]] == [str(config.dimse.port), str(config.http.port)]
    assert set(node["secrets"]) == secrets_of_settings()
    assert set(node["secrets"]) <= set(compose["secrets"])
    assert node["read_only"]
    assert node["cap_drop"] == ["ALL"]
    assert f"state:{config.folder}" in node["volumes"]


def test_every_secret_is_made_by_the_script_and_kubernetes_mounts_the_nodes_alone(kinds: dict[str, Any]):
    script = (DEPLOY / "make-secrets").read_text()
    made = {
        *re.findall(r"^make (\S+)", script, re.MULTILINE),
        "dimse_certificate",
        "dimse_key",
        "dimse_authorities",
    }
    (compose,) = documents("compose.yaml")
    assert made == set(compose["secrets"])
    volumes = kinds["Deployment"]["spec"]["template"]["spec"]["volumes"]
    (mounted,) = [volume["secret"]["items"] for volume in volumes if volume["name"] == "secrets"]
    assert {item["key"] for item in mounted} == {item["path"] for item in mounted} == secrets_of_settings()


def test_kubernetes_probes_limits_and_confines_the_node(config: NodeConfig, kinds: dict[str, Any]):
    spec = kinds["Deployment"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert config.dimse is not None
    assert config.http is not None
    assert [port["containerPort"] for port in container["ports"]] == [config.dimse.port, config.http.port]
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert {"cpu", "memory"} <= set(container["resources"]["limits"])
    assert str(config.folder) in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert spec["terminationGracePeriodSeconds"] > 25


def test_more_than_one_replica_needs_a_database_server(config: NodeConfig, kinds: dict[str, Any]):
    assert kinds["Deployment"]["spec"]["replicas"] > 1
    assert config.database.use == "postgresql"
    assert kinds["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_image_runs_as_nobody_in_particular_and_holds_no_secret(kinds: dict[str, Any]):
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    user = next(line for line in lines if line.startswith("USER")).split()[1]
    spec = kinds["Deployment"]["spec"]["template"]["spec"]["securityContext"]
    assert user == f"{spec['runAsUser']}:{spec['runAsGroup']}"
    assert [line for line in lines if line.startswith("ENTRYPOINT")] == ['ENTRYPOINT ["medseg", "serve"]']
    assert not any("secret" in line.lower() for line in lines)


def locked() -> dict[str, Version]:
    pins = re.findall(r"^([a-z0-9-]+)==(\S+) ", (DEPLOY / "requirements.lock").read_text(), re.MULTILINE)
    return {name: Version(version) for name, version in pins}


def wanted(name: str, extras: Iterable[str] = ()) -> Iterator[Requirement]:
    """Requirements of an installed package, on the machine that the lock is for."""
    machine = {"platform_system": "Linux", "sys_platform": "linux", "platform_machine": "x86_64"}
    machine |= {"python_version": "3.12", "python_full_version": "3.12.0"}
    for line in metadata.requires(name) or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate(machine | {"extra": extra}) for extra in ("", *extras)):
            yield requirement


def of_the_project(extras: Iterable[str]) -> Iterator[Requirement]:
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    listed = [
        *project["dependencies"],
        *(line for extra in extras for line in project["optional-dependencies"][extra]),
    ]
    for requirement in map(Requirement, listed):
        if requirement.name == "medseg":
            yield from of_the_project(requirement.extras)
        else:
            yield requirement


def test_the_lock_of_the_image_has_all_that_the_project_wants_in_a_version_that_it_takes():
    pins, seen = locked(), set()
    waiting = list(of_the_project(["node", "postgresql", "openvino"]))
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        # PyTorch's build depends on the image; it brings its own.
        if name == "torch" or (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        assert name in pins, f"{name} is not in deploy/requirements.lock; run deploy/lock"
        assert requirement.specifier.contains(pins[name]), (str(requirement), str(pins[name]))
        with contextlib.suppress(metadata.PackageNotFoundError):
            if Version(metadata.version(name)) == pins[name]:
                waiting += wanted(name, requirement.extras)
    assert len(seen) > 20


def test_every_package_of_the_lock_has_hashes_and_no_address():
    text = (DEPLOY / "requirements.lock").read_text()
    entries = re.split(r"\n(?=\S)", text.strip())[1:]
    assert len(entries) == len(locked())
    assert all(re.fullmatch(r"\S+==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+", entry) for entry in entries)
    assert not {"torch", "triton"} & set(locked())
