"""Earlier weights under a vocabulary that has grown."""

import pytest
import torch

from features.grown_weights import WarmStartError, grown

KEY = "ranking.clicks.warm_start"


def test_earlier_rows_stay_and_the_rows_behind_them_are_the_fresh_ones():
    earlier = {
        "table": torch.arange(6.0).reshape(3, 2),
        "sums": torch.tensor([1.0, 2.0, 3.0]),
        "layer": torch.ones(2, 4),
    }
    fresh = {"table": -torch.ones(5, 2), "sums": torch.zeros(5), "layer": torch.zeros(2, 4)}
    found = grown(earlier, fresh, KEY)
    assert found["table"].tolist() == [[0, 1], [2, 3], [4, 5], [-1, -1], [-1, -1]]
    assert found["sums"].tolist() == [1, 2, 3, 0, 0] and found["layer"].tolist() == torch.ones(2, 4).tolist()
    assert fresh["table"].tolist() == [[-1, -1]] * 5, "what was given stays as it was"


def test_a_vocabulary_that_has_not_grown_gives_the_earlier_weights():
    earlier = {"table": torch.arange(6.0).reshape(3, 2)}
    assert torch.equal(grown(earlier, {"table": torch.zeros(3, 2)}, KEY)["table"], earlier["table"])


@pytest.mark.parametrize(
    ("earlier", "fresh", "said"),
    [
        ([3, 2], [5, 3], r"table was \[3, 2\] in the earlier model, and the new one needs \[5, 3\]"),
        ([5, 2], [3, 2], r"only the rows of a table may grow"),
        ([], [3], r"table was \[\] in the earlier model"),
    ],
)
def test_any_other_shape_is_refused(earlier: list[int], fresh: list[int], said: str):
    with pytest.raises(WarmStartError, match=said):
        grown({"table": torch.zeros(earlier)}, {"table": torch.zeros(fresh)}, KEY)


def test_weights_of_another_network_are_refused():
    with pytest.raises(WarmStartError, match=r"\['deep', 'top'\] are in one of them only; keep the network as it was"):
        grown({"top": torch.zeros(1)}, {"deep": torch.zeros(1)}, KEY)
