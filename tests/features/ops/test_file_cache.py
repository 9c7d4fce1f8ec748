import os
from pathlib import Path

from features.ops.file_cache import FileCache


def test_a_file_is_read_once_until_it_changes(tmp_path: Path) -> None:
    path, reads = tmp_path / "file", []

    def read() -> str:
        reads.append(path.read_text())
        return reads[-1]

    cache: FileCache[str] = FileCache()
    path.write_text("old")
    assert [cache.get(path, read), cache.get(path, read)] == ["old", "old"]
    path.write_text("newer")
    assert cache.get(path, read) == "newer" and reads == ["old", "newer"]


def test_what_an_owner_says_is_forgotten_with_it(tmp_path: Path) -> None:
    class Owner:
        pass

    path, cache, owner = tmp_path / "file", FileCache(), Owner()
    path.touch()
    cache.put(path, "told", owner)
    assert cache.get(path, lambda: "read") == "told"
    del owner
    assert cache.get(path, lambda: "read") == "read"


def test_files_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    cache: FileCache[int] = FileCache()
    for number in range(3):
        (tmp_path / str(number)).touch()
        cache.put(tmp_path / str(number), number)
    os.remove(tmp_path / "0")
    cache.put(tmp_path / "1", 5)
    assert sorted(cache._entries) == [str(tmp_path / "1"), str(tmp_path / "2")]
