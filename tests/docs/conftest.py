"""Runs the pages: their fenced blocks, in order, in a temporary folder, as a reader would.

A block of ```sh is run by bash, which stops at the first command that fails; a block of ```python by Python; other
blocks are read and not run. A comment before a block, which GitHub and the site do not show, says more:

    <!-- file: NAME -->         the block is that file
    <!-- added to: NAME -->     the block stands at the end of that file
    <!-- keeps running -->      the command is left running from its line that names Ctrl-C on, until the same command
                                comes again or the page ends; `keeps running: until it is ready` ends it there
    <!-- not run: REASON -->    the block cannot run here; its commands are still read by the command line

Pages name the default ports. Here `cascade` is given free ones, and addresses in blocks are those.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
MARKS = ("file", "added to", "keeps running", "not run")
UNTIL_READY = "until it is ready"
PORTS = (8000, 8001, 8002, 8090)
"""HTTP, gRPC, metrics, explorer."""
READY_SECONDS, COMMAND_SECONDS = 180, 400

_CASCADE = """#!/bin/sh
# The code beside the pages, on free ports.
case "$1" in
serve | loadtest) set -- "$@" --serving.http-port {} --serving.grpc-port {} --serving.metrics-port {} ;;
explore) set -- "$@" --port {} ;;
esac
exec {} -m pipelines "$@"
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    mark: str
    """Empty, or the words before the colon of the comment above it."""
    said: str
    """What follows the colon."""
    line: int
    """Of the page, from 1."""
    section: str
    """The heading that it stands below."""


def blocks_of(page: Path) -> list[Block]:
    """Raises: ValueError for a mark that is none, or stands before no block."""
    found: list[Block] = []
    lines = iter(enumerate(page.read_text().splitlines(), 1))
    mark = said = section = ""
    for number, line in lines:
        if comment := re.fullmatch(r"<!-- ([a-z ]+?)(?:: (.*))? -->", line):
            mark, said = comment[1], (comment[2] or "").strip()
            if mark not in MARKS:
                raise ValueError(f"{page.name}, line {number}: {mark!r} is none of {', '.join(MARKS)}")
            continue
        if line.startswith("```"):
            text = []
            for _, inside in lines:
                if inside.startswith("```"):
                    break
                text.append(inside)
            found.append(Block(line.removeprefix("```"), "\n".join(text) + "\n", mark, said, number, section))
        elif mark:
            raise ValueError(f"{page.name}, line {number}: no block follows <!-- {mark} -->")
        elif line.startswith("#"):
            section = line.lstrip("# ")
        mark = said = ""
    return found


@dataclass
class Reader:
    """Who does what a page says, in a folder."""

    folder: Path
    ports: dict[int, int] = field(default_factory=dict)
    """Port as on the page to the port here."""
    running: dict[str, subprocess.Popen] = field(default_factory=dict)
    """Command to its process."""

    def __post_init__(self) -> None:
        taken = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
        self.ports = dict(zip(PORTS, (one.getsockname()[1] for one in taken), strict=True))
        for one in taken:
            one.close()
        self.bin = self.folder / ".bin"
        self.bin.mkdir(parents=True, exist_ok=True)
        self._program("cascade", _CASCADE.format(*self.ports.values(), shlex.quote(sys.executable)))
        for name in ("python", "python3"):
            self._program(name, f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')

    def do(self, block: Block, page: str) -> str:
        """Do what a block says; what it printed. Raises: AssertionError if it fails, with page and line."""
        where, text = f"{page}, line {block.line}", self._here(block.text)
        if block.mark == "not run":
            return ""
        if block.mark in ("file", "added to"):
            file = self.folder / block.said
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text((file.read_text() + "\n" if block.mark == "added to" else "") + text)
            return ""
        if block.mark == "keeps running":
            said = self._start(text, where)
            if block.said == UNTIL_READY:
                self.end(_command(text))
            return said
        if block.language not in ("sh", "python"):
            return ""
        command = (
            ["bash", "-euo", "pipefail", "-c", text]
            if block.language == "sh"
            else [str(self.bin / "python"), "-c", text]
        )
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment(), capture_output=True, text=True, timeout=COMMAND_SECONDS
        )
        assert done.returncode == 0, f"{where}:\n{text}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def end(self, *commands: str) -> None:
        """End these commands that keep running; without any, all."""
        for command in commands or list(self.running):
            self._stop(command)

    def _start(self, text: str, where: str) -> str:
        name = _command(text)
        self._stop(name)
        log = self.folder / f".{name.replace(' ', '-')}.log"
        with log.open("w") as output:
            self.running[name] = subprocess.Popen(
                ["bash", "-c", f"exec {text.strip()}"],
                **{"cwd": self.folder, "env": self._environment(), "start_new_session": True},
                **{"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT},
            )
        latest = time.monotonic() + READY_SECONDS
        while "Ctrl-C" not in log.read_text():
            assert self.running[name].poll() is None, f"{where}: it ended\n{text}\n{log.read_text()[-4000:]}"
            assert time.monotonic() < latest, f"{where}: not ready after {READY_SECONDS} s\n{log.read_text()[-4000:]}"
            time.sleep(0.1)
        for address in re.findall(r"at (http://\S+)", log.read_text()):
            with urllib.request.urlopen(address, timeout=60) as answer:
                assert answer.status == 200, where
        return log.read_text()

    def _stop(self, command: str) -> None:
        process = self.running.pop(command, None)
        if process is None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _environment(self) -> dict[str, str]:
        path = f"{self.bin}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}

    def _here(self, text: str) -> str:
        for named, port in self.ports.items():
            text = re.sub(rf"\b(127\.0\.0\.1|localhost):{named}\b", rf"\1:{port}", text)
        return text

    def _program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)


def _command(text: str) -> str:
    """`cascade serve` of `cascade serve --run runs/shop`."""
    return " ".join(text.split()[:2])


@pytest.fixture(scope="session")
def page_blocks():
    """`blocks_of`."""
    return blocks_of


@pytest.fixture(scope="session")
def reader_in():
    """A Reader in a folder; what it started is ended at the end of the session, if not before."""
    readers: list[Reader] = []

    def make(folder: Path) -> Reader:
        readers.append(Reader(folder))
        return readers[-1]

    yield make
    for reader in readers:
        reader.end()
