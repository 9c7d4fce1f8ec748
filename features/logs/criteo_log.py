"""Criteo's logs as a source that can be appended to: which part the rows of later files fall into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from features.logs.criteo import CRITEO_COLUMNS, CriteoConfig, criteo_blocks, criteo_files
from features.logs.impressions import ImpressionBlock, ImpressionColumns
from features.logs.quarantine import Quarantine
from features.split import TEST, TRAIN, VALID


@dataclass(frozen=True)
class CriteoLog:
    """An `ImpressionLog`. With split "random" each row falls where a hash says; with "days" only the last source
    validates and tests; with "files" later rows train."""

    config: CriteoConfig
    append: tuple[str, ...] = ()
    """Later files or folders, in order."""

    @property
    def columns(self) -> ImpressionColumns:
        return CRITEO_COLUMNS

    @property
    def num_sources(self) -> int:
        return 1 + len(self.append)

    @property
    def name(self) -> str:
        return "data.criteo"

    @property
    def keeps_parts(self) -> bool:
        return True

    @property
    def earlier_train(self) -> bool:
        return self.config.split == "days"

    def split(self) -> None:
        return None

    def files(self) -> list[Sequence[Path]]:
        return [criteo_files(self.config), *(criteo_files(self._later(path)) for path in self.append)]

    def blocks(self, num_known: int, quarantine: Quarantine) -> Iterator[ImpressionBlock]:
        for number in range(num_known, self.num_sources):
            is_last = number == len(self.append)
            yield from self._source(self.append[number - 1] if number else None, is_last, quarantine)

    def _later(self, path: str) -> CriteoConfig:
        return replace(self.config, train=path, valid=None, test=None, split="random")

    def _source(self, append: str | None, is_last: bool, quarantine: Quarantine) -> Iterator[ImpressionBlock]:
        data = self.config
        if append is None:
            for block in criteo_blocks(data, quarantine):
                all_train = not is_last and data.split == "days"
                yield replace(block, part=np.full_like(block.part, TRAIN)) if all_train else block
            return
        from_later = self._later(append)
        if data.split == "random":
            yield from criteo_blocks(from_later, quarantine)
            return
        files = [str(path) for path in criteo_files(from_later)]
        halves = _halves(from_later, files[-1]) if data.split == "days" and is_last else None
        row = 0
        for block in criteo_blocks(from_later, quarantine):
            part = np.full_like(block.part, TRAIN)
            if halves is not None and block.file == files[-1]:
                part = np.where(np.arange(row, row + len(part)) < halves, VALID, TEST).astype(part.dtype)
                row += len(part)
            yield replace(block, part=part)


def _halves(data: CriteoConfig, file: str) -> int:
    """Half of the rows of a file that can be used."""
    blocks = criteo_blocks(replace(data, train=file), Quarantine())
    return sum(len(block.part) for block in blocks) // 2
