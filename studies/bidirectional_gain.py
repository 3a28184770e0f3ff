"""What does a network gain that also reads from the end, over one that reads one way: as large, or as far-sighted?

Framewise tasks: a label at every step. Four kinds of network with the rnn, gru and lstm cell: one way with 64 units; one way with
about as many weights as both ways have; that one delayed, so that its label for step t comes at step t + d; and both ways, 64 units
each. (24 for the synthetic task.)

(a) A task with a closed form (`fastrnn.data.Lookahead`): the label needs a coin that falls k steps ahead. Whoever has seen less can
    expect 1 - (T - k) / 2T of the labels at most (dashed), a delay of k or both ways can have all of them.
(b) JapaneseVowels: which of nine speakers, at every frame. Also against the frame, as one way has seen only so many.
(c) Bach chorales, where music21 is installed (``pip install '.[music]'``): from the soprano's pitches, a step a quarter note, the
    pitch class of the bass. Every fourth piece is for testing.
(d) OCR letters, with ``--ocr FILE`` (Taskar's ``letter.data``): 26 letters of handwritten words, trained on one fold of ten.

Of the sequences for training every tenth is held out, and the weights of the epoch with the least loss on those are taken. Points:
means over seeds, with 95 % bootstrap intervals. Last panel: both ways minus one way with as many weights, and minus the delayed
network with the delay that does best on the test itself (which favours the rival).

Held against: Graves & Schmidhuber 2005, framewise phonemes of TIMIT with equal numbers of weights (recalled; TIMIT is licensed, their
numbers are drawn beside ours); and gru networks of PyTorch, 64 units one way / as many weights one way / both ways: letters .807,
.827, .855, chorales .414, .421, .454.
"""

import hashlib
import importlib.metadata
import importlib.util
from functools import cache, partial
from pathlib import Path

import _study as s
import numpy as np

import fastrnn as fr

CELLS = ("rnn", "gru", "lstm")
GATES = {"rnn": 1, "gru": 3, "lstm": 4}
NAMES = {"lookahead": "synthetic", "vowels": "JapaneseVowels", "chorales": "Bach chorales", "letters": "OCR letters"}
SHAPES = {"lookahead": (1, 3), "vowels": (12, 9), "letters": (128, 26)}  # inputs, classes; the chorales' are counted
RATES = {"lookahead": 1e-2, "vowels": 5e-3, "chorales": 3e-3, "letters": 3e-3}
EPOCHS = {"vowels": 30, "chorales": 40, "letters": 30}
UNITS = {"lookahead": 24, "vowels": 64, "chorales": 64, "letters": 64}
# frame error of TIMIT: one way, delayed (3 steps, 5 steps), both ways
TIMIT = {"rnn": (0.645, 0.652, 0.690), "lstm": (0.646, 0.660, 0.698)}
MEASURED = {"letters": (0.807, 0.827, 0.855), "chorales": (0.414, 0.421, 0.454)}
FEWEST = 0.2  # share of the sequences that must still run at a frame that is drawn


def sizes(arguments) -> dict:
    """What --quick makes smaller."""
    quick = arguments.quick
    return {
        "delays": [0, 2] if quick else [0, 1, 2, 3, 5],
        "lookahead": {"length": 30, "ahead": 3} if quick else {"length": 50, "ahead": 5},
        "lookahead delays": [0, 1, 2, 3, 5] if quick else [0, 2, 4, 5, 6, 8],
        "updates": 600 if quick else 2000,
        "epochs": EPOCHS | ({"chorales": 20} if quick else {}),
        "seeds": arguments.seeds,
    }


# Data -----------------------------------------------------------------------------------------------------------------


def sources(arguments, parts: s.Parts) -> tuple[dict, dict]:
    """Where the data is that can be had, by name, each (path or None, what identifies it); and why the others are left out."""
    found, skipped = {}, {}
    if importlib.util.find_spec("sktime") is None:
        skipped["vowels"] = "sktime is not installed (pip install '.[data]')"
    else:
        found["vowels"] = None, importlib.metadata.version("sktime")
    if importlib.util.find_spec("music21") is None:
        skipped["chorales"] = "music21 is not installed (pip install '.[music]')"
    else:
        settings = {"music21": importlib.metadata.version("music21")}
        s.compute_parts(parts, [("chorales", settings)], read_chorales, label="reading the chorales, about a minute")
        found["chorales"] = str(parts.path("chorales", settings)), settings["music21"]
    if arguments.ocr is None:
        skipped["letters"] = "no --ocr FILE is given"
    else:
        found["letters"] = arguments.ocr, hashlib.sha256(Path(arguments.ocr).read_bytes()).hexdigest()[:12]
    return found, skipped


