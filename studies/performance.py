"""How fast is fastrnn beside PyTorch, JAX, ONNX Runtime and TensorFlow, and beside what the machine can do?

Every library that is installed computes the same networks from the same numbers; their results are compared first. Then they are timed
in rounds: in each round every library runs once, in a process of its own with the same threads, and the ratio of two times is taken
within the round, so that whatever else the machine does meets all alike. Medians over rounds, with quartiles. `fastrnn bench` is the same
measurement without the figure. Close what else runs.

(a) Roofline [Williams, Waterman & Patterson 2009]: the rate of every case against the operations that it has for each byte which passes a
    core's first-level cache. Lines: multiply-adds on registers alone, and reading arrays from beyond that cache, all threads. Operations
    are those of the matrix products, 2 G H (D + H) a sequence and step, three times that with the way back; bytes are the recurrent
    weights once a step and slice of 16 sequences, each way; x, y, dx, dy once; the tape written and read; the G gradients by
    pre-activations written and read twice (`fastrnn.bench.cases` has the formulas). A model, not a count of what the cache did:
    a point above a line says that its weights came from nearer than that.
(b) Times of the peers over fastrnn's, forward alone. Bars: float32, with the middle half of the rounds; dashes: float64.
(c) The same, forward and backward.
(d) Milliseconds of an LSTM against steps, sequences and units, the others held at T = 100, B = 32, D = H = 64 (with the units, the
    inputs grow), with slopes of lines through the logarithms of the upper half.
(e) Memory at the peak of one gradient, beside the input, of a readout of the last step of an LSTM of 64 units, B = 32. Checkpoints
    (`Full(memory=)`) spare tape; the outputs y stay whole.
(f) Import, and a first `fit` in a new process, with a filled and with an empty cache of compiled code.

Held against: what the project promises of two threads on a processor with AVX2 or AVX-512. The claims are those promises; they are
reported as they come out on the machine at hand.
"""

import hashlib
import json
import math

import _study as s
import numpy as np

from fastrnn.bench import cases, peers, rounds, summary

NAMES = {"torch": "PyTorch", "jax": "JAX", "onnxruntime": "ONNX Runtime", "tensorflow": "TensorFlow"}
CELLS = tuple(cases.GATES)
MEMORY_STEPS = (100, 300, 1000, 3000, 10_000)
AIM = "promised"


def options(parser) -> None:
    parser.add_argument("--threads", type=int, metavar="N", default=s.fr.get_num_threads(), help="of every library, default: %(default)s")
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 3, with --quick 2")


def plan(arguments) -> rounds.Plan:
    """What is measured: everything, or what two minutes allow."""
    libraries = ["fastrnn", *filter(peers.installed, peers.PEERS)]
    if arguments.quick:
        groups = cases.whole_grid(["lstm"], ["float32"], [(1, 16, 32), (32, 64, 64), (32, 128, 128)], long=(10, 1000))
        groups |= cases.groups(["rnn", "gru"], ["float32"], [(1, 16, 32), (32, 64, 64)])
        groups |= cases.groups(["lstm"], ["float64"], [(32, 64, 64)]) | cases.scaling((1, 8), (16, 32)) | cases.training()
        steps, settings = MEMORY_STEPS[:3:2], {"rounds": 2, "seconds": 0.04, "startup": 1}
        groups = {"all": [case for some in cases.distinct(groups).values() for case in some]}
    else:
        groups = cases.distinct(cases.whole_grid(CELLS, s.fr._check.FLOATS) | cases.scaling() | cases.training() | cases.streaming())
        steps, settings = MEMORY_STEPS, {"rounds": 3, "seconds": 0.06, "startup": 3}
    settings |= {"rounds": arguments.rounds} if arguments.rounds else {}
    memory = [cases.Case("lstm", "float32", T, *cases.MIDDLE, "training") for T in steps]
    return rounds.Plan(groups, libraries, threads=arguments.threads, memory=memory, **settings)


# Computing ------------------------------------------------------------------------------------------------------------


