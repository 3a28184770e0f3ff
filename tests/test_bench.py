"""The measurement of speed: what is counted, who takes part, what is kept. No time is asserted; rounds are played by functions."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "studies"))

import _study
import performance

from fastrnn import cli
from fastrnn.bench import cases, machine, peers, rounds, summary, worker
from fastrnn.bench.cases import Case
from fastrnn.kernels.cpu import ceilings

TINY = Case("lstm", "float64", 5, 3, 4, 6)
SMALL = Case("gru", "float32", 5, 3, 4, 6)

# The machine


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_multiply_add_goes_through_every_number_so_many_times(dtype):
    start = np.arange(ceilings.registers(dtype)).astype(dtype)
    sums = start.copy()
    ceilings.multiply_add(sums, 5)
    np.testing.assert_array_equal(sums, 1 + (start - 1) / 32)  # z -> z / 2 + 1 / 2, exact in these numbers


def test_read_adds_every_number():
    array = ceilings.working_set(4000, "float32")
    array[:] = np.arange(array.size) % 97
    sums = np.zeros(ceilings.registers("float32"), "float32")
    ceilings.read(array, sums, 2)
    np.testing.assert_array_equal(sums, 2 * array.reshape(-1, sums.size).sum(axis=0))
    assert 3000 < array.nbytes <= 4000 or array.size == sums.size


def test_ceilings_are_of_each_dtype_and_level_for_one_thread_and_all(monkeypatch):
    monkeypatch.setattr(machine, "working_sets", lambda: {"L1": 4000, "memory": 9000})
    found = list(machine.ceilings(2, 1e-3))
    assert [(r["threads"], r["ceiling"], r.get("dtype") or r["level"]) for r in found] == [
        (n, *what)
        for n in (1, 2)
        for what in (("multiply-add", "float32"), ("multiply-add", "float64"), ("read", "L1"), ("read", "memory"))
    ]
    assert all(np.isfinite(r["value"]) and r["value"] > 0 for r in found)


def test_the_machine_describes_itself_in_json():
    found = json.loads(json.dumps(machine.describe()))
    assert found["processors"] >= 1 and found["vector_bits"] in (128, 256, 512) and found["processor"]
    assert {"L1", "L2", "L3"} <= set(found["caches"]) and min(found["caches"].values()) >= 1024
    sizes = machine.working_sets()
    assert sizes["L1"] < machine.caches()["L1"] and sizes["memory"] >= 4 * machine.caches()["L2"]


@pytest.mark.parametrize(("text", "size"), [("48K", 49152), ("2M", 2097152), ("1G", 1 << 30), ("4096", 4096)])
def test_sizes_of_caches_are_read(text, size):
    assert machine._bytes(text) == size


# Cases


@pytest.mark.parametrize("cell", cases.GATES)
@pytest.mark.parametrize("variant", ["plain", "ragged", "bidirectional", "stacked"])
def test_operations_are_two_for_every_weight_sequence_and_step(cell, variant):
    case = Case(cell, "float64", 7, 3, 4, 6, variant)
    found = cases.data(case)
    entries = sum(array.size for name, array in found.weights.items() if name.startswith("weight"))
    steps = 7 * 3 if found.lengths is None else found.lengths.sum()
    assert cases.operations(case, "forward") == 2 * entries * steps
    assert cases.operations(case, "both") == 6 * entries * steps


def test_operations_of_a_readout():
    case = Case("rnn", "float32", 7, 3, 4, 6)
    assert cases.operations(case._replace(variant="generation"), "generate") == 2 * 7 * 3 * (6 * (4 + 6) + 4 * 6)
    assert cases.operations(case._replace(variant="training"), "step") == 3 * 2 * 3 * (7 * 6 * (4 + 6) + 10 * 6)


def test_traffic_counted_by_hand():
    case = Case("rnn", "float64", 7, 32, 4, 6)  # two slices of 16
    forward = 7 * 2 * 36 + 7 * 32 * (4 + 6)
    back = 7 * 2 * 36 + 2 * 7 * 32 * 6 + 3 * 7 * 32 * 6 + 7 * 32 * (4 + 6 + 6 + 4)
    assert cases.traffic(case, "forward") == 8 * forward
    assert cases.traffic(case, "both") == 8 * (forward + back)
    one = Case("gru", "float32", 7, 1, 4, 6, "generation")
    assert cases.traffic(one, "generate") == 4 * 7 * (3 * 36 + 6 * (3 * 4 + 4) + 4 + 6)
    assert cases.traffic(case._replace(variant="bidirectional"), "forward") == 16 * forward


def test_data_are_the_same_every_time_and_nothing_goes_back_from_padding():
    case = Case("lstm", "float32", 9, 5, 4, 6, "ragged")
    a, b = cases.data(case), cases.data(case)
    assert all(np.array_equal(a.weights[name], b.weights[name]) for name in a.weights) and np.array_equal(a.x, b.x)
    assert a.x.dtype == a.dy.dtype == a.weights["weight_hh_l0"].dtype == np.float32
    assert a.lengths.min() >= 1 and a.lengths.max() <= 9 and a.lengths.min() < 9
    assert all(not a.dy[n:, k].any() and a.dy[:n, k].all() for k, n in enumerate(a.lengths))


def test_the_whole_grid():
    groups = cases.whole_grid(("rnn", "gru", "lstm"), ("float32", "float64"))
    found = [case for some in groups.values() for case in some]
    assert len(found) == len(set(found)) == 3 * 2 * (10 + 3 + 3)
    more = cases.distinct(groups | cases.scaling() | cases.training() | cases.streaming())
    found = [case for some in more.values() for case in some]
    assert len(found) == len(set(found)) and {case.variant for case in found} == set(cases.PASSES)


# Peers


def agreement(peer: str, some: list[Case], folder: Path) -> list[dict]:
    threads = machine.describe()["processors"]
    return rounds.Workers(folder)({"measure": "agreement", "library": peer, "threads": threads, "cases": some})


@pytest.mark.parametrize("peer", peers.PEERS)
def test_a_peer_computes_what_fastrnn_does(peer, tmp_path):
    if not peers.installed(peer):
        pytest.skip(f"{peer} is not installed")
    some = [TINY._replace(cell=cell, variant=kind) for cell in cases.GATES for kind in ("plain", "ragged", "bidirectional", "stacked")]
    some += [TINY._replace(variant="training"), TINY._replace(B=1, variant="generation")]
    found = agreement(peer, some, tmp_path)
    assert [Case(*record["case"]) for record in found] == some
    assert [record for record in found if not record.get("agrees") and "lacks" not in record] == []
    if peer == "torch":
        assert all(record["difference"] < 1e-13 for record in found)


def test_a_worker_times_all_passes_and_measures_memory(tmp_path):
    execute = rounds.Workers(tmp_path)
    found = execute({"measure": "speed", "library": "fastrnn", "threads": 1, "cases": [TINY], "seconds": 1e-3})
    assert [(Case(*r["case"]), r["pass"]) for r in found] == [(TINY, "forward"), (TINY, "both")]
    assert all(r["seconds"] > 0 for r in found)
    case = Case("lstm", "float64", 400, 8, 4, 32, "training")
    jobs = [{"measure": "memory", "library": "fastrnn", "threads": 1, "case": case, "checkpoints": kept} for kept in (False, True)]
    (whole,), (less,) = map(execute, jobs)
    assert whole["T"] == 400 and whole["bytes"] > 8 * 400 * 8 * 32 > 0  # y at least
    assert less["bytes"] < whole["bytes"]


def test_a_failure_is_named(tmp_path, monkeypatch):
    execute = rounds.Workers(tmp_path)
    (record,) = execute({"measure": "speed", "library": "nowhere", "threads": 1, "cases": [TINY], "seconds": 1e-3})
    assert record["failed"].startswith("ModuleNotFoundError") and "nowhere" in record["failed"]
    with pytest.raises(RuntimeError, match=r"fastrnn could not be measured \(speed\): .*lsmt"):
        execute({"measure": "speed", "library": "fastrnn", "threads": 1, "cases": [TINY._replace(cell="lsmt")], "seconds": 1e-3})


class Elsewhere:
    """A peer that has one cell, breaks on another, and gets the third wrong."""

    @staticmethod
    def set_threads(n):
        pass

    @staticmethod
    def build(case, data):
        if case.cell == "rnn":
            raise peers.Lacking("no RNN")
        if case.cell == "gru":
            raise ValueError("broken\nand more")
        right = peers.load("fastrnn").build(case, data).arrays()
        return peers.Built({}, lambda: right | {"dx": right["dx"] * (1 + 1e-9)})


def test_what_lacks_fails_or_is_wrong_is_told_apart(monkeypatch):
    load = peers.load
    monkeypatch.setattr(peers, "load", lambda name: Elsewhere if name == "elsewhere" else load(name))
    some = [TINY._replace(cell=cell) for cell in ("rnn", "gru", "lstm")]
    lacks, failed, wrong = worker.agreement({"library": "elsewhere", "threads": 1, "cases": some})
    assert lacks["lacks"] == "no RNN" and failed["failed"] == "ValueError: broken"
    assert wrong["agrees"] is False and wrong["difference"] == pytest.approx(1e-9, rel=1e-3)
    assert worker.normwise(np.array([np.nan]), np.ones(1)) == np.inf


# Rounds


class Played:
    """Workers that compute nothing: round k takes (k + 1) seconds of everybody, times a library's own; jobs are remembered."""

    SECONDS = {"fastrnn": 1.0, "torch": 3.0, "jax": 0.5, "onnxruntime": 2.0}

    def __init__(self, stop_at: int | None = None):
        self.jobs, self.stop_at = [], stop_at

    def __call__(self, job: dict) -> list[dict]:
        if len(self.jobs) == self.stop_at:
            raise KeyboardInterrupt
        self.jobs.append((job["measure"], job["library"]))
        return getattr(self, job["measure"])(job)

    def ceilings(self, job):
        return [{"ceiling": "multiply-add", "dtype": "float32", "threads": 2, "value": 100.0}]

    def agreement(self, job):
        for case in job["cases"]:
            if job["library"] == "onnxruntime" and case.dtype == "float64":
                yield {"case": case, "lacks": "no LSTM in float64"}
            else:
                off = 0.5 if job["library"] == "jax" and case.cell == "gru" else 1e-7
                yield {"case": case, "difference": off, "agrees": off < 1e-4}

    def speed(self, job):
        drift = 1 + sum(entry == ("speed", job["library"]) for entry in self.jobs)
        if job["library"] == "torch" and drift == 4:
            return [{"failed": "Killed", "measure": "speed"}]
        seconds = drift * self.SECONDS[job["library"]]
        found = [(case, name) for case in job["cases"] for name in cases.PASSES[Case(*case).variant]]
        found = [entry for entry in found if (job["library"], entry[1]) != ("onnxruntime", "both")]
        return [{"case": case, "pass": name, "seconds": seconds} for case, name in found]

    def memory(self, job):
        return [{"T": Case(*job["case"]).T, "checkpoints": job["checkpoints"], "bytes": 10}]

    def startup(self, job):
        return [{"import": 0.1, "warm": 0.2, "cold": 3.0}]


