"""A configuration as TOML, against the reader of the standard library."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.config import load_config, validated
from pipelines.toml_text import differences, toml_text

TEXT = st.text(st.characters(codec="utf-8"))
VALUES = st.recursive(
    TEXT | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(document=st.dictionaries(TEXT, VALUES, max_size=4))
def test_every_document_is_read_back_as_it_was(document):
    assert tomllib.loads(toml_text(document)) == document


def test_what_is_none_is_left_out_and_sections_have_headings():
    document = {"a": {"b": None, "c": {"d": 1}}, "top": True, "empty": {}}
    assert toml_text(document) == "top = true\n\n[a.c]\nd = 1\n\n[empty]\n"


@pytest.mark.parametrize("name", ["movielens", "movielens-small", "hm", "criteo", "template"])
def test_the_differences_give_every_configuration_back(name, tmp_path):
    config = load_config(Path(__file__).parents[2] / "pipelines" / "configs" / f"{name}.toml")
    (tmp_path / "written.toml").write_text(toml_text(differences(config)))
    assert load_config(tmp_path / "written.toml") == config


def test_defaults_are_no_difference():
    assert differences(validated({}, "defaults")) == {}
    changed = validated({"retrieval": {"two_tower": {"dropout": 0.2}, "batch_size": 512}}, "test")
    assert differences(changed) == {"retrieval": {"two_tower": {"dropout": 0.2}}}
