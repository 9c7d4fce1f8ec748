"""The key of Triton's control endpoints: from the environment, or made at start and kept where only its owner reads."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ensemble.config import ServingConfig
from features.errors import CascadeError

KEY_FILE = "control.key"
_NUM_BYTES = 32


class ControlKeyError(CascadeError, ValueError):
    """There is no key of the control endpoints where it should be."""


def make_control_key(serve_folder: Path, config: ServingConfig) -> str:
    """The key for a server that starts: that of the environment, or a new one in a file with mode 0600.

    Raises: ControlKeyError if the environment variable that the configuration names is not set.
    """
    if config.security.control_key_env:
        return _from_environment(config.security.control_key_env)
    key = secrets.token_hex(_NUM_BYTES)
    path = serve_folder / KEY_FILE
    path.unlink(missing_ok=True)  # O_EXCL then makes a file that nobody else has open
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key)
    return key


def read_control_key(serve_folder: Path, config: ServingConfig) -> str:
    """The key of the server that serves this folder.

    Raises: ControlKeyError.
    """
    if config.security.control_key_env:
        return _from_environment(config.security.control_key_env)
    try:
        return (serve_folder / KEY_FILE).read_text()
    except OSError as error:
        raise ControlKeyError(
            f"{serve_folder / KEY_FILE} cannot be read ({error.strerror}); start `cascade serve`, and deploy as the "
            "same user on the same machine, or name an environment variable in serving.security.control_key_env"
        ) from error


def _from_environment(name: str) -> str:
    key = os.environ.get(name, "")
    if len(key) < 16 or not key.isalnum() or not key.isascii():  # it goes into an option of Triton with , and = in it
        raise ControlKeyError(
            f"the environment variable {name} (serving.security.control_key_env) must hold a key of 16 or more letters "
            f"and digits, got {len(key)} characters; make one with `openssl rand -hex 32`"
        )
    return key
