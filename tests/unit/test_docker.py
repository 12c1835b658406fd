"""The image and the compose files say what they must; whether they run only a Docker engine can tell."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.front_end import load_front_end
from config.loader import Capabilities, Loaded, load
from config.orthanc_files import read_files
from config.settings import Durability

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
COMPOSE_FILES = ("compose.yml", "compose.minio.yml")


def instructions(keyword: str) -> list[str]:
    """The arguments of every instruction of this kind in the Dockerfile."""
    joined = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return re.findall(rf"^{keyword} +(.+)$", joined, re.MULTILINE)


def compose(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker" / name).read_text())
    return document


def with_variables(configuration: dict[str, Any], options: dict[str, str]) -> dict[str, Any]:
    """What the base image makes of a configuration and of variables ORTHANC__ISEN__…."""
    for variable, text in options.items():
        if not variable.startswith("ORTHANC__ISEN__"):
            continue
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        *path, option = ["".join(map(str.capitalize, word.split("_"))) for word in variable.split("__")[1:]]
        section = configuration
        for word in path:
            section = section.setdefault(word, {})
        section[option] = value
    configuration["Isen"]["Python"] = str(ROOT / ".venv" / "bin" / "python")  # the image's is not here
    return configuration


def merged_configuration(name: str) -> dict[str, Any]:
    """What the base image makes of orthanc.json, the ORTHANC__… variables and the secrets of a compose file."""
    service = compose(name)["services"]["orthanc"]
    options = dict(service["environment"])
    for secret in service.get("secrets", []):
        options[secret["target"]] = "made-up"
    return with_variables(read_files([ROOT / "docker" / "orthanc.json"], {}).configuration, options)


def loaded(name: str) -> Loaded:
    return load(merged_configuration(name), Capabilities(allow_threads=True))


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_the_configuration_of_the_stack_is_accepted(name: str) -> None:
    storage = loaded(name).settings.storage
    services = compose(name)["services"]
    host, port = storage.endpoint.removeprefix("http://").split(":")
    assert host in services
    assert services["orthanc"]["depends_on"][host]["condition"] == "service_healthy"
    assert services[host]["healthcheck"]["test"]
    assert port in json.dumps(services[host]) or port == "9000"  # MinIO's default
    assert not storage.virtual_addressing  # the bucket's name is no host name here
    assert storage.access_key


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_ports_are_those_orthanc_listens_on_and_can_be_moved(name: str) -> None:
    configuration = merged_configuration(name)
    published = compose(name)["services"]["orthanc"]["ports"]
    assert [entry.rsplit(":", 1)[1] for entry in published] == [
        str(configuration["HttpPort"]),
        str(configuration["DicomPort"]),
    ]
    assert ["${HTTP_PORT:-" in published[0], "${DICOM_PORT:-" in published[1]] == [True, True]
    assert set(instructions("EXPOSE")[0].split()) == {entry.rsplit(":", 1)[1] for entry in published}


@pytest.mark.parametrize("name", [*COMPOSE_FILES, "compose.scale.yml"])
def test_images_are_pinned(name: str) -> None:
    images = [service["image"] for service in compose(name)["services"].values()]
    for image in [*images, *instructions("FROM")]:
        assert re.search(r":[\w.-]*\d[\w.-]*$|^isen:test$", image), image
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert compose("compose.minio.yml")["services"]["orthanc"]["image"] == f"isen:{version}"


def test_the_process_is_not_root_and_is_watched() -> None:
    assert instructions("USER")[-1] == "orthanc"
    assert instructions("HEALTHCHECK")


def test_spool_cache_and_index_are_on_volumes_and_spool_and_cache_on_the_same() -> None:
    storage = loaded("compose.minio.yml").settings.storage
    volumes = json.loads(instructions("VOLUME")[0])
    index = merged_configuration("compose.minio.yml")["IndexDirectory"]
    (of_spool,) = [volume for volume in volumes if storage.spool_directory.is_relative_to(volume)]
    assert storage.cache_directory.is_relative_to(of_spool)
    assert index in volumes
    mounted = {entry.split(":")[1] for entry in compose("compose.minio.yml")["services"]["orthanc"]["volumes"]}
    assert set(volumes) <= mounted
    named = {entry.split(":")[0] for entry in compose("compose.minio.yml")["services"]["orthanc"]["volumes"]}
    assert named <= compose("compose.minio.yml")["volumes"].keys()


def test_only_the_stack_to_try_may_lose_its_spool() -> None:
    assert loaded("compose.yml").settings.storage.allow_volatile_spool
    assert not loaded("compose.minio.yml").settings.storage.allow_volatile_spool


def test_no_secret_is_written_down_for_the_deployment() -> None:
    deployment = compose("compose.minio.yml")
    assert all(list(source) == ["environment"] for source in deployment["secrets"].values())
    assert not re.search(
        r"(?i)(password|secret|key)\w*: *\S", json.dumps(deployment["services"]["orthanc"]["environment"])
    )


def test_everything_the_image_copies_exists_and_is_not_ignored() -> None:
    kept = set((ROOT / "docker" / "Dockerfile.dockerignore").read_text().split())
    for arguments in instructions("COPY"):
        for source in shlex.split(arguments)[:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in kept, source


def test_the_image_runs_the_script_and_the_interpreter_it_installs() -> None:
    (folder,) = instructions("WORKDIR")
    configuration = read_files([ROOT / "docker" / "orthanc.json"], {}).configuration
    assert configuration["Python"] == {"Path": f"{folder}/orthanc_plugin.py", "AllowThreads": True}
    assert any("docker/setup venv" in command for command in instructions("RUN"))


class TestScaledOut:
    """compose.scale.yml with its configuration files, and the Kubernetes example."""

    STACK = "compose.scale.yml"

    def file_of(self, service: str, target: str) -> Path:
        """The file that the service finds at `target`."""
        document = compose(self.STACK)
        (source,) = [entry["source"] for entry in document["services"][service]["configs"] if entry["target"] == target]
        return ROOT / "docker" / str(document["configs"][source]["file"])

    def kubernetes(self, kind: str) -> dict[str, Any]:
        documents = yaml.safe_load_all((ROOT / "docker" / "kubernetes.yml").read_text())
        return {document["metadata"]["name"]: document for document in documents if document["kind"] == kind}

    @pytest.mark.parametrize("service", ["orthanc-1", "orthanc-2"])
    def test_its_orthancs_are_accepted(self, service: str) -> None:
        environment = compose(self.STACK)["services"][service]["environment"]
        path = self.file_of(service, "/etc/orthanc/orthanc.json")
        configuration = with_variables(read_files([path], environment).configuration, environment)
        settings = load(configuration, Capabilities(allow_threads=True)).settings
        assert settings.dicom is None
        assert settings.front_end_users == ("front-end",)
        assert settings.storage.durability is Durability.OBJECT_STORE
        host = settings.storage.endpoint.removeprefix("http://").partition(":")[0]
        assert {host, configuration["PostgreSQL"]["Host"]} <= compose(self.STACK)["services"].keys()

    @pytest.mark.parametrize("service", ["front-end-1", "front-end-2"])
    def test_its_front_ends_are_accepted_and_ask_its_orthancs(self, service: str) -> None:
        path = self.file_of(service, "/etc/isen/front-end.json")
        environment = compose(self.STACK)["services"][service]["environment"]
        loaded = load_front_end(read_files([path], environment).configuration, path)
        assert loaded.warnings == ()
        assert [server.url for server in loaded.front_end.orthancs] == [
            "http://orthanc-1:8042",
            "http://orthanc-2:8042",
        ]
        entrypoint = compose(self.STACK)["services"][service]["entrypoint"]
        assert entrypoint[1:] == ["-m", "scp", "/etc/isen/front-end.json"]

    def test_haproxy_sends_to_every_front_end_and_orthanc(self) -> None:
        text = self.file_of("haproxy", "/usr/local/etc/haproxy/haproxy.cfg").read_text()
        servers = set(re.findall(r"^ +server \S+ (\S+)$", text, re.MULTILINE))
        names = [name for name in compose(self.STACK)["services"] if re.match(r"front-end|orthanc", name)]
        assert servers == {f"{name}:{4242 if name.startswith('front') else 8042}" for name in names}
        assert set(re.findall(r"bind :(\d+)", text)) == {
            entry.rsplit(":", 1)[1] for entry in compose(self.STACK)["services"]["haproxy"]["ports"]
        }
        path = ROOT / "docker" / "front-end.json"
        loaded = load_front_end(read_files([path], {"FRONT_END_PASSWORD": "made-up"}).configuration, path)
        assert f"check port {loaded.front_end.health_port}" in text

    def test_no_two_containers_share_a_spool(self) -> None:
        mounts = [
            entry.split(":")[0]
            for service in compose(self.STACK)["services"].values()
            for entry in service.get("volumes", [])
        ]
        assert len(mounts) == len(set(mounts)) == len(compose(self.STACK)["volumes"])

    def test_no_secret_is_written_down(self) -> None:
        for path in ("compose.scale.yml", "orthanc.scale.json", "front-end.json"):
            text = (ROOT / "docker" / path).read_text()
            secrets = re.findall(r'(?i)(?:password|secret_?key|access_?key)"?\s*: *"?([^\s,"]+)', text)
            assert secrets, path
            assert all(secret.startswith("${") for secret in secrets), path

    def test_kubernetes_has_the_same_front_ends_and_asks_every_orthanc(self, tmp_path: Path) -> None:
        path = tmp_path / "front-end.json"
        path.write_text(self.kubernetes("ConfigMap")["isen-front-end"]["data"]["front-end.json"])
        loaded = load_front_end(read_files([path], {"FRONT_END_PASSWORD": "made-up"}).configuration, path)
        orthancs = self.kubernetes("StatefulSet")["isen-orthanc"]["spec"]
        assert [server.url for server in loaded.front_end.orthancs] == [
            f"http://isen-orthanc-{number}.isen-orthanc:8042" for number in range(orthancs["replicas"])
        ]
        (container,) = self.kubernetes("StatefulSet")["isen-front-end"]["spec"]["template"]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert loaded.scp.dicom
        assert ports == {"dicom": loaded.scp.dicom.port, "health": loaded.front_end.health_port}
        assert container["readinessProbe"]["httpGet"] == {"path": "/health/ready", "port": "health"}

    def test_kubernetes_gives_each_orthanc_a_spool_of_its_own(self) -> None:
        for claimant in self.kubernetes("StatefulSet").values():
            (claim,) = claimant["spec"]["volumeClaimTemplates"]
            (container,) = claimant["spec"]["template"]["spec"]["containers"]
            assert {"name": claim["metadata"]["name"], "mountPath": "/var/lib/isen"} in container["volumeMounts"]
