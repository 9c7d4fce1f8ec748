"""A real browser, spoken to by its driver's own protocol: https://www.w3.org/TR/webdriver2/."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
HOSTILE = """<img src=x onerror="document.title=1"><script>alert(1)</script>&amp;'"""
KEYS = {"Enter": "\ue007", "ArrowDown": "\ue015", "ArrowUp": "\ue013", "Escape": "\ue00c", "Tab": "\ue004"}


class Browser:
    """Headless Chromium."""

    def __init__(self, driver_url: str, profile: Path) -> None:
        self._url = driver_url
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        arguments += ["--window-size=1400,900", f"--user-data-dir={profile}"]
        options = {"args": arguments, "binary": shutil.which("chromium")}
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._url += f"/session/{session['sessionId']}"

    def open(self, url: str) -> None:
        self._call("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def type(self, text: str) -> None:
        """Into what has the focus; the names of KEYS are keys."""
        active = self._call("GET", "/element/active")
        self._call("POST", f"/element/{active[_ELEMENT]}/value", {"text": KEYS.get(text, text)})

    def wait(self, script: str, *arguments: Any, seconds: float = 20.0) -> Any:
        """What a script returns as soon as that is true."""
        until = time.monotonic() + seconds
        while not (found := self.run(script, *arguments)):
            assert time.monotonic() < until, f"waited {seconds:g} s for: {script}"
            time.sleep(0.05)
        return found

    def complaints(self) -> list[str]:
        """What stands in the console."""
        return [one["message"] for one in self._call("POST", "/se/log", {"type": "browser"})]

    def resize(self, width: int, height: int, is_dark: bool = False) -> None:
        """Of the page, as a phone would have it if it is narrow."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._devtools("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._devtools("Emulation.setEmulatedMedia", {"features": [scheme]})

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def close(self) -> None:
        self._call("DELETE", "")

    def _devtools(self, command: str, parameters: dict[str, Any]) -> None:
        self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if method == "GET" or method == "DELETE" else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {"content-type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Skipped where Chromium and its driver are not installed; fails there if CI is set."""
    driver = shutil.which("chromedriver")
    if driver is None or shutil.which("chromium") is None:
        reason = "needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [driver, f"--port={port}", "--log-level=OFF"], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        until = time.monotonic() + 20
        while not _listens(port):
            assert time.monotonic() < until, "chromedriver does not answer"
            time.sleep(0.05)
        opened = Browser(f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("chromium"))
        yield opened
        opened.close()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def explorer(small_run: Path):
    """Of the small run, with a hostile title and an attribute of that kind on every item."""
    import pyarrow as pa

    from pipelines.config import load_saved_config
    from pipelines.explore.explorer import Explorer

    made = Explorer(small_run, load_saved_config(small_run / "config.json", []))
    made.tables._title = pa.array([f"{HOSTILE} {place}" for place in range(made.tables.num_items)])
    colour = made.tables._items.column_names.index("colour_group_name")
    made.tables._items = made.tables._items.set_column(colour, HOSTILE, pa.array([HOSTILE] * made.tables.num_items))
    return made


@pytest.fixture(scope="module")
def address(explorer) -> Iterator[str]:
    """Of the page, served from a thread."""
    import uvicorn

    from pipelines.explore.app import app_of

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app_of([explorer]), log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join()
    listening.close()
