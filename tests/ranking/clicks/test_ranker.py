"""The click models: their formulas, what they start from, their gradients, their export."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from merlin.schema import ColumnSchema, Schema, Tags

from ranking.clicks.checks import PartStatistics
from ranking.clicks.logistic import ClickLogistic
from ranking.clicks.model import ClickModel
from ranking.clicks.ranker import ClickRanker
from ranking.clicks.train import export_clicks
from ranking.config import DlrmConfig, NetworkConfig

NUM_IDS = {"C1": 5, "C2": 9, "C3": 4}
SCHEMA = Schema(
    [ColumnSchema("label", dtype="int8", tags=[Tags.TARGET])]
    + [ColumnSchema(name, dtype="float32", tags=[Tags.CONTINUOUS]) for name in ("I1", "I2")]
    + [
        ColumnSchema(
            name,
            dtype="int32",
            tags=[Tags.CATEGORICAL],
            properties={"domain": {"min": 0, "max": num - 1, "name": name}},
        )
        for name, num in NUM_IDS.items()
    ]
)
COUNTS = np.arange(18)
FITTED = PartStatistics(num_rows=50, num_clicks=10, id_count_W=COUNTS)
CONFIG = NetworkConfig(embedding_dim=4, dropout=0, dlrm=DlrmConfig(bottom_units=(6,), top_units=(8, 5)))


def models(trained: bool = True) -> list[ClickModel]:
    """Both models; `trained` gives all weights random values."""
    torch.manual_seed(0)
    made = [ClickRanker(SCHEMA, CONFIG, FITTED, l2=3.0), ClickLogistic(SCHEMA, FITTED, l2=3.0)]
    for parameter in [parameter for model in made for parameter in model.parameters() if trained]:
        torch.nn.init.normal_(parameter, std=0.5)
    return [model.eval() for model in made]


def tables(dlrm: ClickModel) -> dict[str, np.ndarray]:
    weights = {name: value.numpy() for name, value in dlrm.state_dict().items() if name.startswith("tables")}
    return {name: next(weight for key, weight in weights.items() if f".{name}." in key) for name in NUM_IDS}


@torch.no_grad()
@pytest.mark.parametrize("place", [0, 1])
def test_untrained_it_says_the_click_rate(place: int):
    model = models(trained=False)[place]
    assert model.probability(model.example_batch(7)).numpy() == pytest.approx(np.full(7, 0.2))


@torch.no_grad()
def test_the_dlrm_is_the_papers_formula():
    model = models()[0]
    batch = model.example_batch(6)
    state = {name: value.numpy() for name, value in model.state_dict().items()}

    def mlp(inputs: np.ndarray, block: str) -> np.ndarray:
        layers = sorted({name.rsplit(".", 1)[0] for name in state if name.startswith(block)})
        for layer in layers:
            inputs = np.maximum(inputs @ state[f"{layer}.weight"].T + state[f"{layer}.bias"], 0)
        return inputs

    bottom = mlp(np.stack([batch["I1"], batch["I2"]], axis=1), "network.bottom")
    vectors = [bottom, *(table[batch[name].numpy()] for name, table in tables(model).items())]
    crossed = [(vectors[i] * vectors[j]).sum(1) for i in range(4) for j in range(i + 1, 4)]
    top = mlp(np.concatenate([bottom, np.stack(crossed, axis=1)], axis=1), "network.top")
    expected = (top @ state["output.weight"].T + state["output.bias"])[:, 0]
    np.testing.assert_allclose(model(batch).numpy(), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_logistic_regression_is_one_weight_per_id_and_number():
    model = models()[1]
    batch = {name: values.numpy() for name, values in model.example_batch(6).items()}
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    ids = state["id_weights.weight"][:, 0]
    expected = ids[batch["C1"]] + ids[5 + batch["C2"]] + ids[14 + batch["C3"]]
    weights = state["number_weights.weight"][0]
    expected = expected + weights[0] * batch["I1"] + weights[1] * batch["I2"] + state["number_weights.bias"]
    np.testing.assert_allclose(model(model.example_batch(6)).numpy(), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_an_epoch_charges_each_id_of_the_train_part_once():
    """50 rows that have each id as often as counted; the ids' squares, and the numbers' for the logistic regression."""
    counts = {"C1": [0, 10, 0, 15, 25], "C2": [0, 0, 0, 30, 4, 0, 1, 15, 0], "C3": [0, 50, 0, 0]}
    fitted = PartStatistics(50, 10, np.concatenate(list(counts.values())))
    rows = {name: torch.tensor(np.repeat(np.arange(len(count)), count)) for name, count in counts.items()}
    rows |= {name: torch.zeros(50) for name in ("I1", "I2")}
    batches = [{name: values[begin : begin + 10] for name, values in rows.items()} for begin in range(0, 50, 10)]
    present = np.concatenate(list(counts.values())) > 0
    torch.manual_seed(0)
    dlrm, logistic = ClickRanker(SCHEMA, CONFIG, fitted, l2=3.0), ClickLogistic(SCHEMA, fitted, l2=3.0)
    torch.nn.init.normal_(logistic.id_weights.weight)
    torch.nn.init.normal_(logistic.number_weights.weight)
    squares = np.concatenate([np.square(table).sum(1) for table in tables(dlrm).values()])
    charged = sum(float(dlrm.scored(batch)[1]) * 10 for batch in batches)
    assert charged == pytest.approx(3 / 2 * squares[present].sum(), rel=1e-5)
    squares = logistic.id_weights.weight.square().sum(1).numpy()
    numbers = float(logistic.number_weights.weight.square().sum())
    charged = sum(float(logistic.scored(batch)[1]) * 10 for batch in batches)
    assert charged == pytest.approx(3 / 2 * (squares[present].sum() + numbers), rel=1e-5)


@pytest.mark.parametrize("place", [0, 1])
def test_a_step_touches_the_rows_of_its_batch_only(place: int):
    model = models()[place]
    sparse = model.sparse_parameters()
    batch = {name: values[:1] for name, values in model.example_batch().items()}
    logit, penalty = model.scored(batch)
    (logit.sum() + penalty).backward()
    assert all(parameter.grad is not None and parameter.grad.is_sparse for parameter in sparse)
    assert sum(parameter.grad.coalesce().indices().shape[1] for parameter in sparse if parameter.grad is not None) == 3
    assert {id(one) for one in [*sparse, *model.dense_parameters()]} == {id(one) for one in model.parameters()}


@torch.no_grad()
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("num_rows", [1, 2, 100])
def test_onnx_says_what_torch_says(tmp_path: Path, place: int, num_rows: int):
    model = models()[place]
    export_clicks(model, tmp_path / "ranker.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "ranker.onnx"))
    batch = model.example_batch(num_rows)
    (found,) = session.run(["probability"], {name: values.numpy() for name, values in batch.items()})
    assert found.shape == (num_rows,)
    np.testing.assert_allclose(found, model.probability(batch).numpy(), atol=1e-6)
    types = {node.name: node.type for node in session.get_inputs()}
    assert types == {name: "tensor(float)" if name[0] == "I" else "tensor(int32)" for name in batch}
