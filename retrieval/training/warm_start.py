"""The start of a two-tower training from the run's earlier model, after an append.

A training is judged by what came after its moment, and so is what follows from it: when to stop, how the sources are
merged, what the ranker learns from. So it begins with the newest kept model that has seen nothing from that moment on.
Besides the weights, row-wise Adagrad's sums are taken over: a row that was trained for long goes on in small steps.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from features import vocabulary
from features.artifact import MANIFEST, Artifact, ArtifactError, ArtifactWriter, open_artifact
from features.earlier_inputs import SCHEMA, why_other_inputs
from features.grown_weights import WarmStartError, grown
from retrieval.config import RetrievalConfig
from retrieval.training.trained_weights import TrainedWeights
from retrieval.two_tower import TwoTower

MODEL, SUMS = "model.safetensors", "accumulators.safetensors"
"""Parts of the retrieval artifact: the served model, and what its tables' optimizer gathered."""
EARLIER = "trained_before"
"""Folder of the models of earlier moments: weights and sums, each named for its moment in Unix seconds."""
TRAINED_BEFORE, COLD_EPOCHS = "trained_before", "cold_epochs"
"""Metrics: the moment of the served model; the passes of the last training that began anew and was validated."""
_KEY = "retrieval.warm_start"
_FREE = ("dropout",)
"""Keys of the encoder that leave its weights as they are."""


@dataclass(frozen=True)
class Start:
    """Weights and sums that a training begins with."""

    content_hash: str
    """Of the artifact that they are from."""
    moment: int
    """Unix seconds; they have seen nothing from then on."""
    weights: Mapping[str, torch.Tensor]
    sums: Mapping[str, torch.Tensor]

    @property
    def key(self) -> list[Any]:
        """What the result depends on."""
        return [self.content_hash, self.moment]

    def put_into(self, model: TwoTower) -> None:
        """Raises: WarmStartError; the model is as it was then.

        What reads vectors of texts begins anew: their directions were found anew in the new log's texts.
        """
        fresh = {name: value.detach().clone() for name, value in model.state_dict().items()}
        state = grown(self.weights, fresh, _KEY)
        for name, width in _text_widths(model).items():
            state[name] = torch.cat([state[name][:, :-width], fresh[name][:, -width:]], dim=1)
        model.load_state_dict(state)

    def take_sums(self, weights: TrainedWeights) -> None:
        """Go on with the tables' optimizer. Raises: WarmStartError."""
        sums = weights.row_sums
        for name, sum_R in grown(self.sums, sums, _KEY).items():
            sums[name].copy_(sum_R)


@dataclass(frozen=True)
class EarlierModels:
    """The models of the run's earlier retrieval artifact."""

    artifact: Artifact

    @classmethod
    def of(
        cls, path: Path, etl: Artifact, config: RetrievalConfig, model: TwoTower, say: Callable[[str], None]
    ) -> EarlierModels | None:
        """Those that a training on these features can begin with.

        Args:
            path: where the earlier retrieval artifact stands, if there is one.
            model: a new one, which they must fit.
            say: gets a line that says why there are none.
        """
        if not (path / MANIFEST).is_file():
            say(f"{path}: there is no earlier model to start from; training begins anew")
            return None
        try:
            earlier = open_artifact(path, "retrieval")
            reason = _why_not(earlier, etl, config)
            if reason is None:
                grown(load_file(earlier.file(MODEL)), model.state_dict(), _KEY)
                return cls(earlier)
        except (ArtifactError, WarmStartError) as error:
            reason = str(error)
        say(f"{path}: the earlier model cannot be started from ({reason}); training begins anew")
        return None

    @property
    def moments(self) -> dict[int, tuple[str, str]]:
        """Moment -> parts with weights and sums."""
        parts = self.artifact.manifest["parts"]
        kept = sorted(name for name in parts if name.startswith(f"{EARLIER}/") and name.endswith(SUMS))
        found = {int(name.split("/")[1]): (f"{EARLIER}/{name.split('/')[1]}/{MODEL}", name) for name in kept}
        return found | {self.artifact.metrics[TRAINED_BEFORE]: (MODEL, SUMS)}

    def start(self, moment: int) -> Start | None:
        """The newest that has seen nothing from the moment on."""
        fit = [one for one in self.moments if one <= moment]
        if not fit:
            return None
        names = self.moments[max(fit)]
        weights, sums = (load_file(self.artifact.file(name)) for name in names)
        return Start(self.artifact.content_hash, max(fit), weights, sums)