def compute(arguments, parts: s.Parts) -> s.Result:
    what = plan(arguments)
    header = what.header()
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:12]
    log = rounds.Log(header, parts.folder / f"rounds-{digest}.jsonl")
    try:
        rounds.run(what, log, show=True)
    except KeyboardInterrupt:
        raise s.Interrupted(f"{len(log.units)} of {what.count()} units are kept in {log.path}.") from None
    s.write(arguments.out / "performance.jsonl", log.path.read_bytes())
    missing = [NAMES[peer] for peer in peers.PEERS if peer not in what.libraries]
    left_out = [*(f"{name}: not installed" for name in missing), *summary.left_out(log.units)]
    for line in (*summary.table(log.units, what.libraries[1:]), *left_out):
        print(line)
    rows = [*speed_rows(log.units), *other_rows(log.units)]
    settings = {key: header["settings"][key] for key in ("libraries", "threads", "rounds", "seconds")}
    extra = {"machine": header["machine"], "versions": header["versions"], "left_out": left_out}
    return s.Result(rows, settings, claims_of(rows, summary.disagreements(log.units), what.threads), extra)


def speed_rows(units: dict):
    """A row a case and pass; of each peer its time, the ratio with quartiles, and how far its results are off."""
    for found in summary.rows(units):
        low, _, high = np.quantile(found["rounds"], summary.QUARTILES)
        row = {"kind": "speed"} | found["case"]._asdict() | {"pass": found["pass"], "seconds": found["seconds"], "low": low, "high": high}
        row |= {key: found[key] for key in ("gflops", "operations", "bytes")}
        for peer, theirs in found["peers"].items():
            values = (theirs["seconds"], *theirs["ratio"], theirs["difference"])
            row |= {f"{peer}_{name}": value for name, value in zip(("seconds", "low", "ratio", "high", "difference"), values)}
        yield row


def other_rows(units: dict):
    """Ceilings, memory, and the first fit."""
    for record in summary.ceilings(units):
        yield {"kind": "ceiling"} | {key: value for key, value in record.items() if key != "library"}
    for record in (record for records in units.values() for record in records if "bytes" in record):
        row = {"kind": "memory"} | {key: record[key] for key in ("library", "T", "bytes")}
        yield row | {"checkpoints": int(record["checkpoints"])}
    starts = [record for records in units.values() for record in records if "cold" in record]
    for what in ("import", "warm", "cold") if starts else ():
        low, middle, high = np.quantile([start[what] for start in starts], summary.QUARTILES)
        yield {"kind": "startup", "what": what, "seconds": middle, "low": low, "high": high}


# Claims ---------------------------------------------------------------------------------------------------------------


def claims_of(rows: list[dict], disagreements: int, threads: int) -> list[s.Claim]:
    """Every promise for which there are numbers."""
    everything = [row for row in rows if row["kind"] == "speed"]
    grid, found = list(filter(on_grid, everything)), []
    if peers_of(everything):
        found.append(s.at_most("cases in which a peer's results are not fastrnn's", disagreements, 0, AIM))
    found += [*peer_claims(grid), *rate_claims(grid, rows, threads), *streaming_claims(everything, rows, threads)]
    return [*found, *training_claims(everything), *ragged_claims(everything), *memory_claims(rows), *startup_claims(rows)]


def on_grid(row: dict) -> bool:
    return row["variant"] == "plain" and row["T"] == cases.STEPS and (row["B"], row["D"], row["H"]) in cases.SIZES


def peers_of(rows: list[dict]) -> list[str]:
    return [peer for peer in NAMES if any(f"{peer}_ratio" in row for row in rows)]


def ratio(row: dict, among=tuple(NAMES)) -> float:
    """The smallest ratio to the peers given; NaN where none of them was timed."""
    return min((row[f"{peer}_ratio"] for peer in among if f"{peer}_ratio" in row), default=math.nan)


def least(text: str, rows: list[dict], value, bound: float) -> list[s.Claim]:
    """That the smallest value over rows is at least `bound`; no claim where no row has one."""
    found = [(value(row), k) for k, row in enumerate(rows) if not math.isnan(value(row))]
    if not found:
        return []
    lowest, k = min(found)
    where = f": the least of {len(found)}, at {place(rows[k])}" if len(found) > 1 else ""
    return [s.at_least(text + where, lowest, bound, AIM)]


def place(row: dict) -> str:
    name = f"{row['cell']} {row['dtype']}, B, D, H = {row['B']:.0f}, {row['D']:.0f}, {row['H']:.0f}"
    return f"{name}, {'forward' if row['pass'] == 'forward' else 'both ways'}"