def plan(**options) -> rounds.Plan:
    settings = {"threads": 2, "rounds": 2, "seconds": 0.1} | options
    return rounds.Plan({"one": [TINY, SMALL]}, ["fastrnn", "torch", "jax", "onnxruntime"], **settings)


def test_ratios_are_those_within_a_round_and_only_of_those_who_agree():
    log = rounds.Log({})
    rounds.run(plan(), log, execute=Played())
    forward, both = (r for r in summary.rows(log.units) if r["case"] == TINY)
    assert forward["pass"] == "forward" and forward["seconds"] == 2.5 and forward["rounds"] == [2, 3]
    assert forward["peers"]["torch"]["ratio"] == (3.0, 3.0, 3.0) and forward["peers"]["torch"]["difference"] == 1e-7
    assert set(forward["peers"]) == {"torch", "jax"} and summary.fastest(forward) == ("jax", 0.5)
    small = [r for r in summary.rows(log.units) if r["case"] == SMALL]
    assert set(small[0]["peers"]) == {"torch", "onnxruntime"} and set(small[1]["peers"]) == {"torch"}
    assert forward["gflops"] == cases.operations(TINY, "forward") / 2.5e9
    assert summary.disagreements(log.units) == 1
    jax, onnx = summary.left_out(log.units)
    assert jax == "jax: its results are off by 5.0e-01 (1 case, such as gru float32 T 5, B 3, D 4, H 6)"
    assert onnx.startswith("onnxruntime: no LSTM in float64 (1 case")


