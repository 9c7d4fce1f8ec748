"""What deploy/ says of ports, paths, commands, keys and times is what the code has."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ensemble.config import ServingConfig
from ensemble.server import TritonServer
from ensemble.triton_config import MODEL_NAME
from pipelines.__main__ import command_line
from pipelines.config import load_config

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
DOCKERFILE = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["cascade"]
OBJECTS = {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes" / "cascade.yaml").read_text())}
TEMPLATE = OBJECTS["Deployment"]["spec"]["template"]
POD = TEMPLATE["spec"]
[CONTAINER] = POD["containers"]
[COPY] = POD["initContainers"]
PORTS = {name: getattr(ServingConfig(), f"{name}_port") for name in ("http", "grpc", "metrics")}
READY = f"/v2/models/{MODEL_NAME}/ready"


def instructions(name: str) -> list[str]:
    """What follows each of these instructions in the Dockerfile."""
    return re.findall(rf"^{name}\s+(.*)$", DOCKERFILE, re.MULTILINE)


COMMANDS = {
    "Dockerfile": json.loads(instructions("CMD")[0]),
    "compose": COMPOSE["command"],
    "kubernetes": CONTAINER["args"],
}


def parsed(command: list[str]) -> tuple[Namespace, ServingConfig]:
    options, overrides = command_line().parse_known_args(command)
    assert options.takes_overrides or not overrides, command
    return options, load_config(None, overrides).serving


def seconds(text: str) -> float:
    return float(re.fullmatch(r"(\d+)s", text)[1])  # pyright: ignore[reportOptionalSubscript]


def option(text: str, name: str) -> float:
    return seconds(re.search(rf"--{name}=(\S+)", text)[1])  # pyright: ignore[reportOptionalSubscript]


@pytest.mark.parametrize("where", COMMANDS)
def test_the_command_serves_on_every_network_and_drains_and_the_image_runs_it(where):
    options, serving = parsed(COMMANDS[where])
    assert options.command == "serve" and serving.host == "0.0.0.0" and serving.drain_seconds > 0
    assert {name: getattr(serving, f"{name}_port") for name in PORTS} == PORTS
    [entrypoint] = json.loads(instructions("ENTRYPOINT")[0])
    assert entrypoint in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert "entrypoint" not in COMPOSE and "command" not in CONTAINER, "they would replace the image's"


def test_commands_in_the_comments_are_commands():
    files = [path for path in DEPLOY.rglob("*") if path.is_file()]
    named = [words for path in files for words in re.findall(r"`cascade ([^`]+)`", path.read_text())]
    assert len(named) >= 3
    for words in named:
        parsed(shlex.split(words))
    for path in re.findall(r"^# .*? -f (\S+)", "\n".join(path.read_text() for path in files), re.MULTILINE):
        assert (ROOT / path).is_file(), path


def test_the_ports_are_those_that_the_server_listens_on():
    assert sorted(map(int, instructions("EXPOSE")[0].split())) == sorted(PORTS.values())
    assert [mapping.split(":")[1:] for mapping in COMPOSE["ports"]] == [[str(port)] * 2 for port in PORTS.values()]
    assert {port["name"]: port["containerPort"] for port in CONTAINER["ports"]} == PORTS
    service = OBJECTS["Service"]["spec"]["ports"]
    assert {port["name"]: port["port"] for port in service} == PORTS
    assert all(port["targetPort"] == port["name"] for port in service)


def test_prometheus_scrapes_the_metrics(tmp_path):
    scraped = {name.partition("/")[2]: value for name, value in TEMPLATE["metadata"]["annotations"].items()}
    url = TritonServer(tmp_path, tmp_path, ServingConfig()).metrics_url
    assert scraped["scrape"] == "true" and url.endswith(f":{scraped['port']}{scraped['path']}")


def test_health_is_asked_where_the_model_answers():
    [check] = instructions("HEALTHCHECK")
    assert f"http://127.0.0.1:{PORTS['http']}{READY}" in check
    asked = {name: CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {name: probe["path"] for name, probe in asked.items()} == {
        "startup": READY,
        "readiness": READY,
        "liveness": "/v2/health/live",
    }
    assert {probe["port"] for probe in asked.values()} == {"http"}


def test_a_start_that_the_server_allows_is_not_cut_off():
    longest = ServingConfig().ready_timeout_seconds
    probe = CONTAINER["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > longest, "staging comes before Triton's start"
    assert option(instructions("HEALTHCHECK")[0], "start-period") > longest


def test_a_stop_that_the_server_allows_is_not_cut_off():
    [sleep, waits] = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    for grace, before, where in (
        (seconds(COMPOSE["stop_grace_period"]), 0, "compose"),
        (POD["terminationGracePeriodSeconds"], float(waits), "kubernetes"),
    ):
        _, serving = parsed(COMMANDS[where])
        kills = 3  # TritonServer.stop waits a second longer than Triton, and kill_group two
        assert grace > before + serving.drain_seconds + serving.stop_timeout_seconds + kills, where
    assert instructions("STOPSIGNAL") == ["SIGTERM"]


def test_a_key_from_the_environment_is_given():
    for where, given in (("kubernetes", CONTAINER), ("compose", COMPOSE), ("Dockerfile", {})):
        named = parsed(COMMANDS[where])[1].security.control_key_env
        variables = {one["name"]: one for one in given.get("env", [])}
        assert set(variables) == ({named} if named else set()), where
        assert all("secretKeyRef" in one["valueFrom"] for one in variables.values())


def test_the_run_lies_in_a_mounted_folder_that_can_be_written():
    folders = {where: parsed(command)[0].run for where, command in COMMANDS.items()}
    mounts: dict[str, dict[str, Any]] = {one["mountPath"]: one for one in CONTAINER["volumeMounts"]}
    assert str(folders["Dockerfile"].parent) in instructions("VOLUME")[0].split()
    assert [str(folders["compose"].parent)] == [volume.rpartition(":")[2] for volume in COMPOSE["volumes"]]
    assert not mounts[str(folders["kubernetes"].parent)].get("readOnly")
    *copies, source, target = COPY["command"]
    assert copies == ["cp", "-aT"] and Path(target) == folders["kubernetes"]
    assert {str(Path(source).parent), str(Path(target).parent)} == {one["mountPath"] for one in COPY["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    used = {mount["name"] for container in (CONTAINER, COPY) for mount in container["volumeMounts"]}
    assert used == set(volumes)
    assert volumes[mounts["/dev/shm"]["name"]]["emptyDir"]["medium"] == "Memory" and "shm_size" in COMPOSE


def test_the_user_is_the_one_of_the_image():
    [uid] = re.findall(r"useradd .*--uid (\d+) (?:cascade)", DOCKERFILE)
    assert POD["securityContext"]["runAsUser"] == POD["securityContext"]["fsGroup"] == int(uid)
    assert instructions("USER") == ["cascade"]
    assert f"user {uid}" in (DEPLOY / "compose.yaml").read_text()


def test_the_objects_of_kubernetes_find_the_pods():
    labels = TEMPLATE["metadata"]["labels"]
    budget = OBJECTS["PodDisruptionBudget"]["spec"]
    assert OBJECTS["Deployment"]["spec"]["selector"]["matchLabels"] == labels == budget["selector"]["matchLabels"]
    assert OBJECTS["Service"]["spec"]["selector"] == labels
    assert budget["minAvailable"] < OBJECTS["Deployment"]["spec"]["replicas"]
    assert {container["image"].partition(":")[0] for container in (CONTAINER, COPY)} == {COMPOSE["image"]}


def test_the_image_installs_what_make_installs():
    makefile = (ROOT / "Makefile").read_text()
    for installs in ("-r requirements.lock --override overrides.txt", "--no-deps --no-build-isolation -e ."):
        assert installs in makefile and installs in re.sub(r"--no-cache ", "", DOCKERFILE)
    [version] = re.findall(r"uv venv --python (\S+)", DOCKERFILE)
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].startswith(
        f">={version},"
    )
    for copied in instructions("COPY"):
        for source in copied.split()[1:-1]:
            assert (ROOT / source).exists(), source
    assert (DEPLOY / COMPOSE["build"]["context"]).resolve() == ROOT
    assert (ROOT / COMPOSE["build"]["dockerfile"]).is_file()


def test_what_git_leaves_out_stays_out_of_the_image():
    def names(file: str) -> set[str]:
        lines = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]
        return {line.removeprefix("**/").strip("/") for line in lines}

    assert names(".dockerignore") == names(".gitignore") | {".git"}
