"""A real Triton, started from the nvidia-pytriton wheel: no container, no root, no GPU.

Errors: ServerError, and PortInUseError below it.

Nothing outlives its owner. Triton runs in its own process group, which `stop` ends; the kernel tells Triton to stop
when the process that started it dies, even by kill -9; Triton's model processes stop by themselves once Triton is gone.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import http.client
import importlib.util
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Self

from ensemble.config import ServingConfig
from ensemble.control import KEY_HEADER, ControlClient
from ensemble.control_key import make_control_key
from ensemble.process_group import group_members, is_running, kill_group, launch
from ensemble.rollout_state import STATE
from ensemble.supervision import LOOK_SECONDS, Supervisor
from ensemble.triton_config import MODEL_NAME
from features.errors import CascadeError

NUM_LOG_LINES = 30
"""Lines of Triton's log that an error shows."""

_log = logging.getLogger(__name__)
_POLL_SECONDS = 0.05
_REVIVAL_WINDOW_SECONDS = 60.0
_MAX_LINE_CHARACTERS = 500
_LOCK = "lock"
_SHARED_MEMORY = Path("/dev/shm")
_CODE_FOLDER = Path(__file__).resolve().parents[1]
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PORT_FIELDS = ("http_port", "grpc_port", "metrics_port")


class ServerError(CascadeError, RuntimeError):
    """Triton did not start, did not get ready, or died; the message ends with its last log lines."""


class PortInUseError(ServerError):
    """Another process listens on a port that Triton should get."""


