"""Impressions with list features, from Parquet to a trained model; the loader against Merlin's."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from merlin.dataloader.torch import Loader
from merlin.schema import ColumnSchema, Schema, Tags

from features.list_column import list_column
from features.partitions import ParquetParts, dataset_of
from ranking.clicks.batches import ClickBatches
from ranking.clicks.checks import CategoryIdError, PartStatistics
from ranking.clicks.logistic import ClickLogistic
from ranking.clicks.ranker import ClickRanker
from ranking.clicks.train import evaluated, export_clicks, train
from ranking.config import ClickConfig, DlrmConfig, NetworkConfig

LENGTH, NUM_ROWS = 3, 1_500
LABEL = ColumnSchema("label", dtype="int8", tags=[Tags.TARGET])
NUMBER = ColumnSchema("age", dtype="float32", tags=[Tags.CONTINUOUS])


def category(name: str, num_ids: int, length: int | None = None) -> ColumnSchema:
    properties = {"domain": {"min": 0, "max": num_ids - 1, "name": name}}
    dims = None if length is None else (None, length)
    return ColumnSchema(name, dtype=np.int32, tags=[Tags.CATEGORICAL], properties=properties, dims=dims)


PLAIN = Schema([LABEL, NUMBER, category("colour", 6)])
SCHEMA = Schema([*PLAIN, category("genres", 8, LENGTH)])
NETWORK = NetworkConfig(embedding_dim=4, dropout=0, dlrm=DlrmConfig(bottom_units=(4,), top_units=(16,)))
CLICKS = ClickConfig(batch_size=50, max_epochs=8, table_learning_rate=0.1, learning_rate=0.01, l2=0.5)


def rows(num_rows: int, seed: int) -> pa.Table:
    """A click is likely where genre 3 is among the first ones; the lists end in padding."""
    random = np.random.default_rng(seed)
    genres = random.integers(3, 8, [num_rows, LENGTH], np.int32)
    genres[np.arange(LENGTH) >= random.integers(0, LENGTH + 1, num_rows)[:, None]] = 0
    label = random.random(num_rows) < np.where((genres == 3).any(1), 0.9, 0.1)
    columns = {"label": label.astype(np.int8), "age": np.arange(num_rows, dtype=np.float32)}
    columns["colour"] = random.integers(0, 6, num_rows, np.int32)
    return pa.table(columns | {"genres": list_column(genres)})


def written(folder: Path, num_rows: int = NUM_ROWS, seed: int = 0) -> list[Path]:
    folder.mkdir(parents=True)
    table, paths = rows(num_rows, seed), [folder / f"part_{number}.parquet" for number in range(2)]
    for path, piece in zip(paths, (table[: num_rows // 3], table[num_rows // 3 :]), strict=True):
        pq.write_table(piece, path, row_group_size=170)
    return paths


def test_lists_come_as_matrices_and_stay_with_their_rows(tmp_path: Path):
    paths, table = written(tmp_path / "train"), rows(NUM_ROWS, 0)
    genres = np.array(table["genres"].to_pylist())
    batches = ClickBatches(paths, SCHEMA, 64, 0)
    assert torch.cat([batch["genres"] for batch in batches.in_order()]).numpy().tolist() == genres.tolist()
    for batch in batches.epoch(0):
        assert batch["genres"].numpy().tolist() == genres[batch["age"].numpy().astype(int)].tolist()


def test_the_statistics_count_the_elements_of_lists(tmp_path: Path):
    table = rows(NUM_ROWS, 0)
    expected = [np.bincount(table["colour"].to_numpy(), minlength=6)]
    expected.append(np.bincount(np.array(table["genres"].to_pylist()).ravel(), minlength=8))
    found = ClickBatches(written(tmp_path / "train"), SCHEMA, 64, 0).statistics
    assert found.id_count_W.tolist() == np.concatenate(expected).tolist()


@pytest.mark.parametrize("wrong", [8, -1, None])
def test_an_element_that_cannot_be_used_is_named_with_its_row(tmp_path: Path, wrong: int | None):
    lists = pa.array([[3, 4, 5], [0, wrong, 0]], pa.list_(pa.int32(), LENGTH))
    table = rows(2, 0).drop_columns("genres").append_column("genres", lists)
    pq.write_table(table, tmp_path / "part.parquet")
    with pytest.raises(CategoryIdError, match=rf"'genres', row 1 .* is {wrong}, needed an id"):
        ClickBatches([tmp_path / "part.parquet"], SCHEMA, 64, 0)


def test_the_rows_are_those_that_merlins_loader_gives(tmp_path: Path):
    paths = written(tmp_path / "train")
    parts = ParquetParts.of(paths)
    names = [column.name for column in PLAIN]
    loader = Loader(dataset_of(ParquetParts(pa.schema([parts.schema.field(name) for name in names]), parts.parts)), 64)
    stock = {name: torch.cat([batch[name] for batch, _ in loader]) for name in names}
    mine = ClickBatches(paths, PLAIN, 64, 0)
    in_order, shuffled = ([*batches] for batches in (mine.in_order(), mine.epoch(0)))
    for name in names:
        assert torch.equal(torch.cat([batch[name] for batch in in_order]), stock[name])
        assert torch.cat([batch[name] for batch in shuffled]).sort()[0].equal(stock[name].sort()[0])
    assert [len(batch["label"]) for batch in shuffled] == [64] * (NUM_ROWS // 64) + [NUM_ROWS % 64]


@pytest.mark.parametrize("tables", ["plain", "fused"])
def test_it_learns_what_a_list_holds(tmp_path: Path, tables):
    torch.manual_seed(0)
    fitted = ClickBatches(written(tmp_path / "train"), SCHEMA, 50, 0)
    held_out = ClickBatches(written(tmp_path / "valid", 600, 1), SCHEMA, 200, 0)
    network = NetworkConfig(embedding_dim=4, dropout=0, dlrm=NETWORK.dlrm, tables=tables)
    for model in (ClickRanker(SCHEMA, network, fitted.statistics, 0.5), ClickLogistic(SCHEMA, fitted.statistics, 0.5)):
        train(model, fitted, held_out, CLICKS, "lists")
        assert evaluated(model, held_out)["valid_auc"] > 0.8
        export_clicks(model, tmp_path / "ranker.onnx")


@torch.no_grad()
def test_the_logistic_regression_takes_the_mean_of_a_lists_weights():
    model = ClickLogistic(SCHEMA, PartStatistics(10, 4, np.ones(14)), l2=2.0)
    model.id_weights.weight.copy_(torch.arange(14.0).unsqueeze(1) / 10)
    batch = {"age": torch.zeros(3), "colour": torch.tensor([2, 0, 5])}
    batch["genres"] = torch.tensor([[3, 5, 0], [0, 0, 0], [7, 0, 0]])
    found = model(batch) - model(batch | {"genres": torch.zeros(3, LENGTH, dtype=torch.int64)})
    np.testing.assert_allclose(found.numpy(), [(0.9 + 1.1) / 2, 0, 1.3], rtol=1e-5)
    charged = float(model.scored(batch)[1]) * 3
    assert charged == pytest.approx(2.0 / 2 * (0.2**2 + 0.0**2 + 0.5**2 + 0.9**2 + 1.1**2 + 1.3**2), rel=1e-5)


@torch.no_grad()
def test_a_list_of_equal_ids_is_penalised_as_the_id_alone():
    counts = np.arange(1, 15)
    lists = ClickRanker(SCHEMA, NETWORK, PartStatistics(10, 4, counts), l2=2.0)
    torch.nn.init.normal_(lists.tables.weights()["genres"])
    colour, age = torch.zeros(1, dtype=torch.int64), torch.zeros(1)
    empty = float(lists.scored({"age": age, "colour": colour, "genres": torch.tensor([[0, 0, 0]])})[1])
    three = float(lists.scored({"age": age, "colour": colour, "genres": torch.tensor([[5, 5, 5]])})[1])
    square = float(lists.tables.weights()["genres"][5].detach().square().sum())
    assert three - empty == pytest.approx(2.0 / 2 * 3 * square / counts[6 + 5], rel=1e-4)
