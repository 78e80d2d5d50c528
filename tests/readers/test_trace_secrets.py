"""What is never kept: secrets in a trace are in nothing that probe shows or writes."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import GPU, event, gpu_step, op, write

import probe
from probe.export import chrome, csv_file, json_file, parquet_file
from probe.export.tables import NAMES, Export
from probe.readers import columnar
from probe.trace import Trace

SECRET = "hf_SeCrEtToKeN"


def with_secrets() -> list[dict[str, Any]]:
    """A step with a secret in every argument and event that probe does not read."""
    dump = {"env": {"HF_TOKEN": SECRET}, "Call stack": SECRET, "kernel_kwargs": SECRET, "Input Tensors start": SECRET}
    events = [{**e, "args": {**e["args"], **dump}, SECRET: SECRET, "id": SECRET} for e in gpu_step()]
    return [
        *events,
        {"ph": "M", "name": "process_labels", "pid": 7, "tid": 0, "ts": 0, "args": {"labels": SECRET}},
        {"ph": "i", "cat": "cpu_instant_event", "name": "[memory]", "pid": 7, "tid": 1, "ts": 3, "args": dump},
        {"ph": "i", "s": "g", "name": SECRET, "pid": "Traces", "tid": SECRET, "ts": 3},
        event("python_function", SECRET, 0, 90, **dump),
        event("overhead", SECRET, 0, 1, tid=SECRET),
        {"ph": "C", "cat": "gpu_pm_counter", "name": SECRET, "pid": 0, "tid": 0, "ts": 5, "args": {SECRET: 1}},
    ]


SECRET_HEAD = {
    "env": {"WANDB_API_KEY": SECRET, "PATH": ["x", SECRET]},
    "trace_id": SECRET,
    "host_name": SECRET,
    "traceName": f"/home/{SECRET}/trace.json",
    SECRET: SECRET,
    "deviceProperties": [{**GPU[0], "uuid": SECRET}],
    "distributedInfo": {"rank": 2, "world_size": 4, "master": SECRET, "pg_config": [{"pg_name": SECRET}]},
}


@pytest.mark.parametrize("damage", ["none", "a number that is none", "cut"])
def test_secrets_are_in_nothing_that_probe_shows_or_writes(tmp_path: Path, damage: str) -> None:
    """Public traces carry dumps of the environment, with access tokens."""
    odd = [op("odd", float("nan"), 1, env=SECRET)] if damage == "a number that is none" else []
    path = write(tmp_path, with_secrets() + odd, **SECRET_HEAD)
    text = f'{path.read_text()[:-1]}, "env after": {{"TOKEN": "{SECRET}"}}}}'
    path.write_text(text[: text.rindex('"gpu_pm_counter"')] if damage == "cut" else text)
    trace, analysis = probe.load(path), probe.analyze(path)
    assert len(trace.kernels) == 2 and trace.device.name == "NVIDIA Test GPU" and trace.rank == 2
    assert (trace.quality.truncated, trace.quality.dropped) == {"none": (False, 0), "cut": (True, 1)}.get(
        damage, (False, 1)
    )
    shown = [repr(vars(trace)), json.dumps(trace.to_json()), trace._repr_html_(), trace.to_pandas().to_csv()]
    shown += [json.dumps(analysis.to_json()), str(analysis), analysis._repr_html_(), *written(trace, tmp_path)]
    assert not [text for text in shown if SECRET in text]
    assert all("aten::addmm" in text for text in shown if "aten::linear" in text)


def written(trace: Trace, folder: Path) -> Iterator[str]:
    """The text in every form in which a trace is written, the cache's among them."""
    chrome.write([trace], folder / "chrome.json")
    yield (folder / "chrome.json").read_text()
    tables = Export([trace])
    json_file.write(tables, folder / "tables.json")
    yield (folder / "tables.json").read_text()
    with (folder / "cache").open("wb") as stream:
        columnar.write(trace, stream)
    yield (folder / "cache").read_bytes().decode(errors="replace")
    for table in NAMES:
        csv_file.write(tables, table, folder / f"{table}.csv")
        yield (folder / f"{table}.csv").read_text()
        if importlib.util.find_spec("pyarrow"):
            parquet_file.write(tables, table, folder / f"{table}.parquet")
            yield parquet_text(folder / f"{table}.parquet")


def parquet_text(path: Path) -> str:
    """All that a Parquet file holds: it is compressed."""
    from pyarrow import parquet

    table = parquet.read_table(path)
    return repr((table.to_pylist(), table.schema.metadata))