def peer_claims(grid: list[dict]):
    """Against other libraries, at the points of the grid."""
    forward, both = s.select(grid, **{"pass": "forward"}), s.select(grid, **{"pass": "both"})
    lstm = s.select(both, cell="lstm", dtype="float32")
    others = [row for row in grid if row["cell"] != "lstm"]
    trained = [row for row in s.select(both, dtype="float32") if row["cell"] != "lstm"]
    yield from least("lstm, float32, both ways, fastest peer / fastrnn", lstm, ratio, 1.0)
    yield from least("lstm, float32, both ways, PyTorch / fastrnn at H ≤ 64", [r for r in lstm if r["H"] <= 64], torch_ratio, 2.0)
    yield from least("gru and rnn, fastest peer / fastrnn", others, ratio, 1.0)
    small, large = [r for r in trained if r["H"] <= 128], [r for r in trained if r["H"] > 128]
    yield from least("gru and rnn, float32, both ways, PyTorch / fastrnn at H ≤ 128", small, torch_ratio, 3.0)
    yield from least("gru and rnn, float32, both ways, PyTorch / fastrnn at H > 128", large, torch_ratio, 1.4)
    yield from least("forward, ONNX Runtime and PyTorch / fastrnn", forward, lambda row: ratio(row, ("torch", "onnxruntime")), 1.0)
    ratios = [ratio(row) for row in forward if not math.isnan(ratio(row))]
    if ratios:
        mean = math.exp(np.mean(np.log(ratios)))
        yield s.at_least(f"forward, fastest peer / fastrnn, geometric mean of {len(ratios)}", mean, 1.8, AIM)


def torch_ratio(row: dict) -> float:
    return ratio(row, ("torch",))


def rate_claims(grid: list[dict], rows: list[dict], threads: int):
    """Against the machine, and float64 against float32."""
    peak = ceiling(rows, ceiling="multiply-add", dtype="float32", threads=threads)
    large = [r for r in s.select(grid, cell="lstm", dtype="float32", **{"pass": "both"}) if r["H"] >= 128 and r["B"] >= 32]
    yield from least("lstm, float32, both ways, H ≥ 128, B ≥ 32: share of the ceiling", large, lambda row: row["gflops"] / peak, 0.85)
    single = {key_of(row): row["seconds"] for row in s.select(grid, dtype="float32")}
    double = s.select(grid, dtype="float64")
    yield from least("rate in float64 / in float32", double, lambda row: single.get(key_of(row), math.nan) / row["seconds"], 0.45)


def key_of(row: dict) -> tuple:
    return tuple(row[name] for name in ("cell", "T", "B", "D", "H", "variant", "pass"))


def ceiling(rows: list[dict], **wanted) -> float:
    found = s.select(rows, kind="ceiling", **wanted)
    return found[0]["value"] if found else math.nan


def streaming_claims(everything: list[dict], rows: list[dict], threads: int):
    """One sequence, read and generated; few units, and as many as make a step a reading of the weights."""
    level = "memory" if math.isnan(ceiling(rows, level="L3", threads=threads)) else "L3"
    bandwidth = ceiling(rows, ceiling="read", level=level, threads=threads)
    for kind, name in (("plain", "streaming"), ("generation", "generation")):
        for row in s.select(everything, variant=kind, cell="lstm", B=1):
            if row["pass"] == "both" or row["T"] < 1000:
                continue
            if row["H"] == 32:
                yield s.at_most(f"{name}, lstm(16 → 32), B = 1: µs a step", 1e6 * row["seconds"] / row["T"], 0.4, AIM)
            else:
                text = f"{name}, lstm(512 → 512), B = 1: share of the bandwidth of {level}"
                yield s.at_least(text, row["bytes"] / row["seconds"] / 1e9 / bandwidth, 0.8, f"{AIM}: bound by it")


def training_claims(everything: list[dict]):
    steps = {row["pass"]: row for row in s.select(everything, variant="training")}
    if steps:
        yield from least("a training step, PyTorch / fastrnn", [steps["step"]], torch_ratio, 3.0)
        more = steps["fit"]["seconds"] / steps["step"]["seconds"] - 1
        yield s.at_most("what `fit` adds to gradient and update, share of a step", more, 0.05, AIM)


def ragged_claims(everything: list[dict]):
    """Time beside that of full sequences, against steps beside theirs."""
    whole = {(row["cell"], row["dtype"], row["pass"]): row for row in everything if is_middle(row) and row["variant"] == "plain"}
    worst = []
    for row in s.select(everything, variant="ragged"):
        full = whole[row["cell"], row["dtype"], row["pass"]]
        off = (row["seconds"] / full["seconds"]) / (row["operations"] / full["operations"]) - 1
        worst.append((abs(off), place(row)))
    if worst:
        off, where = max(worst)
        yield s.at_most(f"ragged lengths, cost off the sum of lengths: the most of {len(worst)}, at {where}", off, 0.15, AIM)


