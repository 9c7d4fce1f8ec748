"""What a user would otherwise pick, one baseline a file, tuned on validation and measured beside Cascade."""

from pipelines.baselines.baseline import Baseline
from pipelines.baselines.events import Events
from pipelines.baselines.suite import BASELINES, BaselineResult, cached_baselines, run_baselines
from pipelines.baselines.tuning import HeldOut

__all__ = ["BASELINES", "Baseline", "BaselineResult", "Events", "HeldOut", "cached_baselines", "run_baselines"]
