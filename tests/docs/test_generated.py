"""Pages made from the code are what the code gives now."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

GENERATE = Path(__file__).resolve().parents[2] / "docs" / "generate.py"


@pytest.fixture(scope="module")
def generated() -> dict[Path, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")  # put back afterwards; the script sets its own
        spec = importlib.util.spec_from_file_location("generate_docs", GENERATE)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.generated()


@pytest.mark.parametrize("name", ["configuration.md", "commands.md"])
def test_a_generated_page_is_up_to_date(name, generated):
    assert (GENERATE.parent / name).read_text() == generated[GENERATE.parent / name], "run `make docs`"


def test_no_generated_page_is_left_out(generated):
    assert sorted(path.name for path in generated) == ["commands.md", "configuration.md"]
