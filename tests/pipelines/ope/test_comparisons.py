"""Read-outs of A/B tests and interleaving: what they say, and that looking after every user does no harm."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ensemble.request_rows import SCHEMA
from pipelines.__main__ import main
from pipelines.ope.arms import exact_difference, sequences
from pipelines.ope.confidence_sequence import asymptotic, bounded
from pipelines.ope.interleaving import FIRST, SECOND, preferred, team_draft
from pipelines.ope.shown_slates import read_shown_slates
from pipelines.ope.user_entries import FEWEST, ReadOut, entries

RECEIVED = 1_790_000_000


def missed(is_outside_N: np.ndarray, is_ready_N: np.ndarray) -> bool:
    return bool((is_outside_N & is_ready_N).any())


@pytest.mark.parametrize(("rate", "share"), [(0.5, 0.5), (0.05, 0.5), (0.1, 0.1)])
def test_peeking_after_every_user_of_an_a_a_test_errs_in_less_than_5_percent(rate, share):
    rng, errors, ratio_errors, exact_errors = np.random.default_rng(1), 0, 0, 0
    for number in range(400):
        has_reward_U, is_candidate_U = (rng.random(5_000) < rate) * 1.0, rng.random(5_000) < share
        difference, ratio, is_ready_U = sequences(has_reward_U, is_candidate_U, 0.95, 2_000)
        errors += missed((difference.low_N > 0) | (difference.high_N < 0), is_ready_U)
        ratio_errors += missed((ratio.low_N > 0) | (ratio.high_N < 0), is_ready_U)
        if number < 100:
            found = bounded(has_reward_U, 0.95)
            exact_errors += bool(((found.low_N > rate) | (found.high_N < rate)).any())
    assert is_ready_U[-1] and errors < 0.05 * 400 and ratio_errors < 0.05 * 400 and exact_errors < 0.05 * 100


def test_peeking_at_a_fixed_interval_errs_often():
    rng, errors = np.random.default_rng(1), 0
    for _ in range(200):
        sign_U, num_U = rng.choice([-1.0, 1.0], 5_000), np.arange(1, 5_001)
        errors += bool((np.abs(sign_U.cumsum() / num_U)[100:] > 1.96 / np.sqrt(num_U[100:])).any())
    assert errors > 0.2 * 200


def test_a_real_difference_is_found_and_the_intervals_hold_it():
    rng = np.random.default_rng(2)
    is_candidate_U = rng.random(20_000) < 0.5
    has_reward_U = (rng.random(20_000) < np.where(is_candidate_U, 0.14, 0.1)) * 1.0
    difference, ratio, _ = sequences(has_reward_U, is_candidate_U, 0.95, 10_000)
    assert 0 < difference.low_N[-1] < 0.04 < difference.high_N[-1]
    assert 0 < ratio.low_N[-1] < np.log(1.4) < ratio.high_N[-1]
    exact = exact_difference(has_reward_U, is_candidate_U, 0.95)
    assert exact is not None and exact["low"] < 0.04 < exact["high"]
    assert exact["high"] - exact["low"] > difference.high_N[-1] - difference.low_N[-1]
    assert exact_difference(has_reward_U, np.ones(20_000, bool), 0.95) is None


def test_the_asymptotic_sequence_is_its_formula():
    rho = np.sqrt((-2 * np.log(0.05) + np.log(-2 * np.log(0.05) + 1)) / 500)
    found = asymptotic(np.array([0.3]), np.array([2.0]), np.array([50]), 0.95, 500)
    half = 2 * np.sqrt(2 * (50 * rho**2 + 1) / (50**2 * rho**2) * np.log(np.sqrt(50 * rho**2 + 1) / 0.05))
    assert found.high_N[0] == pytest.approx(0.3 + half) and found.low_N[0] == pytest.approx(0.3 - half)


def test_values_outside_of_0_to_1_are_refused():
    with pytest.raises(ValueError, match=r"value_N must be in \[0, 1\], got 0.0 to 2.0"):
        bounded(np.array([0.0, 2.0]), 0.95)


def test_team_draft_lets_both_pick_in_turns_and_shows_nothing_twice():
    rng = np.random.default_rng(1)
    firsts = 0
    for _ in range(200):
        items, team = team_draft(list("abcd"), list("badc"), 4, rng)
        assert sorted(items) == list("abcd") and team.count(FIRST) == team.count(SECOND) == 2
        assert items[:2] in (["a", "b"], ["b", "a"]) and (items[0] == "a") == (team[0] == FIRST)
        firsts += team[0] == FIRST
    assert 70 < firsts < 130
    assert team_draft(["a"], ["a"], 4, rng)[0] == ["a"]


def test_a_preference_needs_users_on_both_sides():
    read_out = ReadOut(user_hours=1, window_hours=1)
    few = preferred(np.ones(1_000), read_out)
    assert not few["is_ready"] and not few["may_stop"]
    many = preferred(np.array([1.0, 1.0, 1.0, -1.0, 0.0] * 400), read_out)
    assert many["may_stop"] and many["preference"]["value"] == pytest.approx(0.4)
    assert many["users"] == {"first": 400, "tie": 400, "second": 1_200}


def row_of(number: int, user: str, arm: str | None, hour: float, slate: list[str]) -> dict:
    received = datetime.fromtimestamp(RECEIVED + 3_600 * hour, UTC)
    told = {"request_id": f"r{number}", "received": received, "arm": arm, "user_id": user, "k": len(slate)}
    return told | {"as_of": received, "timestamp": received, "slate_ids": slate}


def write_log(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir()
    filled = [dict.fromkeys(SCHEMA.names) | row for row in rows]
    pq.write_table(pa.Table.from_pylist(filled, SCHEMA), folder / "requests-1.parquet")
    return folder


def write_events(file: Path, events: list[tuple[str, str, float]]) -> Path:
    lines = [f"{user},{item},{int(RECEIVED + 3_600 * hour)}" for user, item, hour in events]
    file.write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    return file


def test_a_user_counts_once_with_what_he_did_in_his_time(tmp_path):
    rows = [
        row_of(n, user, None, hour, ["a"]) for n, (user, hour) in enumerate([("u", 0), ("v", 1), ("u", 2), ("u", 9)])
    ]
    shown = read_shown_slates(write_log(tmp_path / "log", rows))
    read_out = ReadOut(user_hours=3, window_hours=1)
    found = entries(shown, np.array([1.0, 10.0, 100.0, 1_000.0]), shown.received_B[-1], read_out)
    assert found.row_U.tolist() == [0, 1] and found.value_U.tolist() == [101, 10]
    early = entries(shown, np.ones(4), RECEIVED + 3_600 * 4, read_out)
    assert early.row_U.tolist() == [0], "the other's time is not over"


def test_the_command_reads_an_experiment(tmp_path, capsys):
    rng = np.random.default_rng(1)
    rows, events = [], []
    for number in range(2_000):
        user, is_candidate = f"u{number}", number % 2 == 1
        arm = f"new/{'candidate' if is_candidate else 'stable'}"
        rows.append(row_of(number, user, arm, number / 100, ["a", "b"]))
        if rng.random() < (0.4 if is_candidate else 0.2):
            events.append((user, "b", number / 100 + 0.5))
    rows += [row_of(9_000, "u1", "new/stable", 21, ["a"]), row_of(9_001, "u0", "new/shadow", 22, ["b"])]
    rows += [row_of(9_002, "late", "new/stable", 30, ["a"])]
    log, file = write_log(tmp_path / "log", rows), write_events(tmp_path / "events.csv", events)
    out = tmp_path / "ab.json"
    words = ["--ab", "--events", str(file), "--user-hours", "1", "--window-hours", "1", "--out", str(out)]
    assert main(["ope", "--log", str(log), *words]) == 0
    report = json.loads(out.read_text())
    assert [one["users"] for one in report["arms"]] == [1_000, 999] and report["users_in_both_arms"] == 1
    assert report["may_stop"] and report["difference"]["low"] < 0.2 < report["difference"]["high"]
    assert report["lift"]["low"] < 1 < report["lift"]["high"]
    assert "it may be stopped: 0 is outside" in capsys.readouterr().out
    assert main(["ope", "--log", str(log), "--ab", "--events", str(file), "--user-hours", "99"]) == 1
    assert "no user's time is over" in capsys.readouterr().err
    assert main(["ope", "--log", str(log), "--ab", "--events", str(file), "--experiment", "old"]) == 1
    assert "needs two arms of one experiment, the log has new/candidate, new/stable" in capsys.readouterr().err


def test_the_command_reads_interleaved_slates(tmp_path, capsys):
    rng, rows, events, teams = np.random.default_rng(1), [], [], ["request_id,user_id,item_id,team"]
    for number in range(400):
        items, team = team_draft(["a", "b"], ["b", "a"], 2, rng)
        rows.append(row_of(number, f"u{number}", None, number / 100, items))
        teams += [f"r{number},u{number},{item},{side}" for item, side in zip(items, team, strict=True)]
        side = SECOND if rng.random() < 0.8 else FIRST
        events.append((f"u{number}", items[team.index(side)], number / 100 + 0.5))
    log, file = write_log(tmp_path / "log", [*rows, row_of(999, "end", None, 9, ["a"])]), tmp_path / "teams.csv"
    file.write_text("\n".join(teams))
    events_file = write_events(tmp_path / "events.csv", events)
    words = ["ope", "--log", str(log), "--teams", str(file), "--events", str(events_file)]
    assert main([*words, "--user-hours", "1", "--window-hours", "1"]) == 0
    assert "it may be stopped" in capsys.readouterr().out
    file.write_text("request_id,user_id,item_id,team\nr0,u0,a,3\n")
    assert main(words) == 1
    assert f"team must be {FIRST} or {SECOND}, an item of a slate once, got 3" in capsys.readouterr().err
    assert FEWEST == 20
