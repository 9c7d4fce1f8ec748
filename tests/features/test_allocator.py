"""What keeping freed memory changes, in a process of its own."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from features.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()
def use():
    np.ones(2**23)  # 64 MiB
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_a_large_block_is_used_again_instead_of_mapped_anew():
    def new_pages(mode: str) -> int:
        done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert new_pages("given back") > 1_000 > 10 * new_pages("kept")
