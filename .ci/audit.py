"""Holds .venv to requirements.lock, and the pins of both locks to the known vulnerabilities: `make audit`.

Arguments go to pip-audit: `-s osv` asks another advisory service. Exit status: 1 if a version is not the lock's, or a
pin has a vulnerability that pyproject.toml does not accept. Where no advisories are to be had it says "not audited".
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMIT_SECONDS = 18.0
"""Longest time for all questions to the advisory service."""
CANARY = {"pyyaml": "5.3"}
"""Has advisories, so a service that names none for it knows none: a mirror of an index often does not."""

_PIP_AUDIT = Path(sys.executable).with_name("pip-audit")
_REQUEST_SECONDS = 5
_DESCRIPTION_CHARACTERS = 200


class NotAuditedError(RuntimeError):
    """The advisory service was not reached, was too slow, or knows nothing."""


def main(options: Sequence[str]) -> int:
    lock, gpu_lock = pins(ROOT / "requirements.lock"), pins(ROOT / "requirements-gpu.lock")
    installed = {_canonical(one.metadata["Name"]): one.version for one in distributions()}
    found = drift(lock, installed)
    pinned = [lock, {name: version for name, version in gpu_lock.items() if lock.get(name) != version}]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    try:
        found += vulnerabilities(pinned, project["tool"]["cascade"]["audit"]["accepted"], options)
    except NotAuditedError as error:
        print(f"not audited: {error}")
    for line in found:
        print(f"cascade: {line}", file=sys.stderr)
    return 1 if found else 0


def pins(lock: Path) -> dict[str, str]:
    """Package to version."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", lock.read_text(), re.MULTILINE))


def drift(lock: dict[str, str], installed: dict[str, str]) -> list[str]:
    """A line for each package that is not installed as the lock has it. A local part, such as +cpu, is the user's."""
    return [
        f"{name}: requirements.lock has {version}, installed is {installed.get(name, 'none')}; "
        "`make -W requirements.lock install` mends it"
        for name, version in lock.items()
        if installed.get(name, "").partition("+")[0] != version
    ]


def vulnerabilities(pinned: Sequence[dict[str, str]], accepted: dict[str, str], options: Sequence[str]) -> list[str]:
    """A line for each known vulnerability that is not accepted; prints which pins the service does not know.

    Args:
        pinned: packages and versions; a package stands once in each.
        accepted: advisory, under any of its names, to the reason.
        options: for pip-audit.
    Raises: NotAuditedError.
    """
    deadline = time.monotonic() + LIMIT_SECONDS
    if not any(package.get("vulns") for package in _asked(CANARY, options, deadline)):
        [(name, version)] = CANARY.items()
        raise NotAuditedError(f"the service knows no advisories, not even those of {name} {version}")
    packages = [package for some in pinned if some for package in _asked(some, options, deadline)]
    if unknown := [package["name"] for package in packages if "skip_reason" in package]:
        print(f"not audited: the service does not know {', '.join(unknown)}")
    return [
        _described(package, one)
        for package in packages
        for one in package.get("vulns", [])
        if accepted.keys().isdisjoint({one["id"], *one["aliases"]})
    ]


def _asked(pinned: dict[str, str], options: Sequence[str], deadline: float) -> list[dict[str, Any]]:
    """What pip-audit says of each package."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answer, log = (Path(folder, name) for name in ("asked.txt", "answer.json", "log"))
        asked.write_text("".join(f"{name}=={version}\n" for name, version in pinned.items()))
        command = [_PIP_AUDIT, "-r", asked, "--no-deps", "--disable-pip", "--progress-spinner", "off", "-f", "json"]
        command += ["-o", answer, "--timeout", str(_REQUEST_SECONDS), "--cache-dir", ROOT / "build/audit", *options]
        with log.open("wb") as stream:
            try:
                # Into a file: a pipe that a process of pip-audit holds open would outlast the timeout.
                subprocess.run(command, stdout=stream, stderr=stream, timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired as error:
                raise NotAuditedError(f"the service took longer than {LIMIT_SECONDS:g} s") from error
            except OSError as error:
                raise NotAuditedError(f"pip-audit cannot be started ({error})") from error
        if not answer.exists():
            last = log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise NotAuditedError(f"the service cannot be asked: {last}")
        return json.loads(answer.read_text())["dependencies"]


def _described(package: dict[str, Any], one: dict[str, Any]) -> str:
    names = ", ".join([one["id"], *one["aliases"]])
    fixed = ", ".join(one["fix_versions"]) or "no version"
    return (
        f"{package['name']} {package['version']} has {names}, fixed in {fixed}: "
        f"{one['description'][:_DESCRIPTION_CHARACTERS]}. Lift the pin, or accept it in pyproject.toml with the reason"
    )


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
