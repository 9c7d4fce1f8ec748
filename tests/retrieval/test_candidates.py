"""The candidate stage: every source asked, one that fails left out, saved and loaded."""

import logging
import shutil
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from retrieval.candidates import CandidateStage, load_merge, load_stage, save_stage, source_names
from retrieval.merge import Merge, side_by_side
from retrieval.sources import FITTED, Past, Proposals, Users

NO_ITEM = -1
QUOTAS = (9, 3, 8, 6, 12, 5, 7, 10)


@dataclass(frozen=True)
class Broken:
    """A source whose file is damaged, say."""

    name: ClassVar[str] = "covisitation"

    def propose(self, users: Users, k: int) -> Proposals:
        raise IndexError("row 7 of nothing")


@pytest.fixture
def stage(sources) -> CandidateStage:
    weights = (1.0, 0.25, 2.0, 0.75, 0.0, 0.5, 1.5, 3.0)
    return CandidateStage(tuple(sources.values()), QUOTAS, Merge(weights, reserved=1, share=0.1))


def assert_same(found: list[Proposals], expected: list[Proposals]):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.row_BK, other.row_BK)
        np.testing.assert_array_equal(one.score_BK, other.score_BK)


def test_every_source_proposes_its_quota_or_the_depth_if_that_is_more(stage: CandidateStage, users: Users):
    for depth in (0, 6, 40):
        proposals, failed = stage.propose(users, depth)
        assert not failed
        for source, quota, one in zip(stage.sources, QUOTAS, proposals, strict=True):
            assert_same([one], [source.propose(users, max(quota, depth))])


def test_a_source_without_a_quota_proposes_nothing_at_any_depth(stage: CandidateStage, users: Users):
    proposals, failed = replace(stage, quotas=(0, *QUOTAS[1:])).propose(users, 20)
    assert not failed and proposals[0].row_BK.shape == (len(users), 0)


def test_the_candidates_are_the_merge_of_what_is_proposed(stage: CandidateStage, users: Users):
    merged = stage.candidates(users, 6)
    expected = stage.merge(side_by_side(stage.propose(users, 0)[0]), 6)
    np.testing.assert_array_equal(merged.row_BK, expected.row_BK)
    np.testing.assert_array_equal(merged.source_BKS, expected.source_BKS)
    for user, row_K in enumerate(merged.row_BK):
        assert not set(row_K[row_K != NO_ITEM].tolist()) & set(users.forbidden_BS[user].tolist())


def test_a_source_that_raises_is_skipped_named_and_logged(stage: CandidateStage, users: Users, caplog):
    expected, _ = stage.propose(users, 0)
    place = stage.names.index(Broken.name)
    broken = replace(stage, sources=(*stage.sources[:place], Broken(), *stage.sources[place + 1 :]))
    with caplog.at_level(logging.ERROR):
        proposals, failed = broken.propose(users, 0)
        merged = broken.candidates(users, 8)
    assert failed == [Broken.name]
    assert "covisitation failed" in caplog.text and "row 7 of nothing" in caplog.text
    assert (proposals[place].row_BK == NO_ITEM).all() and proposals[place].row_BK.shape == (len(users), QUOTAS[place])
    others = [one for one in range(len(QUOTAS)) if one != place]
    assert_same([proposals[one] for one in others], [expected[one] for one in others])
    assert not merged.source_BKS[..., place].any() and (merged.row_BK[0] != NO_ITEM).all()


def test_a_saved_stage_proposes_and_merges_the_same_from_another_folder(
    stage: CandidateStage, sources, past: Past, users: Users, tmp_path
):
    fitted = [source for source in stage.sources if isinstance(source, FITTED)]
    save_stage(tmp_path / "first", stage, fitted)
    folder = tmp_path / "elsewhere" / "sources"
    shutil.copytree(tmp_path / "first", folder)
    shutil.rmtree(tmp_path / "first")
    loaded = load_stage(folder, sources["two_tower"].index, past.num_events)
    assert loaded.names == stage.names == source_names(folder)
    assert loaded.quotas == QUOTAS and loaded.merge == stage.merge == load_merge(folder)
    assert_same(loaded.propose(users, 20)[0], stage.propose(users, 20)[0])
    np.testing.assert_array_equal(loaded.candidates(users, 9).row_BK, stage.candidates(users, 9).row_BK)


def test_a_merge_without_a_reserved_source_comes_back_so(stage: CandidateStage, tmp_path):
    save_stage(tmp_path, replace(stage, merge=Merge(stage.merge.weights)), [])
    assert load_merge(tmp_path) == Merge(stage.merge.weights)


def test_it_is_saved_with_the_sources_it_is_to_serve_with(
    stage: CandidateStage, sources, past: Past, users: Users, tmp_path
):
    half = slice(0, len(past.user_row) // 2)
    earlier = replace(past, user_row=past.user_row[half], item_row=past.item_row[half], timestamp=past.timestamp[half])
    fitted = [kind.settings(past)[0].fit(earlier) for kind in FITTED]
    save_stage(tmp_path, stage, fitted)
    loaded = load_stage(tmp_path, sources["two_tower"].index, past.num_events)
    assert_same(
        loaded.propose(users, 0)[0][2:], [one.propose(users, q) for one, q in zip(fitted, QUOTAS[2:], strict=True)]
    )
