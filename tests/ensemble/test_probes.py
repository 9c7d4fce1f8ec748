"""What Kubernetes asks, by its manifest, a real Triton with the manifest's options answers."""

import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ensemble.server import TritonServer
from ensemble.triton_config import MODEL_NAME
from pipelines.__main__ import command_line
from pipelines.config import load_config

pytestmark = pytest.mark.triton

MANIFEST = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes" / "cascade.yaml"


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_probes_and_scraper_need_no_key_and_only_readiness_says_no_without_a_model(
    stand_in_repository, tmp_path, monkeypatch
):
    template = next(yaml.safe_load_all(MANIFEST.read_text()))["spec"]["template"]
    [container] = template["spec"]["containers"]
    [variable] = container["env"]
    monkeypatch.setenv(variable["name"], "0123456789abcdef")
    _, overrides = command_line().parse_known_args(container["args"])
    config = replace(load_config(None, overrides).serving, http_port=0, grpc_port=0, metrics_port=0)
    ready, live = (container[f"{name}Probe"]["httpGet"]["path"] for name in ("readiness", "liveness"))
    with TritonServer(stand_in_repository(), tmp_path, config) as server:
        assert status(f"http://{server.http_url}{ready}") == status(f"http://{server.http_url}{live}") == 200
        scraped = template["metadata"]["annotations"]["prometheus.io/path"]
        assert status(f"http://127.0.0.1:{server.config.metrics_port}{scraped}") == 200
        server.control.unload(MODEL_NAME)
        assert status(f"http://{server.http_url}{ready}") != 200
        assert status(f"http://{server.http_url}{live}") == 200
