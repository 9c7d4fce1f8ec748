"""A release: one exported pipeline, checked as a set before anything of it is loaded.

Vectors, index, query encoder, ranker, items and vocabulary belong together: parts of two runs would answer
wrongly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble import triton_model
from ensemble.triton_config import MODEL_NAME
from features.artifact import ArtifactError, file_sha256, open_artifact

SEAL, IDENTITY, MODEL_CONFIG = "sha256.json", "identity.json", "config.pbtxt"
_SET = {
    "query_encoder": "query_encoder.onnx",
    "ranker": "ranker.onnx",
    "index": "index/index.faiss",
    "item_vectors": "item_vectors.parquet",
    "items": "items.parquet",
    "schema": "schema.json",
}


@dataclass(frozen=True)
class Release:
    """What can be deployed."""

    folder: Path
    """The exported model version: model.py, the seal and `ensemble/`."""
    code: Path
    """What Triton runs as model.py: not the export's copy, for it imports all else from here and must fit it."""
    model_config: Path
    """The config.pbtxt that was exported with it."""
    run: str
    """The run it is from."""
    identity: Mapping[str, Any]
    """What it is made of: id, run, as_of, vocabulary, num_items, sha256 of each part, and the export's hash."""

    @property
    def id(self) -> str:
        """Hash of everything sealed: two releases with the same id answer alike."""
        return self.identity["id"]


def checked_release(run: Path) -> Release:
    """The export of a run, every byte and every fit between its parts checked.

    Raises: ArtifactError naming the file that is missing, damaged, or of another run.
    """
    export = open_artifact(run / "export", "export")
    folder = export.path / "repository" / MODEL_NAME / "1"
    identity = _identity_of_set(folder) | {"run": str(run.resolve()), "export": export.content_hash}
    return Release(folder, Path(triton_model.__file__), folder.parent / MODEL_CONFIG, identity["run"], identity)


def _identity_of_set(folder: Path) -> dict[str, Any]:
    """What the parts of a version folder are, once they have been found to fit.

    Raises: ArtifactError.
    """
    try:
        seal_bytes = (folder / SEAL).read_bytes()
        seal = json.loads(seal_bytes)
        hashes: dict[str, str] = seal["sha256"]
        parts = {name: hashes[file] for name, file in _SET.items()}
        as_of = int(seal["as_of"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder / SEAL} is missing or damaged ({error!r}); run `export` again") from error
    inside = folder / "ensemble"
    for name, expected in hashes.items():
        if not (inside / name).is_file() or file_sha256(inside / name) != expected:
            raise ArtifactError(f"{inside / name} is missing or damaged; run `export` again")
    try:
        index = json.loads((inside / "index/index.json").read_text())
        vocabulary = index["vocabulary"]
        num_items = _check_fit(inside, index, parts["query_encoder"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{inside / 'index/index.json'} is damaged ({error!r}); run `index` again") from error
    if "vocabulary" in seal and seal["vocabulary"] != vocabulary:
        raise ArtifactError(
            f"{inside / 'index/index.json'}: the index has vocabulary {vocabulary}, the models have "
            f"{seal['vocabulary']}; run `index` and `export` again"
        )
    identity = {"id": hashlib.sha256(seal_bytes).hexdigest()[:16], "as_of": as_of, "vocabulary": vocabulary}
    return identity | {"num_items": num_items, "sha256": parts}


def _check_fit(inside: Path, index: Mapping[str, Any], encoder_sha256: str) -> int:
    """Hold index, item vectors, items, query encoder and schema against each other.

    Returns: number of items.
    Raises: ArtifactError naming the two files that do not fit.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def unfit(one: str, other: str, why: str) -> ArtifactError:
        return ArtifactError(
            f"{inside / one} does not fit {inside / other}: {why}; they are from different runs: run `export` again"
        )

    if index["model"] != encoder_sha256:
        raise unfit("index/index.faiss", "query_encoder.onnx", "the index was built for another query encoder")
    items = pq.read_table(inside / "items.parquet", columns=["raw_id"])["raw_id"]
    vectors = pq.read_table(inside / "item_vectors.parquet", columns=["raw_id"])["raw_id"]
    width = pq.read_schema(inside / "item_vectors.parquet").field("vector").type.list_size
    if not items.equals(vectors.cast(items.type)):
        raise unfit("item_vectors.parquet", "items.parquet", f"{len(vectors)} items and {len(items)}, or another order")
    if index["dim"] != width:
        raise unfit("index/index.faiss", "item_vectors.parquet", f"{index['dim']} and {width} numbers a vector")
    if index["num_rows"] != len(items):
        raise unfit("index/index.faiss", "items.parquet", f"{index['num_rows']} rows and {len(items)} items")
    if index["has_ids"]:
        ids = pa.ipc.open_file(pa.memory_map(str(inside / "index/item_ids.arrow"))).read_all()["raw_id"]
        if not items.equals(ids.cast(items.type)):
            raise unfit("index/item_ids.arrow", "items.parquet", "they name other items, or in another order")
    known = {feature["name"] for feature in json.loads((inside / "schema.json").read_text())["feature"]}
    if unknown := _inputs_of(inside / "query_encoder.onnx") - known:
        raise unfit(
            "query_encoder.onnx", "schema.json", f"the encoder reads {sorted(unknown)[0]!r}, which is no feature"
        )
    return len(items)


def _inputs_of(model: Path) -> set[str]:
    import onnx

    return {tensor.name for tensor in onnx.load(model, load_external_data=False).graph.input}
