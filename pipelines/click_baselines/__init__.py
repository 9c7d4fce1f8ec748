"""What a click model is measured against, one baseline a file: fitted on train, tuned on valid, asked about test."""

from pipelines.click_baselines.baseline import ClickBaseline
from pipelines.click_baselines.click_rate import mean_click_rate
from pipelines.click_baselines.fm import factorization_machine
from pipelines.click_baselines.logistic import logistic_regression
from pipelines.click_baselines.trees import lightgbm_trees

__all__ = ["ClickBaseline", "factorization_machine", "lightgbm_trees", "logistic_regression", "mean_click_rate"]
