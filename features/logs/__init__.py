"""Raw logs come in through adapters, one a file; every adapter returns the same three tables (`Logs`)."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from features.logs.append import appended, in_id_order, later_tables
from features.logs.checks import QuarantineError, check_logs
from features.logs.contract import QUARANTINE_SCHEMA, FeatureColumns, InteractionColumns, LogError, Logs
from features.logs.criteo import CriteoConfig
from features.logs.hm import HmConfig
from features.logs.synthetic import SyntheticConfig, synthetic_logs
from features.logs.table_config import TablesConfig
from features.logs.tables import read_tables

__all__ = [
    "QUARANTINE_SCHEMA",
    "DataConfig",
    "FeatureColumns",
    "InteractionColumns",
    "LogError",
    "Logs",
    "QuarantineError",
    "appended",
    "read_logs",
]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class DataConfig:
    """Where the logs come from."""

    adapter: Literal["synthetic", "tables", "hm", "criteo"] = "synthetic"
    """"synthetic": a made world of any size; "tables": your own CSV, TSV or Parquet files; "hm": the files of the H&M
    competition; "criteo": those of Criteo's click logs, from which a ranker is learned and nothing else."""
    synthetic: SyntheticConfig = Field(default_factory=SyntheticConfig)
    """The made world."""
    tables: TablesConfig | None = None
    """Your own files."""
    hm: HmConfig = Field(default_factory=HmConfig)
    """The H&M files."""
    criteo: CriteoConfig | None = None
    """Criteo's click logs."""
    append: tuple[str, ...] = ()
    """Later logs, in the form of the first and in the order of time: files of interactions, or folders that may have
    users and items too. `cascade etl --append` adds to it."""
    max_quarantined_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Largest share of unreadable rows allowed in each table, 0..1; above it nothing is made from the log."""

    @model_validator(mode="after")
    def _tables_are_described(self) -> "DataConfig":
        if self.adapter == "tables" and self.tables is None:
            raise ValueError(
                'adapter = "tables" needs [data.tables.interactions] with path, user_id, item_id, timestamp'
            )
        if self.adapter == "criteo" and self.criteo is None:
            raise ValueError('adapter = "criteo" needs [data.criteo] with train')
        if self.adapter == "synthetic" and self.append:
            raise ValueError('data.append needs adapter = "tables" or "hm": the made world has no later logs')
        return self

    def table_sources(self) -> list[TablesConfig]:
        """Where the logs stand, the first ones and each append; nothing for the made world."""
        if self.adapter == "synthetic":
            return []
        first = self.hm.tables() if self.adapter == "hm" else self.tables
        assert first is not None
        return [first, *(later_tables(first, path) for path in self.append)]


def read_logs(config: DataConfig, num_known: int = 0) -> Logs:
    """Read the logs with the adapter that the config names, and check that a recommender can be learned from them.

    Args:
        num_known: sources (the first logs, then each append) that are left out because they were read before.

    Raises: LogError, saying which file or column is at fault and what to do; QuarantineError, a LogError that holds the
        rows that cannot be read, if they are too many.
    """
    sources = config.table_sources()[num_known:]
    if not sources:
        logs = in_id_order(synthetic_logs(config.synthetic))
    else:
        logs = in_id_order(read_tables(sources[0]))
        for source in sources[1:]:
            logs = appended(logs, in_id_order(read_tables(source)))
    check_logs(logs, config.max_quarantined_share)
    return logs
