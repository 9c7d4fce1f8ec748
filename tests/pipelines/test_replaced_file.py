"""A file that appears whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.replaced_file import TargetError, replaced


def test_the_older_file_stays_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with replaced(target) as building:
        building.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_nothing_new(error, tmp_path):
    def break_off() -> None:
        with replaced(tmp_path / "a.txt") as building:
            building.write_text("half")
            raise error

    with pytest.raises(error):
        break_off()
    assert os.listdir(tmp_path) == []


def test_a_killed_process_leaves_the_older_file(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    script = (
        "import os, sys; from pathlib import Path; from pipelines.replaced_file import replaced\n"
        "with replaced(Path(sys.argv[1])) as building:\n    building.write_text('half'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(target)], cwd=Path(__file__).parents[2], timeout=60)
    assert done.returncode == -9 and target.read_text() == "old"
    with replaced(target) as building:
        building.write_text("new")
    assert target.read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


def test_a_place_where_no_file_can_stand_is_an_error_before_the_work(tmp_path):
    for target, said in [(tmp_path / "none" / "a.txt", "there is no folder"), (tmp_path, "is a folder")]:
        with pytest.raises(TargetError, match=said), replaced(target):
            pytest.fail("the work began")
