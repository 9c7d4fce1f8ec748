"""Team-draft interleaving: two rankings in one slate, and whom the user prefers.

Source: Radlinski, Kurup & Joachims, "How does clickthrough data reflect retrieval quality?", CIKM 2008.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipelines.ope.confidence_sequence import asymptotic, last
from pipelines.ope.rewards import place_values
from pipelines.ope.shown_slates import ShownSlates
from pipelines.ope.user_entries import FEWEST, ComparisonError, ReadOut, entries

# B logged requests of a user  k places  U users in the order of their first request
FIRST, SECOND = 1, 2
TEAM = "team"


def team_draft(first: list[str], second: list[str], k: int, rng: np.random.Generator) -> tuple[list[str], list[int]]:
    """At most k items, and whose each is, FIRST or SECOND: both pick their best in turns, a coin says who begins."""
    picked: list[str] = []
    team: list[int] = []
    while len(picked) < k and {*first, *second} - {*picked}:
        for side in rng.permutation([FIRST, SECOND]).tolist():
            left = [item for item in (first if side == FIRST else second) if item not in picked]
            if left and len(picked) < k:
                picked.append(left[0])
                team.append(side)
    return picked, team


def teams(shown: ShownSlates, file: Path) -> np.ndarray:
    """[B, k] whose item it is; 0 for nobody's.

    Args:
        file: table with request_id, user_id, item_id and team.
    Raises: RewardError for a row that does not fit; ComparisonError for a team that is none.
    """
    team_Bk = place_values(shown, file, TEAM)
    if not np.isin(team_Bk, (0, FIRST, SECOND)).all():
        raise ComparisonError(
            f"{file}: team must be {FIRST} or {SECOND}, an item of a slate once, got {team_Bk.max():g}"
        )
    return team_Bk


def read_interleaved(
    shown: ShownSlates, reward_Bk: np.ndarray, team_Bk: np.ndarray, read_out: ReadOut
) -> dict[str, Any]:
    """Mean over users of the sign of their rewards for SECOND less those for FIRST: above 0, SECOND is preferred."""
    rows = np.flatnonzero((team_Bk > 0).any(1))
    if not len(rows):
        raise ComparisonError("no logged slate has items of a team; give the teams of this log's requests")
    balance_B = (reward_Bk * (team_Bk == SECOND)).sum(1) - (reward_Bk * (team_Bk == FIRST)).sum(1)
    found = entries(shown.taken(rows), balance_B[rows], float(shown.received_B[-1]), read_out)
    return {"level": read_out.level, "planned": read_out.planned} | preferred(np.sign(found.value_U), read_out)


def preferred(sign_U: np.ndarray, read_out: ReadOut) -> dict[str, Any]:
    """What can be said after the last user.

    Args:
        sign_U: 1 for SECOND, -1 for FIRST, 0 for a tie.
    """
    num_U = np.arange(1, len(sign_U) + 1)
    mean_U = sign_U.cumsum() / num_U
    deviation_U = np.sqrt(np.maximum((sign_U**2).cumsum() / num_U - mean_U**2, 0))
    said = last(asymptotic(mean_U, deviation_U, num_U, read_out.level, read_out.planned))
    counts = {name: int((sign_U == sign).sum()) for name, sign in (("first", -1), ("tie", 0), ("second", 1))}
    is_ready = min(counts["first"], counts["second"]) >= FEWEST
    may_stop = is_ready and not said["low"] <= 0 <= said["high"]
    return {"users": counts, "preference": said, "is_ready": is_ready, "may_stop": may_stop}