def test_every_round_begins_with_another_library():
    played = Played()
    rounds.run(plan(rounds=3), rounds.Log({}), execute=played)
    turns = [library for measure, library in played.jobs if measure == "speed"]
    order = ["fastrnn", "torch", "jax", "onnxruntime"]
    assert turns == order + order[1:] + order[:1] + order[2:] + order[:2]


def test_a_peer_that_fails_in_a_round_is_named_and_its_other_rounds_count():
    log = rounds.Log({})
    rounds.run(plan(rounds=3), log, execute=Played())
    assert any("torch: failed in round 2, one: Killed" in line for line in summary.left_out(log.units))
    row = summary.rows(log.units)[0]
    assert len(row["rounds"]) == 3 and len(row["peers"]["torch"]["rounds"]) == 2


def test_an_interrupted_run_goes_on_with_whole_rounds(tmp_path):
    what, path = plan(memory=[TINY], startup=1), tmp_path / "deep" / "bench.jsonl"
    whole = rounds.Log({"a": 1})
    rounds.run(what, whole, execute=Played())
    first = Played(stop_at=12)
    with pytest.raises(KeyboardInterrupt):
        rounds.run(what, rounds.Log({"a": 1}, path), execute=first)
    assert first.jobs[-1][0] == "speed"
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"unit": "round 1, one", "rec')  # cut off
    log, second = rounds.Log({"a": 1}, path), Played()
    assert list(log.units) == ["ceilings", "agreement, one", "memory, T = 5", "startup 0", "round 0, one"]
    rounds.run(what, log, execute=second)
    assert [measure for measure, _ in second.jobs] == ["speed"] * 4
    header, units = rounds.read(path)
    assert header == {"a": 1} and units == json.loads(json.dumps(log.units)) and list(units) == list(whole.units)
    with pytest.raises(ValueError, match=r"out: a new file, or that of a run with these settings, is required"):
        rounds.Log({"a": 2}, path)


