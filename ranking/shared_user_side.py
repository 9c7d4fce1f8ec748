"""The ranker for serving: what depends on the user alone is computed once per user, not once per candidate.

Training computes every pair by itself, which is simple. Serving scores a user's 200 candidates at once, and of what the
networks compute for a pair much is the same for all of them: the products of the user's vectors with each other, and
the part of the first layers that reads the user's features. A layer over [user, candidate] is the sum of two,
W [u, c] = W_u u + W_c c, of which the first is computed once. The scores are those of the ranker up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from features.batches import Batch
from ranking.networks.dcn_v2 import DcnV2, LowRankCross
from ranking.networks.dlrm import DlrmNetwork
from ranking.networks.fm import FactorizationMachine
from ranking.networks.mlp import Mlp
from ranking.pair_features import RETRIEVAL_SCORE, is_per_candidate
from ranking.ranker import Ranker

# B users  U the users twice  K candidates  D embedding  H outputs  X inputs of a layer
# of the user and of the candidate: f, F numbers  c, C vectors


@dataclass(frozen=True)
class Sides:
    """Which numbers and which vectors of a network belong to the user, and which to the candidate; as their places."""

    user_numbers: list[int]
    item_numbers: list[int]
    user_vectors: list[int]
    item_vectors: list[int]

    @classmethod
    def of(cls, numbers: Sequence[str], vectors: Sequence[str]) -> Sides:
        """From the names of the features, in the order in which the network gets them."""
        places = []
        for names in (numbers, vectors):
            for of_item in (False, True):
                places.append([place for place, name in enumerate(names) if is_per_candidate(name) == of_item])
        return cls(*places)

    def columns(self, dim: int) -> tuple[list[int], list[int]]:
        """The user's and the candidate's columns of an input of all numbers and then all vectors, side by side."""
        num_numbers = len(self.user_numbers) + len(self.item_numbers)

        def of(numbers: list[int], vectors: list[int]) -> list[int]:
            return numbers + [num_numbers + vector * dim + place for vector in vectors for place in range(dim)]

        return of(self.user_numbers, self.user_vectors), of(self.item_numbers, self.item_vectors)


@dataclass(frozen=True)
class SplitInputs:
    """What a network reads, each side by itself."""

    user_number_Uf: torch.Tensor
    item_number_BKF: torch.Tensor
    user_vector_UcD: torch.Tensor
    item_vector_BKCD: torch.Tensor

    @property
    def user_UX(self) -> torch.Tensor:
        """Numbers and vectors side by side."""
        return torch.cat([self.user_number_Uf, self.user_vector_UcD.flatten(1)], dim=1)

    @property
    def item_BKX(self) -> torch.Tensor:
        return torch.cat([self.item_number_BKF, self.item_vector_BKCD.flatten(2)], dim=2)


class SharedUserSide(nn.Module):
    """A trained ranker that scores as `Ranker.score_candidates` does.

    Args:
        model: in eval mode. A network without a form of its own here reads pairs.
    """

    def __init__(self, model: Ranker) -> None:
        super().__init__()
        self.model = model
        self.vector_names = [*model.categorical, *model.projections]
        self.sides = Sides.of(model.continuous, self.vector_names)
        self.network = split(model.network, self.sides)

    def score_candidates(self, batch: Batch) -> torch.Tensor:
        """[B, K] scores: per-user features are [B] or [B, length], per-candidate ones [B, K] or [B, K, length]."""
        num_users, num_candidates = batch[RETRIEVAL_SCORE].shape
        # Sums and products of a single row take other kernels than those of several, and round differently: with every
        # user twice there are always several, and a user's scores do not depend on who else is asked for.
        flat = {
            name: batch[name].flatten(0, 1) if is_per_candidate(name) else torch.cat([batch[name], batch[name]])
            for name in self.model.inputs
        }
        vectors = self.model.embedded(flat)
        numbers = self.model.scaled(
            {name: batch[name] if is_per_candidate(name) else flat[name] for name in self.model.continuous}
        )
        sides, dim = self.sides, self.model.network.dim
        number = [numbers[name] for name in self.model.continuous]
        vector = [vectors[name] for name in self.vector_names]
        item_vector = [vector[place].reshape(num_users, num_candidates, dim) for place in sides.item_vectors]
        empty = number[0].new_empty
        inputs = SplitInputs(
            _stacked([number[place] for place in sides.user_numbers], 1, empty(2 * num_users, 0)),
            _stacked([number[place] for place in sides.item_numbers], 2, empty(num_users, num_candidates, 0)),
            _stacked([vector[place] for place in sides.user_vectors], 1, empty(2 * num_users, 0, dim)),
            _stacked(item_vector, 2, empty(num_users, num_candidates, 0, dim)),
        )
        added_BK1 = self.model.output(self.network(inputs))
        return batch[RETRIEVAL_SCORE] + added_BK1[..., 0]


class SplitLinear(nn.Module):
    """A linear layer whose inputs come in two parts, the user's [U, X] and the candidate's [B, K, X].

    Args:
        layer: reads both.
        user: columns of its weight that the user's part has, in the order of that part.
        item: those of the candidate's.
    """

    def __init__(self, layer: nn.Linear, user: Sequence[int], item: Sequence[int]) -> None:
        super().__init__()
        self.of_user = _columns_of(layer, user, with_bias=True) if user else None
        self.of_item = _columns_of(layer, item, with_bias=not user)

    def forward(self, user_UX: torch.Tensor, item_BKX: torch.Tensor) -> torch.Tensor:
        """[B, K, H]."""
        of_item_BKH = self.of_item(item_BKX)
        return of_item_BKH if self.of_user is None else of_item_BKH + once_a_user(self.of_user(user_UX), item_BKX)


def once_a_user(of_user: torch.Tensor, item_BKX: torch.Tensor) -> torch.Tensor:
    """[B, 1, any] of [U, any]: every user once, to be added to what each candidate has."""
    return of_user[: item_BKX.shape[0]].unsqueeze(1)


class SumOfLast(nn.Module):
    """[any] sums over the last dimension of [any, D], as a product of matrices, times `scale`.

    onnxruntime's own sum begins each row where its address is a multiple of a vector's length, so that the order of
    summation, and the rounding, would depend on the place of the row in its batch.
    """

    def __init__(self, dim: int, scale: float) -> None:
        super().__init__()
        self.weight_D1: torch.Tensor
        self.register_buffer("weight_D1", torch.full((dim, 1), scale))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.matmul(values, self.weight_D1)[..., 0]


class SplitMlp(nn.Module):
    """The first layer in two parts; the others read pairs."""

    def __init__(self, network: Mlp, sides: Sides) -> None:
        super().__init__()
        first, self.rest = split_layers(network.layers)
        self.first = SplitLinear(first, *sides.columns(network.dim))

    def forward(self, inputs: SplitInputs) -> torch.Tensor:
        return self.rest(self.first(inputs.user_UX, inputs.item_BKX))


class SplitDlrm(nn.Module):
    """The user's products with each other once; those with a candidate's vectors as one product of two matrices."""

    def __init__(self, network: DlrmNetwork, sides: Sides) -> None:
        super().__init__()
        first, self.bottom_rest = split_layers(network.bottom)
        self.bottom_first = SplitLinear(first, sides.user_numbers, sides.item_numbers)
        first, self.top_rest = split_layers(network.top)
        # Vectors as the interaction numbers them: the numbers' comes first.
        num_vectors = 1 + len(sides.user_vectors) + len(sides.item_vectors)
        user = [1 + place for place in sides.user_vectors]
        item = [0, *(1 + place for place in sides.item_vectors)]
        column = {pair: network.dim + place for place, pair in enumerate(_pairs(num_vectors))}
        of_user = [column[user[i], user[j]] for i, j in _pairs(len(user))]
        of_both = [column[min(one, other), max(one, other)] for one in item for other in user]
        of_item = [column[item[i], item[j]] for i, j in _pairs(len(item))]
        pooled = network.dim + len(column)
        self.has_pooled_scalars = network.has_pooled_scalars
        self.mean = SumOfLast(network.dim, 1 / network.dim)
        if self.has_pooled_scalars:
            of_user += [pooled + place for place in user]
            of_item += [pooled + place for place in item]
        self.top_first = SplitLinear(first, of_user, [*range(network.dim), *of_both, *of_item])
        self.user_places: torch.Tensor
        self.item_places: torch.Tensor
        self.register_buffer("user_places", _places(len(user)))
        self.register_buffer("item_places", _places(len(item)))

    def forward(self, inputs: SplitInputs) -> torch.Tensor:
        bottom_BKD = self.bottom_rest(self.bottom_first(inputs.user_number_Uf, inputs.item_number_BKF))
        user_UcD, item_BKCD = inputs.user_vector_UcD, torch.cat([bottom_BKD.unsqueeze(2), inputs.item_vector_BKCD], 2)
        num_users, num_candidates = item_BKCD.shape[:2]
        with_user_BKc = torch.matmul(item_BKCD.flatten(1, 2), user_UcD[:num_users].transpose(1, 2))
        item_NCD = item_BKCD.flatten(0, 1)
        of_user = [_triangle(torch.matmul(user_UcD, user_UcD.transpose(1, 2)), self.user_places)]
        of_item = [
            bottom_BKD,
            with_user_BKc.reshape(num_users, num_candidates, -1),
            _triangle(torch.matmul(item_NCD, item_NCD.transpose(1, 2)), self.item_places).reshape(
                num_users, num_candidates, -1
            ),
        ]
        if self.has_pooled_scalars:
            of_user.append(self.mean(user_UcD))
            of_item.append(self.mean(item_BKCD))
        return self.top_rest(self.top_first(torch.cat(of_user, 1), torch.cat(of_item, 2)))


class SplitDcnV2(nn.Module):
    """The first product of the crosses in two parts, and where it stands parallel the deep network's."""

    def __init__(self, network: DcnV2, sides: Sides) -> None:
        super().__init__()
        self.is_stacked = network.is_stacked
        user, item = sides.columns(network.dim)
        order = torch.tensor([*user, *item])  # x has the user's inputs first here
        first, *rest = [layer for layer in network.cross.modules() if isinstance(layer, nn.Linear)]
        self.first = SplitLinear(_columns_of(first, range(len(order)), with_bias=True, rows=order), user, item)
        self.rest = nn.ModuleList(_columns_of(layer, order, with_bias=True, rows=order) for layer in rest)
        deep, self.deep_rest = split_layers(network.deep)
        self.deep_first = _columns_of(deep, order, with_bias=True) if self.is_stacked else SplitLinear(deep, user, item)
        self.output_order: torch.Tensor
        self.register_buffer("output_order", torch.argsort(order))

    def forward(self, inputs: SplitInputs) -> torch.Tensor:
        user_UX, item_BKX = inputs.user_UX, inputs.item_BKX
        every_BKX = once_a_user(user_UX, item_BKX).expand(-1, item_BKX.shape[1], -1)
        input_BKX = torch.cat([every_BKX, item_BKX], dim=2)
        crossed_BKX = input_BKX * self.first(user_UX, item_BKX) + input_BKX
        for layer in self.rest:
            crossed_BKX = input_BKX * layer(crossed_BKX) + crossed_BKX
        if self.is_stacked:
            return self.deep_rest(self.deep_first(crossed_BKX))
        deep_BKH = self.deep_rest(self.deep_first(user_UX, item_BKX))
        return torch.cat([crossed_BKX[..., self.output_order], deep_BKH], dim=2)


