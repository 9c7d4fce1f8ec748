"""The search space against the configuration it searches."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from features.search_space import Choice, Range, space_around, value_of, with_values
from retrieval.config import RetrievalConfig
from retrieval.search_space import SPACE


@pytest.mark.parametrize("dimension", SPACE, ids=lambda dimension: dimension.key)
def test_every_key_is_one_of_the_configuration_and_its_default_lies_inside(dimension):
    assert value_of(RetrievalConfig(), dimension.key) in dimension


def test_no_key_stands_twice():
    assert len({dimension.key for dimension in SPACE}) == len(SPACE)


@pytest.mark.parametrize("dimension", SPACE, ids=lambda dimension: dimension.key)
def test_the_configuration_takes_every_value_and_the_ends_of_every_range(dimension):
    values = dimension.values if isinstance(dimension, Choice) else (dimension.low, dimension.high)
    for value in values:
        assert value_of(with_values(RetrievalConfig(), {dimension.key: value}), dimension.key) == value


@pytest.mark.parametrize("dimension", [one for one in SPACE if isinstance(one, Range)], ids=lambda one: one.key)
def test_a_range_has_the_type_of_its_key_and_a_logarithm_where_it_needs_one(dimension):
    assert dimension.low < dimension.high and (dimension.low > 0 or not dimension.log)
    assert dimension.is_integer == isinstance(value_of(RetrievalConfig(), dimension.key), int)


def test_the_space_grows_to_hold_a_configuration_and_only_as_far():
    outside = with_values(RetrievalConfig(), {"two_tower.embedding_dim": 17, "id_dropout": 0.9, "learning_rate": 1e-5})
    wide = {dimension.key: dimension for dimension in space_around(outside, SPACE)}
    for dimension in SPACE:
        assert value_of(outside, dimension.key) in wide[dimension.key]
    assert wide["two_tower.embedding_dim"] == Choice("two_tower.embedding_dim", (32, 64, 128, 17))
    narrow = {dimension.key: dimension for dimension in SPACE}
    assert wide["id_dropout"] == Range("id_dropout", narrow["id_dropout"].low, 0.9)
    assert wide["learning_rate"] == Range("learning_rate", 1e-5, narrow["learning_rate"].high, log=True)
    assert space_around(RetrievalConfig(), SPACE) == SPACE


def test_with_values_changes_what_it_is_told_and_nothing_else():
    changed = with_values(RetrievalConfig(), {"two_tower.dropout": 0.4, "batch_size": 64})
    assert (changed.two_tower.dropout, changed.batch_size) == (0.4, 64)
    assert with_values(changed, {"two_tower.dropout": RetrievalConfig().two_tower.dropout, "batch_size": 512}) == (
        with_values(RetrievalConfig(), {"batch_size": 512})
    )
    with pytest.raises(ValidationError):
        with_values(RetrievalConfig(), {"batch_size": 0})
