"""What a user would otherwise pick, one baseline a file, tuned on validation and measured beside Cascade."""

from features.item_content import ItemContent, read_item_content
from pipelines.baselines.baseline import Baseline
from pipelines.baselines.events import Events
from pipelines.baselines.suite import BASELINES, BaselineResult, cached_baselines, run_baselines
from pipelines.baselines.tuning import HeldOut

__all__ = [
    "BASELINES",
    "Baseline",
    "BaselineResult",
    "Events",
    "HeldOut",
    "ItemContent",
    "cached_baselines",
    "read_item_content",
    "run_baselines",
]