def read_chorales(settings: dict) -> dict:
    pieces = fr.data.bach_chorales()
    return {"pitches": np.concatenate(pieces), "lengths": np.array([len(piece) for piece in pieces])}


@cache
def data(name: str, path: str | None) -> fr.data.SequenceData:
    """Sequences with a label at every step."""
    if name == "letters":
        return fr.data.ocr_letters(path)
    if name == "chorales":
        return chorales(path)
    speakers = fr.data.japanese_vowels()
    frames = np.concatenate(speakers.train.x)
    mean, spread = frames.mean(axis=0), frames.std(axis=0)
    parts = [
        fr.data.Sequences([(x - mean) / spread for x in part.x], [np.full(len(x), who) for x, who in zip(part.x, part.target)])
        for part in (speakers.train, speakers.test)
    ]
    return fr.data.SequenceData(*parts, speakers.classes)


def chorales(path: str) -> fr.data.SequenceData:
    """The soprano's pitch, one-hot, and the bass's pitch class; a rest is one more of each."""
    with np.load(path, allow_pickle=False) as stored:
        pitches, lengths = stored["pitches"], stored["lengths"]
    soprano, bass = pitches[:, 0], pitches[:, 3]
    low, high = soprano[soprano >= 0].min(), soprano.max()
    x = np.eye(high - low + 2, dtype=np.float32)[np.where(soprano < 0, high + 1, soprano) - low]
    target = np.where(bass < 0, 12, bass % 12)
    cuts = np.cumsum(lengths)[:-1]
    x, target = np.split(x, cuts), np.split(target, cuts)
    place = np.random.default_rng(0).permutation(len(x)) % 4
    parts = [fr.data.Sequences(*([a for a, p in zip(items, place) if (p == 0) == test] for items in (x, target))) for test in (False, True)]
    return fr.data.SequenceData(*parts, (*map(str, range(12)), "rest"))


# Networks and their training ------------------------------------------------------------------------------------------


def weights(cell: str, D: int, H: int, O: int, directions: int = 1) -> int:
    """How many weights a network has, its readout included."""
    return directions * GATES[cell] * H * (D + H + 2) + O * (directions * H + 1)


def equal_size(cell: str, D: int, H: int, O: int) -> int:
    """Units of the one-way network that is nearest in weights to one of H units both ways."""
    return min(range(H, 2 * H), key=lambda n: abs(weights(cell, D, n, O) - weights(cell, D, H, O, 2)))


def build(settings: dict) -> fr.Model:
    (D, O), H, seed = settings["shape"], settings["units"], settings["seed"]
    net = fr.Recurrent(settings["cell"], D, H, bidirectional=settings["kind"] == "both ways", seed=2 * seed)
    if settings["delay"]:
        net = fr.Delayed(net, settings["delay"])
    return fr.Model(net, fr.Linear(net.output_size, O, seed=2 * seed + 1), loss=fr.CrossEntropy(), readout="every")


