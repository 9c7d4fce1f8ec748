"""Written tables read back as they were, in each form."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from features.logs.shapes.table_file import ROW_GROUP_ROWS, TableFile

ROWS = pa.table(
    {
        "name": pa.array(["plain", 'a "quoted", one', None, "é"]),
        "number": pa.array([1, None, -3, 4], pa.int64()),
        "price": pa.array([21.0, 0.0169322033898305, None, -2.5]),
    }
)


def written(path: Path, blocks: list[pa.Table], **options: bool) -> bytes:
    with TableFile(path, blocks[0].schema, **options) as file:
        for block in blocks:
            file.write(block)
    assert file.num_rows == sum(block.num_rows for block in blocks)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz"])
def test_text_reads_back_and_quotes_only_what_needs_it(tmp_path: Path, name: str) -> None:
    data = written(tmp_path / name, [ROWS, ROWS.slice(0, 0), ROWS.slice(1, 2)])
    data = gzip.decompress(data) if name.endswith(".gz") else data
    delimiter = "\t" if ".tsv" in name else ","
    options = pa_csv.ConvertOptions(
        column_types=ROWS.schema, strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    back = pa_csv.read_csv(pa.BufferReader(data), None, pa_csv.ParseOptions(delimiter=delimiter), options)
    assert back.equals(pa.concat_tables([ROWS, ROWS.slice(1, 2)]).combine_chunks())
    assert data.decode().splitlines()[1] == delimiter.join(["plain", "1", "21.0"])


def test_whole_floats_keep_their_point_and_nothing_is_quoted_without_need(tmp_path: Path) -> None:
    data = written(tmp_path / "t.csv", [ROWS.take([0, 2, 3])], header=False)
    assert data.decode() == "plain,1,21.0\n,-3,\né,4,-2.5\n"


def test_empty_chunks_before_rows_do_no_harm(tmp_path: Path) -> None:
    block = pa.concat_tables([ROWS.schema.empty_table(), ROWS.take([0])])
    assert written(tmp_path / "t.tsv", [block], header=False) == b"plain\t1\t21.0\n"


def test_the_same_rows_give_the_same_bytes_again(tmp_path: Path) -> None:
    for name in ("t.csv.gz", "t.parquet"):
        assert written(tmp_path / name, [ROWS] * 3) == written(tmp_path / f"again_{name}", [ROWS] * 3)


def test_parquet_has_groups_of_one_size_and_plain_types_however_the_blocks_were_cut(tmp_path: Path) -> None:
    many = pa.table({"n": pa.array(range(ROW_GROUP_ROWS + 7)), "s": pa.array(["x"] * (ROW_GROUP_ROWS + 7))})
    blocks = [many.slice(0, 3), many.slice(3, ROW_GROUP_ROWS), many.slice(ROW_GROUP_ROWS + 3)]
    data = written(tmp_path / "a.parquet", blocks)
    assert data == written(tmp_path / "b.parquet", [many])
    file = pq.ParquetFile(tmp_path / "a.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [ROW_GROUP_ROWS, 7]
    assert file.read().equals(many)
    assert file.schema_arrow.field("s").type == pa.string()


def test_a_table_without_rows_is_a_readable_file(tmp_path: Path) -> None:
    written(tmp_path / "t.parquet", [ROWS.slice(0, 0)])
    assert pq.read_table(tmp_path / "t.parquet").num_rows == 0
    assert written(tmp_path / "t.csv", [ROWS.slice(0, 0)]) == b"name,number,price\n"
