"""The request path in process: the exported ensemble, asked with a Request. Triton's model runs this very class."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cloudpickle
import numpy as np
from merlin.systems.dag import Ensemble

from ensemble.chain_executor import ChainRun
from ensemble.config import ServingConfig
from ensemble.deadline import DeadlineConfig
from ensemble.graph import operators_of
from ensemble.last_resort import LastResort
from ensemble.operators.fetch_user_features import COLD, FetchUserFeatures
from ensemble.operators.operator import Columns, RequestOperator
from ensemble.operators.recall_slates import RecallSlates
from ensemble.operators.retrieve_candidates import RetrieveCandidates
from ensemble.request import FEATURE_TIME, Reply, Request, padded
from ensemble.trace import Trace
from ensemble.user_threads import search_on_one_thread
from ensemble.watch import Watcher
from features.artifact import ArtifactError, file_sha256

HASHES, ENSEMBLE = "sha256.json", "ensemble.pkl"


class Pipeline:
    """Load it with `Pipeline.load`.

    Args:
        ensemble: the opened request graph.
        as_of: Unix seconds; the moment up to which the features know the users.
        deadlines: of the parts.
    """

    def __init__(self, ensemble: Ensemble, as_of: int, deadlines: DeadlineConfig) -> None:
        self.operators: list[RequestOperator] = operators_of(ensemble)
        """The operators of the request path, first to last."""
        recalling = next(one for one in self.operators if isinstance(one, RecallSlates))
        self._remember = recalling.remember
        self.last_resort = LastResort(recalling.opened_items, recalling.opened_filters, recalling.opened_slates)
        """Answers a request whose run failed."""
        self.as_of = as_of
        self._watcher = Watcher(deadlines.least_seconds, search_on_one_thread)

    @classmethod
    def load(cls, version_folder: Path, config: ServingConfig | None = None) -> Pipeline:
        """Open the ensemble in `<repository>/cascade/<version>`, whose hashes are checked first: it holds a pickle.

        Args:
            config: what the operators are told when they open; the defaults if None.
        Raises: ArtifactError naming the file that is missing or damaged.
        """
        folder = version_folder / "ensemble"
        if not (version_folder / HASHES).is_file():
            raise ArtifactError(
                f"{version_folder / HASHES} is missing: {version_folder} is no exported model; run `export`"
            )
        try:
            document = json.loads((version_folder / HASHES).read_text())
            hashes, as_of = {ENSEMBLE: document["sha256"][ENSEMBLE]} | document["sha256"], int(document["as_of"])
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{version_folder / HASHES} is damaged ({error!r}); run `export` again") from error
        for name, expected in hashes.items():
            if not (folder / name).is_file() or file_sha256(folder / name) != expected:
                raise ArtifactError(f"{folder / name} is missing or damaged; run `export` again")
        ensemble = cloudpickle.loads((folder / ENSEMBLE).read_bytes())
        config = config or ServingConfig()
        for operator in operators_of(ensemble):
            operator.opened_config = config
            operator.load_artifacts(str(folder))
        pipeline = cls(ensemble, as_of, config.deadlines)
        pipeline.warm_up()
        return pipeline

    def warm_up(self) -> None:
        """Run every part once: the first run of a kernel compiles it, which takes longer than any caller waits.

        Nobody is known under the name, so the user is taken for a known one: else no source and no ranker would run.
        """
        for chance in (None, 0.5):
            request = Request.of(["warm up"], exclude=[["warm up"]], seed=0, temperature=chance, diversity=chance)
            columns = columns_of(request, self.as_of)
            for operator in self.operators:
                columns = columns | operator.run(columns)
                if isinstance(operator, FetchUserFeatures):
                    columns["source"] = np.full(len(request), COLD)
        self.recommend(request)

    def recommend(self, request: Request, trace: Trace | None = None) -> Reply:
        """Answer a checked request; every user's answer is the same whoever else is in it.

        Args:
            trace: gets the seconds of each operator and the columns they made.
        """
        done = self.columns(request, trace)
        return Reply(
            item_ids=done["item_ids"],
            scores=done["scores"],
            propensities=done["propensities"],
            source=done["source_name"],
            candidate_ids=_filled(done["candidate_ids"]),
            ranked_ids=_filled(done["ranked_ids"]),
        )

    @property
    def source_names(self) -> list[str]:
        """The candidate sources, in the order of the column `proposed_row`."""
        return next(one.opened_stage.names for one in self.operators if isinstance(one, RetrieveCandidates))

    @property
    def feature_names(self) -> list[str]:
        """Columns with what the store says of a user."""
        fetch = next(one for one in self.operators if isinstance(one, FetchUserFeatures))
        return [name for name in fetch.outputs if name not in ("seen_row", "source")]

    def columns(self, request: Request, trace: Trace | None = None) -> Columns:
        """Every column that the operators made on the way to the reply, [B, ...]; `trace` gets them too."""
        trace = trace or Trace()
        run = ChainRun(self.operators, columns_of(request, self.as_of), trace)
        deadline = float(request.deadline.min(initial=math.inf))
        trace.columns = run.finish() if deadline == math.inf else self._watcher.run(run.finish, deadline)
        self._remember(trace.columns)
        return trace.columns


def columns_of(request: Request, as_of: int) -> Columns:
    """What the first operator gets: a request as columns.

    Args:
        as_of: Unix seconds, the moment that stands for FEATURE_TIME.
    """
    return {
        "user": request.user_id,
        "k": request.k,
        "exclude": padded(request.exclude),
        "allow": padded(request.allow),
        "timestamp": np.where(request.timestamp == FEATURE_TIME, as_of, request.timestamp),
        "seed": request.seed,
        "temperature": request.temperature,
        "diversity": request.diversity,
        "deadline": request.deadline,
        "with_candidates": np.full(len(request), request.with_candidates),
    }


def _filled(ids_BK: np.ndarray) -> np.ndarray:
    """Without the columns that are empty for everybody."""
    used = np.flatnonzero((ids_BK != "").any(0))
    return ids_BK[:, : used[-1] + 1 if len(used) else 0]
