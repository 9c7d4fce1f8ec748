"""DCN-v2's crosses against the paper's equations, element by element."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ranking.config import DcnV2Config, NetworkConfig
from ranking.networks.dcn_v2 import DcnV2, LowRankCross

NUM_NUMBERS, NUM_VECTORS, DIM = 2, 3, 4
NUM_INPUTS = NUM_NUMBERS + NUM_VECTORS * DIM
CONFIG = NetworkConfig(model="dcn_v2", embedding_dim=DIM, dropout=0)


def made(structure, rank: int) -> tuple[DcnV2, np.ndarray, torch.Tensor]:
    """The network, its input x_0 and its output for 5 rows."""
    torch.manual_seed(0)
    crosses = DcnV2Config(structure=structure, rank=rank, num_layers=3, num_experts=3, deep_units=(7, 6))
    network = DcnV2(replace(CONFIG, dcn_v2=crosses), NUM_NUMBERS, NUM_VECTORS).eval()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    number_NF, vector_NCD = torch.randn(5, NUM_NUMBERS), torch.randn(5, NUM_VECTORS, DIM)
    with torch.no_grad():
        output = network(number_NF, vector_NCD)
    return network, torch.cat([number_NF, vector_NCD.flatten(1)], dim=1).numpy().astype(np.float64), output


def weights(module: torch.nn.Module, kind: str) -> list[np.ndarray]:
    return [weight.detach().numpy() for name, weight in module.named_parameters() if name.endswith(kind)]


def full_rank(network: DcnV2, x_0: np.ndarray) -> np.ndarray:
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l (equation 1)."""
    x = x_0
    for matrix, bias in zip(weights(network.cross, "weight"), weights(network.cross, "bias"), strict=True):
        x = np.stack([x_0[n] * (matrix @ x[n] + bias) + x[n] for n in range(len(x))])
    return x


def low_rank(network: DcnV2, x_0: np.ndarray) -> np.ndarray:
    """x_{l+1} = sum_e G_e(x_l) E_e(x_l) + x_l, with E_e(x) = x_0 * (U_e tanh(C_e tanh(V_e^T x)) + b) (equation 4)."""
    assert isinstance(network.cross, LowRankCross)
    x = x_0
    for layer in network.cross.layers:
        state = {name: value.detach().numpy().astype(np.float64) for name, value in layer.named_parameters()}
        v_e, inner_e, up_e = state["down.weight"].reshape(3, 2, NUM_INPUTS), state["inner_ERR"], state["up_ERX"]
        following = np.empty_like(x)
        for n, row in enumerate(x):
            gate = np.exp(state["gate.weight"] @ row + state["gate.bias"])
            gate /= gate.sum()
            experts = [
                x_0[n] * (up_e[e].T @ np.tanh(inner_e[e].T @ np.tanh(v_e[e] @ row)) + state["bias_X"]) for e in range(3)
            ]
            following[n] = sum(gate[e] * experts[e] for e in range(3)) + row
        x = following
    return x


def deep(network: DcnV2, x: np.ndarray) -> np.ndarray:
    for matrix, bias in zip(weights(network.deep, "weight"), weights(network.deep, "bias"), strict=True):
        x = np.maximum(x @ matrix.T + bias, 0)
    return x


@pytest.mark.parametrize("rank", [0, 2])
def test_stacked_the_deep_network_reads_the_crosses(rank: int):
    network, x_0, output = made("stacked", rank)
    crossed = low_rank(network, x_0) if rank else full_rank(network, x_0)
    np.testing.assert_allclose(output.numpy(), deep(network, crossed), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [0, 2])
def test_parallel_the_deep_network_reads_the_inputs_and_stands_beside_the_crosses(rank: int):
    network, x_0, output = made("parallel", rank)
    crossed = low_rank(network, x_0) if rank else full_rank(network, x_0)
    expected = np.concatenate([crossed, deep(network, x_0)], axis=1)
    np.testing.assert_allclose(output.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_a_low_rank_has_fewer_weights_than_a_full_one():
    def num_weights(rank: int) -> int:
        network = made("stacked", rank)[0]
        return sum(weight.numel() for weight in network.cross.parameters())

    full = 3 * (NUM_INPUTS**2 + NUM_INPUTS)
    low = 3 * (3 * (2 * 2 * NUM_INPUTS + 2 * 2) + NUM_INPUTS + 3 * NUM_INPUTS + 3)
    assert num_weights(0) == full and num_weights(2) == low