class TritonServer:
    """A Triton that serves one model repository; use it in a `with`.

    Args:
        repository: folder with the model `cascade`, and others beside it; all are loaded.
        run_folder: gets Triton's log, its backends, the control key and a lock; one server at a time.
        config: addresses and timeouts. What concerns the model is in its config.pbtxt already.
    """

    def __init__(self, repository: Path, run_folder: Path, config: ServingConfig) -> None:
        self.repository = Path(repository).resolve()
        self.run_folder = Path(run_folder).resolve()
        self.config = config
        self.log_path = self.run_folder / "triton.log"
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._model_pids: set[int] = set()
        self._control_key = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def http_url(self) -> str:
        """host:port of the HTTP protocol; known once started."""
        return f"{self._http_host}:{self.config.http_port}"

    @property
    def grpc_url(self) -> str:
        """host:port of the gRPC protocol; known once started."""
        return f"{self.config.host}:{self.config.grpc_port}"

    @property
    def metrics_url(self) -> str:
        """URL of the Prometheus metrics; known once started."""
        return f"http://{self.config.host}:{self.config.metrics_port}/metrics"

    @property
    def pid(self) -> int | None:
        """Triton's process id, which is also its process group's; None before start and after stop."""
        return self._process.pid if self._process else None

    @property
    def control(self) -> ControlClient:
        """The control endpoints; known once started."""
        url = f"{_reachable(self._http_host)}:{self.config.http_port}"
        has_tls = bool(self.config.security.tls_certificate)
        grpc_url = None if has_tls else f"{_reachable(self.config.host)}:{self.config.grpc_port}"
        return ControlClient(url, self._control_key, self.config.ready_timeout_seconds, grpc_url)

    @property
    def is_alive(self) -> bool:
        """Whether Triton runs."""
        return self._process is not None and self._process.poll() is None

    def start(self, cancel: threading.Event | None = None) -> None:
        """Start Triton and wait until the model is ready, or until `cancel` is set.

        Raises: PortInUseError; ServerError if the model repository or Triton is missing, the run folder is served
            already, Triton dies, or it is not ready in time.
        """
        if not (self.repository / MODEL_NAME / "config.pbtxt").is_file():
            raise ServerError(f"{self.repository} must hold the model {MODEL_NAME!r}; run the export stage first")
        triton_home = _triton_home()
        self.run_folder.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        try:
            self.config = _with_free_ports(self.config)
            self._control_key = make_control_key(self.run_folder, self.config)
            backends = _install_backends(triton_home, self.run_folder)
            if self.log_path.exists():  # the log of a crash must survive the restart
                os.replace(self.log_path, self.log_path.with_suffix(".previous.log"))
            # Triton's embedded interpreter ignores PYTHONPATH and searches the working directory first.
            self._process = launch(
                self._command(triton_home, backends), _environment(), _CODE_FOLDER, self.log_path, self._lock_fd
            )
            self._wait_until_ready(cancel or threading.Event())
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Let requests in flight finish, then end Triton and everything it started. Safe to call twice."""
        if self._process:
            if self._process.poll() is None:
                self._process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(self.config.stop_timeout_seconds + 1)
            kill_group(self._process.pid)
            self._process.wait()
            self._process = None
            self._model_pids = set()
        if self._lock:
            self._remove_shared_memory()
            self._lock.close()
            self._lock = None

    def log_tail(self, num_lines: int = NUM_LOG_LINES) -> str:
        """Last lines of Triton's log, without the tables of options and backends that would push out the cause."""
        if not self.log_path.exists():
            return "(no log)"
        with self.log_path.open(errors="replace") as log:
            lines = (line[:_MAX_LINE_CHARACTERS].rstrip() for line in log if not line.startswith(("|", "+")))
            return "\n".join(collections.deque(filter(None, lines), num_lines))

    def raise_if_dead(self, models: bool = True) -> None:
        """Notice the end of Triton, or of a model process, without which Triton 2.51 says "ready" and fails requests.

        Args:
            models: whether a model process that is gone is an error.

        Raises: ServerError.
        """
        if self._process is None:
            return
        if (code := self._process.poll()) is not None:
            what = f"Triton ended with exit code {code}"
        elif models and (dead := sorted(pid for pid in self._model_pids if not is_running(pid))):
            what = f"model process {dead[0]} ended (killed for want of memory?), and Triton starts no other"
        else:
            return
        raise ServerError(f"{what}; restart it and read {self.log_path}. Its last lines:\n{self.log_tail()}")

    def _take_lock(self) -> None:
        """Triton inherits the lock, so it is free again only when all its processes are gone."""
        lock = (self.run_folder / _LOCK).open("a+")
        deadline = time.monotonic() + self.config.stop_timeout_seconds
        while not _locked(lock):
            lock.seek(0)
            owner = lock.read().strip()
            # A server that was killed leaves a Triton that takes some seconds to end.
            if _is_owner_alive(owner) or time.monotonic() > deadline:
                lock.close()
                raise ServerError(
                    f"{self.run_folder} is served already ({owner}); stop that server, or serve from another run folder"
                )
            time.sleep(_POLL_SECONDS)
        self._lock = lock
        self._remove_shared_memory()  # of a server that was killed together with Triton

    def _command(self, triton_home: Path, backends: Path) -> list[str]:
        config = self.config
        arguments = {
            "model-repository": self.repository,
            "backend-directory": backends,
            "http-address": self._http_host,
            "http-port": config.http_port,
            "grpc-address": config.host,
            "grpc-port": config.grpc_port,
            "metrics-address": config.host,
            "metrics-port": config.metrics_port,
            "exit-timeout-secs": max(1, round(config.stop_timeout_seconds)),
            "backend-config": f"python,shm-region-prefix-name={self._new_shared_memory_prefix()}",
        }
        models = sorted(path.parent.name for path in self.repository.glob("*/config.pbtxt"))
        return [
            str(triton_home / "bin/tritonserver"),
            "--disable-auto-complete-config",
            "--model-control-mode=explicit",
            "--strict-readiness=false",  # else an earlier version that was unloaded makes the whole server unready
            *(f"--load-model={model}" for model in models),
            *(f"--{name}={value}" for name, value in arguments.items()),
            *self._restrictions(),
            *self._tls(),
        ]

    def _tls(self) -> list[str]:
        security = self.config.security
        if not security.tls_certificate:
            return []
        given = [
            f"--grpc-server-cert={_readable(security.tls_certificate, 'tls_certificate')}",
            f"--grpc-server-key={_readable(security.tls_key, 'tls_key')}",
        ]
        if not security.tls_client_ca:
            return ["--grpc-use-ssl=true", *given]
        clients = _readable(security.tls_client_ca, "tls_client_ca")
        return ["--grpc-use-ssl=true", "--grpc-use-ssl-mutual=true", *given, f"--grpc-root-cert={clients}"]

    @property
    def _http_host(self) -> str:
        """Triton's HTTP has no TLS: where gRPC has it, HTTP is for this machine alone."""
        return "127.0.0.1" if self.config.security.tls_certificate else self.config.host

    def _restrictions(self) -> list[str]:
        """Triton takes the key on its command line only, where other accounts of the machine can see it."""
        over_grpc = dict.fromkeys(self.config.security.restricted_apis)
        # A number input whose JSON shape claims 2**40 values makes Triton 2.51 ask for that memory, and abort. The key
        # is looked at before the body is.
        over_http = over_grpc if self._is_http_open else over_grpc | {"inference": None}
        key = f"{KEY_HEADER}={self._control_key}"
        options = {"http-restricted-api": over_http, "grpc-restricted-protocol": over_grpc}
        return [f"--{option}={','.join(apis)}:{key}" for option, apis in options.items() if apis]

    @property
    def _is_http_open(self) -> bool:
        """Whether slates can be asked for over HTTP without the key."""
        wanted = self.config.security.http_inference
        return wanted == "open" or (wanted == "auto" and self._http_host in _LOOPBACK)

    @property
    def _lock_fd(self) -> int:
        assert self._lock
        return self._lock.fileno()

    def _new_shared_memory_prefix(self) -> str:
        """Name the regions of this server, and note the name in the lock file for whoever cleans up."""
        assert self._lock
        prefix = f"cascade_{secrets.token_hex(8)}"
        self._lock.seek(0)
        self._lock.truncate()
        self._lock.write(f"started by pid {os.getpid()}, shared memory {prefix}\n")
        self._lock.flush()
        return prefix

    def _remove_shared_memory(self) -> None:
        assert self._lock
        self._lock.seek(0)
        prefix = self._lock.read().strip().rpartition(" ")[2]
        if prefix.startswith("cascade_"):
            for region in _SHARED_MEMORY.glob(f"{prefix}*"):
                region.unlink(missing_ok=True)

    def _wait_until_ready(self, cancel: threading.Event) -> None:
        deadline = time.monotonic() + self.config.ready_timeout_seconds
        while not self._is_ready():
            if cancel.wait(_POLL_SECONDS):
                return
            self.raise_if_dead()
            if time.monotonic() > deadline:
                raise ServerError(
                    f"Triton was not ready after {self.config.ready_timeout_seconds:g} s; raise "
                    f"serving.ready_timeout_seconds if the model is large. Last lines of {self.log_path}:\n"
                    f"{self.log_tail()}"
                )
        assert self._process
        self._model_pids = group_members(self._process.pid) - {self._process.pid}

    def _is_ready(self) -> bool:
        host = _reachable(self._http_host)
        return all(
            _answers_ok(host, self.config.http_port, path)
            for path in ("/v2/health/ready", f"/v2/models/{MODEL_NAME}/ready")
        )


