#!/usr/bin/env bash
# Refreshes the live run with the logs that came since it was made. For cron, see crontab beside it.
#
#   refresh.sh SERVED LOGS RUNS
#
# SERVED  the run that `cascade serve` was started with
# LOGS    a folder with a folder, or file, of new logs a day, named so that they sort by time: 2026-11-27, 2026-11-28
# RUNS    where the new runs are made, each named for its day; a day that was refused leaves its run to look at
#
# Exit status: 0 refreshed, or nothing new; 1 refused or failed; 75 another refresh is at work.
# It says nothing on standard output unless something is wrong, so that cron mails only then. RUNS/refresh.log has it all.
set -euo pipefail

served=$1 logs=$2 runs=$3
cascade=${CASCADE:-cascade}
log=$runs/refresh.log

mkdir -p "$runs"
exec 9>"$runs/refresh.lock"
flock --nonblock 9 || exit 75

# The run that is live, and the logs behind those that it has: a night that was refused comes again with the next.
live=$($cascade deployments --to "$served" --json |
    python3 -c 'import json, sys; state = json.load(sys.stdin); print(state["releases"][str(state["live"]["stable"])]["run"])')
mapfile -t new < <(python3 - "$live/config.json" "$logs" <<'PYTHON'
import json, pathlib, sys

known = json.load(open(sys.argv[1]))["data"]["append"]
days = sorted(str(path) for path in pathlib.Path(sys.argv[2]).iterdir())
print(*[day for day in days if day > max([one for one in known if one in days], default="")], sep="\n")
PYTHON
)
[[ -n ${new[0]:-} ]] || exit 0

{
    echo "$(date --iso-8601=seconds) refreshing $live with ${new[*]}"
    # Findings (3), or too few requests (4), are for a person to look at; a new model may be what is needed.
    $cascade monitor "$live" --log "$served/serve/requests" || echo "cascade monitor ended with $?"
} >>"$log" 2>&1

appends=()
for day in "${new[@]}"; do appends+=(--append "$day"); done
if ! $cascade refresh "$live" "${appends[@]}" --out "$runs/$(basename "${new[-1]}")" --to "$served" >>"$log" 2>&1; then
    tail --lines 40 "$log"
    exit 1
fi