def train(paths: dict, settings: dict) -> dict:
    """One network: frames right on the test data, and how many of them at every frame."""
    model, name = build(settings), settings["data"]
    rate = partial(fr.schedules.CosineDecay, settings["rate"])
    if name == "lookahead":
        task = fr.data.Lookahead(settings["length"], settings["ahead"])
        stream, updates = fr.data.Stream(task, batch_size=32, seed=settings["seed"]), settings["updates"]
        fr.fit(model, stream, steps=updates, optimizer=fr.Adam(rate(updates), clip_norm=1.0), progress=False)
        x, target, lengths = task.sample(2000, np.random.default_rng(2**32))
        return score(model, x, target, lengths)
    found = data(name, paths[name])
    held = np.arange(len(found.train.x)) % 10 == 9
    training, held_out = (tuple([a for a, h in zip(items, held) if h == own] for items in found.train) for own in (False, True))
    epochs, batch = settings["epochs"], settings["batch"]
    fr.fit(
        model,
        training,
        validation=held_out,
        epochs=epochs,
        batch_size=batch,
        optimizer=fr.Adam(rate(epochs * -(-len(training[0]) // batch)), clip_norm=1.0),
        callbacks=[fr.EarlyStopping(patience=epochs)],  # the best epoch's weights
        seed=settings["seed"],
        progress=False,
    )
    x, lengths = fr.data.pad(found.test.x)
    return score(model, x, fr.data.pad(found.test.target)[0], lengths)


def score(model: fr.Model, x, target, lengths) -> dict:
    """right (T,): frames labelled rightly; frames (T,): how many there are."""
    valid = np.arange(len(x))[:, None] < lengths
    right = (model.predict(x, lengths).argmax(axis=2) == target) & valid
    return {"right": right.sum(axis=1), "frames": valid.sum(axis=1), "weights": model.params.flat.size}


def jobs(size: dict, found: dict, shapes: dict) -> list[tuple[str, dict]]:
    result = []
    for seed in range(size["seeds"]):
        for name in ("lookahead", *found):
            common = {"data": name, "seed": seed, "shape": shapes[name], "rate": RATES[name]}
            if name == "lookahead":
                common |= size["lookahead"] | {"updates": size["updates"]}
                delays = size["lookahead delays"]
            else:
                common |= {"identity": found[name][1], "epochs": size["epochs"][name], "batch": 16 if name == "chorales" else 32}
                delays = size["delays"]
            for cell in CELLS:
                wide = equal_size(cell, shapes[name][0], UNITS[name], shapes[name][1])
                kinds = [("one way, small", UNITS[name], 0)] * (name != "lookahead")
                kinds += [("delayed" if d else "one way", wide, d) for d in delays] + [("both ways", UNITS[name], 0)]
                for kind, units, delay in kinds:
                    settings = common | {"cell": cell, "kind": kind, "units": units, "delay": delay}
                    result.append((f"{name} {cell} {kind} {delay} {seed}", settings))
    return result


def compute(arguments, parts: s.Parts) -> s.Result:
    found, skipped = sources(arguments, parts)
    for name, reason in skipped.items():
        print(f"bidirectional_gain: {NAMES[name]} left out: {reason}")
    paths = {name: path for name, (path, _) in found.items()}
    shapes = SHAPES | ({"chorales": (data("chorales", paths["chorales"]).train.x[0].shape[1], 13)} if "chorales" in found else {})
    size = sizes(arguments)
    todo = jobs(size, found, shapes)
    runs = s.compute_parts(parts, todo, partial(train, paths), label="networks", workers=arguments.workers)
    rows = [*accuracy_rows(todo, runs), *frame_rows(todo, runs), *timit_rows()]
    rows += gain_rows(rows, todo, runs, [*found])
    return s.Result(rows, size | {"skipped": skipped, "data": [*found]}, claims(size, rows, [*found]))


# Rows -----------------------------------------------------------------------------------------------------------------


def grouped(todo: list, runs: dict) -> dict:
    """Runs over seeds by (data, cell, kind, delay), in the order of the seeds."""
    groups = {}
    for name, settings in todo:
        groups.setdefault(tuple(settings[key] for key in ("data", "cell", "kind", "delay")), []).append(runs[name])
    return groups


def share(run: dict) -> float:
    return run["right"].sum() / run["frames"].sum()


def accuracy_rows(todo: list, runs: dict):
    """Frames right, a row a network."""
    for (name, cell, kind, delay), own in grouped(todo, runs).items():
        values = [share(run) for run in own]
        low, high = s.bootstrap_interval(values)
        row = {"panel": "accuracy", "data": name, "cell": cell, "kind": kind, "delay": delay, "runs": len(own)}
        yield row | {"accuracy": np.mean(values), "low": low, "high": high, "weights": int(own[0]["weights"])}


def frame_rows(todo: list, runs: dict):
    """JapaneseVowels frame by frame, as far as there are sequences."""
    for (name, cell, kind, delay), own in grouped(todo, runs).items():
        if name != "vowels" or kind == "one way, small":
            continue
        frames = own[0]["frames"]
        values = np.array([run["right"] / np.maximum(frames, 1) for run in own])
        for t in np.flatnonzero(frames >= FEWEST * frames[0]):
            low, high = s.bootstrap_interval(values[:, t])
            row = {"panel": "frames", "data": name, "cell": cell, "kind": kind, "delay": delay, "frame": t + 1}
            yield row | {"accuracy": values[:, t].mean(), "low": low, "high": high}


def timit_rows():
    for cell, values in TIMIT.items():
        for kind, value in zip(("one way", "delayed", "both ways"), values):
            yield {"panel": "TIMIT", "cell": cell, "kind": kind, "accuracy": value}


def gain_rows(rows: list, todo: list, runs: dict, names: list):
    """Both ways minus a rival of as many weights, seed by seed; of the delayed ones the best on the test."""
    groups = grouped(todo, runs)
    for name in names:
        for cell in CELLS:
            delayed = s.select(rows, panel="accuracy", data=name, cell=cell, kind="delayed")
            best = max(delayed, key=lambda row: row["accuracy"])["delay"]
            for kind, delay in (("one way, small", 0), ("one way", 0), ("delayed", best)):
                pairs = zip(groups[name, cell, "both ways", 0], groups[name, cell, kind, delay])
                values = [share(both) - share(rival) for both, rival in pairs]
                low, high = s.bootstrap_interval(values)
                row = {"panel": "gain", "data": name, "cell": cell, "kind": kind, "delay": delay}
                yield row | {"accuracy": np.mean(values), "low": low, "high": high}
    for cell, (one_way, delayed, both) in TIMIT.items():
        for kind, value in (("one way", one_way), ("delayed", delayed)):
            yield {"panel": "gain", "data": "TIMIT", "cell": cell, "kind": kind, "accuracy": both - value}


# Claims ---------------------------------------------------------------------------------------------------------------


def claims(size: dict, rows: list, names: list) -> list:
    result = lookahead_claims(size, s.select(rows, panel="accuracy", data="lookahead"))
    for name in names:
        result += data_claims(name, rows)
    return result + (frame_claims(s.select(rows, panel="frames")) if "vowels" in names else [])


def lookahead_claims(size: dict, rows: list) -> list:
    task, k = fr.data.Lookahead(**size["lookahead"]), size["lookahead"]["ahead"]
    one_way = [row for row in rows if row["kind"] != "both ways"]
    blind = [row["accuracy"] - task.best_accuracy(row["delay"]) for row in one_way if row["delay"] < k]
    seeing = min(row["accuracy"] for row in one_way if row["delay"] >= k)
    both = min(row["accuracy"] for row in s.select(rows, kind="both ways"))
    what = f"synthetic, k = {k}, all cells:"
    # 2000 sequences: the standard error of a share is below .0025
    return [
        s.close(f"{what} largest deviation from the closed form, delay < k", max(blind, key=abs), 0.0, 0.01, "closed form"),
        s.at_least(f"{what} frames right, delay ≥ k; the least", seeing, 0.99, "closed form: 1"),
        s.at_least(f"{what} frames right, both ways; the least", both, 0.995, "closed form: 1"),
    ]


def data_claims(name: str, rows: list) -> list:
    """Order and size of the gains; the tolerances are 2 points throughout."""
    gain = {(row["cell"], row["kind"]): row["accuracy"] for row in s.select(rows, panel="gain", data=name)}
    published, result = "Graves & Schmidhuber 2005, TIMIT, recalled:", []
    rivals = {"one way, small": "one way of 64 units", "one way": "one way of as many weights"}
    for cell, numbers in (("rnn", "+.045"), ("lstm", "+.052"), ("gru", "rnn +.045, lstm +.052")):
        what = f"{NAMES[name]}, {cell}: frames right, both ways minus {rivals['one way']}"
        result.append(s.at_least(what, gain[cell, "one way"], 0.0, f"{published} {numbers}"))
    least = min(gain[cell, "delayed"] for cell in CELLS)
    what = f"{NAMES[name]}, all cells: frames right, both ways minus the best delay; the least"
    result.append(s.at_least(what, least, 0.0, f"{published} rnn +.038, lstm +.038"))
    if name in MEASURED:
        *ones, both = MEASURED[name]
        for (kind, rival), one in zip(rivals.items(), ones):
            what = f"{NAMES[name]}, gru: frames right, both ways minus {rival}"
            result.append(s.close(what, gain["gru", kind], both - one, 0.02, f"PyTorch: {both:.3f} - {one:.3f}"))
    return result


def frame_claims(rows: list) -> list:
    """Where both ways gain: at the beginning, where one way has seen little."""
    last = max(row["frame"] for row in rows)

    def gain(frame):
        found = [[s.select(rows, kind=kind, cell=cell, frame=frame)[0]["accuracy"] for kind in ("both ways", "one way")] for cell in CELLS]
        return np.mean([both - one for both, one in found])

    what, source = "JapaneseVowels, mean over cells: gain of both ways over one way", "expected: one way has seen as much at the end"
    return [
        s.at_least(f"{what} at frame 1", gain(1), 0.05, "expected: one way has seen one frame of the first, both all of them"),
        s.at_most(f"{what} at frame {last}, over that at frame 1", gain(last) / gain(1), 0.5, source),
    ]


# Drawing --------------------------------------------------------------------------------------------------------------


def draw(rows: list[dict], record: dict):
    import matplotlib.pyplot as plt

    from fastrnn import plot

    settings = record["settings"]
    panels = ["lookahead", *(name for name in NAMES if name in settings["data"]), "TIMIT", "gain"]
    columns = 2 if len(panels) == 4 else 3
    lines = -(-len(panels) // columns)
    figure = plt.figure(figsize=(plot.PAGE, 2.15 * lines + 2.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[2.15 * lines, 2.2])
    axes = top.subplots(lines, columns, squeeze=False).ravel()
    for ax, panel, letter in zip(axes, panels, "abcdef"):
        if panel == "gain":
            draw_gains(ax, s.select(rows, panel="gain"), settings["data"])
        elif panel == "TIMIT":
            draw_timit(ax, s.select(rows, panel="TIMIT"))
        else:
            draw_accuracy(ax, s.select(rows, panel="accuracy", data=panel), settings)
        title = {"TIMIT": "TIMIT, published (recalled)", "gain": "gain of both ways"}.get(panel) or NAMES[panel]
        ax.set_title(f"({letter}) {title}", loc="left")
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    handles = [plt.Line2D([], [], color=colour, marker=marker, label=cell) for cell, (colour, marker) in looks().items()]
    top.legend(handles=handles, loc="outside upper center", ncol=3)
    if "vowels" in settings["data"]:
        draw_frames(bottom, s.select(rows, panel="frames"), "abcdefg"[len(panels)])
    return figure


def looks() -> dict:
    """Colour and marker of every cell."""
    from fastrnn import plot

    return dict(zip(CELLS, zip(plot.COLORS, plot.MARKERS)))


def percent(rows: list, name: str) -> np.ndarray:
    return 100 * s.column(rows, name)


def draw_accuracy(ax, rows: list, settings: dict) -> None:
    """Frames right against the delay, the small network before and both ways behind."""
    small = bool(s.select(rows, kind="one way, small"))
    delays = sorted({row["delay"] for row in rows})
    for n, (cell, (colour, marker)) in enumerate(looks().items()):
        groups = [s.select(rows, cell=cell, kind="one way, small")] * small
        groups += [[row for row in s.select(rows, cell=cell, delay=d) if row["kind"] in ("one way", "delayed")] for d in delays]
        own = [row for group in (*groups, s.select(rows, cell=cell, kind="both ways")) for row in group]
        x = np.arange(len(own)) + (n - 1) * 0.12  # intervals side by side
        value, low, high = (percent(own, name) for name in ("accuracy", "low", "high"))
        bars = np.maximum([value - low, high - value], 0)
        ax.errorbar(x, value, bars, color=colour, marker=marker, linestyle="none", capsize=1.5, elinewidth=0.8, markersize=3.5)
        line = slice(int(small), len(own) - 1)
        ax.plot(x[line], value[line], color=colour, linewidth=0.8)
    ticks = ["small"] * small + [f"{d:g}" for d in delays] + ["both\nways"]
    ax.set_xticks(range(len(ticks)), ticks, fontsize=7)
    ax.axvline(len(ticks) - 1.5, color="0.8", linewidth=0.6)
    if small:
        ax.axvline(0.5, color="0.8", linewidth=0.6)
    ax.set_xlabel("one way, delayed by d steps", labelpad=1)
    ax.set_ylabel("frames right (%)")
    if rows[0]["data"] == "lookahead":
        task = fr.data.Lookahead(**settings["lookahead"])
        levels = [100 * task.best_accuracy(int(d)) for d in delays] + [100.0]
        for x, level in enumerate(levels):
            ax.plot([x - 0.42, x + 0.42], [level, level], color="black", linestyle=(0, (3, 2)), linewidth=0.8)
        ax.set_ylim(45, 104)
        ax.annotate("closed form", (0, levels[0]), xytext=(-8, -10), textcoords="offset points", fontsize=6.5, ha="left")


def draw_timit(ax, rows: list) -> None:
    for cell, (colour, marker) in looks().items():
        own = s.select(rows, cell=cell)
        if own:
            ax.plot(percent(own, "accuracy"), color=colour, marker=marker, markersize=3.5, linewidth=0.8)
    ax.set_xticks(range(3), ["one way", "delayed", "both\nways"])
    ax.margins(x=0.15)
    ax.set_ylabel("frames right (%)")


def draw_gains(ax, rows: list, names: list) -> None:
    """Filled: over one way with as many weights; open: over the best delay."""
    places = [*(name for name in NAMES if name in names), "TIMIT"]
    for y, name in enumerate(places):
        for n, (cell, (colour, marker)) in enumerate(looks().items()):
            for kind, face, shift in (("one way", colour, -0.05), ("delayed", "white", 0.05)):
                for row in s.select(rows, data=name, cell=cell, kind=kind):
                    at, value = y + (n - 1) * 0.25 + shift, 100 * row["accuracy"]
                    if "low" in row:
                        ax.plot([100 * row["low"], 100 * row["high"]], [at, at], color=colour, linewidth=0.8)
                    ax.plot(value, at, marker, color=colour, markerfacecolor=face, markersize=3.5)
    ax.axvline(0, color="black", linewidth=0.6)
    ax.set_yticks(range(len(places)), [NAMES.get(name, name).replace(" ", "\n").replace("Vowels", "\nVowels") for name in places])
    ax.set_ylim(len(places) - 0.5, -0.5)
    ax.plot([], [], "o", color="0.3", markersize=3.5, label="over one way")
    ax.plot([], [], "o", color="0.3", markerfacecolor="white", markersize=3.5, label="over best delay")
    ax.set_xlabel("gain (percentage points)", labelpad=1)
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, -0.26), ncol=2, handletextpad=0.1, columnspacing=1.0, fontsize=6.5)


def draw_frames(part, rows: list, letter: str) -> None:
    """Frames right against the frame, a panel a cell."""
    from fastrnn import plot

    axes = part.subplots(1, len(CELLS), sharex=True, sharey=True)
    delay = 2.0
    for ax, cell in zip(axes, CELLS):
        for kind, label, colour, style in (
            ("one way", "one way", plot.COLORS[6], "-"),
            ("delayed", f"delayed by {delay:g}", plot.COLORS[4], "--"),
            ("both ways", "both ways", plot.COLORS[3], "-."),
        ):
            own = [row for row in s.select(rows, cell=cell, kind=kind) if kind != "delayed" or row["delay"] == delay]
            frame, value, low, high = s.column(own, "frame"), *(percent(own, name) for name in ("accuracy", "low", "high"))
            ax.plot(frame, value, color=colour, linestyle=style, label=label)
            ax.fill_between(frame, low, high, color=colour, alpha=0.2, linewidth=0)
        ax.set_title(cell, fontsize=7.5)
        ax.set_xlabel("frame t (frames seen by one way)")
    axes[0].set_ylabel("frames right (%)")
    axes[-1].legend(loc="lower right")
    part.suptitle(f"({letter}) JapaneseVowels: which of nine speakers, frame by frame", x=0.01, ha="left", fontsize=8)


def options(parser) -> None:
    parser.add_argument("--ocr", metavar="FILE", help="Taskar's letter.data, for the OCR letters")


if __name__ == "__main__":
    raise SystemExit(s.run(__file__, __doc__, compute, draw, seeds=(2, 5), options=options))
