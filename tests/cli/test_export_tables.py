"""Tables of a trace with every name resolved: the same rows as CSV, Parquet and JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from export_builders import (
    SECOND,
    events,
    ranks,
    rows_of,
    small_trace,
)
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import UnavailableError
from probe.export import chrome, csv_file, json_file, parquet_file, targets
from probe.export.tables import NAMES, Export
from probe.trace import (
    Table,
)


def test_a_table_as_csv(tmp_path: Path) -> None:
    written = csv_file.write(Export([small_trace()]), "ops", tmp_path / "ops.csv")
    first, inner, last = rows_of(tmp_path / "ops.csv")
    assert written.rows == 3
    assert first["name"] == "aten::mm"
    assert (first["rank"], first["row"], first["process"], first["thread"]) == ("3", "0", "7", "7")
    assert (first["start_ns"], first["end_ns"], first["duration_ns"], first["self_ns"]) == (
        "5001", "50003", "45002", "35002",
    )  # fmt: skip
    assert json.loads(first["input_dims"]) == [[4, 8], [[2], [3]], []]
    assert json.loads(inner["generated_kernel"])["backend"] == "triton"
    assert (inner["parent_row"], inner["sequence"]) == ("0", "")
    assert last["external_id"] == last["input_dims"] == last["parent_row"] == ""


def test_csv_runs_nothing_in_a_spreadsheet(tmp_path: Path) -> None:
    csv_file.write(Export([small_trace()]), "kernels", tmp_path / "kernels.csv.gz")
    assert rows_of(tmp_path / "kernels.csv.gz")[0]["name"] == '\'=HYPERLINK("http://evil")'


@given(st.text())
def test_inert_text_is_never_a_formula_and_loses_nothing(text: str) -> None:
    found = csv_file.inert(text)
    assert not found.startswith(tuple("=+-@\t\r\n"))
    assert found.removeprefix("'") == text


def test_all_tables_of_many_ranks_agree_in_all_formats(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    traces = ranks(0, 7_000)
    export = Export(traces)
    json_file.write(export, tmp_path / "all.json")
    whole = json.loads((tmp_path / "all.json").read_text())
    assert whole["schema"] == "probe.export/1"
    assert whole["origin_unix_ns"] == 1_700_000_000 * SECOND
    assert tuple(whole["tables"]) == NAMES
    for name in NAMES:
        csv_file.write(export, name, tmp_path / "t.csv")
        written = parquet_file.write(export, name, tmp_path / "t.parquet")
        columns = parquet.read_table(tmp_path / "t.parquet")
        assert columns.to_pydict() == whole["tables"][name]
        assert written.rows == columns.num_rows == 2 * len(columns["rank"]) // 2
        assert columns.schema.metadata[b"origin_unix_ns"] == str(1_700_000_000 * SECOND).encode()
        assert all(
            t in (pyarrow.int64(), pyarrow.string(), pyarrow.float64(), pyarrow.bool_()) for t in columns.schema.types
        )
        text = [["" if v is None else csv_file.inert(v) if isinstance(v, str) else str(v) for v in r.values()]
                for r in columns.to_pylist()]  # fmt: skip
        assert [list(r.values()) for r in rows_of(tmp_path / "t.csv")] == text
        assert set(whole["tables"][name]["rank"]) == {0, 1}


def test_every_column_of_a_table_is_written() -> None:
    """A column that is added to a table of the trace must not be forgotten here."""
    renamed = {
        "parent": "parent_row", "signature": "input_dims", "launch": "launch_row", "kernel": "kernel_row",
        "record_function": "record_function_id", "call": "kind", "launch_shape": "grid",
    }  # fmt: skip
    export, trace = Export([small_trace()]), small_trace()
    own = {"ops": "host_ops"}
    for name in NAMES:
        rows: Table = getattr(trace, own.get(name, name))
        left_out = {"op"} | (
            {"bytes", "crosses_bus"} if name == "kernels" else {"launch_shape"} if name == "copies" else set()
        )
        wanted = {renamed.get(column, column) for column, _ in rows.columns() if column not in left_out}
        assert wanted <= set(export.kinds(name)), name


def test_chunks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = Export(ranks(0, 1))
    for number in range(2):
        json_file.write(export, tmp_path / f"{number}.json")
        chrome.write(ranks(0, 1), tmp_path / f"{number}.trace.json")
        monkeypatch.setattr("probe.export.tables.Export.fill.__defaults__", (1, None), raising=True)
        monkeypatch.setattr("probe.export.chrome._CHUNK", 1)
    assert (tmp_path / "0.json").read_text() == (tmp_path / "1.json").read_text()
    two = [sorted(map(repr, events(tmp_path / f"{number}.trace.json"))) for number in range(2)]
    assert two[0] == two[1]


def test_times_on_the_common_axis(tmp_path: Path) -> None:
    export = Export(ranks(9, 0), offsets_ns={0: 1})
    found: list[int] = []
    assert export.fill({"steps": lambda chunk: found.extend(chunk["start_ns"].values())}) == {"steps": 2}
    assert found == [10, 0]


def test_parquet_without_pyarrow_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UnavailableError, match=r"pip install 'torch-probe\[export\]'"):
        targets.refuse(targets.choose("t.json", str(tmp_path / "t.parquet"), None), "t.json", force=False)
