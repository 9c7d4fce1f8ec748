"""Who is asked for in bulk: every user of a run, or those of a file, in batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.errors import CascadeError


class UserListError(CascadeError, ValueError):
    """A file does not hold user ids as it should."""


@dataclass(frozen=True)
class UserList:
    """User ids in a file that is read again for every pass, never as a whole."""

    path: Path
    column: str = "user_id"
    """Column with the ids, for a Parquet file."""

    @classmethod
    def open(cls, path: Path, column: str = "user_id") -> UserList:
        """Ids one a line in UTF-8 text, or in a column of a Parquet file (a name that ends in .parquet).

        Raises: UserListError if the file, the column or the ids are not there.
        """
        if not path.is_file():
            raise UserListError(f"{path}: there is no such file; give user ids one a line, or a .parquet file")
        users = cls(path, column)
        if users._is_parquet:
            users._check_column()
        if not len(users):
            raise UserListError(f"{path}: holds no user id")
        return users

    def __len__(self) -> int:
        """Number of ids; one that stands twice counts twice."""
        if self._is_parquet:
            return pq.read_metadata(self.path).num_rows
        return sum(1 for _ in self._lines())

    def batches(self, size: int) -> Iterator[list[str]]:
        """The ids in the file's order, `size` at a time.

        Raises: UserListError naming the row or line without an id, or the line that is not UTF-8.
        """
        if not self._is_parquet:
            lines = self._lines()
            while batch := list(islice(lines, size)):
                yield batch
            return
        row = 0
        with pq.ParquetFile(self.path) as file:
            for record_batch in file.iter_batches(size, columns=[self.column]):
                ids = record_batch.column(0)
                if ids.null_count:
                    place = row + ids.is_null().index(pa.scalar(True)).as_py()
                    raise UserListError(f"{self.path}: row {place} has no {self.column}; leave the row out")
                row += len(ids)
                yield ids.cast(pa.string()).to_pylist()

    @property
    def _is_parquet(self) -> bool:
        return self.path.suffix == ".parquet"

    def _check_column(self) -> None:
        try:
            schema = pq.read_schema(self.path)
        except pa.ArrowInvalid as error:
            raise UserListError(f"{self.path}: cannot be read as Parquet: {error}") from error
        if self.column not in schema.names:
            raise UserListError(f"{self.path}: has no column {self.column}; its columns are {', '.join(schema.names)}")
        kind = schema.field(self.column).type
        text = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_integer(text) or pa.types.is_string(text) or pa.types.is_large_string(text)):
            raise UserListError(f"{self.path}: {self.column} must be text or whole numbers, got {kind}")

    def _lines(self) -> Iterator[str]:
        """Lines without the white space around them; an empty one is none."""
        try:
            with self.path.open(encoding="utf-8-sig") as file:
                yield from filter(None, map(str.strip, file))
        except UnicodeDecodeError as error:
            raise UserListError(f"{self.path}: is not UTF-8 text: {error}") from error
