"""An Airflow DAG: every night look at what was served, then refresh the live run with the logs of the day before.

Airflow is no part of Cascade; this file is copied into the DAG folder of one. Both tasks run on a machine that has
Cascade, the folders below, and the server, or at least its serve folder and its ports.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow import DAG
from airflow.operators.bash import BashOperator

PLACES = {
    "SERVED": "/runs/live",  # the run that `cascade serve` was started with
    "LOGS": "/logs/by_day",  # a folder of new logs a day
    "RUNS": "/runs/refreshed",  # where the new runs are made
}

LIVE = (
    "LIVE=$(cascade deployments --to $SERVED --json | python3 -c 'import json, sys; state = json.load(sys.stdin); "
    'print(state["releases"][str(state["live"]["stable"])]["run"])\') && '
)

# 3: findings, 4: too few requests. Somebody must look, but a new model may be what is needed. Else it is a failure.
MONITOR = "cascade monitor $LIVE --log $SERVED/serve/requests || test $? -ge 3"

# A refused refresh ends with 1, and the task is red. It is not tried again by itself: that would change nothing.
# The next day's needs its logs too: then append both by hand, or use deploy/cron/refresh.sh, which finds them.
REFRESH = "cascade refresh $LIVE --append $LOGS/{{ ds }} --out $RUNS/{{ ds }} --to $SERVED"

with DAG(
    dag_id="cascade_refresh",
    schedule="30 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 0, "execution_timeout": timedelta(hours=6)},
) as dag:
    monitor = BashOperator(task_id="monitor", bash_command=LIVE + MONITOR, env=PLACES, append_env=True)
    refresh = BashOperator(task_id="refresh", bash_command=LIVE + REFRESH, env=PLACES, append_env=True)
    monitor >> refresh
