"""The Open Bandit Dataset's form, made; and the published rows where they are."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.__main__ import main
from pipelines.ope.open_bandit import OpenBanditError, evaluate_open_bandit, read_log, shares

RATE_I = np.array([0.05, 0.1, 0.2, 0.4])
BTS_PI = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]])


def write_world(folder: Path, num_rows: int = 20_000, campaign: str = "made") -> None:
    rng = np.random.default_rng(1)
    for name, policy_PI in (("random", np.full((3, 4), 0.25)), ("bts", BTS_PI)):
        position_N = rng.integers(0, 3, num_rows)
        item_N = (rng.random(num_rows)[:, None] > policy_PI.cumsum(1)[position_N][:, :-1]).sum(1)
        click_N = rng.random(num_rows) < RATE_I[item_N]
        lines = ["item_id,position,click,propensity_score"]
        lines += [
            f"{item},{position + 1},{int(click)},{policy_PI[position, item]}"
            for item, position, click in zip(item_N, position_N, click_N, strict=True)
        ]
        file = folder / name / campaign / f"{campaign}.csv.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress("\n".join(lines).encode()))


def test_both_policies_are_worth_what_the_made_world_says(tmp_path):
    write_world(tmp_path)
    truth = {"random": RATE_I.mean(), "bts": (BTS_PI @ RATE_I).mean()}
    report = evaluate_open_bandit(tmp_path)
    assert [(one["log"], one["policy"]) for one in report["evaluations"]] == [("random", "bts"), ("bts", "random")]
    for one in report["evaluations"]:
        estimates = [one["estimates"][name] for name in ("ips", "snips", "dr", "switch-dr", "shrunk-dr")]
        for estimate in [one["on_policy"], *estimates]:
            assert abs(estimate["value"] - truth[one["policy"]]) < 4 * estimate["standard_error"]
        assert one["mean_weight"] == pytest.approx(1, abs=0.03)


def test_shares_are_of_a_position(tmp_path):
    write_world(tmp_path)
    share_PI = shares(read_log(tmp_path / "bts" / "made" / "made.csv.gz"), (3, 4))
    assert np.allclose(share_PI, BTS_PI, atol=0.03) and np.allclose(share_PI.sum(1), 1)


def test_the_command_prints_and_writes(tmp_path, capsys):
    write_world(tmp_path, 500)
    assert main(["ope", "--obd", str(tmp_path), "--out", str(tmp_path / "ope.json")]) == 0
    assert "made: bts from the log of random, 500 rows" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "ope.json").read_text())["evaluations"]) == 2


def test_what_is_not_the_data_set_is_refused(tmp_path):
    with pytest.raises(OpenBanditError, match="give the folder that holds the folders `random` and `bts`"):
        evaluate_open_bandit(tmp_path)
    file = tmp_path / "made.csv"
    file.write_text("item_id,position,click\n1,1,0\n")
    with pytest.raises(OpenBanditError, match="has no column 'propensity_score'"):
        read_log(file)
    file.write_text("item_id,position,click,propensity_score\n1,1,0,0.5\n1,1,0,0\n")
    with pytest.raises(OpenBanditError, match=r"row 2: propensity_score must be in \(0, 1\], got 0"):
        read_log(file)


@pytest.mark.realdata
def test_the_published_rows_are_evaluated_both_ways(cascade_data):
    report = evaluate_open_bandit(cascade_data / "obd")
    assert {one["campaign"] for one in report["evaluations"]} >= {"men", "women"}
    for one in report["evaluations"]:
        if one["log"] == "random":
            dr, own = one["estimates"]["dr"], one["on_policy"]
            assert dr["low"] < own["high"] and own["low"] < dr["high"] and one["effective_sample_size"] > 1_000
