"""What `make gpu` does around its measurements, on a machine with no GPU: cases in processes, of which some fail; going on; tables."""

import importlib
import json
import os
import sys
import time
from types import SimpleNamespace

import pytest
from processes import ROOT

from fastrnn.kernels.cuda import target

WORKER = """
import json, subprocess, sys, time
case = json.loads(sys.argv[1])
print("of no interest")
times = {f"fastrnn {precision}": [1.0, 2.0] for precision in ("exact", "split", "tf32", "bf16")}
found = {"times": {"B": 8} | times, "ensembles": {"fastrnn": 2.0, "loop": 3.0}, "compile": {}}
print(json.dumps(found.get(next(iter(case)), {"error": 0.5, "right": case.get("kind") != "tf32"})), flush=True)
if case.get("H") == 64:
    sys.exit("a fault")
if case.get("H") == 128:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(json.dumps({"child": child.pid}), flush=True)
    child.wait()
"""


def in_order(cases) -> list[dict]:
    return sorted(cases, key=json.dumps)


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


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_case_that_fails_or_hangs_says_so_and_leaves_nothing_behind(benchmark):
    module, _ = benchmark
    running = {}
    (right,) = module.run({"values": "lstm", "H": 5}, running)
    assert right == {"case": {"values": "lstm", "H": 5}, "values": "lstm", "H": 5, "error": 0.5, "right": True}
    _, failed = module.run({"values": "lstm", "H": 64}, running)
    assert failed["failed"].startswith("status 1: ") and "a fault" in failed["failed"]
    first, second, late = module.run({"values": "lstm", "H": 128}, running)
    assert first["error"] == 0.5 and late["failed"].startswith("not ended after 3 s; status -9: ")
    deadline = time.monotonic() + 30
    while is_alive(second["child"]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(second["child"]) and not running


def test_an_interrupt_ends_what_is_running(benchmark, monkeypatch):
    module, _ = benchmark
    monkeypatch.setattr(module, "LIMIT", 600)
    cases, begin = [{"values": "lstm", "H": hidden} for hidden in (5, 128, 128)], time.monotonic()
    found = module.measured(cases, True)
    assert next(found)["H"] == 5
    with pytest.raises(KeyboardInterrupt):
        found.throw(KeyboardInterrupt)
    assert time.monotonic() - begin < 60


def test_what_was_wrong_is_run_again_and_nothing_else(benchmark):
    module, run = benchmark
    status, records = run("--only", "values")
    header, *rest = records
    assert header["machine"] == {"CUDA": "a device"} and len(rest) == 2 * 5 + len(module.TRAINED)
    wrong = [record["case"] for record in rest if not record["right"]]
    assert status == 1 and [case["kind"] for case in wrong] == ["tf32", "tf32"]
    assert [case["options"] for case in wrong if case["values"] == "indrnn"] == [{"activation": "tanh"}]
    status, again = run("--only", "values")
    assert status == 1 and again[: len(records)] == records
    assert in_order(record["case"] for record in again[len(records) :]) == in_order(wrong)


def test_parts_and_their_tables(benchmark, capsys):
    module, run = benchmark
    status, records = run("--only", "times", "ensembles", "--cells", "gru", "--units", "32", "64")
    cases = [{"compile": "gru", "H": 32}, *2 * [{"compile": "gru", "H": 64}], {"times": "GRU", "H": 32}, *2 * [{"times": "GRU", "H": 64}]]
    found = [record["case"] for record in records[1:]]
    assert in_order(found[:3]) == cases[:3] and found[3:] == cases[3:] + [{"ensembles": members} for members in module.MEMBERS]
    assert status == 1 and sum("failed" in record for record in records) == 2
    shown = capsys.readouterr().out
    assert "| GRU | 32 | 8 | exact | 1 |  | 2 |  |  |" in shown and "| 1000 | 2 | 1.50 |  |" in shown
    status, again = run("--only", "times", "--cells", "gru", "--units", "32", "64")
    assert status == 1 and [record["case"] for record in again[len(records) :]] == [*2 * [cases[1]], *2 * [cases[4]]]  # that failed


def test_every_shape_is_watched_by_every_tool(benchmark):
    module, _ = benchmark
    first, second = module.stages("sanitize", [], [])
    assert len(second.cases) == 4 * len(first.cases) == 60 and all("sanitize" in case for case in second.cases)


def test_without_a_sanitizer_its_cases_fail_and_the_others_are_run(benchmark, monkeypatch):
    module, run = benchmark
    monkeypatch.setattr(module.compiler, "toolkit", lambda: module.Path(os.devnull))
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    monkeypatch.setattr(module, "SHAPES", module.SHAPES[:1])
    status, records = run("--only", "sanitize")
    assert status == 1 and [record.get("failed", "")[:35] for record in records[1:]] == ["", *4 * ["compute-sanitizer is neither beside"]]


def test_a_measurement_that_fails_makes_its_case_fail_and_one_without_room_does_not(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    measured = importlib.import_module("_gpu")
    errors = {"split": ValueError("hidden_size: at most 128"), "tf32": RuntimeError("an illegal address")}

    def ours(kind, hidden, batch, precision):
        if precision in errors:
            raise errors[precision]
        return 1.0, 2.0

    monkeypatch.setattr(measured, "ours", ours)
    monkeypatch.setattr(measured, "torch", None)
    monkeypatch.setattr(measured, "faults", [])
    pool = SimpleNamespace(free_all_blocks=lambda: None)
    monkeypatch.setattr(target, "arrays", lambda: SimpleNamespace(get_default_memory_pool=lambda: pool))
    with pytest.raises(SystemExit, match="RuntimeError: an illegal address"):
        measured.main({"times": "LSTM", "H": 256})
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["B"] for record in records] == [*measured.BATCHES] and records[0]["fastrnn bf16"] == [1.0, 2.0]
    assert records[0]["fastrnn split"].startswith("ValueError: hidden_size")
    del errors["tf32"]
    measured.faults.clear()
    measured.main({"times": "LSTM", "H": 256})
