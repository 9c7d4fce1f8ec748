"""What do callers see while parts of a server are broken? Faults injected into `cascade serve` under load.

Eight callers ask all the time through RecommendClient, for ten items each, leaving out three; every reply is held to
its request. Prints one JSON line a fault: calls and what became of them while it lasted, by error and by `source`.

python benchmarks/serving_faults.py [RUN_FOLDER] (default: runs/demo, which `make demo` makes)
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq

from ensemble.client import RecommendClient

K, NUM_EXCLUDED, NUM_CALLERS = 10, 3, 8
STAGES = ("etl", "retrieval", "index", "ranking", "export")


@dataclass(frozen=True)
class Outcome:
    """One call."""

    ended: float
    seconds: float
    error: str
    source: str
    is_wrong: bool


class Callers:
    """Threads that ask, one call after the other, until they are stopped."""

    def __init__(self, url: str, users: list[str], items: list[str], **parameters: Any) -> None:
        self.outcomes: list[Outcome] = []
        self._url, self._users, self._items, self._parameters = url, users, items, parameters
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(seed,)) for seed in range(NUM_CALLERS)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, seed: int) -> None:
        random_ = random.Random(seed)
        client = RecommendClient(self._url)
        while not self._stopped.wait(0.05):
            user, excluded = random_.choice(self._users), random_.sample(self._items, NUM_EXCLUDED)
            begun, error, source, is_wrong = time.monotonic(), "", "", False
            try:
                reply = client.recommend([user], K, [excluded], **self._parameters)
                slate = [item for item in reply.item_ids[0] if item]
                source = str(reply.source[0])
                is_wrong = len(slate) != K or len(set(slate)) != K or not set(excluded).isdisjoint(slate)
            except Exception as failed:  # every kind is counted
                error = type(failed).__name__
                client.close()
                client = RecommendClient(self._url)
            ended = time.monotonic()
            self.outcomes.append(Outcome(ended, ended - begun, error, source, is_wrong))
        client.close()


class Server:
    """`cascade serve` of a run, as a process."""

    def __init__(self, run: Path, *options: str) -> None:
        self.run, self._options = run, options

    def __enter__(self) -> Server:
        command = [sys.executable, "-W", "ignore", "-m", "pipelines", "serve", "--run", str(self.run)]
        ports = [f"--serving.{name}-port=0" for name in ("http", "grpc", "metrics")]
        self.log = (self.run / "serve.out").open("w")
        self.process = subprocess.Popen([*command, *ports, *self._options], stdout=self.log, stderr=subprocess.STDOUT)
        addresses, ends = self.run / "serve/addresses.json", time.monotonic() + 180
        while not addresses.is_file():
            if self.process.poll() is not None or time.monotonic() > ends:
                sys.exit((self.run / "serve.out").read_text())
            time.sleep(0.1)
        self.url = json.loads(addresses.read_text())["grpc"]
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.log.close()

    def model_process(self, model: str) -> psutil.Process:
        """The process of one of its Triton models."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if any(f"/models/{model}/" in word for word in process.cmdline()):
                    return process
        sys.exit(f"{model} has no process")


def main(source: Path) -> None:
    items = pq.read_table(source / "etl/items.parquet", columns=["raw_id"])["raw_id"].to_pylist()
    table = pq.read_table(source / "etl/users.parquet", columns=["raw_id", "num_events"]).to_pydict()
    users = [user for user, num in zip(table["raw_id"], table["num_events"], strict=True) if num][:500]
    with tempfile.TemporaryDirectory(prefix="cascade-faults-") as folder:
        run, other = (linked(source, Path(folder) / name) for name in ("run", "other"))
        with Server(run) as server:

            def under_load(fault: str, act: Callable[[], Any], seconds: float = 0.0, **parameters: Any) -> None:
                with Callers(server.url, users, items, **parameters) as callers:
                    time.sleep(2)
                    begun = time.monotonic()
                    told = act() or {}
                    time.sleep(seconds)
                    ended = time.monotonic()
                    time.sleep(1)
                say(fault, callers.outcomes, begun, ended, told)

            under_load("none", lambda: None, 5)
            under_load("callers who wait 4 ms", lambda: None, 5, timeout_ms=4)
            under_load("model process killed", lambda: kill(server, "cascade"), 1)
            under_load("events process killed while events come", lambda: push_and_kill(server, users, items))
            under_load("online store gone and back", lambda: without_store(run), 3)
            under_load("release with a truncated index", lambda: refused(run, other))
            under_load("deploy, and roll back", lambda: deploy_and_back(run, source, Path(folder)))
            under_load("server told to stop", lambda: server.process.send_signal(signal.SIGTERM), 3)


def linked(source: Path, folder: Path) -> Path:
    """A run of its own with the stages of another."""
    folder.mkdir()
    shutil.copy(source / "config.json", folder)
    for stage in STAGES:
        (folder / stage).symlink_to((source / stage).resolve())
    return folder


