"""What a page consists of: sections of blocks. The template shows each kind; all text is escaped there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from markupsafe import Markup


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    kind: ClassVar = "note"
    text: str


@dataclass(frozen=True)
class Warnings:
    """What a reader must know before believing the rest."""

    kind: ClassVar = "warnings"
    texts: Sequence[str]


@dataclass(frozen=True)
class Facts:
    """Names with a value each."""

    kind: ClassVar = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """The first column names the row."""

    kind: ClassVar = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Plot:
    """A figure, with its text alternative inside."""

    kind: ClassVar = "plot"
    caption: str
    svg: Markup


@dataclass(frozen=True)
class Folded:
    """Blocks that are opened by a click, and stand open on paper."""

    kind: ClassVar = "folded"
    title: str
    blocks: Sequence[Block]


Block = Note | Warnings | Facts | Table | Plot | Folded


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]
