"""The configuration: every mistake at once, and every key within reach of the command line."""

from __future__ import annotations

import json
import types
import typing
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import (
    CascadeConfig,
    ConfigError,
    as_document,
    keys_of,
    load_config,
    load_saved_config,
    save_config,
)
from pipelines.reference import reference, shown_type

CONFIGS = Path(__file__).resolve().parents[2] / "pipelines" / "configs"
TABLES = {
    "data.adapter": '"tables"',
    "data.tables.interactions.path": '"log.csv"',
    "data.tables.interactions.user_id": '"who"',
    "data.tables.interactions.item_id": '"what"',
    "data.tables.interactions.timestamp": '"when"',
    "data.tables.interactions.value": '"rating"',
    "data.tables.interactions.min_value": "4",
    "data.tables.users.path": '"users.csv"',
    "data.tables.users.user_id": '"id"',
    "data.tables.items.path": '"items.csv"',
    "data.tables.items.item_id": '"id"',
    "data.criteo.train": '"clicks"',
    "data.criteo.valid": '"later"',
    "data.criteo.test": '"last"',
    "data.criteo.split": '"files"',
    "data.impressions.path": '"clicks.csv"',
    "data.impressions.label": '"clicked"',
    "data.impressions.timestamp": '"when"',
    "data.impressions.user_id": '"who"',
    "data.impressions.item_id": '"what"',
    "data.impressions.valid": '"later.csv"',
    "data.impressions.test": '"last.csv"',
    "data.impressions.users.path": '"users.csv"',
    "data.impressions.users.user_id": '"id"',
    "data.impressions.items.path": '"items.csv"',
    "data.impressions.items.item_id": '"id"',
}
NAMES_A_CATEGORY = ("data.impressions.group", "data.impressions.hidden", "data.impressions.as_of")


CRITEO_PARTS = ("data.criteo.valid", "data.criteo.test")


def written(folder: Path, text: str) -> Path:
    path = folder / "cascade.toml"
    path.write_text(text)
    return path