class SplitFm(nn.Module):
    """The user's sums once."""

    def __init__(self, network: FactorizationMachine, sides: Sides) -> None:
        super().__init__()
        self.half_sum = SumOfLast(network.dim - 1, 0.5)
        self.user_fD = nn.Parameter(network.number_FD.detach()[sides.user_numbers].clone(), requires_grad=False)
        self.item_FD = nn.Parameter(network.number_FD.detach()[sides.item_numbers].clone(), requires_grad=False)

    def forward(self, inputs: SplitInputs) -> torch.Tensor:
        user_UvD = torch.cat([inputs.user_number_Uf.unsqueeze(-1) * self.user_fD, inputs.user_vector_UcD], dim=1)
        item_BKVD = torch.cat([inputs.item_number_BKF.unsqueeze(-1) * self.item_FD, inputs.item_vector_BKCD], dim=2)
        sum_BKD = item_BKVD.sum(2) + once_a_user(user_UvD.sum(1), item_BKVD)
        square_BKD = item_BKVD.square().sum(2) + once_a_user(user_UvD.square().sum(1), item_BKVD)
        return torch.stack([sum_BKD[..., 0], self.half_sum((sum_BKD.square() - square_BKD)[..., 1:])], dim=-1)


class Unsplit(nn.Module):
    """A network that has no form of its own here: it reads pairs."""

    def __init__(self, network: nn.Module, sides: Sides) -> None:
        super().__init__()
        self.network = network
        numbers, vectors = sides.user_numbers + sides.item_numbers, sides.user_vectors + sides.item_vectors
        self.number_order: torch.Tensor
        self.vector_order: torch.Tensor
        self.register_buffer("number_order", torch.argsort(torch.tensor(numbers)))
        self.register_buffer("vector_order", torch.argsort(torch.tensor(vectors)))

    def forward(self, inputs: SplitInputs) -> torch.Tensor:
        num_users, num_candidates = inputs.item_number_BKF.shape[:2]
        pairs = []
        for of_user, of_item, order in (
            (inputs.user_number_Uf, inputs.item_number_BKF, self.number_order),
            (inputs.user_vector_UcD, inputs.item_vector_BKCD, self.vector_order),
        ):
            every = once_a_user(of_user, of_item)
            every = every.expand(-1, num_candidates, *every.shape[2:])
            pairs.append(torch.cat([every, of_item], dim=2)[:, :, order].flatten(0, 1))
        return self.network(*pairs).reshape(num_users, num_candidates, -1)