def test_a_plan_counts_its_units_and_says_what_it_was_made_with():
    what, log = plan(memory=[TINY], startup=2), rounds.Log({})
    rounds.run(what, log, execute=Played())
    assert len(log.units) == what.count() == 1 + 1 + 2 + 1 + 2
    header = json.loads(json.dumps(plan().header() | {"settings": vars(what)})) if peers.installed("torch") else {}
    assert not header or {"numba", "numpy", "torch", "fastrnn"} <= set(header["versions"]) and header["machine"]["caches"]


def test_the_table_has_a_line_a_row():
    log = rounds.Log({})
    rounds.run(plan(), log, execute=Played())
    head, *lines = summary.table(log.units, ["torch", "jax", "onnxruntime"])
    assert len(lines) == 4 and "torch ms" in head
    assert "3.00 (3.00 - 3.00)" in lines[0] and "0.50 (0.50 - 0.50)" in lines[0] and lines[0].startswith("lstm float64 ")
    assert "jax" not in lines[2]


# The command line


@pytest.fixture
def played(monkeypatch):
    made = []

    def workers(folder):
        made.append(Played())
        return made[-1]

    monkeypatch.setattr(rounds, "Workers", workers)
    monkeypatch.setattr(peers, "installed", lambda name: name in ("torch", "jax"))
    monkeypatch.setattr(peers, "versions", lambda names: {name: "1.0" for name in names})
    return made


def test_bench_prints_machine_ceilings_and_table(capsys, played):
    assert cli.main(["bench", "--cells", "lstm", "--sizes", "2,3,4", "--rounds", "1", "--threads", "2"]) == 0
    shown = capsys.readouterr().out
    assert "2 threads; python" in shown and "torch 1.0" in shown
    assert "not installed, so not compared: onnxruntime, tensorflow" in shown
    assert "ceiling, 2 thread(s): multiply-add float32 100 GFLOP/s" in shown
    assert sum(line.startswith("lstm float32    100    2    3    4") for line in shown.splitlines()) == 2


