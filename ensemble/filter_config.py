"""What may be shown to anybody: the configuration, apart from the code that reads the items."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class StockConfig:
    """A table of what can be had, read again whenever it changes."""

    file: str = ""
    """CSV or Parquet file with an item id and its availability in each row; empty for none. A relative path counts from
    the folder in which the server, or what reads the run in process, is started."""
    item_id: Annotated[str, Field(min_length=1)] = "item_id"
    """Column of the item ids."""
    available: Annotated[str, Field(min_length=1)] = "available"
    """Column that says whether the item can be had: true or false, or a number of pieces. An item with several rows, as
    of several warehouses, can be had if one of them says so."""
    others_available: bool = True
    """Whether items that are not in the file can be had."""
    poll_seconds: Annotated[float, Field(gt=0, le=3_600)] = 1.0
    """How often to look whether the file has changed, in seconds."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class FilterConfig:
    """Filters that hold for everybody. What a user had or excludes is filtered besides."""

    rules: dict[str, str] = Field(default_factory=dict)
    """Name to a rule over item attributes, e.g. { cheap = 'price <= 50 and index_group_name == "Ladieswear"' }. Only
    items for which all rules hold are shown."""
    stock: StockConfig = Field(default_factory=StockConfig)
    """Availability."""
