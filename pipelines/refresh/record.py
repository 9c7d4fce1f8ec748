"""`refresh.json` of the new run: where a refresh stands, what was measured, and how each guard judged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from features.errors import CascadeError
from pipelines.report_file import write_report

FILE = "refresh.json"
State = Literal["begun", "refused", "passed", "deployed"]
Verdict = Literal["passed", "failed", "not measured"]


class RefreshError(CascadeError):
    """A refresh cannot be done, or the new run was refused; the message says why and what to do."""


@dataclass(frozen=True)
class Guard:
    """One guard's judgement."""

    name: str
    """Its kind, and behind a colon what was measured."""
    verdict: Verdict
    measured: str
    limit: str
    stops: bool
    """Whether the new run does not go live for it."""
    reason: str = ""
    """Why it was not measured; what else there is to know."""

    @property
    def kind(self) -> str:
        return self.name.partition(":")[0]


@dataclass
class Record:
    """What `refresh.json` holds."""

    origin: str
    """Folder of the run that was refreshed."""
    append: list[str]
    """The later logs."""
    state: State = "begun"
    judged_with: str = ""
    """Hash of the configuration under which the guards judged: with another one they judge again."""
    models: dict[str, str] = field(default_factory=dict)
    """Hashes of the models that were measured."""
    guards: list[Guard] = field(default_factory=list)
    warm_start: dict[str, Any] = field(default_factory=dict)
    """Of each model, what its training began with."""
    measurements: dict[str, Any] = field(default_factory=dict)
    """Numbers, and under "key" what they are of: measured once, judged by whatever the limits are."""
    deployed: Mapping[str, Any] | None = None
    """What went live, and where."""
    seconds: dict[str, float] = field(default_factory=dict)

    def is_of(self, origin: Path, append: Sequence[str]) -> bool:
        return (self.origin, self.append) == (str(origin.resolve()), list(append))

    def write(self, run: Path) -> None:
        write_report(asdict(self), run / FILE)


def read_record(run: Path) -> Record | None:
    """None if the run was not made by a refresh. Raises: RefreshError if the file is damaged."""
    path = run / FILE
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text())
        return Record(**document | {"guards": [Guard(**guard) for guard in document["guards"]]})
    except (ValueError, TypeError, KeyError) as error:
        raise RefreshError(f"{path} is damaged ({error!r}); remove {run} and refresh again") from error
