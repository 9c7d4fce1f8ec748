"""What the run was made with and from: packages, commit, hashes."""

from __future__ import annotations

from pipelines.report.blocks import Folded, Section, Table
from pipelines.report.run_record import RunRecord
from pipelines.shown_values import NOTHING


def versions_section(run: RunRecord) -> Section:
    """A row a package; the stages share a column where all are made with the same."""
    stages = list(run.manifests)
    made_with = {stage: dict(manifest["versions"]) for stage, manifest in run.manifests.items()}
    for stage, manifest in run.manifests.items():
        made_with[stage]["commit of Cascade"] = manifest.get("commit") or NOTHING
    names = list(dict.fromkeys(name for versions in made_with.values() for name in versions))
    rows = [[name, *(made_with[stage].get(name, NOTHING) for stage in stages)] for name in names]
    head = ["package", *stages]
    if all(versions == made_with[stages[0]] for versions in made_with.values()):
        rows, head = [row[:2] for row in rows], ["package", "version"]
    hashes = [[stage, manifest["content_hash"]] for stage, manifest in run.manifests.items()]
    data = [[name, value] for name, value in run.manifests["etl"]["inputs"].items()]
    return Section(
        "Versions and hashes",
        [
            Table("", head, rows),
            Table("Content of each artifact, SHA-256", ["stage", "hash"], hashes),
            Folded(f"{len(data)} inputs of etl", [Table("SHA-256", ["input", "hash"], data)]),
        ],
    )