def split(network: nn.Module, sides: Sides) -> nn.Module:
    """The network over split inputs."""
    if isinstance(network, DlrmNetwork):
        return SplitDlrm(network, sides)
    if isinstance(network, Mlp):
        return SplitMlp(network, sides)
    if isinstance(network, FactorizationMachine):
        return SplitFm(network, sides)
    if isinstance(network, DcnV2) and not isinstance(network.cross, LowRankCross):
        return SplitDcnV2(network, sides)
    return Unsplit(network, sides)


def split_layers(mlp: nn.Module) -> tuple[nn.Linear, nn.Sequential]:
    """The first linear layer of a chain, and what comes behind it."""
    leaves = [module for module in mlp.modules() if not [*module.children()]]
    first = next(place for place, leaf in enumerate(leaves) if isinstance(leaf, nn.Linear))
    return cast(nn.Linear, leaves[first]), nn.Sequential(*leaves[first + 1 :])


def _columns_of(
    layer: nn.Linear, columns: Sequence[int] | torch.Tensor, with_bias: bool, rows: torch.Tensor | None = None
) -> nn.Linear:
    """A layer that reads some of the inputs, in the order given; `rows` orders its outputs."""
    weight_HX, bias_H = layer.weight.detach(), layer.bias.detach()
    if rows is not None:
        weight_HX, bias_H = weight_HX[rows], bias_H[rows]
    part = nn.Linear(len(columns), len(weight_HX), bias=with_bias)
    part.weight.data = weight_HX[:, torch.as_tensor(columns, dtype=torch.long)].clone()
    if with_bias:
        part.bias.data = bias_H.clone()
    return part


def _pairs(num: int) -> list[tuple[int, int]]:
    return [(one, other) for one in range(num) for other in range(one + 1, num)]


def _places(num: int) -> torch.Tensor:
    """[pairs] of the pairs in a flattened matrix of all products."""
    return torch.tensor([one * num + other for one, other in _pairs(num)], dtype=torch.long)


def _triangle(product: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """[any, pairs] of products [any, V, V]."""
    return product.flatten(1)[:, place]


def _stacked(columns: list[torch.Tensor], dim: int, empty: torch.Tensor) -> torch.Tensor:
    return torch.stack(columns, dim) if columns else empty
