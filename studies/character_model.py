"""How many bits does the next character of an English text need, and what does a memory buy?

An lstm, a gru and an rnn of equally many weights learn to predict a text character by character, with truncated
back-propagation and a state that is carried on from window to window. They are held against

- the entropy of a character drawn by its frequency (unigram), and log2 of the alphabet: what a model without any input
  needs at least, and what one needs that knows nothing;
- the entropy of a character given the one before (bigram): what a network that sees one character needs at least;
- a feed-forward network of the same size on the last n characters [the n-NN of Karpathy, Johnson & Fei-Fei 2015], and the
  same with n = 1. Such a network cannot tell the second of two equal letters from the first (n = 1), nor the end of a run
  of m > n equal letters from its middle. Both are measured: at the doubled letters of held-out text, n = 1 must give the
  letter the same probability after "ll" as after "l", to the last bit; and on the text that repeats a^m b it cannot need
  less than the closed form ((k + 1) log2(k + 1) - k log2 k) / (m + 1) bits a character with m = n + k, that is 2 / (m + 1)
  for m = n + 1. A recurrent network reaches 0.

Published: with equally many weights, lstm and gru do better than the rnn, on War and Peace and on the Linux kernel
[Karpathy, Johnson & Fei-Fei 2015, arXiv:1506.02078, Table 1; the order is quoted, the text here is another one].

The text is Python's own ``pydoc_data.topics``, or any other with ``--text FILE``. Paragraphs that occur a second time
are dropped (the topics quote each other at length), then come, in order, 80 % for training, 10 % for the choice of the
learning rate (without --quick), and 10 % for the figure. Besides the figure there is a report with samples of what the
networks write: ``character_model.md``.
"""

import hashlib
import sys
from pathlib import Path

import _study
import numpy as np
from scipy.special import log_softmax

import fastrnn as fr

CELLS = {"lstm": fr.LSTM, "gru": fr.GRU, "rnn": fr.RNN}
CONTEXT = {"lstm": 0, "gru": 0, "rnn": 0, "feed-forward 5": 5, "feed-forward 1": 1}  # characters seen; 0: all so far
GRID = (1e-3, 3e-3, 1e-2, 3e-2)
# Of the grid the rate with the fewest bits on the validation part, with the settings of QUICK and seed 0, for every network
# alike: the order of the networks depends on it. (The rnn at 1e-3 needs .2 bits more, the feed-forward 5 at 3e-3 .1.)
RATES = {"lstm": 3e-2, "gru": 3e-3, "rnn": 3e-3, "feed-forward 5": 1e-2, "feed-forward 1": 1e-2}

QUICK = {"weights": 99_527, "batch": 16, "updates": 1600}  # as many weights as an lstm of 128 units has here
FULL = {"weights": 326_727, "batch": 32, "updates": 6000}  # ... of 256 units
TRAINING = {"dimension": 32, "window": 64, "stride": 32, "length": 320, "clip_norm": 1.0, "evaluations": 12}
RUNS = {"size": 16, "dimension": 4, "batch": 16, "updates": 400, "rate": 1e-2}

ROWS, UNSCORED = 16, 64  # held-out text is read in so many rows; their first steps have too little to go by
SAMPLE, TEMPERATURE = 600, 0.7
SHORTEST = 10 * ROWS * 4 * UNSCORED

PUBLISHED = "Karpathy et al. 2015, Table 1, the order on another text"
EXACT = "exact for this text"


# The text --------------------------------------------------------------------------------------------------------------


def read(path: str | None) -> fr.data.TextData:
    """The text without paragraphs that have occurred before: a copy in the held-out part would reward learning by heart."""
    text = fr.data.english_text() if path is None else fr.data.text(path)
    paragraphs = text.decode(text.tokens).split("\n\n")
    return fr.data.TextData.from_string("\n\n".join(dict.fromkeys(paragraphs)))


