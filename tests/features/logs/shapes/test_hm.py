"""Shape `hm`: files in the form of the competition's, of a shop with the habits of a real one."""

import csv
import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from features.logs import DataConfig, Logs, read_logs
from features.logs.shapes.hm import FIRST_DAY, NUM_DAYS, HmShop, price_texts, write_hm

FILES = ("articles", "customers", "transactions_train")
SIZE = {"num_rows": 60_000, "num_users": 2500, "num_items": 1500}
SHA = "[0-9a-f]{64}"
FORMS = {
    "t_dat": r"20(18|19|20)-\d\d-\d\d",
    "article_id": r"0\d{9}",
    "price": r"0\.\d{1,16}",
    "sales_channel_id": "[12]",
    "product_code": r"\d{6}",
    **dict.fromkeys(("customer_id", "postal_code"), SHA),
    **dict.fromkeys(("FN", "Active"), r"(1\.0)?"),
    "club_member_status": "(ACTIVE|PRE-CREATE|LEFT CLUB)?",
    "fashion_news_frequency": "(NONE|Regularly|Monthly|None)?",
    "age": r"(\d\d\.0)?",
    "index_code": "[A-Z]",
    "product_type_no": r"-1|\d{2,3}",
    "graphical_appearance_no": r"-1|1010\d{3}",
    **dict.fromkeys(("department_no", "garment_group_no"), r"\d{4}"),
    **dict.fromkeys(
        (
            *("colour_group_code", "perceived_colour_value_id", "perceived_colour_master_id"),
            *("index_group_no", "section_no"),
        ),
        r"-1|\d{1,2}",
    ),
}
"""Form of each column's values; the other columns hold words."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hm")
    progress = list(write_hm(path, **SIZE, file_format="csv", seed=1))
    assert progress == [("articles.csv", 1500), ("customers.csv", 2500), ("transactions_train.csv", 60_000)]
    return path


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    path = tmp_path_factory.mktemp("hm_parquet")
    list(write_hm(path, **SIZE, file_format="parquet", seed=1))
    return {name: pq.read_table(path / f"{name}.parquet") for name in FILES}


def lines(path: Path) -> Iterator[list[str]]:
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as stream:
        yield from csv.reader(stream)


def read(folder: Path, extension: str) -> Logs:
    def table(name: str, **values: object) -> dict:
        return {"path": str(folder / f"{name}.{extension}"), **values}

    log = {"user_id": "customer_id", "item_id": "article_id", "timestamp": "t_dat", "timestamp_format": "%Y-%m-%d"}
    tables = {
        "interactions": table("transactions_train", **log),
        "users": table("customers", user_id="customer_id", continuous={"age": "age"}),
        "items": table("articles", item_id="article_id", title="prod_name", categorical={"section": "section_name"}),
    }
    config = {"adapter": "tables", "tables": tables, "max_quarantined_share": 0.0}
    return read_logs(TypeAdapter(DataConfig).validate_python(config))


@pytest.mark.parametrize("name", FILES)
def test_each_column_has_the_form_that_is_asked_for(folder: Path, name: str) -> None:
    check_forms(folder / f"{name}.csv")


@pytest.mark.realdata
@pytest.mark.parametrize("name", FILES)
def test_the_real_files_have_the_same_header_and_forms(folder: Path, cascade_data: Path, name: str) -> None:
    real = cascade_data / "hm" / f"{name}.csv.gz"
    assert next(lines(folder / f"{name}.csv")) == next(lines(real))
    check_forms(real)


def check_forms(path: Path) -> None:
    header, *rows = lines(path)
    for column, values in zip(header, zip(*rows, strict=True), strict=True):
        form = re.compile(FORMS.get(column, r"[^\t]+" if column != "detail_desc" else ".*"))
        assert [value for value in set(values) if not form.fullmatch(value)] == [], column


def test_only_text_that_needs_quotes_has_them(folder: Path) -> None:
    assert b'"' not in (folder / "transactions_train.csv").read_bytes() + (folder / "customers.csv").read_bytes()
    assert b',"' in (folder / "articles.csv").read_bytes()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        list(write_hm(tmp_path / str(seed), **SIZE, file_format="csv", seed=seed))
        for name in FILES:
            same = (tmp_path / str(seed) / f"{name}.csv").read_bytes() == (folder / f"{name}.csv").read_bytes()
            assert same == (seed == 1)


def test_more_rows_leave_articles_and_customers_as_they_are(folder: Path, tmp_path: Path) -> None:
    list(write_hm(tmp_path, **(SIZE | {"num_rows": 70_000}), file_format="csv", seed=1))
    for name in FILES[:2]:
        assert (tmp_path / f"{name}.csv").read_bytes() == (folder / f"{name}.csv").read_bytes()


@pytest.mark.parametrize("extension", ["csv", "csv.gz", "parquet"])
def test_the_adapter_reads_each_form_without_quarantine(tmp_path: Path, extension: str) -> None:
    list(write_hm(tmp_path, 5000, 300, 200, extension, 3))
    logs = read(tmp_path, extension)
    assert logs.rows_read == {"interactions": 5000, "users": 300, "items": 200}
    assert logs.quarantine.num_rows == 0
    assert (logs.users.num_rows, logs.items.num_rows) == (300, 200)  # every id of the log is known


def test_parquet_holds_the_same_values_as_text(folder: Path, tables: dict[str, pa.Table]) -> None:
    for name, table in tables.items():
        header, *rows = lines(folder / f"{name}.csv")
        assert table.column_names == header
        for column, values in zip(header, zip(*rows, strict=True), strict=True):
            ours = table[column].to_pylist()
            assert ["" if value is None else str(value) for value in ours] == list(values), column


def test_rows_are_in_order_of_day_and_customer(tables: dict[str, pa.Table]) -> None:
    log = tables["transactions_train"]
    keys = list(zip(log["t_dat"].to_pylist(), log["customer_id"].to_pylist(), strict=True))
    assert keys == sorted(keys)
    assert keys[0][0] == FIRST_DAY
    assert len({day for day, _ in keys}) == NUM_DAYS
    ids = tables["customers"]["customer_id"].to_pylist()
    assert ids == sorted(set(ids))


def test_prices_are_cut_after_16_decimals_as_in_the_competition() -> None:
    texts = price_texts(1999)
    assert (texts[1999], texts[499], texts[590]) == ("0.0338813559322033", "0.008457627118644", "0.01")


def test_popularity_and_activity_have_heavy_tails(tables: dict[str, pa.Table]) -> None:
    log = tables["transactions_train"]
    for column, share in (("article_id", 0.10), ("customer_id", 0.07)):
        counts = np.sort(log[column].value_counts().field("counts").to_numpy())[::-1]
        assert counts[: len(counts) // 100].sum() / counts.sum() > share
        assert counts.mean() > 1.5 * np.median(counts)


def test_nearly_every_customer_buys_and_a_part_is_bought_again(tables: dict[str, pa.Table]) -> None:
    log = tables["transactions_train"]
    assert pc.count_distinct(log["customer_id"]).as_py() > 0.95 * SIZE["num_users"]
    pairs = log.group_by(["customer_id", "article_id"]).aggregate([]).num_rows
    assert 0.1 < 1 - pairs / log.num_rows < 0.4


def test_articles_are_launched_and_fade(tables: dict[str, pa.Table]) -> None:
    """What sold best in the month before sells best now, better than what sold best from the beginning."""
    log = tables["transactions_train"]
    day = pc.cast(log["t_dat"], pa.int32()).to_numpy() - (FIRST_DAY.toordinal() - 719_163)
    item = log["article_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    best = {}
    for name, known in (("recent", (day >= 640) & (day < 670)), ("ever", day < 670)):
        best[name] = np.argsort(-np.bincount(item[known], minlength=item.max() + 1), kind="stable")[:50]
    sold = item[(day >= 670) & (day < 700)]
    assert np.isin(sold, best["recent"]).mean() > np.isin(sold, best["ever"]).mean() > 0.05
    first = np.full(item.max() + 1, NUM_DAYS)
    np.minimum.at(first, item, day)
    assert (first > 60).mean() > 0.3


def test_customers_buy_from_the_sections_they_bought_from(tables: dict[str, pa.Table]) -> None:
    """Two purchases of one customer on different days share the section more often than those of two customers."""
    log, articles = tables["transactions_train"], tables["articles"]
    section = articles["section_name"].combine_chunks().dictionary_encode().indices.to_numpy()
    section = section[pc.index_in(log["article_id"], articles["article_id"]).to_numpy()]
    user = pc.index_in(log["customer_id"], tables["customers"]["customer_id"]).to_numpy()
    order = np.argsort(user, kind="stable")
    section, user, day = section[order], user[order], log["t_dat"].combine_chunks().cast(pa.int32()).to_numpy()[order]
    same = (user[1:] == user[:-1]) & (day[1:] != day[:-1])
    strangers = np.random.default_rng(0).permutation(section)
    assert (section[1:] == section[:-1])[same].mean() > 2 * (section == strangers).mean()


def test_a_shop_of_the_smallest_size_works() -> None:
    shop = HmShop(num_rows=3, num_users=10, num_items=50, seed=0)
    assert sum(len(shop.purchases(day)[0]) for day in range(NUM_DAYS)) == 3
