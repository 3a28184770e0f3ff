"""What `make gpu` does around its measurements, on a machine with no GPU: cases in processes, of which some fail; going on; tables."""

import importlib
import json
import sys

import pytest
from processes import ROOT

from fastrnn.kernels.cuda import target

WORKER = """
import json, os, sys, time
case = json.loads(sys.argv[1])
print("of no interest")
times = {f"fastrnn {precision}": [1.0, 2.0] for precision in ("exact", "split", "tf32", "bf16")}
found = {"times": {"B": 8} | times, "ensembles": {"fastrnn": 2.0, "loop": 3.0}, "compile": {}}
print(json.dumps(found.get(next(iter(case)), {"error": 0.5, "right": case.get("kind") != "tf32"})), flush=True)
if case.get("H") == 64:
    sys.exit("a fault")
if case.get("H") == 128:
    time.sleep(600)
"""


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("gpu")
    monkeypatch.setattr(module, "WORKER", [sys.executable, "-c", WORKER])
    monkeypatch.setattr(module, "LIMIT", 3)
    monkeypatch.setattr(module, "UNITS_OF_VALUES", (5,))
    monkeypatch.setattr(module, "VARIANTS", [("lstm", {}), ("indrnn", {})])
    monkeypatch.setattr(target, "missing", list)
    monkeypatch.setattr(target, "describe", lambda: [("CUDA", "a device"), ("CUDA cache", "nobody's business")])

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "gpu.jsonl"), *words])
        return module.main(), [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]

    return module, run


def test_a_case_that_fails_or_hangs_says_so_and_the_next_is_run(benchmark):
    module, run = benchmark
    (right,) = module.run({"values": "lstm", "H": 5})
    assert right == {"case": {"values": "lstm", "H": 5}, "values": "lstm", "H": 5, "error": 0.5, "right": True}
    _, failed = module.run({"values": "lstm", "H": 64})
    assert failed["failed"].startswith("status 1: ") and "a fault" in failed["failed"]
    first, late = module.run({"values": "lstm", "H": 128})
    assert first["error"] == 0.5 and late["failed"] == "not ended after 3 s"


def test_what_was_wrong_is_run_again_and_nothing_else(benchmark):
    module, run = benchmark
    status, records = run("--only", "values")
    header, *rest = records
    assert header["machine"] == {"CUDA": "a device"} and len(rest) == 2 * 5 + 4
    wrong = [record["case"] for record in rest if not record["right"]]
    assert status == 1 and [case["kind"] for case in wrong] == ["tf32", "tf32"]
    assert wrong[1]["options"] == {"activation": "tanh"}
    status, again = run("--only", "values")
    assert status == 1 and again[: len(records)] == records and [record["case"] for record in again[len(records) :]] == wrong


def test_parts_and_their_tables(benchmark, capsys):
    module, run = benchmark
    status, records = run("--only", "times", "ensembles", "--cells", "gru", "--units", "32", "64")
    cases = [{"compile": "gru", "H": 32}, *2 * [{"compile": "gru", "H": 64}], {"times": "GRU", "H": 32}, *2 * [{"times": "GRU", "H": 64}]]
    assert [record["case"] for record in records[1:]] == cases + [{"ensembles": members} for members in module.MEMBERS]
    assert status == 1 and sum("failed" in record for record in records) == 2
    shown = capsys.readouterr().out
    assert "| GRU | 32 | 8 | exact | 1 |  | 2 |  |  |" in shown and "| 1000 | 2 | 1.50 |  |" in shown


def test_every_shape_is_watched_by_every_tool(benchmark):
    module, _ = benchmark
    first, second = module.stages("sanitize", [], [])
    assert len(second.cases) == 4 * len(first.cases) == 60 and all("sanitize" in case for case in second.cases)