def is_middle(row: dict) -> bool:
    return (row["T"], row["B"], row["D"], row["H"]) == (cases.STEPS, *cases.MIDDLE)


def memory_claims(rows: list[dict]):
    found = s.select(rows, kind="memory")
    longest = max((row["T"] for row in found), default=0)
    ours, theirs = (s.select(found, library=name, T=longest, checkpoints=0) for name in ("fastrnn", "torch"))
    if ours and theirs:
        text = f"memory at T = {longest:.0f}, fastrnn / PyTorch"
        yield s.at_most(text, ours[0]["bytes"] / theirs[0]["bytes"], 1.0, AIM)
    kept = s.select(found, checkpoints=1)
    if len(kept) >= 3:
        T, bytes_ = s.column(kept, "T"), s.column(kept, "bytes")
        outputs = whole_array(T)
        yield s.at_most("memory with checkpoints, slope of log bytes on log T", slope(T, bytes_), 0.6, f"{AIM}: O(√T)")
        if (bytes_ > outputs).all():
            text = "memory with checkpoints beside y (T, B, H), which is whole: slope"
            yield s.at_most(text, slope(T, bytes_ - outputs), 0.6, f"{AIM}: O(√T)")


def whole_array(T):
    """Bytes of y (T, B, H), which checkpoints do not spare."""
    B, _, H = cases.MIDDLE
    return 4 * T * B * H


def startup_claims(rows: list[dict]):
    seconds = {row["what"]: row["seconds"] for row in s.select(rows, kind="startup")}
    if seconds:
        yield s.at_most("import and first fit, empty cache of code: seconds", seconds["import"] + seconds["cold"], 15.0, AIM)
        yield s.at_most("import and first fit, filled cache: seconds", seconds["import"] + seconds["warm"], 1.0, AIM)


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Of a line through the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


# Drawing --------------------------------------------------------------------------------------------------------------


