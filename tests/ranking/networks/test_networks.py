"""What every network keeps, whichever `ranking.network.model` names."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from features.onnx_export import export_onnx
from ranking.config import DcnV2Config, DlrmConfig, MlpConfig, NetworkConfig
from ranking.networks import NETWORKS, network_of
from ranking.networks.network import Network

NUM_NUMBERS, NUM_VECTORS, DIM = 3, 4, 8
SMALL = NetworkConfig(embedding_dim=DIM, dropout=0, dlrm=DlrmConfig(bottom_units=(6,), top_units=(10, 5)))
SMALL = replace(SMALL, mlp=MlpConfig(units=(10, 5)))
CROSSES = {
    f"{structure}, rank {rank}": DcnV2Config(structure=structure, rank=rank, num_experts=3, deep_units=(10, 5))
    for structure in ("stacked", "parallel")
    for rank in (0, 2)
}
CONFIGS = {model: replace(SMALL, model=model) for model in NETWORKS}
CONFIGS |= {f"dcn_v2, {name}": replace(SMALL, model="dcn_v2", dcn_v2=crosses) for name, crosses in CROSSES.items()}
CONFIGS["dlrm, pooled scalars"] = replace(SMALL, dlrm=replace(SMALL.dlrm, pooled_scalars=True))


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def network(request: pytest.FixtureRequest) -> Network:
    torch.manual_seed(0)
    return network_of(request.param, NUM_NUMBERS, NUM_VECTORS).eval()


def inputs(num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(num_rows)
    shapes = [num_rows, NUM_NUMBERS], [num_rows, NUM_VECTORS, DIM]
    return torch.randn(shapes[0], generator=generator), torch.randn(shapes[1], generator=generator)


@pytest.mark.parametrize("num_rows", [1, 2, 33])
def test_it_says_how_wide_it_is(network: Network, num_rows: int):
    assert network(*inputs(num_rows)).shape == (num_rows, network.width)


def test_a_gradient_reaches_every_weight_and_every_input(network: Network):
    number_NF, vector_NCD = (values.requires_grad_() for values in inputs(64))
    network(number_NF, vector_NCD).square().sum().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()] == []
    assert number_NF.grad is not None and number_NF.grad.any(0).all()
    assert vector_NCD.grad is not None and vector_NCD.grad.any(0).all()


def test_the_gradient_is_the_slope(network: Network):
    network = network.double()
    checked = tuple(values.double().requires_grad_() for values in inputs(2))
    assert torch.autograd.gradcheck(network, checked)


@torch.no_grad()
def test_a_row_alone_gives_what_it_gives_in_a_batch(network: Network):
    number_NF, vector_NCD = inputs(17)
    together = network(number_NF, vector_NCD)
    for row in range(17):
        alone = network(number_NF[row : row + 1], vector_NCD[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_onnx_says_what_torch_says_for_any_number_of_rows(network: Network, tmp_path: Path):
    number_NF, vector_NCD = inputs(3)
    example = {"numbers": number_NF, "vectors": vector_NCD}
    axes = {name: {0: "rows"} for name in ("numbers", "vectors", "outputs")}
    path = tmp_path / "network.onnx"
    export_onnx(network, lambda batch: network(batch["numbers"], batch["vectors"]), example, axes, "outputs", path)
    session = onnxruntime.InferenceSession(str(path))
    for num_rows in (1, 64):
        number_NF, vector_NCD = inputs(num_rows)
        (found,) = session.run(None, {"numbers": number_NF.numpy(), "vectors": vector_NCD.numpy()})
        np.testing.assert_allclose(found, network(number_NF, vector_NCD).numpy(), rtol=1e-4, atol=1e-4)


def test_in_bfloat16_it_says_nearly_the_same_and_its_gradients_stay_in_float32(network: Network):
    number_NF, vector_NCD = (values.requires_grad_() for values in inputs(64))
    exact = network(number_NF, vector_NCD)
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(number_NF, vector_NCD)
    scale = float(exact.detach().abs().max())
    assert (rough.float() - exact).abs().max() < 0.05 * scale
    rough.float().square().sum().backward()
    assert vector_NCD.grad is not None and vector_NCD.grad.dtype == torch.float32
    assert all(weight.grad is not None and weight.grad.dtype == torch.float32 for weight in network.parameters())


@pytest.mark.parametrize("model", ["dlrm", "dcn_v2", "mlp"])
def test_dropout_works_while_training_only(model):
    network = network_of(replace(CONFIGS[model], dropout=0.5), NUM_NUMBERS, NUM_VECTORS)
    rows = inputs(8)
    torch.manual_seed(0)
    assert not torch.equal(network.train()(*rows), network(*rows))
    assert torch.equal(network.eval()(*rows), network(*rows))
