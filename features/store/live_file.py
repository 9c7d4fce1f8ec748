"""`live.json` of a store's folder: what turns a new interaction into the row's features, apart from the items."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from features.artifact import Artifact, ArtifactError

FILE = "live.json"
_NUMBER = "user_num_events"


@dataclass(frozen=True)
class LiveFile:
    """How the etl stage encodes what depends on a user's interactions."""

    as_of: int
    """Unix seconds up to which the log knows the users."""
    history_length: int
    num_events_scale: tuple[float, float]
    """Mean and deviation of the logarithm of a user's number of interactions."""
    categories: dict[str, list[str]]
    """Category of the interactions -> its values in id order."""

    @classmethod
    def of(cls, etl: Artifact) -> LiveFile:
        """Read from the etl stage's result."""
        from features import vocabulary
        from features.as_of import LAST
        from features.etl import as_of_features
        from features.workflow import load_workflow

        as_of = as_of_features(etl)
        values = vocabulary.of_workflow(load_workflow(etl, "interactions")) if as_of.categories else {}
        mean, deviation = json.loads(etl.file("online.json").read_text())[_NUMBER]
        categories = {name: values[f"{LAST}{name}"].to_pylist() for name in as_of.categories}
        return cls(etl.metrics["as_of"], as_of.history_length, (mean, deviation), categories)

    @classmethod
    def read(cls, folder: Path) -> LiveFile:
        """Raises: ArtifactError if the store was made without it, or it is damaged."""
        path = folder / FILE
        try:
            document = json.loads(path.read_text())
            mean, deviation = document.pop("num_events_scale")
            return cls(num_events_scale=(float(mean), float(deviation)), **document)
        except FileNotFoundError as error:
            raise ArtifactError(f"{path} is missing: the store takes no live events; run `export` again") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{path} is damaged ({error!r}); run `export` again") from error

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n")
