"""Where the users' online rows live: the configuration, apart from the code that needs Feast."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from features.errors import CascadeError

ROW_FORM = 2
"""Of what the rows hold. The project names it, so that servers of different forms can share a Redis."""


class StoreError(CascadeError):
    """The online store cannot be written, opened or trusted; the message says which one and what to do."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class OnlineStoreConfig:
    """The users' online store."""

    type: Literal["sqlite", "redis"] = "sqlite"
    """A SQLite file inside the exported pipeline, or a Redis that several servers share."""
    redis: Annotated[str, Field(min_length=1)] = "localhost:6379"
    """The Redis as Feast names it: host:port, then what else is needed: localhost:6379,db=1,ssl=true. No password."""
    connection_string_env: Annotated[str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")] = ""
    """Environment variable that holds the connection string, or a redis:// or rediss:// URL, instead of `redis`: the
    place for passwords. Needed wherever the store is written or served; its value is never written to a file."""
    project_prefix: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")] = "cascade"
    """Start of the Feast project's name, which the hash of the etl stage's result ends. Deployments that share a Redis
    and the same etl result share their rows, unless their prefixes differ."""
    key_ttl_seconds: Annotated[int, Field(ge=0)] = 0
    """Redis: seconds after its last write at which a user's row goes; 0 keeps it."""
    timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 0.25
    """Redis: how long in seconds a request waits for it before its users are served as `degraded`."""

    @model_validator(mode="after")
    def _no_secrets(self) -> OnlineStoreConfig:
        if re.search(r"://|@|(?i:\b(password|username)\s*=)", self.redis):
            raise ValueError(
                "redis must be host:port without a password or user, which would end up in the exported files; put "
                "the whole connection string into an environment variable and name it in connection_string_env"
            )
        if self.type == "redis" and not self.connection_string_env and not _ADDRESS.match(self.redis):
            raise ValueError(f"redis must be host:port, and options such as db=1 after commas; got {self.redis!r}")
        return self


_ADDRESS = re.compile(r"^[^,:=\s$]+:\d{1,5}(,\w+=[^,=\s$]+)*$")