def test_bench_says_where_results_differ_and_goes_on_from_a_file(capsys, played, tmp_path):
    command = ["bench", "--sizes", "2,3,4", "--peers", "jax", "--rounds", "2", "--threads", "2", "--out", str(tmp_path / "b.jsonl")]
    assert cli.main(command) == 1
    first = capsys.readouterr().out
    assert "jax: its results are off by 5.0e-01 (1 case, such as gru" in first
    assert cli.main(command) == 1
    assert capsys.readouterr().out == first and played[1].jobs == []
    assert cli.main([*command, "--dtypes", "float64"]) == 2
    assert "out: a new file" in capsys.readouterr().err


def test_bench_takes_the_whole_grid(monkeypatch):
    given = cli._parser().parse_args(["bench", "--full"])
    groups = cli._groups(given)
    assert set(cases.whole_grid(cases.GATES, ("float32", "float64"))) < set(groups) and {"training", "streaming"} < set(groups)


def test_an_interrupted_bench_shows_what_there_is(capsys, monkeypatch, played):
    monkeypatch.setattr(rounds, "Workers", lambda folder: Played(stop_at=5))
    assert cli.main(["bench", "--cells", "rnn", "--sizes", "2,3,4", "--rounds", "2"]) == 130
    shown = capsys.readouterr()
    assert "interrupted; not kept" in shown.err and "ceiling" in shown.out


def test_a_peer_asked_for_must_be_there(capsys, played):
    assert cli.main(["bench", "--peers", "torch", "onnxruntime"]) == 2
    assert "--peers: installed packages are required; onnxruntime cannot be imported here" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--sizes", "2,3"], ["--rounds", "0"], ["--cells", "lsmt"], ["--peers", "theano"]])
