"""The control endpoints need the key, and gRPC speaks TLS to whom it should."""

import stat
import subprocess
import urllib.error
import urllib.request
from dataclasses import replace

import pytest

from ensemble.client import RecommendClient, ServerUnavailable
from ensemble.config import ServingConfig
from ensemble.control import ControlClient, ControlError
from ensemble.control_key import KEY_FILE
from ensemble.security_config import SecurityConfig
from ensemble.server import ServerError, TritonServer
from ensemble.tls import ClientTls
from ensemble.triton_config import MODEL_NAME

pytestmark = pytest.mark.triton

CONFIG = ServingConfig(http_port=0, grpc_port=0, metrics_port=0)


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """A folder with an authority, a server and a client that it vouches for, as PEM files."""
    folder = tmp_path_factory.mktemp("pem")

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca")
    for who in ("server", "client"):
        key, request, signed = f"{who}.key", f"{who}.csr", f"{who}.pem"
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={who}")
        signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names"]
        openssl("x509", "-req", "-in", request, "-out", signed, *signing)
    return folder


def test_tls_lets_in_clients_with_a_certificate_and_no_others_and_the_control_endpoints_need_the_key(
    pem, stand_in_repository, tmp_path
):
    security = SecurityConfig(
        tls_certificate=str(pem / "server.pem"), tls_key=str(pem / "server.key"), tls_client_ca=str(pem / "ca.pem")
    )
    with TritonServer(stand_in_repository(), tmp_path, replace(CONFIG, security=security)) as server:
        own = ClientTls(
            root_certificates=str(pem / "ca.pem"), certificate=str(pem / "client.pem"), key=str(pem / "client.key")
        )
        with RecommendClient(server.grpc_url, tls=own) as client:
            assert client.recommend(["u"], k=1).item_ids.tolist() == [["u-0"]]
        for tls in (None, ClientTls(root_certificates=own.root_certificates)):
            with (
                RecommendClient(server.grpc_url, timeout_seconds=3, tls=tls) as stranger,
                pytest.raises(ServerUnavailable),
            ):
                stranger.recommend(["u"])
        with pytest.raises(ControlError, match="restricted"):
            ControlClient(server.http_url, "guessed", 5).unload(MODEL_NAME)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://{server.http_url}/v2/models/{MODEL_NAME}/config")
        refused.value.close()
        assert server.control.versions(MODEL_NAME) == {1: "READY"}
        assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600


def test_a_certificate_that_is_not_there_is_named(stand_in_repository, tmp_path):
    security = SecurityConfig(tls_certificate="/nowhere.pem", tls_key="/nowhere.key")
    with pytest.raises(ServerError, match=r"serving\.security\.tls_certificate must be a PEM file"):
        TritonServer(stand_in_repository(), tmp_path, replace(CONFIG, security=security)).start()
