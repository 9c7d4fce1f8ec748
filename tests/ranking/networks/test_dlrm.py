"""DLRM: the published geometry, and the products against their definition."""

from pathlib import Path

import numpy as np
import pytest
import torch
from merlin.models.torch.blocks.dlrm import DLRMInteraction
from merlin.schema import ColumnSchema, Schema, Tags

from pipelines.config import load_config
from ranking.clicks.checks import PartStatistics
from ranking.clicks.ranker import ClickRanker
from ranking.config import NetworkConfig
from ranking.networks.dlrm import DlrmNetwork
from ranking.networks.pair_products import PairProducts

CONFIGS = Path(__file__).parents[3] / "pipelines" / "configs"


def published(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> NetworkConfig:
    monkeypatch.setenv("CASCADE_DATA", "data")
    return load_config(CONFIGS / "criteo-published.toml", overrides).ranking.network


def widths(network: torch.nn.Module) -> list[tuple[int, int]]:
    return [
        (layer.in_features, layer.out_features) for layer in network.modules() if isinstance(layer, torch.nn.Linear)
    ]


@pytest.mark.parametrize(("pooled_scalars", "num_inputs"), [(False, 128 + 351), (True, 128 + 351 + 27)])
def test_the_published_network_has_the_published_layers(
    monkeypatch: pytest.MonkeyPatch, pooled_scalars: bool, num_inputs: int
):
    chosen = ["--ranking.network.dlrm.pooled-scalars", str(pooled_scalars).lower()]
    config = published(monkeypatch, *chosen)
    categories = [
        ColumnSchema(f"C{i}", dtype="int32", tags=[Tags.CATEGORICAL], properties={"domain": {"min": 0, "max": 9}})
        for i in range(1, 27)
    ]
    numbers = [ColumnSchema(f"I{i}", dtype="float32", tags=[Tags.CONTINUOUS]) for i in range(1, 14)]
    model = ClickRanker(Schema(numbers + categories), config, PartStatistics(10, 5, np.ones(260)), l2=0)
    assert widths(model) == [(13, 512), (512, 256), (256, 128), (num_inputs, 512), (512, 256), (256, 1)]
    assert [tuple(weight.shape) for weight in model.tables.weights().values()] == [(10, 128)] * 26
    network = model.network
    assert isinstance(network, DlrmNetwork) and len(network.products.place_P) == 27 * 26 / 2 == 351


def test_the_products_are_those_of_all_pairs_in_the_papers_order():
    generator = torch.Generator().manual_seed(0)
    first_ND, vector_NCD = torch.randn(5, 8, generator=generator), torch.randn(5, 3, 8, generator=generator)
    stacked = torch.cat([first_ND.unsqueeze(1), vector_NCD], dim=1)
    expected = [[float(row[i] @ row[j]) for i in range(4) for j in range(i + 1, 4)] for row in stacked]
    found = PairProducts(4)(first_ND, vector_NCD)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert torch.allclose(found, DLRMInteraction()(stacked))


def test_the_gradient_of_the_products_is_the_one_that_autograd_finds():
    generator = torch.Generator().manual_seed(0)
    first_ND, vector_NCD = (torch.randn(shape, generator=generator) for shape in ([33, 16], [33, 5, 16]))
    upstream = torch.randn(33, 15, generator=generator)
    mine, reference = [[t.clone().requires_grad_() for t in (first_ND, vector_NCD)] for _ in range(2)]
    PairProducts(6)(*mine).backward(upstream)
    DLRMInteraction()(torch.cat([reference[0].unsqueeze(1), reference[1]], dim=1)).backward(upstream)
    for one, other in zip(mine, reference, strict=True):
        assert one.grad is not None and other.grad is not None
        torch.testing.assert_close(one.grad, other.grad)
        assert one.grad.is_contiguous()


def test_the_pooled_scalars_are_the_means_of_the_vectors_and_come_last(monkeypatch: pytest.MonkeyPatch):
    network = DlrmNetwork(published(monkeypatch, "--ranking.network.dlrm.pooled-scalars", "true"), 2, 3).eval()
    read = []
    network.top.register_forward_pre_hook(lambda module, arguments: read.append(arguments[0]))
    number_NF, vector_NCD = torch.randn(4, 2), torch.randn(4, 3, 128)
    network(number_NF, vector_NCD)
    bottom_ND = network.bottom(number_NF)
    expected = torch.cat([bottom_ND.unsqueeze(1), vector_NCD], dim=1).mean(2)
    assert torch.equal(read[0][:, :128], bottom_ND)
    torch.testing.assert_close(read[0][:, -4:], expected)
