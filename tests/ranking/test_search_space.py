"""The ranker's search spaces against the configuration they search."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest

from features.search_space import Choice, Range, space_around, value_of, with_values
from ranking.config import NetworkConfig, RankingConfig
from ranking.search_space import CLICK_SPACE, LIST_SPACE

BOTH = [pytest.param(one, id=one.key) for one in dict.fromkeys((*CLICK_SPACE, *LIST_SPACE))]


@pytest.mark.parametrize("dimension", BOTH)
def test_every_key_is_one_of_the_configuration_and_its_default_lies_inside(dimension):
    assert value_of(RankingConfig(), dimension.key) in dimension


@pytest.mark.parametrize("space", [CLICK_SPACE, LIST_SPACE], ids=["clicks", "lists"])
def test_no_key_stands_twice_and_the_defaults_widen_nothing(space):
    assert len({dimension.key for dimension in space}) == len(space)
    assert space_around(RankingConfig(), space) == space


@pytest.mark.parametrize("dimension", BOTH)
def test_the_configuration_takes_every_value_and_the_ends_of_every_range(dimension):
    values = dimension.values if isinstance(dimension, Choice) else (dimension.low, dimension.high)
    for value in values:
        assert value_of(with_values(RankingConfig(), {dimension.key: value}), dimension.key) == value


@pytest.mark.parametrize(
    "dimension", [one for one in (*CLICK_SPACE, *LIST_SPACE) if isinstance(one, Range)], ids=lambda one: one.key
)
def test_a_range_has_the_type_of_its_key_and_a_logarithm_where_it_needs_one(dimension):
    assert dimension.low < dimension.high and (dimension.low > 0 or not dimension.log)
    assert dimension.is_integer == isinstance(value_of(RankingConfig(), dimension.key), int)


@pytest.mark.parametrize("space", [CLICK_SPACE, LIST_SPACE], ids=["clicks", "lists"])
def test_every_model_that_can_be_chosen_is_tried(space):
    (models,) = (dimension.values for dimension in space if dimension.key == "network.model")
    assert set(models) == set(get_args(get_type_hints(NetworkConfig)["model"]))
