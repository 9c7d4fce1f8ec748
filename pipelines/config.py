"""The whole configuration: every stage's dataclass in one tree, read from a TOML and overridden on the command line."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import json
import sys
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ensemble.config import ServingConfig
from ensemble.export import ExportConfig
from features.config import EtlConfig
from features.errors import CascadeError
from features.logs import DataConfig
from pipelines.evaluate import EvaluationConfig
from pipelines.monitor.config import MonitorConfig
from pipelines.refresh.config import RefreshConfig
from ranking.config import RankingConfig
from retrieval.config import IndexConfig, RetrievalConfig


class ConfigError(CascadeError, ValueError):
    """The configuration cannot be used; the message lists every mistake with its file and key."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class CascadeConfig:
    """Everything a run can be told. Defaults live here and in the stages; a TOML holds only differences."""

    data: DataConfig = Field(default_factory=DataConfig)
    """Logs."""
    etl: EtlConfig = Field(default_factory=EtlConfig)
    """Features."""
    retrieval: RetrievalConfig = Field(default_factory=RetrievalConfig)
    """Candidate model."""
    index: IndexConfig = Field(default_factory=IndexConfig)
    """Nearest-neighbour index."""
    ranking: RankingConfig = Field(default_factory=RankingConfig)
    """Ranking model."""
    export: ExportConfig = Field(default_factory=ExportConfig)
    """Exported pipeline."""
    serving: ServingConfig = Field(default_factory=ServingConfig)
    """Triton."""
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    """Evaluation."""
    monitor: MonitorConfig = Field(default_factory=MonitorConfig)
    """Monitoring."""
    refresh: RefreshConfig = Field(default_factory=RefreshConfig)
    """Refresh."""
    seed: typing.Annotated[int, Field(ge=0, lt=2**31)] = 42
    """Seed of everything random."""


def load_config(file: Path | None, overrides: Sequence[str] = ()) -> CascadeConfig:
    """Read a TOML, then apply `--section.key value` overrides.

    Raises: ConfigError listing every mistake of the file, or every mistake of the command line.
    """
    document: dict[str, Any] = {}
    if file is not None:
        try:
            document = tomllib.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(
                f"{file}: there is no such file; `cascade init --out {file}` writes a template"
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise ConfigError(f"{file}: cannot be read as TOML: {error}") from error
    validated(document, str(file or "defaults"))  # the file's own mistakes, before the command line joins in
    return _overridden(document, overrides)


def validated(document: Mapping[str, Any], origin: str) -> CascadeConfig:
    """Raises: ConfigError with a line for every mistake: origin, key, what was expected, what came."""
    try:
        return TypeAdapter(CascadeConfig).validate_python(document)
    except ValidationError as error:
        lines = [_mistake(one, origin) for one in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def save_config(config: CascadeConfig, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_document(config), indent=2) + "\n")


def load_saved_config(path: Path, overrides: Sequence[str] = ()) -> CascadeConfig:
    """The configuration that a run was made with.

    Raises: ConfigError if there is none, or an override is wrong.
    """
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); `cascade run --out {path.parent}` writes it") from error
    validated(document, str(path))
    return _overridden(document, overrides)


def as_document(config: Any) -> dict[str, Any]:
    """A config dataclass as plain JSON values."""
    return json.loads(TypeAdapter(type(config)).dump_json(config))


def keys_of(owner: type = CascadeConfig, prefix: str = "") -> list[tuple[str, Any, Any, str]]:
    """Every key: dotted name, type, default (`...` if required), and its docstring; for `--help` and the reference."""
    rows: list[tuple[str, Any, Any, str]] = []
    hints = typing.get_type_hints(owner, include_extras=True)
    docs = _attribute_docstrings(owner)
    for field in dataclasses.fields(owner):
        kind, name = hints[field.name], f"{prefix}{field.name}"
        nested = next((one for one in _alternatives(kind) if dataclasses.is_dataclass(one)), None)
        if nested is not None:
            rows += keys_of(typing.cast(type, nested), f"{name}.")
        else:
            rows.append((name, kind, _default(field), docs.get(field.name, "")))
    return rows


