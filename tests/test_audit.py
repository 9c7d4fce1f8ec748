"""`make audit`: a version that is not the lock's and a known vulnerability fail; silence is not safety."""

from __future__ import annotations

import importlib.util
import json
import re
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def audit(monkeypatch):
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return module


@contextmanager
def service(known: dict[str, list[str]], seconds: float = 0.0) -> Iterator[list[str]]:
    """An advisory service with the OSV protocol; package to the names of its advisory. Yields pip-audit's options."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self):
            time.sleep(seconds)
            package = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]
            names = known.get(package["name"])
            affected = [{"package": package, "ranges": [{"type": "ECOSYSTEM", "events": [{"fixed": "9.9"}]}]}]
            one = {"summary": "It runs what it is sent", "affected": affected}
            body = {"vulns": [one | {"id": names[0], "aliases": names[1:]}]} if names else {}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.handle_error = lambda *_: None  # a caller who gave up
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield ["-s", "osv", "--osv-url", f"http://127.0.0.1:{server.server_port}/"]
        server.shutdown()


def test_a_package_that_is_not_installed_as_locked_is_named_with_both_versions(audit):
    lock = {"numpy": "1.26.4", "torch": "2.13.0", "zict": "3.0.0", "zipp": "4.1"}
    installed = {"numpy": "2.0.0", "torch": "2.13.0+cu126", "nvidia-nccl-cu12": "2.1", "zipp": "4.1", "ipdb": "1.0"}
    numpy, zict = audit.drift(lock, installed)
    assert "numpy: requirements.lock has 1.26.4, installed is 2.0.0;" in numpy
    assert "zict: requirements.lock has 3.0.0, installed is none;" in zict


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-gpu.lock"])
def test_every_line_of_a_lock_is_read_as_a_pin(audit, name):
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    assert [f"{package}=={version}" for package, version in audit.pins(ROOT / name).items()] == lines


def test_a_known_vulnerability_fails_unless_one_of_its_names_is_accepted(audit):
    pinned = [{"zipp": "4.1", "zict": "3.0.0"}, {"zipp": "4.0"}, {}]
    known = {"pyyaml": ["PYSEC-0"], "zipp": ["PYSEC-1", "CVE-1"], "zict": ["PYSEC-2", "CVE-2"]}
    with service(known) as options:
        found = audit.vulnerabilities(pinned, {"CVE-2": "reason"}, options)
    assert [line.partition(":")[0] for line in found] == [
        "zipp 4.1 has PYSEC-1, CVE-1, fixed in 9.9",
        "zipp 4.0 has PYSEC-1, CVE-1, fixed in 9.9",
    ]


def test_a_service_that_knows_no_advisories_is_not_taken_for_a_clean_bill(audit):
    with service({}) as options, pytest.raises(audit.NotAuditedError, match="knows no advisories"):
        audit.vulnerabilities([{"zipp": "4.1"}], {}, options)


def test_a_slow_service_is_given_up(audit, monkeypatch):
    monkeypatch.setattr(audit, "LIMIT_SECONDS", 3.0)
    begun = time.monotonic()
    with service({"pyyaml": ["PYSEC-0"]}, seconds=4) as options, pytest.raises(audit.NotAuditedError, match="longer"):
        audit.vulnerabilities([{"zipp": "4.1"}], {}, options)
    assert time.monotonic() - begun < 8


def test_without_a_service_only_drift_fails_and_the_output_says_that_nothing_was_audited(audit, monkeypatch, capsys):
    nowhere = ["-s", "osv", "--osv-url", "http://127.0.0.1:9/"]
    for lines, status in (([], 0), (["numpy: ..."], 1)):
        monkeypatch.setattr(audit, "drift", lambda *_, lines=lines: list(lines))
        assert audit.main(nowhere) == status
        told = capsys.readouterr()
        assert told.out.startswith("not audited: the service cannot be asked: ") and "127.0.0.1" in told.out
        assert told.err == "".join(f"cascade: {line}\n" for line in lines)


def test_what_is_accepted_is_pinned_and_has_a_reason(audit):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pinned = audit.pins(ROOT / "requirements.lock")
    for advisory, reason in project["tool"]["cascade"]["audit"]["accepted"].items():
        package = re.split(r"\W", reason)[0]
        assert package in pinned and len(reason.split()) > 5, f"{advisory}: a reason begins with the package"


def test_lint_audits():
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe and ".ci/audit.py" in recipe[1]