def mistakes_of(file: Path | None, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load_config(file, overrides)
    return str(raised.value).splitlines()


def test_no_file_gives_the_defaults():
    assert load_config(None) == CascadeConfig()


def test_every_mistake_of_a_file_is_reported_at_once_with_file_and_key(tmp_path):
    file = written(
        tmp_path,
        """
        sead = 1
        [retrieval]
        batch_size = "many"
        [retrieval.two_tower]
        embeding_dim = 32
        hidden_units = [8, -1]
        [index]
        hnsw_links = 3
        [rankin]
        batch_size = 1
        """,
    )
    found = mistakes_of(file)
    assert len(found) == 6 and all(line.startswith(f"{file}: ") for line in found)
    for words in (
        "unknown key sead; did you mean seed?",
        "retrieval.batch_size: Input should be a valid integer",
        "unknown key retrieval.two_tower.embeding_dim; did you mean retrieval.two_tower.embedding_dim?",
        "retrieval.two_tower.hidden_units.1: Input should be greater than 0, got -1",
        "index.hnsw_links: Input should be greater than or equal to 4, got 3",
        "unknown key rankin; did you mean ranking?",
    ):
        assert any(words in line for line in found), (words, found)


def test_an_unknown_key_without_a_near_one_names_what_is_there(tmp_path):
    [line] = mistakes_of(written(tmp_path, "[index]\nzzzzzzzzzzzzzzz = 1"))
    assert "unknown key index.zzzzzzzzzzzzzzz; the keys there are: exact_up_to, hnsw_ef_construction" in line


def test_a_missing_key_of_the_tables_is_named(tmp_path):
    found = mistakes_of(written(tmp_path, '[data]\nadapter = "tables"\n[data.tables.interactions]\npath = "x"'))
    for key in ("user_id", "item_id", "timestamp"):
        assert any(f"key data.tables.interactions.{key} is missing" in line for line in found)


def test_a_table_in_place_of_a_value_and_a_value_in_place_of_a_section_are_mistakes(tmp_path):
    found = mistakes_of(written(tmp_path, "etl = 3\n[seed]\nx = 1"))
    assert [line.split(": ")[1] for line in sorted(found)] == ["etl", "seed"]


def test_values_that_exclude_each_other_are_a_mistake_with_a_key(tmp_path):
    [line] = mistakes_of(written(tmp_path, "[evaluation]\nslate_k = 200"))
    assert "evaluation: slate_k (200) must be at most candidate_k (100)" in line


def test_a_file_that_is_no_toml_is_named_with_the_line(tmp_path):
    file = written(tmp_path, "[data]\nadapter = tables\n")
    [line] = mistakes_of(file)
    assert line.startswith(f"{file}: cannot be read as TOML") and "line 2" in line


def test_a_missing_file_says_how_to_get_one(tmp_path):
    [line] = mistakes_of(tmp_path / "none.toml")
    assert "there is no such file" in line and f"cascade init --out {tmp_path / 'none.toml'}" in line


def test_a_folder_in_place_of_the_file_is_an_error_that_names_it(tmp_path):
    [line] = mistakes_of(tmp_path)
    assert line.startswith(f"{tmp_path}: cannot be read")


def test_every_mistake_of_the_command_line_is_reported_at_once():
    found = mistakes_of(
        None, "stray", "--seed", "x", "--etl.zplit.a=1", "--index.hnsw-links", "2", "--seed.x", "1", "--k"
    )
    assert all(line.startswith("command line: ") for line in found)
    for words in ("got 'stray'", "seed: ", "unknown key etl.zplit; did you mean etl.split?", "hnsw_links", "--k needs"):
        assert any(words in line for line in found), (words, found)


def test_mistakes_of_the_file_come_before_those_of_the_command_line(tmp_path):
    file = written(tmp_path, "seed = -1")
    assert mistakes_of(file, "--seed", "x") == mistakes_of(file)


def test_the_command_line_overrides_the_file(tmp_path):
    file = written(tmp_path, "seed = 1\n[etl]\nhistory_length = 5")
    config = load_config(file, ["--etl.history-length", "7", "--retrieval.two_tower.hidden-units=[3, 4]"])
    assert (config.seed, config.etl.history_length, config.retrieval.two_tower.hidden_units) == (1, 7, (3, 4))


def test_a_key_that_wants_text_takes_text_that_looks_like_a_number():
    arguments = [word for name, text in TABLES.items() for word in (f"--{name}", text)]
    config = load_config(None, [*arguments, "--data.tables.interactions.user_id", "0", "--serving.host=10.0.0.1"])
    assert config.data.tables is not None and config.data.tables.interactions.user_id == "0"
    assert config.serving.host == "10.0.0.1"


def test_every_key_can_be_set_on_the_command_line_and_comes_back_from_the_saved_run(tmp_path):
    for name, kind, default, _ in keys_of():
        value = other_value(kind, default)
        arguments = {**TABLES, name: literal(value)}
        if name == "data.criteo.split":  # any other split takes all rows from train
            arguments = {key: text for key, text in arguments.items() if key not in CRITEO_PARTS}
        if name in NAMES_A_CATEGORY:
            arguments["data.impressions.categorical"] = '{x = "column x"}'
        words = [f"--{key.replace('_', '-')}={text}" for key, text in arguments.items()]
        config = load_config(None, words)
        assert read_at(as_document(config), name) == value, name
        save_config(config, tmp_path / "config.json")
        assert load_saved_config(tmp_path / "config.json") == config, name


def test_every_key_has_a_meaning_and_a_type_in_words():
    for name, kind, _, text in keys_of():
        assert text.endswith("."), name
        shown = shown_type(kind)
        assert shown and not set(shown) & set("[]("), (name, shown)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.toml")), ids=lambda file: file.stem)
def test_every_configuration_that_comes_along_is_valid(file):
    assert load_config(file).data.adapter in ("tables", "synthetic", "hm", "criteo", "impressions")


def test_the_options_shown_in_the_template_are_keys(tmp_path):
    text = (CONFIGS / "template.toml").read_text()
    options = [line for line in text.splitlines() if line.startswith("# ") and " = " in line]
    assert len(options) > 5
    uncommented = text
    for line in options:
        uncommented = uncommented.replace(line, line[2:])
    assert load_config(written(tmp_path, uncommented)).data.tables is not None


def test_the_saved_configuration_of_a_run_that_is_not_there_says_what_writes_it(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read .*`cascade run --out"):
        load_saved_config(tmp_path / "config.json")


def test_the_reference_has_a_row_for_every_key():
    rows = [line.split("|")[1].strip(" `") for line in reference().splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(name.rpartition(".")[2] for name, *_ in keys_of())


def other_value(kind: Any, default: Any) -> Any:
    """A valid value for a key, another than its default where the type allows it; as JSON holds it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return other_value(arguments[0], default)
    if origin in (typing.Union, types.UnionType):
        return other_value(next(one for one in arguments if one is not types.NoneType), default)
    if origin is typing.Literal:
        return arguments[-1]
    if origin is tuple:
        return [other_value(arguments[0], 2)]
    if origin is dict:
        return {"x": "column x" if arguments[1] is str else other_value(arguments[1], 2)}
    if kind is bool:
        return not default
    if kind is str:
        return "x"
    return default + 1 if kind is int else (default or 1.0) * 0.9


def literal(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {literal(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)


def read_at(document: Any, name: str) -> Any:
    for key in name.split("."):
        document = document[key]
    return document
