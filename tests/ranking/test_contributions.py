"""Contributions of features, on models whose contributions are known."""

from __future__ import annotations

import pytest
import torch
from merlin.schema import ColumnSchema, Schema, Tags

from features.batches import Batch
from ranking.config import DlrmConfig, NetworkConfig
from ranking.contributions import ContributionError, contributions
from ranking.pair_features import RETRIEVAL_SCORE, SCORES, TWO_TOWER_SCORE, is_per_candidate
from ranking.ranker import Ranker

NUM_USERS, NUM_CANDIDATES, NUM_IDS = 3, 5, 20


def schema() -> Schema:
    numbers = [RETRIEVAL_SCORE, TWO_TOWER_SCORE, "item_price", "user_age"]
    columns = [ColumnSchema(name, dtype="float32", tags=[Tags.CONTINUOUS]) for name in numbers]
    for name in ("item_kind", "user_club"):
        domain = {"min": 0, "max": NUM_IDS - 1, "name": name}
        columns.append(ColumnSchema(name, dtype="int64", tags=[Tags.CATEGORICAL], properties={"domain": domain}))
    return Schema(columns)


def made(model: str) -> Ranker:
    torch.manual_seed(0)
    config = NetworkConfig(model=model, embedding_dim=4, dlrm=DlrmConfig(bottom_units=(16,), top_units=(32, 16)))  # pyright: ignore
    ranker = Ranker(schema(), config).eval()
    for weight in ranker.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    ranker.set_score_scale({name: torch.randn(40) * 2 + 1 for name in SCORES})
    return ranker


def batch_of(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    batch = {}
    for column in schema():
        shape = (NUM_USERS, NUM_CANDIDATES) if is_per_candidate(column.name) else (NUM_USERS,)
        if column.int_domain:
            batch[column.name] = torch.randint(0, NUM_IDS, shape, generator=generator)
        else:
            batch[column.name] = torch.randn(shape, generator=generator)
    return batch


def weights_only(ranker: Ranker) -> torch.Tensor:
    """The factorization machine without its products; returns the weight of each number."""
    with torch.no_grad():
        ranker.output.weight.copy_(torch.tensor([[1.0, 0.0]]))
    return ranker.network.number_FD.detach()[:, 0]  # pyright: ignore


def test_of_a_linear_model_each_feature_contributes_its_weight_times_its_distance():
    ranker = made("fm")
    weight_F = dict(zip(ranker.continuous, weights_only(ranker), strict=True))
    batch, reference = batch_of(1), batch_of(2)
    found = contributions(ranker, batch, reference)
    assert set(found) == set(ranker.inputs)
    for name, values in found.items():
        if name in ranker.continuous:
            distance = batch[name] - reference[name]
            if name in SCORES:
                scaled = distance / ranker.score_deviation[SCORES.index(name)]
                expected = scaled * weight_F[name] + (distance if name == RETRIEVAL_SCORE else 0)
            else:
                expected = distance * weight_F[name]
        else:
            table = next(one for key, one in ranker.tables.named_parameters() if name in key)
            expected = table[batch[name]][..., 0] - table[reference[name]][..., 0]
        expected = expected if expected.ndim == 2 else expected.unsqueeze(1).expand(-1, NUM_CANDIDATES)
        torch.testing.assert_close(values, expected.detach(), atol=1e-4, rtol=1e-4)


def test_two_features_of_a_product_share_it_equally_from_a_reference_of_nothing():
    ranker = made("fm")
    with torch.no_grad():
        ranker.output.weight.copy_(torch.tensor([[0.0, 1.0]]))
        ranker.network.number_FD.zero_()  # pyright: ignore
        ranker.network.number_FD[2:4, 1] = torch.tensor([1.0, 3.0])  # pyright: ignore
        for table in ranker.tables.parameters():
            table.zero_()
    assert ranker.continuous[2:4] == ["item_price", "user_age"]
    batch = batch_of(1)
    nothing = {name: torch.zeros_like(values) for name, values in batch.items()}
    found = contributions(ranker, batch, nothing)
    half = 3.0 * batch["item_price"] * batch["user_age"].unsqueeze(1) / 2
    torch.testing.assert_close(found["item_price"], half, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["user_age"], half, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model", ["dlrm", "dcn_v2", "mlp", "fm"])
def test_they_add_up_to_the_difference_of_the_scores(model):
    ranker, batch, reference = made(model), batch_of(1), batch_of(2)
    with torch.no_grad():
        moved = ranker.score_candidates(batch) - ranker.score_candidates(reference)
    found = contributions(ranker, batch, reference, tolerance=5e-3)
    assert float((sum(found.values()) - moved).abs().max()) <= 5e-3 * max(1.0, float(moved.abs().max()))
    assert float(moved.abs().max()) > 0.3


def test_against_the_middle_of_the_list_what_all_candidates_share_says_nothing():
    ranker, batch = made("dlrm"), batch_of(1)
    batch["item_price"] = batch["item_price"][:, :1].expand(-1, NUM_CANDIDATES)
    found = contributions(ranker, batch)
    for name in ("item_price", "user_age", "user_club"):
        assert float(found[name].abs().max()) < 1e-5
    assert float(found["item_kind"].abs().max()) > 1e-2


def test_too_few_steps_are_an_error():
    ranker = made("dlrm")
    with pytest.raises(ContributionError, match="larger max_steps"):
        contributions(ranker, batch_of(1), batch_of(2), tolerance=1e-7, max_steps=16)
