"""One of several processes that answer requests with the exported graph."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from ensemble.config import ServingConfig
    from ensemble.pipeline import Pipeline
    from ensemble.request import Request

T = TypeVar("T")

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_loaded: dict[str, Pipeline] = {}


def load(version_folder: Path, config: ServingConfig | None = None) -> None:
    """Before the first request. Heavy imports wait for it.

    Their warnings are for those who change Cascade; and each process gets one thread, because threads of several
    processes that wait for each other are slower than one.
    """
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends this process at once; the parent says so
    logging.captureWarnings(True)
    from ensemble.pipeline import Pipeline

    _loaded["pipeline"] = Pipeline.load(version_folder, config)


def answer(of: Callable[[Pipeline, Request], T], request: Request) -> T:
    """What a function makes of this process's pipeline and a request."""
    return of(_loaded["pipeline"], request)
