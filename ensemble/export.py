"""Stage `export`: the trained parts as one Triton model repository.

Parts: `repository/cascade/config.pbtxt` and `repository/cascade/1/`: `model.py`, `sha256.json` and `ensemble/` with the
pickled Merlin Systems ensemble, every file its operators open, and the loaded Feast store.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

import ensemble.triton_model
from ensemble.triton_config import MODEL_NAME, triton_config
from features.artifact import Artifact, ArtifactWriter, file_sha256
from features.store.config import OnlineStoreConfig

_CLOCKED = ("ensemble.pkl", "metadata.json", "store/*")
"""Files whose bytes carry clocks: the pickles' and Feast's."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ExportConfig:
    """The exported pipeline."""

    num_candidates: Annotated[int, Field(ge=1, le=10_000)] = 200
    """Candidates that the ranker scores for each user."""
    max_batch_size: Annotated[int, Field(ge=1)] = 64
    """Most users of one request, and of the requests that Triton joins into one run."""
    num_instances: Annotated[int, Field(ge=1)] = 1
    """Model processes, each with a whole pipeline in memory."""
    max_queue_delay_microseconds: Annotated[int, Field(ge=0)] = 0
    """How long in microseconds a lone request waits for others to join it."""
    online_store: OnlineStoreConfig = Field(default_factory=OnlineStoreConfig)
    """Where the users' features stand while serving."""


def run(
    config: ExportConfig, etl: Artifact, retrieval: Artifact, index: Artifact, ranking: Artifact, writer: ArtifactWriter
) -> None:
    """Write the export artifact."""
    from ensemble.graph import GraphFiles, operators_of, request_graph  # Merlin and Feast take seconds to import
    from ensemble.pipeline import HASHES
    from features.online_store import write_online_store

    version = writer.path / "repository" / MODEL_NAME / "1"
    folder = version / "ensemble"
    folder.mkdir(parents=True)
    with TemporaryDirectory(prefix="cascade-store-") as temporary:
        store = Path(temporary) / "store"
        num_users = write_online_store(store, etl, config.online_store)
        files = GraphFiles(
            store=store,
            schema=etl.file("schema.json"),
            online=etl.file("online.json"),
            items=etl.file("items.parquet"),
            attributes=etl.file("raw/items.parquet"),
            query_encoder=retrieval.file("query_encoder.onnx"),
            item_vectors=retrieval.file("item_vectors.parquet"),
            sources=retrieval.file("sources/merge.json").parent,
            index=index.path,
            ranker=ranking.file("ranker.onnx"),
        )
        graph = request_graph(files, config.num_candidates, etl.manifest["config"]["drop_seen"])
        for operator in operators_of(graph):
            operator.save_artifacts(str(folder))
        graph.save(str(folder))
    shutil.copyfile(ensemble.triton_model.__file__, version / "model.py")
    hashes = {path.relative_to(folder).as_posix(): file_sha256(path) for path in _sealed(folder)}
    seal = {"as_of": etl.metrics["as_of"], "vocabulary": retrieval.metrics.get("vocabulary"), "sha256": hashes}
    (version / HASHES).write_text(json.dumps(seal, indent=2, sort_keys=True) + "\n")
    (version.parent / "config.pbtxt").write_text(
        triton_config(config.max_batch_size, config.num_instances, config.max_queue_delay_microseconds)
    )
    inside = version.relative_to(writer.path).as_posix()
    writer.volatile += [f"{inside}/{HASHES}", *(f"{inside}/ensemble/{name}" for name in _CLOCKED)]
    writer.metrics |= {"num_users": num_users, "num_candidates": config.num_candidates}


def _sealed(folder: Path) -> list[Path]:
    """All files but the store's, which live events will change."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.parent.name != "store")