def kill(server: Server, model: str) -> dict[str, Any]:
    """Kill a model's process; how long until the model is served again."""
    begun, old = time.monotonic(), server.model_process(model)
    old.kill()
    with RecommendClient(server.url, with_fallback=False) as client:
        while time.monotonic() - begun < 120:
            with suppress(Exception):
                client.recommend(["anybody"], 1)
                return {"seconds_until_back": round(time.monotonic() - begun, 1)}
            time.sleep(0.2)
    sys.exit(f"{model} did not come back")


def push_and_kill(server: Server, users: list[str], items: list[str]) -> dict[str, Any]:
    """Push events, kill the process that takes them in the middle, and look for all that were accepted."""
    accepted: dict[str, tuple[str, str]] = {}
    random_ = random.Random(5)
    # No pair twice: the same user, item and moment is a duplicate whatever its id.
    pairs = random_.sample([*product(users[:50], items)], 600)
    events = [(f"event-{number}", *pair) for number, pair in enumerate(pairs)]
    killed = False
    begun = time.monotonic()
    for number in range(0, len(events), 20):
        batch = events[number : number + 20]
        while time.monotonic() - begun < 180:
            if number >= 300 and not killed:
                killed = True
                threading.Timer(0.01, server.model_process("cascade_events").kill).start()
            try:
                with RecommendClient(server.url) as client:
                    moments = [int(time.time()) - 60] * len(batch)
                    statuses = client.push_events(*map(list, zip(*batch, strict=True)), moments)
            except Exception:  # sent again, as the protocol says
                time.sleep(0.2)
                continue
            told = zip(batch, statuses, strict=True)
            accepted |= {
                event: (user, item) for (event, user, item), status in told if status in ("accepted", "duplicate")
            }
            break
    with sqlite3.connect(server.run / "serve/events.db") as journal:
        (num_journaled,) = journal.execute("SELECT count(*) FROM events").fetchone()
    missing = 0
    with RecommendClient(server.url) as client:
        for user in {user for user, _ in accepted.values()}:
            mine = {item for one, item in accepted.values() if one == user}
            slate = client.recommend([user], 500).item_ids[0]
            missing += len(mine & set(slate))
    return {"accepted": len(accepted), "journaled": num_journaled, "accepted_items_shown_again": missing}


def without_store(run: Path) -> dict[str, Any]:
    """Take the files of every online store away for three seconds."""
    stores = [*run.glob("serve/**/store/online.db*")]
    for file in stores:
        os.replace(file, file.with_name(f"away-{file.name}"))
    time.sleep(3)
    for file in stores:
        file.unlink(missing_ok=True)
        os.replace(file.with_name(f"away-{file.name}"), file)
    return {"files": len(stores)}


def refused(run: Path, other: Path) -> dict[str, Any]:
    """Deploy a copy whose index is cut off."""
    (other / "export").unlink()
    shutil.copytree((run / "export").resolve(), other / "export")
    (index,) = (other / "export").glob("**/index.faiss")
    os.truncate(index, index.stat().st_size // 2)
    done = cascade("deploy", str(other), "--to", str(run))
    return {"exit": done.returncode, "said": done.stderr.strip()[-200:].replace(str(other), "RUN")}


def deploy_and_back(run: Path, source: Path, folder: Path) -> dict[str, Any]:
    """Deploy an export with fewer candidates, and return."""
    newer = linked(source, folder / "newer")
    (newer / "export").unlink()
    cascade("export", "--out", str(newer), "--export.num-candidates", "150")
    done = [cascade("deploy", str(newer), "--to", str(run))]
    time.sleep(2)
    done.append(cascade("rollback", "--to", str(run)))
    time.sleep(1)
    return {"exits": [one.returncode for one in done], "said": [one.stderr.strip()[-200:] for one in done]}


def cascade(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "pipelines", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def say(fault: str, outcomes: list[Outcome], begun: float, ended: float, told: dict[str, Any]) -> None:
    during = [one for one in outcomes if begun <= one.ended <= ended + 0.5]
    answered = [one.seconds * 1e3 for one in during if not one.error]
    line = {"benchmark": "serving_faults", "fault": fault, "seconds": round(ended - begun, 1), "calls": len(during)}
    line |= {"errors": dict(Counter(one.error for one in during if one.error))}
    line |= {"sources": dict(Counter(one.source for one in during if one.source))}
    line |= {"wrong": sum(one.is_wrong for one in during)}
    if answered:
        line |= {"p50_ms": round(float(np.median(answered)), 1), "p99_ms": round(float(np.quantile(answered, 0.99)), 1)}
    print(json.dumps(line | told), flush=True)


if __name__ == "__main__":
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/demo")
    if not (given / "export" / "manifest.json").is_file():
        sys.exit(f"{given} is no finished run; `make demo` makes runs/demo")
    main(given)
