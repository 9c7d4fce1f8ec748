"""The H&M files, as published."""

import gzip
import os
import shutil
from pathlib import Path

import pytest

from features.logs import DataConfig, LogError, read_logs
from features.logs.hm import ITEM_CATEGORIES, HmConfig
from pipelines.synth import synth

REAL = Path(os.environ.get("CASCADE_DATA", "../shared/data")) / "hm"


def logs_of(folder: Path):
    return read_logs(DataConfig(adapter="hm", hm=HmConfig(path=str(folder))))


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir() and not os.environ.get("CI"), reason="CASCADE_DATA has no hm/")
def test_the_real_sample_is_read_whole() -> None:
    logs = logs_of(REAL)
    assert (len(logs.interactions), len(logs.users), len(logs.items)) == (31_662, 1_364, 105_542)
    assert len(logs.quarantine) == 0 and logs.rows_read["interactions"] == 31_662
    assert {len(raw) for raw in logs.items["item_id"].to_pylist()} == {10}, "leading zeros are kept"
    assert {len(raw) for raw in logs.users["user_id"].to_pylist()} == {64}
    assert logs.interaction_columns.price and logs.interaction_columns.categorical == ("sales_channel",)
    assert logs.item_features.categorical == ITEM_CATEGORIES and logs.item_features.texts == ("text",)
    assert logs.interactions["price"].null_count == 0
    assert set(logs.interactions["sales_channel"].to_pylist()) == {"1", "2"}


@pytest.mark.parametrize("file_format", ["csv", "csv.gz", "parquet"])
def test_every_form_of_the_files_is_read_alike(tmp_path: Path, file_format: str) -> None:
    synth("hm", tmp_path / "hm", 2_000, 150, 80, file_format, say=lambda line: None)
    logs = logs_of(tmp_path / "hm")
    assert (len(logs.interactions), len(logs.users), len(logs.items)) == (2_000, 150, 80)
    assert len(logs.quarantine) == 0


def test_a_missing_or_doubled_file_is_named(tmp_path: Path) -> None:
    synth("hm", tmp_path / "hm", 2_000, 150, 80, "csv", say=lambda line: None)
    with gzip.open(tmp_path / "hm" / "customers.csv.gz", "wb") as twice:
        twice.write((tmp_path / "hm" / "customers.csv").read_bytes())
    with pytest.raises(LogError, match=r"there is customers\.csv and customers\.csv\.gz"):
        logs_of(tmp_path / "hm")
    shutil.rmtree(tmp_path / "hm")
    with pytest.raises(LogError, match=r"needs exactly one of transactions_train\.csv.*there is none of them"):
        logs_of(tmp_path / "hm")
