"""The factorization machine and the plain MLP against their definitions."""

import numpy as np
import torch

from ranking.config import MlpConfig, NetworkConfig
from ranking.networks.fm import FactorizationMachine
from ranking.networks.mlp import Mlp

NUM_ROWS, NUM_NUMBERS, NUM_VECTORS, DIM = 6, 2, 3, 4


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(NUM_ROWS, NUM_NUMBERS), torch.randn(NUM_ROWS, NUM_VECTORS, DIM)


@torch.no_grad()
def test_the_machine_is_the_double_sum_over_pairs():
    """sum_i w_i x_i and sum_{i<j} <v_i, v_j> x_i x_j; a category has x = 1 and its vector holds w and v."""
    network = FactorizationMachine(NetworkConfig(model="fm", embedding_dim=DIM), NUM_NUMBERS, NUM_VECTORS)
    torch.nn.init.normal_(network.number_FD)
    number_NF, vector_NCD = inputs()
    found = network(number_NF, vector_NCD).numpy()
    for n in range(NUM_ROWS):
        x = np.concatenate([number_NF[n].numpy(), np.ones(NUM_VECTORS)])
        own = np.concatenate([network.number_FD.numpy(), vector_NCD[n].numpy()])
        linear = sum(own[i, 0] * x[i] for i in range(len(x)))
        pairs = [(i, j) for i in range(len(x)) for j in range(i + 1, len(x))]
        squares = sum(own[i, 1:] @ own[j, 1:] * x[i] * x[j] for i, j in pairs)
        np.testing.assert_allclose(found[n], [linear, squares], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_mlp_reads_numbers_then_vectors():
    network = Mlp(NetworkConfig(embedding_dim=DIM, dropout=0, mlp=MlpConfig(units=(7, 5))), NUM_NUMBERS, NUM_VECTORS)
    number_NF, vector_NCD = inputs()
    x = np.concatenate([number_NF.numpy(), vector_NCD.flatten(1).numpy()], axis=1)
    state = [weight.numpy() for weight in network.parameters()]
    for matrix, bias in zip(state[::2], state[1::2], strict=True):
        x = np.maximum(x @ matrix.T + bias, 0)
    np.testing.assert_allclose(network(number_NF, vector_NCD).numpy(), x, rtol=1e-4, atol=1e-5)