class Starts:
    """What each training of a run begins with, and how many passes it makes.

    Those from fresh weights make as many as the one that was validated; where that began with earlier weights, as many
    as the last one that did not.
    """

    def __init__(self, config: RetrievalConfig, earlier: EarlierModels | None, say: Callable[[str], None]) -> None:
        self._config, self._earlier, self._say = config, earlier, say
        self._starts: dict[int, Start | None] = {}
        self._warm_epochs = config.warm_start_epochs
        self.cold_epochs = int(earlier.artifact.metrics[COLD_EPOCHS]) if earlier else config.max_epochs
        """Passes of trainings that begin anew."""

    @classmethod
    def of(
        cls,
        config: RetrievalConfig,
        finished: Path | None,
        etl: Artifact,
        model: Callable[[], TwoTower],
        say: Callable[[str], None],
    ) -> Starts:
        """Args:
        finished: where the run's earlier artifact stands.
        model: makes a new one, which the earlier weights must fit.
        """
        if not config.warm_start or not finished:
            return cls(config, None, say)
        return cls(config, EarlierModels.of(finished, etl, config, model(), say), say)

    def at(self, moment: int) -> Start | None:
        """For a training that is judged by what came from the moment on; None for fresh weights."""
        if self._earlier is None:
            return None
        if moment not in self._starts:
            start = self._starts[moment] = self._earlier.start(moment)
            if start:
                self._say(f"retrieval  the training before {moment} starts from the weights before {start.moment}")
            else:
                self._say(f"retrieval  the training before {moment} begins anew: no kept model has seen as little")
        return self._starts[moment]

    def most_epochs(self, moment: int) -> int:
        """Of the training that is validated."""
        return self._config.warm_start_epochs if self.at(moment) else self._config.max_epochs

    def choose(self, best_epoch: int, moment: int) -> None:
        """Note how many passes were best in the training that was validated."""
        if self.at(moment):
            self._warm_epochs = best_epoch
        else:
            self.cold_epochs = best_epoch
            self._warm_epochs = min(self._warm_epochs, best_epoch)

    def epochs(self, moment: int) -> int:
        """Of a training that is not validated."""
        return self._warm_epochs if self.at(moment) else self.cold_epochs

    @property
    def used(self) -> dict[str, int | None]:
        """Moment of each training -> that of the weights it began with; empty if nothing was asked for."""
        return {str(moment): start and start.moment for moment, start in self._starts.items()}


def write_origin(etl: Artifact, writer: ArtifactWriter) -> None:
    """Write what a later model needs besides weights to start from one of these."""
    for name in (SCHEMA, vocabulary.FILE):
        shutil.copyfile(etl.file(name), writer.path / name)


def save_model(folder: Path, model: TwoTower, sums: Mapping[str, torch.Tensor]) -> None:
    """Write weights and sums."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / MODEL)
    save_file({name: sum_R.contiguous() for name, sum_R in sums.items()}, folder / SUMS)


def _why_not(earlier: Artifact, etl: Artifact, config: RetrievalConfig) -> str | None:
    """Why ids or inputs of the earlier model do not mean what they mean now; None if they do."""
    if any(name not in earlier.manifest["parts"] for name in (SUMS, SCHEMA, vocabulary.FILE)):
        return "it was made by an earlier Cascade"
    return why_other_inputs(earlier, etl, config.two_tower, "retrieval.two_tower", _FREE)


def _text_widths(model: TwoTower) -> dict[str, int]:
    """First layer of each tower that reads texts -> its last columns, which read their vectors."""
    found = {}
    for name in ("query_tower", "item_tower"):
        if width := getattr(model, name).vector_width:
            prefix = f"{name}.mlp."
            first = next(key for key in model.state_dict() if key.startswith(prefix) and key.endswith("weight"))
            found[first] = width
    return found
