"""The bottom layer: raw logs become tables, tables become features. Imports no other layer."""

import os
import sys

# Merlin 23.8 needs Dask's legacy dataframe. It is chosen when dask.dataframe is first imported, in workers too.
os.environ["DASK_DATAFRAME__QUERY_PLANNING"] = "False"
if "dask" in sys.modules:
    sys.modules["dask"].config.set({"dataframe.query-planning": False})
