"""What RAPIDS 25.02 needs before Merlin 23.8 can use it; nothing here runs without a GPU.

- Merlin imports `build_categorical_column` from cudf.core.column, which cudf 24.12 and later no longer export.
- dask-cuda patches a shuffle of the new Dask dataframe when it is imported, and refuses to be imported with the legacy
  dataframe, which Merlin needs; Cascade never shuffles.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from features.errors import CascadeError

_SHUFFLE = "dask_cuda.explicit_comms.dataframe.shuffle"


class GpuError(CascadeError, RuntimeError):
    """There is no GPU, or the packages for it are not installed."""


def local_cuda_cluster() -> Any:
    """A dask-cuda cluster with one worker per GPU.

    Raises: GpuError if there is no GPU or RAPIDS is not installed.
    """
    make_cudf_usable()
    if _SHUFFLE not in sys.modules:
        stub = types.ModuleType(_SHUFFLE)
        stub.patch_shuffle_expression = lambda: None  # type: ignore[attr-defined]
        sys.modules[_SHUFFLE] = stub
    from dask_cuda import LocalCUDACluster

    return LocalCUDACluster(dashboard_address=None)


def make_cudf_usable() -> None:
    """Give cudf the name that Merlin asks for; call it before Merlin is imported.

    Raises: GpuError if there is no GPU or RAPIDS is not installed.
    """
    try:
        import cudf  # pyright: ignore[reportMissingImports]
        import cudf.core.column as columns  # pyright: ignore[reportMissingImports]

        cudf.Series([0]).sum()
    except Exception as error:  # a missing package, driver or device each raise something else
        raise GpuError(
            f"--cluster cuda needs an NVIDIA GPU and the packages of requirements-gpu.lock ({error}); "
            "install them, or use --cluster threads"
        ) from error
    if not hasattr(columns, "build_categorical_column"):
        columns.build_categorical_column = _categorical_column


def _categorical_column(categories: Any, codes: Any, mask: Any = None, ordered: bool = False, **_: Any) -> Any:
    """What cudf < 24.12 called `build_categorical_column`."""
    from cudf import CategoricalDtype  # pyright: ignore[reportMissingImports]
    from cudf.core.column import CategoricalColumn  # pyright: ignore[reportMissingImports]

    return CategoricalColumn(
        data=None,
        size=len(codes),
        dtype=CategoricalDtype(categories=categories, ordered=ordered),
        mask=mask,
        offset=0,
        children=(codes,),
    )