def serve_forever(
    repository: Path, run_folder: Path, config: ServingConfig, on_ready: Callable[[TritonServer], None] | None = None
) -> None:
    """Serve until SIGTERM, SIGINT (Ctrl-C) or SIGHUP, then stop cleanly. Call it from the main thread.

    Args:
        on_ready: called once the server answers, when its addresses are known.
    Raises: ServerError if Triton cannot start or ends by itself.
    """
    asked_to_stop = threading.Event()
    server = TritonServer(repository, run_folder, config)
    with _on_signals(asked_to_stop):
        try:
            server.start(cancel=asked_to_stop)
            supervisor = _supervisor(server) if server.is_alive else None
            if not asked_to_stop.is_set():
                print(f"http     {server.http_url}")
                print(f"grpc     {server.grpc_url}")
                print(f"metrics  {server.metrics_url}")
                print(f"log      {server.log_path}")
                print("ready; stop with Ctrl-C", flush=True)
                _log.info("ready: http %s, grpc %s, metrics %s", server.http_url, server.grpc_url, server.metrics_url)
                if on_ready:
                    on_ready(server)
            while not asked_to_stop.wait(LOOK_SECONDS):
                server.raise_if_dead(models=supervisor is None)
                if supervisor:
                    supervisor.look()
            drained = time.monotonic() + config.drain_seconds
            while time.monotonic() < drained and server.is_alive:
                time.sleep(LOOK_SECONDS)
        except CascadeError as error:
            _log.error("serving ends: %s", error)
            raise
        finally:
            server.stop()
    print("stopped", flush=True)
    _log.info("stopped")


