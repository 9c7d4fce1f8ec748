"""Raw logs come in through adapters, one a file; every adapter returns the same three tables (`Logs`)."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from features.logs.checks import QuarantineError, check_logs
from features.logs.contract import QUARANTINE_SCHEMA, FeatureColumns, LogError, Logs
from features.logs.synthetic import SyntheticConfig, synthetic_logs
from features.logs.tables import TablesConfig, read_tables

__all__ = ["QUARANTINE_SCHEMA", "DataConfig", "FeatureColumns", "LogError", "Logs", "QuarantineError", "read_logs"]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class DataConfig:
    """Where the logs come from."""

    adapter: Literal["synthetic", "tables"] = "synthetic"
    """"synthetic": a made world of any size; "tables": your own CSV, TSV or Parquet files."""
    synthetic: SyntheticConfig = Field(default_factory=SyntheticConfig)
    """The made world."""
    tables: TablesConfig | None = None
    """Your own files."""
    max_quarantined_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Largest share of unreadable rows allowed in each table, 0..1; above it nothing is made from the log."""

    @model_validator(mode="after")
    def _tables_are_described(self) -> "DataConfig":
        if self.adapter == "tables" and self.tables is None:
            raise ValueError(
                'adapter = "tables" needs [data.tables.interactions] with path, user_id, item_id, timestamp'
            )
        return self


def read_logs(config: DataConfig) -> Logs:
    """Read the logs with the adapter that the config names, and check that a recommender can be learned from them.

    Raises: LogError, saying which file or column is at fault and what to do; QuarantineError, a LogError that holds the
        rows that cannot be read, if they are too many.
    """
    if config.adapter == "tables" and config.tables is not None:
        logs = read_tables(config.tables)
    else:
        logs = synthetic_logs(config.synthetic)
    check_logs(logs, config.max_quarantined_share)
    return logs