def draw(rows: list[dict], record: dict):
    """One page: (a) on top, a row of panels each for (b) and (c), then (d) to (f)."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(7.0, 9.0), layout="constrained")
    top, forward, both, bottom = figure.subfigures(4, 1, height_ratios=[2.6, 1.9, 2.2, 2.2])
    speeds = s.select(rows, kind="speed")
    draw_roofline(top.subplots(), rows, record["settings"]["threads"])
    draw_ratios(forward, s.select(speeds, **{"pass": "forward"}), "(b) forward", named=False)
    draw_ratios(both, s.select(speeds, **{"pass": "both"}), "(c) forward + backward", named=True)
    scaling, memory, startup = bottom.subplots(1, 3)
    draw_scaling(scaling, speeds)
    draw_memory(memory, s.select(rows, kind="memory"))
    draw_startup(startup, s.select(rows, kind="startup"))
    return figure


def draw_roofline(ax, rows: list, threads: int) -> None:
    """(a)."""
    from fastrnn import plot

    found = [row for row in s.select(rows, kind="speed") if row["pass"] in ("forward", "both", "generate")]
    found = [row | {"intensity": row["operations"] / row["bytes"]} for row in found]
    left, right = (f(row["intensity"] for row in found) for f in (min, max))
    at = np.geomspace(left / 6, right * 2, 200)
    bottom, peak = min(row["gflops"] for row in found) / 2, ceiling(rows, ceiling="multiply-add", dtype="float32", threads=threads)
    draw_roofs(ax, rows, threads, at, bottom)
    for color, cell in zip(plot.COLORS, CELLS):
        for marker, directions in (("o", ("forward", "generate")), ("s", ("both",))):
            for dtype, fill in (("float32", color), ("float64", "none")):
                some = [row for row in s.select(found, cell=cell, dtype=dtype) if row["pass"] in directions]
                look = {"color": color, "markerfacecolor": fill, "markersize": 3.5, "alpha": 0.8}
                ax.plot(s.column(some, "intensity"), s.column(some, "gflops"), marker, **look)
        ax.plot([], [], "o", color=color, label=cell)
    for marker, fill, label in (("o", "0.4", "forward"), ("s", "0.4", "forward + backward"), ("o", "none", "float64 (open)")):
        ax.plot([], [], marker, color="0.4", markerfacecolor=fill, label=label)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(at[0], at[-1])
    ax.set_ylim(bottom, peak * 1.8)
    plain_ticks(ax.xaxis)
    plain_ticks(ax.yaxis)
    ax.set_xlabel("operations a byte")
    ax.set_ylabel("GFLOP/s")
    ax.set_title(f"(a) all cases under the machine's roofs, {threads} threads", loc="left")
    ax.legend(loc="lower left", bbox_to_anchor=(1.0, 0.0))


def draw_roofs(ax, rows: list, threads: int, at: np.ndarray, bottom: float) -> None:
    """Multiply-adds, named beside the panel, and bandwidths, named along their lines."""
    peaks = {dtype: ceiling(rows, ceiling="multiply-add", dtype=dtype, threads=threads) for dtype in ("float32", "float64")}
    for dtype, peak in peaks.items():
        ax.axhline(peak, color="black", linewidth=0.8, linestyle="-" if dtype == "float32" else "--")
        look = {"textcoords": "offset points", "fontsize": 6, "va": "center", "annotation_clip": False}
        ax.annotate(f"multiply-add, {dtype}: {peak:.0f}", (at[-1], peak), (3, 0), **look)
    for level, shade in zip(("L2", "L3", "memory"), ("0.3", "0.45", "0.6")):
        rate = ceiling(rows, ceiling="read", level=level, threads=threads)
        if math.isnan(rate):
            continue
        under = at[(at * rate <= peaks["float32"]) & (at * rate >= bottom)]
        ax.plot(under, under * rate, color=shade, linewidth=0.8)
        x = under[0] * 1.15
        look = {"fontsize": 6, "color": shade, "rotation_mode": "anchor", "transform_rotates_text": True}
        ax.text(x, 1.15 * x * rate, f"{level} {rate:.0f} GB/s", rotation=math.degrees(math.atan(rate)), **look)


def draw_ratios(part, rows: list, title: str, named: bool) -> None:
    """(b), (c): a panel a cell; a group of bars a size, from 1 up where fastrnn is faster. Sizes are `named` below, peers above."""
    from fastrnn import plot

    rows = [row for row in rows if on_grid(row)]
    names = peers_of(rows)
    axes = part.subplots(1, len(CELLS), sharey=True)
    colors = {peer: plot.COLORS[list(NAMES).index(peer)] for peer in names}
    for ax, cell in zip(axes, CELLS):
        found = s.select(rows, cell=cell)
        sizes = sorted({(row["B"], row["D"], row["H"]) for row in found}, key=cases.SIZES.index)
        wide = 0.8 / max(len(names), 1)
        for row in found:
            for k, peer in enumerate(names):
                if f"{peer}_ratio" in row:
                    x = sizes.index((row["B"], row["D"], row["H"])) + (k - (len(names) - 1) / 2) * wide
                    draw_ratio(ax, x, wide, row, peer, colors[peer])
        ax.axhline(1, color="black", linewidth=0.8)
        ax.set_yscale("log")
        ax.set_xticks(range(len(sizes)), [", ".join(f"{n:.0f}" for n in size) for size in sizes], rotation=90, fontsize=6)
        ax.tick_params(axis="x", labelbottom=named)
        ax.set_title(f"{title}, {cell}" if ax is axes[0] else cell, loc="left")
    axes[0].set_ylabel("peer's time / fastrnn's")
    axes[1].set_xlabel("B, D, H" if named else "")
    ends = [row[f"{peer}_{end}"] for row in rows for peer in names for end in ("low", "high") if f"{peer}_{end}" in row]
    axes[0].set_ylim(min([0.5, *ends]) / 1.2, max([4, *ends]) * 1.2)
    plain_ticks(axes[0].yaxis, room=300)
    if not names:
        axes[1].text(0.5, 0.5, "no peer is installed", transform=axes[1].transAxes, ha="center", va="center")
        return
    for peer in names:
        axes[-1].bar(0, 0, bottom=1, color=colors[peer], label=NAMES[peer])
    axes[-1].plot([], [], color="black", linewidth=0.8, label="float64")
    if not named:
        part.legend(loc="outside upper right", ncol=len(names) + 1)


def draw_ratio(ax, x: float, wide: float, row: dict, peer: str, color: str) -> None:
    """A bar with the middle half of the rounds; of float64 a dash."""
    middle, low, high = (row[f"{peer}_{name}"] for name in ("ratio", "low", "high"))
    if row["dtype"] == "float64":
        ax.plot([x - wide / 2, x + wide / 2], [middle, middle], color="black", linewidth=0.8)
    else:
        ax.bar(x, middle - 1, wide, bottom=1, color=color, linewidth=0)
        ax.plot([x, x], [low, high], color="0.3", linewidth=0.6)


def plain_ticks(axis, room: float = 60) -> None:
    """Numbers, not powers: 1, 2, 5, 10, ...; or 1, 10, ... where there is more than `room` between the ends."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if high / low < room else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def draw_scaling(ax, rows: list) -> None:
    """(d): steps, sequences, units."""
    from fastrnn import plot

    rows = s.select(rows, cell="lstm", dtype="float32", variant="plain")
    along = {
        "T": [row for row in rows if (row["B"], row["D"], row["H"]) == cases.MIDDLE],
        "B": [row for row in rows if (row["T"], row["D"], row["H"]) == (cases.STEPS, 64, 64)],
        "H": [row for row in rows if (row["T"], row["B"], row["D"]) == (cases.STEPS, 32, row["H"])],
    }
    for color, marker, (name, some) in zip(plot.COLORS, plot.MARKERS, along.items()):
        for direction, line in (("both", "-"), ("forward", "--")):
            found = sorted(s.select(some, **{"pass": direction}), key=lambda row: row[name])
            if len(found) < 2:
                continue
            x, y = s.column(found, name), 1e3 * s.column(found, "seconds")
            upper = slice(len(x) // 2 if len(x) > 3 else 0, None)
            label = f"{name}: slope {slope(x[upper], y[upper]):.2f}"
            ax.plot(x, y, line, marker=marker, markersize=3, color=color, label=label if line == "-" else None)
    ax.plot([], [], "--", color="0.4", label="forward alone")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(top=12 * ax.get_ylim()[1])
    plain_ticks(ax.xaxis)
    plain_ticks(ax.yaxis)
    ax.set_xlabel("T, B or H")
    ax.set_ylabel("ms")
    ax.set_title("(d) lstm, float32", loc="left")
    ax.legend(loc="upper left", fontsize=6)


def draw_memory(ax, rows: list) -> None:
    """(e)."""
    from fastrnn import plot

    ways = (("fastrnn", 0, "fastrnn"), ("fastrnn", 1, "with checkpoints"), ("torch", 0, "PyTorch"))
    for color, marker, (library, kept, label) in zip((plot.COLORS[2], plot.COLORS[4], plot.COLORS[0]), plot.MARKERS, ways):
        found = s.select(rows, library=library, checkpoints=kept)
        if found:
            ax.plot(s.column(found, "T"), s.column(found, "bytes") / 1e6, marker=marker, color=color, label=label)
    steps = np.array(sorted({row["T"] for row in rows}))
    if len(steps):
        ax.plot(steps, whole_array(steps) / 1e6, ":", color="0.4", linewidth=0.8, label="y alone")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(top=12 * ax.get_ylim()[1])
    plain_ticks(ax.xaxis)
    plain_ticks(ax.yaxis)
    ax.set_xlabel("T (steps)")
    ax.set_ylabel("peak (MB)")
    ax.set_title("(e) memory of a gradient", loc="left")
    ax.legend(loc="upper left", fontsize=6)


def draw_startup(ax, rows: list) -> None:
    """(f)."""
    from fastrnn import plot

    names = {"import": "import", "warm": "first fit,\nfilled cache", "cold": "first fit,\nempty cache"}
    for k, row in enumerate(rows):
        ax.barh(k, row["seconds"], color=plot.COLORS[2])
        ax.plot([row["low"], row["high"]], [k, k], color="0.3", linewidth=0.8)
        ax.annotate(f"{row['seconds']:.2g} s", (row["high"], k), (3, 0), textcoords="offset points", va="center", fontsize=6.5)
    ax.set_xscale("log")
    ax.set_xlim(0.05, 60)
    plain_ticks(ax.xaxis)
    ax.set_yticks(range(len(rows)), [names[row["what"]] for row in rows])
    ax.invert_yaxis()
    ax.set_xlabel("seconds")
    ax.set_title("(f) a new process", loc="left")


if __name__ == "__main__":
    raise SystemExit(s.run(__file__, __doc__, compute, draw, seeds=None, options=options))
