"""An ItemIndex as a folder, written under a temporary name and renamed; read memory-mapped.

`index.faiss` the searchable base; `index.json` what it is and whose; `item_ids.arrow` the raw ids by row (where items
have any); `changes.npz` what was put and deleted since the base was built (only if there is something).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import faiss
import numpy as np
import pyarrow as pa

from retrieval.index.identity import DamagedIndexError, IndexIdentity, OtherDimensionError
from retrieval.index.item_index import ItemIndex, State, check_unique
from retrieval.index.kinds import Flat, Hnsw, IvfPq, Kind
from retrieval.index.part import Part
from retrieval.index.space import SphereSpace

INDEX, DESCRIPTION, IDS, CHANGES = "index.faiss", "index.json", "item_ids.arrow", "changes.npz"
FILES = (INDEX, DESCRIPTION, IDS, CHANGES)
"""All that serving may need; the last two need not be there."""
_FORMAT = 1


def save(index: ItemIndex, folder: Path) -> None:
    """Write the folder, replacing an older one; nothing is left there half-written."""
    building, replaced = (folder.parent / f".{folder.name}.{state}" for state in ("building", "replaced"))
    for stale in (building, replaced):
        shutil.rmtree(stale, ignore_errors=True)
    building.mkdir(parents=True)
    write_files(index, building)
    if folder.exists():
        os.replace(folder, replaced)
    os.replace(building, folder)
    shutil.rmtree(replaced, ignore_errors=True)


def write_files(index: ItemIndex, folder: Path) -> None:
    """Write the files into an empty folder that is there."""
    state, raw_ids = index.snapshot()
    faiss.write_index(state.base.kind.index, str(folder / INDEX))
    if raw_ids is not None:
        table = pa.table({"raw_id": raw_ids})
        with pa.OSFile(str(folder / IDS), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    changes = _changes(state)
    if changes:
        np.savez(folder / CHANGES, **changes)
    space = getattr(state.base.kind, "space", None)
    description = {
        "format_version": _FORMAT,
        "kind": state.base.kind.name,
        "parameters": state.base.kind.parameters,
        "exponent": None if space is None else space.exponent,
        "dim": index.dim,
        "num_rows": state.num_rows,
        "num_vectors": len(state.base),
        "has_ids": raw_ids is not None,
        "has_changes": bool(changes),
        "model": index.identity.model,
        "vocabulary": index.identity.vocabulary,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def load(
    path: Path,
    *,
    expected_model: str | None = None,
    expected_vocabulary: Mapping[str, Any] | None = None,
    expected_dim: int | None = None,
    mapped: bool = True,
) -> ItemIndex:
    """Open a folder, or the folder around an `index.faiss`.

    Args:
        expected_model: SHA-256 of the query encoder that serves; None is not checked, nor are the next two.
        expected_vocabulary: number and sha256 of the model's vocabulary.
        expected_dim: width of the queries.
        mapped: share the file's pages instead of reading them; the file must be replaced then, never overwritten.
    Raises: ForeignModelError, OtherVocabularyError, OtherDimensionError, DuplicateItemsError, DamagedIndexError.
    """
    folder = path.parent if path.name == INDEX else path
    try:
        description = json.loads((folder / DESCRIPTION).read_text()) if (folder / DESCRIPTION).exists() else None
        index = faiss.read_index(str(folder / INDEX), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
    except (ValueError, RuntimeError) as error:
        raise _damaged(folder, f"unreadable: {error}") from error
    if description is None:
        description = _undescribed(folder, index)
    if description["format_version"] != _FORMAT:
        raise _damaged(folder, f"format version {description['format_version']}, this Cascade reads {_FORMAT}")
    identity = IndexIdentity(description["model"], description["vocabulary"])
    identity.check(expected_model, expected_vocabulary, folder / DESCRIPTION)
    if expected_dim is not None and expected_dim != description["dim"]:
        raise OtherDimensionError(
            f"{folder}: the index has dimension {description['dim']}, the queries have {expected_dim}; "
            "build the index from the retrieval artifact that serves the queries"
        )
    kind = _kind(folder, index, description)
    state = _state(folder, kind, description)
    return ItemIndex(state, _raw_ids(folder, description), identity)


def _kind(folder: Path, index: Any, description: Mapping[str, Any]) -> Kind:
    kinds = {"flat": (Flat, faiss.IndexFlat), "hnsw": (Hnsw, faiss.IndexHNSW), "ivf_pq": (IvfPq, faiss.IndexRefine)}
    kind, faiss_class = kinds.get(description["kind"], (None, ()))
    if kind is None or not isinstance(index, faiss_class):
        raise _damaged(folder, f"{INDEX} is a {type(index).__name__}, {DESCRIPTION} says {description['kind']!r}")
    opened = kind(index) if kind is Flat else kind(index, SphereSpace(tuple(description["exponent"])))
    if (opened.dim, index.ntotal) != (description["dim"], description["num_vectors"]):
        raise _damaged(
            folder,
            f"{INDEX} holds {index.ntotal} vectors of {opened.dim}, {DESCRIPTION} says {description['num_vectors']} "
            f"of {description['dim']}",
        )
    return opened


def _undescribed(folder: Path, index: Any) -> dict[str, Any]:
    """An exact index says all there is to know itself, but for whose it is."""
    if not isinstance(index, faiss.IndexFlat):
        raise _damaged(folder, f"{DESCRIPTION} is missing")
    empty = dict.fromkeys(("model", "vocabulary", "exponent"))
    empty |= {"format_version": _FORMAT, "kind": "flat", "dim": index.d, "has_ids": False, "has_changes": False}
    return empty | {"num_rows": index.ntotal, "num_vectors": index.ntotal}


def _changes(state: State) -> dict[str, np.ndarray]:
    changes = {}
    if state.base.row_N is not None:
        changes["base_row"] = state.base.row_N
    if state.base.alive_N is not None:
        changes["base_alive"] = np.packbits(state.base.alive_N)
    if state.changed is not None:
        changes |= {"changed_row": state.changed.alive_rows(), "changed_vector": state.changed.kind.vectors()}
    return changes


def _state(folder: Path, kind: Kind, description: Mapping[str, Any]) -> State:
    num_rows = description["num_rows"]
    if not description["has_changes"]:
        return State(Part(kind, None), None, num_rows)
    try:
        with (folder / CHANGES).open("rb") as stream, np.load(stream) as changes:
            row_N = changes.get("base_row")
            alive_N = None
            if "base_alive" in changes:
                alive_N = np.unpackbits(changes["base_alive"], count=kind.raw.ntotal).astype(bool)
            changed = None
            if "changed_row" in changes:
                changed = Part(Flat.of(changes["changed_vector"]), changes["changed_row"])
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise _damaged(folder, f"{CHANGES}: {error}") from error
    return State(Part(kind, row_N, alive_N), changed, num_rows)


def _raw_ids(folder: Path, description: Mapping[str, Any]) -> pa.ChunkedArray | None:
    if not description["has_ids"]:
        return None
    try:
        raw_ids = pa.ipc.open_file(pa.memory_map(str(folder / IDS))).read_all()["raw_id"]
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise _damaged(folder, f"{IDS}: {error}") from error
    if len(raw_ids) != description["num_rows"]:
        raise _damaged(folder, f"{IDS} has {len(raw_ids)} ids, {DESCRIPTION} says {description['num_rows']} rows")
    if len(raw_ids.unique()) != len(raw_ids):
        check_unique(raw_ids.to_pylist(), folder / IDS)
    return raw_ids


def _damaged(folder: Path, what: str) -> DamagedIndexError:
    return DamagedIndexError(f"{folder}: {what}; copy all of {', '.join(FILES)} together, or rerun `index`")
