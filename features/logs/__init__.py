"""Raw logs come in through adapters, one a file; every adapter returns the same three tables (`Logs`)."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from features.logs.append import appended, in_id_order, later_tables
from features.logs.checks import QuarantineError, check_logs
from features.logs.click_world import ClickWorldConfig
from features.logs.click_world_log import ClickWorldLog
from features.logs.contract import QUARANTINE_SCHEMA, FeatureColumns, InteractionColumns, LogError, Logs
from features.logs.criteo import CriteoConfig
from features.logs.criteo_log import CriteoLog
from features.logs.hm import HmConfig
from features.logs.impression_config import ImpressionTableConfig
from features.logs.impression_table import ImpressionTable
from features.logs.impressions import ImpressionLog
from features.logs.synthetic import SyntheticConfig, synthetic_logs
from features.logs.table_config import TablesConfig
from features.logs.tables import read_tables
from features.split import SplitConfig

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

    adapter: Literal["synthetic", "tables", "hm", "criteo", "impressions", "synthetic_clicks"] = "synthetic"
    """Logs of who met what: "synthetic", a made world of any size; "tables", your own CSV, TSV or Parquet files; "hm",
    the files of the H&M competition. Logs of impressions with a label, from which a ranker is learned and nothing else:
    "impressions", your own files; "criteo", those of Criteo's click logs; "synthetic_clicks", a made world of them."""
    synthetic: SyntheticConfig = Field(default_factory=SyntheticConfig)
    """The made world."""
    tables: TablesConfig | None = None
    """Your own files."""
    hm: HmConfig = Field(default_factory=HmConfig)
    """The H&M files."""
    criteo: CriteoConfig | None = None
    """Criteo's click logs."""
    impressions: ImpressionTableConfig | None = None
    """Your own files of impressions."""
    synthetic_clicks: ClickWorldConfig = Field(default_factory=ClickWorldConfig)
    """The made world of impressions."""
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
        if self.adapter == "impressions" and self.impressions is None:
            raise ValueError('adapter = "impressions" needs [data.impressions] with path, label and timestamp')
        if self.adapter in ("synthetic", "synthetic_clicks") and self.append:
            raise ValueError('data.append needs adapter = "tables" or "hm": the made world has no later logs')
        return self

    @property
    def holds_impressions(self) -> bool:
        """Whether the rows are impressions with a label, without the tables of users and items."""
        return self.adapter in ("criteo", "impressions", "synthetic_clicks")

    def impression_log(self, split: SplitConfig) -> ImpressionLog:
        """The log of impressions that the config names, with those appended to it.

        Args:
            split: for logs that one point in time divides.
        """
        if self.adapter == "synthetic_clicks":
            return ClickWorldLog(self.synthetic_clicks, split)
        if self.adapter == "impressions":
            assert self.impressions is not None
            return ImpressionTable(self.impressions, split, self.append)
        assert self.criteo is not None
        return CriteoLog(self.criteo, self.append)

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