def _supervisor(server: TritonServer) -> Supervisor | None:
    """Only what was staged can be brought back: an exported repository is not changed."""
    assert server.pid
    if not (server.run_folder / STATE).is_file():
        return None
    return Supervisor(
        server.run_folder,
        server.pid,
        server.control,
        server.config.max_revivals,
        _REVIVAL_WINDOW_SECONDS,
        server.config.stop_timeout_seconds + 1,
    )


@contextlib.contextmanager
def _on_signals(event: threading.Event) -> Iterator[None]:
    """Set the event at a signal to stop; the handlers that were there come back afterwards."""
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    previous = {number: signal.signal(number, lambda *_: event.set()) for number in signals}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _triton_home() -> Path:
    """The tritonserver folder inside the pytriton wheel; the package is not imported."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise ServerError("serving needs the package nvidia-pytriton, which brings Triton; install requirements.lock")
    return Path(spec.origin).parent / "tritonserver"


def _install_backends(triton_home: Path, run_folder: Path) -> Path:
    """Triton's backends with the Python stub of this interpreter's version, which the wheel keeps apart."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = triton_home / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise ServerError(f"nvidia-pytriton has no stub for Python {version} ({stub}); use Python 3.11")
    backends = run_folder / "backends"
    shutil.rmtree(backends, ignore_errors=True)
    shutil.copytree(triton_home / "backends", backends)
    shutil.copy2(stub, backends / "python")
    return backends


def _environment() -> dict[str, str]:
    """The environment of this process, with what Triton and its embedded interpreter need in front."""
    site_packages = sysconfig.get_path("purelib")
    front = {
        "LD_LIBRARY_PATH": [sysconfig.get_config_var("LIBDIR"), f"{site_packages}/nvidia_pytriton.libs"],
        "PATH": [str(Path(sys.executable).parent)],
        "PYTHONPATH": [str(_CODE_FOLDER), site_packages],
    }
    environment = dict(os.environ)
    for name, folders in front.items():
        inherited = [environment[name]] if environment.get(name) else []
        environment[name] = os.pathsep.join([*folders, *inherited])
    return environment


def _with_free_ports(config: ServingConfig) -> ServingConfig:
    """The config with every 0 replaced by a free port.

    Raises: PortInUseError if a port that was asked for is taken.
    """
    chosen: dict[str, int] = {}
    with contextlib.ExitStack() as sockets:  # all held at once, so that no port is picked twice
        for field in sorted(_PORT_FIELDS, key=lambda field: getattr(config, field) == 0):
            port = getattr(config, field)
            listener = sockets.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((config.host, port))
                listener.listen()
            except OSError as error:
                key = field.replace("_", "-")
                raise PortInUseError(
                    f"{field} {port} on {config.host} cannot be taken ({error.strerror}); stop what listens there "
                    f"(`ss -ltnp 'sport = :{port}'` names it), or choose another with --serving.{key}"
                ) from error
            chosen[field] = listener.getsockname()[1]
    return replace(config, **chosen)


def _readable(file: str, key: str) -> Path:
    """Triton runs elsewhere, and says little of a file it cannot read."""
    path = Path(file).resolve()
    if not file or not os.access(path, os.R_OK) or not path.is_file():
        raise ServerError(f"serving.security.{key} must be a PEM file that can be read, got {file!r}")
    return path


def _reachable(host: str) -> str:
    return "127.0.0.1" if host == "0.0.0.0" else host


def _answers_ok(host: str, port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def is_served(run_folder: Path) -> bool:
    """Whether a server has this run folder, ready or not."""
    path = run_folder / _LOCK
    if not path.exists():
        return False
    with path.open("a+") as lock:
        return not _locked(lock)


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_owner_alive(owner: str) -> bool:
    """Whether the process that wrote the lock runs; True if the lock does not say who it is."""
    pid = re.search(r"started by pid (\d+)", owner)
    return pid is None or is_running(int(pid.group(1)))
