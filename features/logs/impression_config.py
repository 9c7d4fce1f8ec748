"""How the adapter `impressions` is told what stands where."""

from typing import Annotated

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from features.logs.impressions import ImpressionColumns
from features.logs.table_config import (
    ColumnName,
    FeatureName,
    FeatureTableConfig,
    TimeForm,
    UserTableConfig,
)

FORBID_EXTRA = ConfigDict(extra="forbid")
LABEL = "label"
IDS = {"user_id", "item_id"}
NAMES_OF_THE_STAGE = {LABEL, "timestamp", "group", "hour", "weekday", "clicked_items", "skipped_items"} | IDS
JOINED = "+"


@dataclass(frozen=True, kw_only=True, config=FORBID_EXTRA)
class ImpressionItemsConfig(FeatureTableConfig):
    """What is known about items. One row is one item."""

    item_id: ColumnName
    """Column with the item's id, written as in the impressions."""


@dataclass(frozen=True, kw_only=True, config=FORBID_EXTRA)
class ImpressionTableConfig(TimeForm, FeatureTableConfig):
    """Impressions in tables of any columns. One row is one impression with its label."""

    label: ColumnName
    """Column that says whether the impression was clicked: 1 or 0. A row with anything else goes to the quarantine."""
    positive_from: float | None = None
    """The label is 1 where the column is at least this, e.g. 4 for ratings of four stars and more, else 0."""
    timestamp: ColumnName | None = None
    """Column with the time of the impression."""
    valid: Annotated[str, Field(min_length=1)] | None = None
    """File or folder of the validation rows. With valid and test, path names the rows to train with; without, one point
    in time divides the rows of path as etl.split says, which needs timestamp."""
    test: Annotated[str, Field(min_length=1)] | None = None
    """File or folder of the test rows."""
    user_id: ColumnName | None = None
    """Column with the id of whoever saw the impression; it becomes the category `user_id`."""
    item_id: ColumnName | None = None
    """Column with the id of what was shown; it becomes the category `item_id`."""
    group: FeatureName | None = None
    """The category that says whose impression it was, for metrics within each; unset: user_id, if there is one."""
    hidden: tuple[FeatureName, ...] = ()
    """Categories that are joined, counted and remembered by, and are no features themselves: the user_id, for example,
    where most users of the days to come are new."""
    calendar: bool = False
    """Whether hour and weekday of the timestamp (UTC) become categories."""
    as_of: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Categories, e.g. "user_id" and "item_id", or several joined by "+": the number of their earlier impressions and
    the share of those clicked, as of each row's own moment, become numbers. Needs timestamp."""
    history: Annotated[int, Field(ge=0, le=1_000)] = 0
    """Items of the group's history, as of each row's own moment: the last so many that were clicked become the list
    `clicked_items`, the last so many that were not the list `skipped_items`. 0: none. Needs item_id, timestamp and a
    group."""
    users: UserTableConfig | None = None
    """Features of users, joined by user_id; they are called `user_` and their name."""
    items: ImpressionItemsConfig | None = None
    """Features of items, joined by item_id; they are called `item_` and their name."""

    @property
    def columns(self) -> ImpressionColumns:
        """Names of the columns as they stand in a block."""
        ids = tuple(name for name in ("user_id", "item_id") if getattr(self, name) is not None)
        sides = [("user_", self.users), ("item_", self.items)]
        by_kind = {
            kind: tuple(f"{prefix}{name}" for prefix, side in sides if side for name in getattr(side, kind))
            for kind in ("categorical", "continuous", "lists")
        }
        return ImpressionColumns(
            label=LABEL,
            continuous=(),
            categorical=(*ids, *self.categorical, *by_kind["categorical"]),
            real=(*self.continuous, *by_kind["continuous"]),
            lists=(*self.lists, *by_kind["lists"]),
            timestamp=None if self.timestamp is None else "timestamp",
            calendar=self.calendar,
            group=self.group or ("user_id" if self.user_id is not None else None),
            hidden=self.hidden,
            as_of=self.as_of,
            history_of="item_id" if self.history else None,
            history_length=self.history,
        )

    @model_validator(mode="after")
    def _parts_are_told(self) -> "ImpressionTableConfig":
        if (self.valid is None) != (self.test is None):
            raise ValueError("valid and test belong together: set both, or neither to split by time")
        if self.timestamp is None:
            for name, is_set in (("the split by time", self.test is None), ("calendar", self.calendar)):
                if is_set:
                    raise ValueError(f"{name} needs timestamp; name the column, or set valid and test")
            for name in ("as_of", "history"):
                if getattr(self, name):
                    raise ValueError(f"{name} needs timestamp; name the column with the time")
        if self.history and (self.item_id is None or self.columns.group is None):
            raise ValueError(
                "history needs item_id, and user_id or group: whose items are remembered; name the columns"
            )
        return self

    @model_validator(mode="after")
    def _sides_can_be_joined(self) -> "ImpressionTableConfig":
        for side, key in (("users", "user_id"), ("items", "item_id")):
            if getattr(self, side) is not None and getattr(self, key) is None:
                raise ValueError(f"{side} is joined by {key}; name the column")
        return self

    @model_validator(mode="after")
    def _names_are_used_once(self) -> "ImpressionTableConfig":
        columns = self.columns
        names = [*columns.categorical, *columns.real, *columns.lists]
        for name in names:
            if names.count(name) > 1 or name in NAMES_OF_THE_STAGE - IDS:
                raise ValueError(f"the feature name {name!r} is taken; give the feature another name")
        wanted = [part for key in self.as_of for part in key.split(JOINED)]
        for name in [*wanted, *self.hidden, *filter(None, [self.group])]:
            if name not in columns.categorical:
                raise ValueError(
                    f"as_of, group and hidden take categories, {name!r} is none; there are "
                    f"{', '.join(columns.categorical)}"
                )
        if self.history and "item_id" in self.hidden:
            raise ValueError("history has the ids of item_id, which is hidden; leave out one of both")
        return self