def test_what_bench_refuses(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", *arguments])
    assert stop.value.code == 2


# The study


def speeds(seconds, ratio=None, **about) -> dict:
    case = Case("lstm", "float32", 100, 32, 64, 64)._replace(**{k: v for k, v in about.items() if k in Case._fields})
    row = {"kind": "speed"} | case._asdict() | {"pass": about.get("pass", "both"), "seconds": seconds, "low": seconds, "high": seconds}
    row |= {"operations": cases.operations(case, row["pass"]), "bytes": cases.traffic(case, row["pass"])}
    row["gflops"] = row["operations"] / seconds / 1e9
    return row | ({} if ratio is None else {f"torch_{name}": ratio for name in ("ratio", "low", "high", "seconds", "difference")})


def peak(library: str, T: int, size: float, checkpoints: int = 0) -> dict:
    return {"kind": "memory", "library": library, "T": T, "checkpoints": checkpoints, "bytes": size}


def roofs() -> list[dict]:
    about = [("multiply-add", {"dtype": "float32"}, 400.0), ("multiply-add", {"dtype": "float64"}, 200.0), ("read", {"level": "L3"}, 50.0)]
    return [{"kind": "ceiling", "ceiling": name, "threads": 2, "value": value} | where for name, where, value in about]


def claims_by_name(rows) -> dict:
    return {claim.claim.partition(":")[0]: claim for claim in performance.claims_of(rows, 0, 2)}


def test_claims_are_those_that_there_are_numbers_for():
    assert performance.claims_of([], 0, 2) == []
    alone = claims_by_name([*roofs(), speeds(1.0, B=64, D=512, H=512)])
    assert list(alone) == ["lstm, float32, both ways, H ≥ 128, B ≥ 32"]
    beside = performance.claims_of([speeds(1.0, 2.5), speeds(1.0, 0.9, B=64, D=256, H=256)], 0, 2)
    found = {claim.claim.partition(":")[0]: claim for claim in beside}
    slowest = found["lstm, float32, both ways, fastest peer / fastrnn"]
    assert slowest.value == 0.9 and not slowest.holds and "B, D, H = 64, 256, 256" in slowest.claim
    assert found["lstm, float32, both ways, PyTorch / fastrnn at H ≤ 64"].value == 2.5


def test_the_fastest_peer_is_the_one_to_beat():
    row = speeds(1.0, 3.0) | {"jax_ratio": 1.5, "onnxruntime_ratio": 2.0}
    assert performance.ratio(row) == 1.5 and performance.ratio(row, ("torch", "onnxruntime")) == 2.0
    assert np.isnan(performance.ratio(speeds(1.0)))


def test_claims_of_ragged_lengths_and_precision_are_ratios_of_rates():
    share = cases.operations(Case("lstm", "float32", 100, 32, 64, 64, "ragged"), "both") / speeds(1.0)["operations"]
    rows = [*roofs(), speeds(1.0), speeds(1.1 * share, variant="ragged"), speeds(2.0, dtype="float64")]
    found = claims_by_name(rows)
    assert found["ragged lengths, cost off the sum of lengths"].value == pytest.approx(0.1)
    assert found["rate in float64 / in float32"].value == 0.5


def test_claims_of_memory_see_what_grows():
    T = np.array([100, 1000, 10_000])
    outputs = 4 * T * 32 * 64
    kept = [peak("fastrnn", t, b, checkpoints=1) for t, b in zip(T, outputs + 4e4 * T**0.5)]
    ends = [peak("fastrnn", 10_000, 3e8), peak("torch", 10_000, 9e8)]
    beside_torch, whole, beside_outputs = performance.memory_claims([*kept, *ends])
    assert beside_torch.value == pytest.approx(1 / 3) and beside_outputs.value == pytest.approx(0.5) and 0.5 < whole.value < 1


@pytest.mark.parametrize("ratio", [None, 2.0])
def test_the_page_is_drawn_with_and_without_peers(ratio):
    rows = [*roofs(), *(speeds(t, ratio, **{"pass": name}) for t, name in ((1.0, "both"), (0.4, "forward")))]
    rows += [speeds(2.0, ratio, T=1000), speeds(0.1, ratio, B=1, D=16, H=32, **{"pass": "forward"})]
    rows += [peak("fastrnn", T, 1e5 * T, kept) for T in (100, 1000) for kept in (0, 1)]
    rows += [{"kind": "startup", "what": what, "seconds": 1.0, "low": 0.9, "high": 1.1} for what in ("import", "warm", "cold")]
    figure = performance.draw(rows, {"settings": {"threads": 2}})
    figure.draw_without_rendering()
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert ("no peer is installed" in texts) == (ratio is None)
    assert any(text.startswith("L3 50") for text in texts)


def test_the_study_measures_less_in_its_quick_form(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "installed", lambda name: name == "torch")

    def given(*more):
        return _study.parse("", seeds=None, options=performance.options, argv=list(more))

    quick, full = performance.plan(given("--quick", "--rounds", "1")), performance.plan(given("--threads", "3"))
    assert quick.rounds == 1 and full.rounds == 3 and full.threads == 3 and quick.libraries == full.libraries == ["fastrnn", "torch"]
    assert sum(map(len, quick.groups.values())) < 0.3 * sum(map(len, full.groups.values()))
    with pytest.raises(SystemExit):
        given("--seeds", "2")


def study(folder, *more) -> int:
    argv = ["--quick", "--threads", "2", "--out", str(folder), *more]
    return _study.run(performance.__file__, "", performance.compute, performance.draw, seeds=None, options=performance.options, argv=argv)


def test_the_study_keeps_its_rounds_and_reports_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers, "installed", lambda name: False)
    monkeypatch.setattr(rounds, "Workers", lambda folder: Played(stop_at=7))
    assert study(tmp_path) == 130 and "6 of 7 units are kept in" in capsys.readouterr().out
    played = Played()
    monkeypatch.setattr(rounds, "Workers", lambda folder: played)
    assert study(tmp_path) == 0 and len(played.jobs) == 1
    assert "PyTorch: not installed" in capsys.readouterr().out
    rows, record = _study.load(tmp_path / "performance")
    assert {row["kind"] for row in rows} == {"speed", "ceiling", "memory", "startup"}
    assert "PyTorch: not installed" in record["left_out"] and record["settings"]["threads"] == 2 and record["machine"]["caches"]
    assert (tmp_path / "performance.png").exists() and (tmp_path / "performance.pdf").exists()
    header, units = rounds.read(tmp_path / "performance.jsonl")
    assert header["versions"]["fastrnn"] and header["settings"]["rounds"] == 2 and "round 1, all" in units
