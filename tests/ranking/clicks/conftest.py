"""A made impression log with a known answer, as the etl stage writes it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from merlin.schema import ColumnSchema, Schema, Tags

from features.artifact import Artifact, open_artifact, writing
from features.schema import FIRST_KNOWN, save_schema


@dataclass(frozen=True)
class ClickWorld:
    """A click is likely where C1 and C2 differ, and a little likelier where I1 is large."""

    num_ids: dict[str, int]
    num_rows: dict[str, int]
    vocabulary: dict[str, object]

    def rows(self, num_rows: int, random: np.random.Generator, learnable: bool = True) -> pa.Table:
        columns = {name: random.integers(FIRST_KNOWN, num, num_rows, np.int32) for name, num in self.num_ids.items()}
        numbers = {name: random.normal(size=num_rows).astype(np.float32) for name in ("I1", "I2")}
        chance = np.where(columns["C1"] != columns["C2"], 0.85, 0.1) + 0.05 * np.tanh(numbers["I1"])
        label = random.random(num_rows) < (chance if learnable else 0.4)
        return pa.table({"label": label.astype(np.int8)} | numbers | columns)

    def artifact(self, path: Path, learnable: bool = True, seed: int = 0) -> Artifact:
        random = np.random.default_rng(seed)
        domains = {name: {"min": 0, "max": num - 1, "name": name} for name, num in self.num_ids.items()}
        columns = [ColumnSchema("label", dtype="int8", tags=[Tags.TARGET])]
        columns += [ColumnSchema(name, dtype="float32", tags=[Tags.CONTINUOUS]) for name in ("I1", "I2")]
        columns += [
            ColumnSchema(name, dtype="int32", tags=[Tags.CATEGORICAL], properties={"domain": domain})
            for name, domain in domains.items()
        ]
        with writing(path, "etl", {}, 0, {}) as writer:
            for part, num_rows in self.num_rows.items():
                folder = writer.path / "examples" / part
                folder.mkdir(parents=True)
                table = self.rows(num_rows, random, learnable)
                for number in range(2):
                    half = table.slice(number * num_rows // 2, num_rows // 2)
                    pq.write_table(half, folder / f"part_{number:06d}.parquet")
            save_schema(Schema(columns), writer.path / "schema.json")
            writer.metrics |= {
                "kind": "impressions",
                "num_impressions": self.num_rows,
                "vocabulary": self.vocabulary,
            }
        return open_artifact(path, "etl")


@pytest.fixture(scope="session")
def click_world() -> ClickWorld:
    return ClickWorld(
        num_ids={"C1": 5, "C2": 5, "C3": 23},
        num_rows={"train": 2_000, "valid": 500, "test": 500},
        vocabulary={"number": 1, "sha256": "0" * 64},
    )


@pytest.fixture(scope="session")
def etl(click_world: ClickWorld, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return click_world.artifact(tmp_path_factory.mktemp("etl") / "etl")