def split(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training, validation and test part."""
    return tuple(np.split(tokens, [8 * len(tokens) // 10, 9 * len(tokens) // 10]))


def contexts(tokens: np.ndarray, at: np.ndarray, n: int) -> np.ndarray:
    """What a network reads at places (T, B): the token there, or (T, B, n), the last n, the newest first."""
    return tokens[at] if n == 0 else tokens[np.maximum(at[..., None] - np.arange(n), 0)]


class Windows:
    """`fr.data.TextBatches` whose inputs are the last n characters."""

    def __init__(self, tokens: np.ndarray, batch: int, length: int, n: int):
        self.tokens, self.n = tokens, n
        self.places = fr.data.TextBatches(np.arange(len(tokens)), batch, length)

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self):
        for at, following, lengths, _ in self.places:
            yield fr.data.Batch(contexts(self.tokens, at, self.n), self.tokens[following], lengths)


def windows(tokens: np.ndarray, batch: int, length: int, n: int):
    return Windows(tokens, batch, length, n) if n else fr.data.TextBatches(tokens, batch, length)


# The networks ----------------------------------------------------------------------------------------------------------


def build(name: str, symbols: int, dimension: int, size: int, seed: int) -> fr.Model:
    n = CONTEXT[name]
    if n == 0:
        middle = CELLS[name](dimension, size, seed=seed)
    else:
        middle = fr.Linear(n * dimension, size, activation="tanh", seed=seed)
    return fr.Model(
        fr.Embedding(symbols, dimension, group=n or None, seed=seed),
        middle,
        fr.Linear(size, symbols, seed=seed + 1),
        loss=fr.CrossEntropy(),
        readout="every",
    )


def size_for(name: str, symbols: int, dimension: int, weights: int) -> int:
    """Hidden units so that the network has `weights` weights, or a little more."""
    low, high = 1, weights
    while low < high:
        size = (low + high) // 2
        # Counted, not built: the largest sizes that are tried would not fit into memory.
        if count(name, symbols, dimension, size) < weights:
            low = size + 1
        else:
            high = size
    return low


def count(name: str, symbols: int, dimension: int, size: int) -> int:
    gates, n = {"lstm": 4, "gru": 3, "rnn": 1}.get(name), CONTEXT[name]
    middle = gates * size * (dimension + size + 2) if n == 0 else size * (n * dimension + 1)
    return symbols * dimension + middle + symbols * (size + 1)


def score(model: fr.Model, tokens: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """How the model fares on a text, at every place (T, B) that is scored.

    Returns the tokens read, those that follow, the bits that these needed, and the probability that the token read occurs
    once more.
    """
    state, found = None, []
    for at, following, _, _ in fr.data.TextBatches(np.arange(len(tokens)), ROWS, UNSCORED):
        logits, state = model.run(contexts(tokens, at, n), state=state)
        logp = log_softmax(logits.astype(np.float64), axis=2)
        pick = [np.take_along_axis(logp, which[..., None], axis=2)[..., 0] for which in (tokens[following], tokens[at])]
        found.append((tokens[at], tokens[following], -pick[0] / np.log(2), np.exp(pick[1])))
    names = ("read", "follows", "bits", "again")
    return {name: np.concatenate(part[1:]) for name, part in zip(names, zip(*found))}


def doubled(scores: dict[str, np.ndarray], letters: np.ndarray) -> tuple[float, float, float, float]:
    """At the doubled letters of a text: the probability that was given to the second, to a third, the largest difference
    of the two, and the share that a third really has."""
    read = scores["read"]
    fresh = np.zeros(read.shape, bool)
    fresh[2:] = (read[2:] == read[1:-1]) & (read[1:-1] != read[:-2]) & letters[read[2:]]
    t, b = np.nonzero(fresh)
    if not len(t):
        return (np.nan,) * 4
    second, third = scores["again"][t - 1, b], scores["again"][t, b]
    share = (scores["follows"][t, b] == read[t, b]).mean()
    return second.mean(), third.mean(), np.abs(second - third).max(), share


def write(model: fr.Model, start: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Go on from a text, one character at a time."""
    tokens, state = list(start), None
    for t in range(len(start) + SAMPLE - 1):
        x = contexts(np.array(tokens[: t + 1]), np.array([[t]]), n)
        logits, state = model.run(x, state=state)
        if t + 1 == len(tokens):
            p = np.exp(log_softmax(logits[0, 0].astype(np.float64) / TEMPERATURE))
            tokens.append(rng.choice(len(p), p=p / p.sum()))
    return np.array(tokens[len(start) :])


# The runs --------------------------------------------------------------------------------------------------------------


class Watch(fr.Callback):
    """Bits a character on held-out text at chosen updates."""

    def __init__(self, at: list[int], measure):
        self.at, self.measure, self.bits = set(at), measure, []

    def step(self, report: fr.Report) -> None:
        if report.step in self.at:
            self.bits.append(self.measure())


def train(settings: dict) -> dict:
    """One network on the text."""
    text, name = read(settings["text"]), settings["model"]
    n, symbols = CONTEXT[name], len(text.vocabulary)
    training, validation, test = split(text.tokens)
    size = size_for(name, symbols, settings["dimension"], settings["weights"])
    model = build(name, symbols, settings["dimension"], size, settings["seed"])
    updates = settings["updates"]
    at = np.unique(np.geomspace(max(updates // 64, 1), updates, settings["evaluations"]).round().astype(int))
    watch = Watch(at.tolist(), lambda: score(model, test, n)["bits"].mean())
    untrained = watch.measure()
    fr.fit(
        model,
        windows(training, settings["batch"], settings["length"], n),
        steps=updates,
        optimizer=fr.Adam(fr.schedules.CosineDecay(settings["rate"], updates), clip_norm=settings["clip_norm"]),
        bptt=fr.Truncated(settings["window"], settings["stride"]),
        carry_state=True,
        callbacks=[watch],
        progress=False,
    )
    scores = score(model, test, n)
    letters = np.array([character.isalpha() for character in text.vocabulary])
    return {
        "updates": np.append(0, at),
        "bits": np.append(untrained, watch.bits),
        "validation": score(model, validation, n)["bits"].mean(),
        "doubled": doubled(scores, letters),
        "sample": write(model, test[:UNSCORED], n, np.random.default_rng(settings["seed"])),
        "size": size,
        "weights": model.params.flat.size,
    }


def count_run(settings: dict) -> dict:
    """One network on the text that repeats a^m b: can it count to m?"""
    name, m = settings["model"], settings["run"]
    n = CONTEXT[name]
    tokens = np.tile(np.append(np.zeros(m, int), 1), settings["batch"] * 4 * UNSCORED // (m + 1) + 1)
    model = build(name, 2, settings["dimension"], settings["size"], settings["seed"])
    fr.fit(
        model,
        windows(tokens, settings["batch"], UNSCORED, n),
        steps=settings["updates"],
        optimizer=fr.Adam(fr.schedules.CosineDecay(settings["rate"], settings["updates"]), clip_norm=1.0),
        bptt=fr.Truncated(32),
        carry_state=True,
        progress=False,
    )
    return {"bits": score(model, tokens, n)["bits"].mean()}


def run_floor(m: int, n: int) -> float:
    """Least bits a character on a^m b for whom the last n characters are all there is.

    In a period of m + 1 the window shows nothing but a at m - n + 1 places, and b follows at one of them; everywhere else
    the next character is certain.
    """
    alike = m - n + 1
    return (alike * np.log2(alike) - (alike - 1) * np.log2(alike - 1)) / (m + 1) if alike > 1 else 0.0


TASKS = {"train": train, "count": count_run}


def job(settings: dict) -> dict:
    return TASKS[settings["task"]](settings)


def jobs(arguments, digest: str) -> list[tuple[str, dict]]:
    common = TRAINING | (QUICK if arguments.quick else FULL) | {"task": "train", "text": arguments.text, "digest": digest}
    result = []
    for seed in range(arguments.seeds):
        for name, rate in RATES.items():
            for r in [rate] if arguments.quick else GRID:
                result.append((f"{name} {r:g} {seed}", common | {"model": name, "rate": r, "seed": seed}))
    for seed in range(arguments.seeds):
        for name in RATES:
            for m in (2, 6):
                settings = RUNS | {"task": "count", "model": name, "run": m, "seed": seed}
                result.append((f"runs {name} {m} {seed}", settings))
    return result


def compute(arguments, parts) -> _study.Result:
    text = read(arguments.text)
    if len(text.tokens) < SHORTEST:
        raise SystemExit(f"--text: at least {SHORTEST} characters are required; got {len(text.tokens)}")
    digest = hashlib.sha256(text.decode(text.tokens).encode()).hexdigest()
    todo = jobs(arguments, digest)
    found = _study.compute_parts(parts, todo, job, label="character model", workers=arguments.workers)
    conditions = [(settings, found[key]) for key, settings in todo]
    chosen = best_rates([c for c in conditions if c[0]["task"] == "train"])
    trained = [c for c in conditions if c[0]["task"] == "train" and c[0]["rate"] == chosen[c[0]["model"]]]
    counted = [c for c in conditions if c[0]["task"] == "count"]
    rows = table(text, trained, counted)
    settings = TRAINING | (QUICK if arguments.quick else FULL) | {
        "text": arguments.text or "pydoc_data.topics", "sha256": digest, "characters": len(text.tokens),
        "alphabet": len(text.vocabulary), "runs": RUNS, "rates": chosen, "temperature": TEMPERATURE,
        "sizes": {s["model"]: int(r["size"]) for s, r in trained}, "counts": {s["model"]: int(r["weights"]) for s, r in trained},
    }  # fmt: skip
    samples = {s["model"]: text.decode(r["sample"]) for s, r in trained if s["seed"] == 0}
    result = _study.Result(rows, settings, claims(rows), {"samples": samples})
    _study.write(arguments.out / "character_model.md", report(result).encode())
    return result


def best_rates(conditions: list) -> dict[str, float]:
    """Of every network the learning rate with the fewest bits on the validation part, over all seeds."""
    bits = {}
    for settings, result in conditions:
        bits.setdefault(settings["model"], {}).setdefault(settings["rate"], []).append(result["validation"])
    return {name: min(by_rate, key=lambda rate: np.mean(by_rate[rate])) for name, by_rate in bits.items()}


def table(text: fr.data.TextData, trained: list, counted: list) -> list[dict]:
    """Everything that is plotted or claimed."""
    test = split(text.tokens)[2]
    places = [(at, following) for at, following, _, _ in fr.data.TextBatches(np.arange(len(test)), ROWS, UNSCORED)][1:]
    read, follows = (test[np.concatenate(which).reshape(-1)] for which in zip(*places))
    unigram, pair = fr.data.unigram_entropy(follows), fr.data.unigram_entropy(read * len(text.vocabulary) + follows)
    levels = {
        "log2 of the alphabet": np.log2(len(text.vocabulary)),
        "unigram": unigram,
        "given one character": pair - fr.data.unigram_entropy(read),
    }
    rows = [{"panel": "level", "model": name, "bits": float(value)} for name, value in levels.items()]
    for settings, result in trained:
        entry = {"model": settings["model"], "seed": settings["seed"]}
        for updates, bits in zip(result["updates"].tolist(), result["bits"].tolist()):
            characters = updates * settings["batch"] * settings["stride"]
            rows.append({"panel": "curve", **entry, "updates": updates, "characters": characters, "bits": bits})
        names = ("second", "third", "difference", "share")
        rows.append({"panel": "doubled", **entry} | dict(zip(names, result["doubled"].tolist())))
    for settings, result in counted:
        floor = run_floor(settings["run"], CONTEXT[settings["model"]]) if CONTEXT[settings["model"]] else 0.0
        entry = {"panel": "runs", "model": settings["model"], "seed": settings["seed"], "run": settings["run"]}
        rows.append(entry | {"bits": float(result["bits"]), "floor": float(floor)})
    return rows


def final_bits(rows: list[dict], name: str) -> np.ndarray:
    """Bits a character at the end of training, one for every seed."""
    curve = _study.select(rows, panel="curve", model=name)
    last = max(row["updates"] for row in curve)
    return _study.column(_study.select(curve, updates=last), "bits")


def level(rows: list[dict], name: str) -> float:
    return _study.select(rows, panel="level", model=name)[0]["bits"]


def claims(rows: list[dict]) -> list[_study.Claim]:
    at_least, at_most = _study.at_least, _study.at_most
    bits = {name: final_bits(rows, name).mean() for name in CONTEXT}
    untrained = _study.column(_study.select(rows, panel="curve", updates=0), "bits").mean()
    unigram, pair = level(rows, "unigram"), level(rows, "given one character")
    nothing, what = level(rows, "log2 of the alphabet"), "log2 of the alphabet"
    result = [_study.close("untrained, mean of all networks: bits a character", untrained, nothing, 0.25, what)]
    for name in CONTEXT:
        result.append(at_most(f"{name}: bits a character, below the unigram entropy", bits[name], unigram, EXACT))
    for name in ("lstm", "gru"):
        result.append(at_most(f"{name}: bits a character, below the rnn's", bits[name], bits["rnn"], PUBLISHED))
    for name in CELLS:
        what = f"{name}: bits a character, below the least with one character seen"
        result.append(at_most(what, bits[name], pair, EXACT))
    result.append(at_least("feed-forward 1: bits a character, not below that least", bits["feed-forward 1"], pair, EXACT))
    for name in ("lstm", "gru"):
        what = f"{name}: bits a character, below the feed-forward network's on 5"
        result.append(at_most(what, bits[name], bits["feed-forward 5"], "Karpathy et al. 2015, section 4.2, recalled"))
    return result + doubled_claims(rows) + run_claims(rows)


def doubled_claims(rows: list[dict]) -> list[_study.Claim]:
    result = []
    control = _study.column(_study.select(rows, panel="doubled", model="feed-forward 1"), "difference").max()
    what = "feed-forward 1: largest difference of a letter's probability after the letter and after two of it"
    result.append(_study.close(what, control, 0.0, 0.0, "exact"))
    for name in CELLS:
        own = _study.select(rows, panel="doubled", model=name)
        ratio = _study.column(own, "third").mean() / _study.column(own, "second").mean()
        what = f"{name}: at doubled letters, probability of a third over that of the second"
        result.append(_study.at_most(what, ratio, 0.2, "feed-forward 1: 1"))
    return result


def run_claims(rows: list[dict]) -> list[_study.Claim]:
    result = []
    for m in (2, 6):
        for name, n in CONTEXT.items():
            own = _study.select(rows, panel="runs", model=name, run=m)
            bits, what = _study.column(own, "bits").mean(), f"{name}: bits a character on a^{m} b"
            result.append(_study.close(what, bits, own[0]["floor"], 0.03, "closed form" if n else "exact"))
    return result


# Figure and report -----------------------------------------------------------------------------------------------------


def draw(rows: list[dict], record: dict):
    import matplotlib.pyplot as plt

    from fastrnn import plot

    colors = dict(zip(CONTEXT, plot.COLORS))
    figure, axes = plt.subplots(1, 3, figsize=(plot.PAGE, 2.7), layout="constrained", width_ratios=(1.5, 1, 1))
    draw_curves(axes[0], rows, colors)
    draw_doubled(axes[1], rows, colors)
    draw_runs(axes[2], rows, colors)
    for ax, letter in zip(axes, "abc"):
        ax.set_title(f"({letter})", loc="left", fontweight="bold")
    return figure


def draw_curves(ax, rows: list[dict], colors: dict) -> None:
    from fastrnn import plot

    for (name, color), marker in zip(colors.items(), plot.MARKERS):
        curve = [row for row in _study.select(rows, panel="curve", model=name) if row["updates"] > 0]
        seen = np.unique(_study.column(curve, "characters"))
        bits = [_study.column(_study.select(curve, characters=x), "bits") for x in seen]
        ax.plot(seen, [b.mean() for b in bits], color=color, marker=marker, markersize=3, label=name)
        ax.fill_between(seen, [b.min() for b in bits], [b.max() for b in bits], color=color, alpha=0.2, linewidth=0)
    # each label where no curve passes: they fall from above the unigram entropy to below the bigram's
    places = {"unigram": ("unigram", 0.99, {"xytext": (0, 2), "ha": "right", "va": "bottom"})}
    places["given one character"] = "bigram", 0.01, {"xytext": (0, -2), "ha": "left", "va": "top"}
    for name, (label, x, place) in places.items():
        ax.axhline(level(rows, name), color=plot.COLORS[6], linestyle="--", linewidth=0.8)
        ax.annotate(label, (x, level(rows, name)), xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=6.5, **place)
    ax.set(xscale="log", xlabel="characters seen in training", ylabel="bits per character, held-out text")
    ax.set_ylim(top=1.7 * level(rows, "unigram"))  # room for the legend
    ax.legend(loc="upper right")


def draw_doubled(ax, rows: list[dict], colors: dict) -> None:
    places = np.arange(len(colors))
    for k, (name, color) in enumerate(colors.items()):
        own = _study.select(rows, panel="doubled", model=name)
        second, third = (_study.column(own, part).mean() for part in ("second", "third"))
        ax.plot([k, k], [second, third], color=color, linewidth=0.8)
        ax.plot(k, second, "o", color=color, markerfacecolor="white", markersize=6)
        ax.plot(k, third, "o", color=color, markersize=3.5)
    ax.plot([], [], "o", color="black", markerfacecolor="white", markersize=6, label='after "l"')
    ax.plot([], [], "o", color="black", markersize=3.5, label='after "ll"')
    ax.set(yscale="log", ylabel="probability of the letter again")
    ax.set_xticks(places, [name.replace("-forward", "-fwd") for name in colors], rotation=40, ha="right")
    ax.margins(x=0.1)
    ax.set_ylim(bottom=ax.get_ylim()[0] / 6)  # room for the legend
    ax.legend(loc="lower left", handletextpad=0.2)


def draw_runs(ax, rows: list[dict], colors: dict) -> None:
    for shift, m, marker in ((-0.15, 2, "o"), (0.15, 6, "s")):
        for k, (name, color) in enumerate(colors.items()):
            own = _study.select(rows, panel="runs", model=name, run=m)
            bits = _study.column(own, "bits")
            ax.plot(np.full(len(bits), k + shift), bits, marker, color=color, markersize=4, linestyle="none")
            floor = own[0]["floor"]
            ax.plot([k + shift - 0.2, k + shift + 0.2], [floor, floor], color="black", linewidth=0.8)
        ax.plot([], [], marker, color="black", markersize=4, linestyle="none", label=f"$a^{m}b$")
    ax.plot([], [], color="black", linewidth=0.8, label="closed form")
    ax.set(ylabel="bits per character on runs")
    ax.set_xticks(range(len(colors)), [name.replace("-forward", "-fwd") for name in colors], rotation=40, ha="right")
    ax.legend(loc="upper left")


def report(result: _study.Result) -> str:
    """The results as Markdown, with what the networks write."""
    rows, settings = result.rows, result.settings
    lines = [
        "# A character model", "",
        f"{settings['text']}: {settings['characters']} characters without repeated paragraphs, {settings['alphabet']} different ones; "
        f"the last tenth is held out. {settings['updates']} updates by Adam, BPTT({settings['window']}; {settings['stride']}), "
        f"{settings['batch']} rows, state carried on.", "",
        "| model | hidden units | weights | learning rate | bits per character |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name in CONTEXT:
        bits = final_bits(rows, name)
        spread = f" ({bits.min():.3f} to {bits.max():.3f})" if len(bits) > 1 else ""
        lines.append(
            f"| {name} | {settings['sizes'][name]} | {settings['counts'][name]} | {settings['rates'][name]:g} | {bits.mean():.3f}{spread} |"
        )
    for name in ("log2 of the alphabet", "unigram", "given one character"):
        lines.append(f"| {name} | | | | {level(rows, name):.3f} |")
    lines += ["", "## Claims", ""] + [f"- {claim.line()}" for claim in result.claims]
    lines += ["", "## What they write", "", f"From the held-out text on, at temperature {TEMPERATURE}, one character at a time.", ""]
    for name, sample in result.extra["samples"].items():
        lines += [f"### {name}", "", *(f"    {line}".rstrip() for line in sample.split("\n")), ""]
    return "\n".join(lines)


def options(parser) -> None:
    parser.add_argument("--text", metavar="FILE", help="any text instead of Python's topics")


if __name__ == "__main__":
    sys.exit(_study.run(Path(__file__), __doc__, compute, draw, seeds=(1, 3), options=options))
