import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from merlin.dag import Graph
from nvtabular import ops

from features.artifact import Artifact, open_artifact
from features.as_of import ITEM_NUMBERS, MOMENT_NUMBERS, USER_NUMBERS, AsOf, raw_interactions
from features.history import EventLog
from features.log_scale import normalized_log
from features.schema import FIRST_KNOWN, UNSEEN, load_schema, num_categories
from features.workflow import load_workflow, normalization, transform


@pytest.fixture(scope="module")
def raw_test(etl: Artifact) -> pa.Table:
    """Raw interaction features of the test part."""
    events = pq.read_table(etl.file("events.parquet"))
    asked = events.filter(pa.compute.equal(events["split"], 2))
    rows = (asked[name].to_numpy() for name in ("user_row", "item_row", "timestamp"))
    return raw_interactions(EventLog.from_events(events), *rows, AsOf(10, 28.0))


def test_a_loaded_workflow_encodes_what_the_stage_encoded(etl: Artifact, raw_test: pa.Table) -> None:
    encoded = transform(load_workflow(etl, "interactions"), raw_test)
    assert encoded.equals(pq.read_table(etl.path / "examples/test"))


def test_a_workflow_works_in_a_fresh_process_after_its_artifact_has_moved(
    etl: Artifact, raw_test: pa.Table, tmp_path: Path
) -> None:
    shutil.copytree(etl.path, tmp_path / "moved" / "etl")
    pq.write_table(raw_test, tmp_path / "raw.parquet")
    code = (
        "import pathlib, sys\n"
        "import pyarrow.parquet as pq\n"
        "from features.artifact import open_artifact\n"
        "from features.workflow import load_workflow, transform\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "workflow = load_workflow(open_artifact(folder / 'moved' / 'etl', 'etl'), 'interactions')\n"
        "pq.write_table(transform(workflow, pq.read_table(folder / 'raw.parquet')), folder / 'encoded.parquet')\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path)], check=True)
    assert pq.read_table(tmp_path / "encoded.parquet").equals(pq.read_table(etl.path / "examples/test"))


@pytest.mark.parametrize("entity", ["user", "item"])
def test_entity_workflows_encode_unknown_rows_and_values_as_unseen(etl: Artifact, entity: str) -> None:
    workflow = load_workflow(etl, f"{entity}s")
    text = {"user": "user_club_member_status", "item": "item_section_name"}[entity]
    types = {column.name: pa.string() for column in workflow.input_schema}
    types |= {f"{entity}_id": pa.int64(), "user_age": pa.float64(), "item_price": pa.float64()}
    raw = pa.table(
        {
            name: pa.array([10**9, 10**9], pa.int64()) if name == f"{entity}_id" else pa.nulls(2, types[name])
            for name in workflow.input_schema.column_names
        }
    )
    raw = raw.set_column(raw.schema.get_field_index(text), text, pa.array(["never seen", None]))
    encoded = transform(workflow, raw)
    assert encoded[f"{entity}_id"].to_pylist() == [UNSEEN, UNSEEN]
    assert encoded[text].to_pylist() == [UNSEEN, 1]


def test_no_rows_give_no_rows_of_the_same_types(etl: Artifact, raw_test: pa.Table) -> None:
    encoded = transform(load_workflow(etl, "interactions"), raw_test.slice(0, 0))
    assert len(encoded) == 0
    assert encoded.schema.equals(pq.read_table(etl.path / "examples/test").schema)


def test_the_request_path_normalizes_as_the_workflow_does(etl: Artifact, raw_test: pa.Table) -> None:
    online = json.loads(etl.file("online.json").read_text())
    encoded = pq.read_table(etl.path / "examples/test")
    for name in (*USER_NUMBERS, *MOMENT_NUMBERS, *ITEM_NUMBERS):
        by_hand = normalized_log(raw_test[name].to_numpy(), *online[name])
        assert by_hand.dtype == np.float32
        np.testing.assert_array_equal(by_hand, encoded[name].to_numpy())


def test_a_count_without_spread_is_only_centred() -> None:
    assert normalized_log(np.array([0, 1]), 0.5, 0.0) == pytest.approx([-0.5, np.log(2) - 0.5])


def test_normalization_reads_every_normalized_column(etl: Artifact) -> None:
    workflow = load_workflow(etl, "interactions")
    nodes = Graph.get_nodes_by_op_type([workflow.output_node], ops.Normalize)
    assert set(normalization(workflow)) == {name for node in nodes for name in node.op.means}


def test_history_and_item_id_share_one_vocabulary(etl: Artifact) -> None:
    schema = load_schema(etl.file("schema.json"))
    assert schema["history"].int_domain == schema["item_id"].int_domain
    known = pq.read_table(etl.file("items.parquet"))["item_id"].to_numpy()
    assert num_categories(schema["item_id"]) == FIRST_KNOWN + (known >= FIRST_KNOWN).sum()


def test_an_artifact_whose_workflow_was_tampered_with_is_not_loaded(etl: Artifact, tmp_path: Path) -> None:
    shutil.copytree(etl.path, tmp_path / "etl")
    (tmp_path / "etl" / "workflows" / "users" / "workflow.pkl").write_bytes(b"cos\nsystem\n")
    with pytest.raises(ValueError, match=r"workflow\.pkl is damaged"):
        open_artifact(tmp_path / "etl", "etl")