def section_of(name: str) -> type:
    """The dataclass whose keys stand under a dotted section name; "" is the top level."""
    owner: type = CascadeConfig
    for part in filter(None, name.split(".")):
        kinds = _alternatives(typing.get_type_hints(owner, include_extras=True)[part])
        owner = typing.cast(type, next(one for one in kinds if dataclasses.is_dataclass(one)))
    return owner


def _overridden(document: dict[str, Any], overrides: Sequence[str]) -> CascadeConfig:
    """The document, valid in itself, with the command line's overrides put in."""
    given, mistakes = _parsed(overrides)
    for keys, text in given:
        _put(document, keys, text, mistakes)
    lines = [f"command line: {mistake}" for mistake in mistakes]
    try:
        config = validated(document, "command line")
    except ConfigError as error:
        raise ConfigError("\n".join([*lines, str(error)])) from error
    if lines:
        raise ConfigError("\n".join(lines))
    return config


def _parsed(overrides: Sequence[str]) -> tuple[list[tuple[list[str], str]], list[str]]:
    given, mistakes = [], []
    words = list(overrides)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            mistakes.append(f"expected --section.key VALUE, got {word!r}")
            continue
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not words:
                mistakes.append(f"--{key} needs a value")
                continue
            value = words.pop(0)
        given.append((key.replace("-", "_").split("."), value))
    return given, mistakes


def _put(document: dict[str, Any], keys: list[str], text: str, mistakes: list[str]) -> None:
    """Set one key; the text is read as a TOML value, and as plain text where it is none or the key wants text."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if not isinstance(value, str) and ".".join(keys) in _text_keys():
        value = text
    place = document
    for key in keys[:-1]:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            mistakes.append(f"--{'.'.join(keys)}: {key!r} is a value, not a section")
            return
    place[keys[-1]] = value


def _mistake(error: Any, origin: str) -> str:
    keys = [str(part) for part in error["loc"]]
    key = ".".join(keys) or "(top level)"
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{origin}: unknown key {key}{_nearest(keys)}"
    if error["type"] in ("missing", "missing_argument"):
        return f"{origin}: key {key} is missing"
    came = "" if isinstance(error["input"], Mapping) or error["type"] == "value_error" else f", got {error['input']!r}"
    return f"{origin}: {key}: {error['msg'].removeprefix('Value error, ')}{came}"


def _nearest(keys: list[str]) -> str:
    known = [name for name, *_ in keys_of()]
    sections = {name.rsplit(".", depth)[0] for name in known for depth in range(name.count(".") + 1)}
    siblings = {name for name in {*known, *sections} if name.count(".") == len(keys) - 1}
    close = difflib.get_close_matches(".".join(keys), siblings, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]}?"
    prefix = ".".join(keys[:-1])
    there = sorted(name.rsplit(".", 1)[-1] for name in siblings if name.rpartition(".")[0] == prefix)
    return f"; the keys there are: {', '.join(there)}" if there else ""


def _alternatives(kind: Any) -> list[Any]:
    if typing.get_origin(kind) is typing.Annotated:
        return _alternatives(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [inner for one in typing.get_args(kind) for inner in _alternatives(one)]
    return [kind]


@functools.cache
def _text_keys() -> set[str]:
    return {name for name, kind, *_ in keys_of() if str in _alternatives(kind)}


def _default(field: dataclasses.Field) -> Any:
    default = field.default
    if isinstance(default, (dataclasses._MISSING_TYPE,)):
        return ... if isinstance(field.default_factory, dataclasses._MISSING_TYPE) else field.default_factory()
    if type(default).__name__ == "FieldInfo":
        return default.get_default(call_default_factory=True)
    return default


def _attribute_docstrings(owner: type) -> dict[str, str]:
    import ast
    import inspect

    found: dict[str, str] = {}
    for one in reversed(owner.__mro__[:-1]):
        if not dataclasses.is_dataclass(one) or one.__module__ not in sys.modules:
            continue
        body = typing.cast(ast.ClassDef, ast.parse(inspect.cleandoc("\n" + inspect.getsource(one))).body[0]).body
        for before, after in itertools.pairwise(body):
            annotated = isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name)
            if annotated and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found[before.target.id] = " ".join(str(after.value.value).split())
    return found
