"""What do weights that all steps share gain over weights of each step's own: at lengths, places and numbers never seen?

The task is the example of Goodfellow, Bengio & Courville 2016, chapter 10: "I went to Nepal in 2009", "In 2009, I went to Nepal":
one key, anywhere among distractors, which is to be named at the end (`fastrnn.data.Needle`; chance 1/4). Trained on sequences of 1
to 20 steps: an Elman network (16 units); the same with weights W_t, U_t, b_t and readout V_t of its own for every step t <= 20
(`_unshared`); and a larger Elman network, with as many weights as that one.

(a) Accuracy on 20, 25, 50 and 200 steps. Beyond step 20 the second network has no weights and so no answer. Two ways to get one
    from it: read the first 20 steps only (at best right whenever the key is there, else a guess: the dashed line), and use step
    20's weights again for every later step.
(b) Accuracy on 20 steps against the number of training sequences. A step's own weights see the key once in a number of sequences,
    the shared ones in every sequence.
(c) Accuracy by the key's place, where in training it never stood at steps 9 to 12. (The last steps' own weights are those that the
    fewest sequences reach.)

Held against that introduction: without sharing "we could not generalize to sequence lengths not seen during training, nor share
statistical strength across different sequence lengths and across different positions in time" (recalled).
"""

import math

import _study as s
import numpy as np
from _unshared import Unshared

import fastrnn as fr

STEPS, UNITS, GAP = 20, 16, (8, 12)  # steps 9 to 12, counted from 0
LENGTHS = (20, 25, 50, 200)
NETWORKS = ("shared", "wide", "own")
NAMES = {"shared": "shared, {} weights", "wide": "shared, {} weights", "own": "own per step, {} weights"}
BEYOND = {"own first": "own: first 20 steps only", "own again": "own: step 20's again"}
SOURCE = "Goodfellow et al. 2016, chapter 10, introduction"


def sizes(arguments) -> dict:
    """What --quick makes smaller."""
    quick = arguments.quick
    numbers = [30, 100, 300, 1000, 3000] if quick else [30, 100, 300, 1000, 3000, 10_000, 30_000]
    return {"numbers": numbers, "updates": 800 if quick else 6000, "test": 2000, "seeds": arguments.seeds}


def network(kind: str, seed: int):
    """A network by its name; "wide" has the hidden size whose number of weights comes closest to that of "own"."""
    task, loss = fr.data.Needle(STEPS), fr.CrossEntropy()
    if kind == "own":
        return Unshared(STEPS, task.input_size, UNITS, task.output_size, seed=seed)

    def weights(H):
        return H * (task.input_size + H + 2) + task.output_size * (H + 1)

    H = UNITS if kind == "shared" else min(range(1, 1000), key=lambda H: abs(weights(H) - STEPS * weights(UNITS)))
    return fr.Model(fr.RNN(task.input_size, H, seed=seed), fr.Linear(H, task.output_size, seed=seed), loss=loss)


# Computing ------------------------------------------------------------------------------------------------------------


def compute(arguments, parts: s.Parts) -> s.Result:
    settings = sizes(arguments)
    found = s.compute_parts(parts, list(jobs(settings)), train, label="networks", workers=arguments.workers)
    rows = [*length_rows(settings, found), *number_rows(settings, found), *place_rows(settings, found)]
    return s.Result(rows, settings, claims(settings, rows))


def jobs(settings: dict):
    common = {"updates": settings["updates"], "test": settings["test"]}
    for number in settings["numbers"]:
        for kind in NETWORKS:
            for seed in range(settings["seeds"]):
                yield f"{kind} {number} {seed}", common | {"network": kind, "number": number, "seed": seed, "gap": False}
    for kind in ("shared", "own"):
        for seed in range(settings["seeds"]):
            yield f"gap {kind} {seed}", common | {"network": kind, "number": settings["numbers"][-1], "seed": seed, "gap": True}


def train(settings: dict) -> dict:
    """Train one network (Adam, .01 falling to 0, norm clipped to 1, batches of 32 drawn with replacement) and test it.

    Returns
    -------
    dict
        parameters; fitted, the accuracy on the training sequences; accuracy (lengths,), NaN where there is no answer, and for
        "own" also first and again; places (20,), the accuracy on 20 steps by the key's place.
    """
    seed, rng = settings["seed"], np.random.default_rng((settings["seed"], 1))
    model = network(settings["network"], seed)
    x, target, lengths = sequences(settings["number"], settings["gap"], np.random.default_rng((seed, settings["number"])))
    optimizer = fr.Adam(fr.schedules.CosineDecay(0.01, settings["updates"]), clip_norm=1.0)
    state = optimizer.init(model.params)
    for _ in range(settings["updates"]):
        drawn = rng.integers(settings["number"], size=32)
        _, grads, *_ = model.gradient(x[: lengths[drawn].max(), drawn], target[drawn], lengths[drawn])
        state, _ = optimizer.update(model.params, grads, state)
    own = settings["network"] == "own"
    result = {"parameters": model.params.flat.size, "fitted": np.mean(model.predict(x, lengths).argmax(-1) == target)}
    tests = [fr.data.Needle(T).sample(settings["test"], np.random.default_rng((seed, T, 2))) for T in LENGTHS]
    result["accuracy"] = [math.nan if own and T > STEPS else accuracy(model, test) for T, test in zip(LENGTHS, tests)]
    if own:
        result["first"] = [accuracy(model, (x[:STEPS], target, np.minimum(lengths, STEPS))) for x, target, lengths in tests]
        result["again"] = [accuracy(model.continued(max(LENGTHS)), test) for test in tests]
    x, target, lengths = fr.data.Needle(STEPS).sample(10 * settings["test"], np.random.default_rng((seed, 3)))
    right, place = model.predict(x, lengths).argmax(-1) == target, places(x)
    return result | {"places": [right[place == t].mean() for t in range(STEPS)]}


def sequences(n: int, gap: bool, rng) -> tuple:
    """n training sequences; with a gap, none whose key stands there."""
    x, target, lengths = fr.data.Needle((1, STEPS)).sample(2 * n if gap else n, rng)
    kept = np.flatnonzero(~((places(x) >= GAP[0]) & (places(x) < GAP[1])))[:n] if gap else np.arange(n)
    if len(kept) < n:
        raise RuntimeError(f"{n} sequences without a key in the gap are required; only {len(kept)} were drawn")
    return np.ascontiguousarray(x[:, kept]), target[kept], lengths[kept]


def places(x: np.ndarray) -> np.ndarray:
    """At which step the key stands."""
    return x[:, :, :4].any(axis=2).argmax(axis=0)


def accuracy(model, batch) -> float:
    x, target, lengths = batch
    return fr.data.Needle(STEPS).solved(model.predict(x, lengths), target)


def at_best(length: float) -> float:
    """The accuracy of knowing the key where it is among the first 20 steps, and of a guess otherwise."""
    share = min(STEPS / length, 1.0)
    return share + (1 - share) / 4


def over_seeds(values) -> dict:
    """Mean over seeds and its 95 % bootstrap interval."""
    low, high = s.bootstrap_interval(values)
    return {"mean": np.mean(values), "low": low, "high": high}


def length_rows(settings: dict, found: dict):
    """Panel (a), at the largest number of training sequences."""
    number = settings["numbers"][-1]
    for kind in (*NETWORKS, *BEYOND):
        name, _, way = kind.partition(" ")
        runs = [found[f"{name} {number} {seed}"] for seed in range(settings["seeds"])]
        for k, length in enumerate(LENGTHS):
            values = [run[way or "accuracy"][k] for run in runs]
            if np.isfinite(values).all() and not (way and length == STEPS):
                yield {"panel": "a", "network": kind, "length": length, "expected": at_best(length)} | over_seeds(values)


def number_rows(settings: dict, found: dict):
    """Panel (b)."""
    for kind in NETWORKS:
        for number in settings["numbers"]:
            runs = [found[f"{kind} {number} {seed}"] for seed in range(settings["seeds"])]
            row = {"panel": "b", "network": kind, "number": number, "parameters": int(runs[0]["parameters"])}
            yield row | {"fitted": np.mean([run["fitted"] for run in runs])} | over_seeds([run["accuracy"][0] for run in runs])


def place_rows(settings: dict, found: dict):
    """Panel (c)."""
    for kind in ("shared", "own"):
        curves = [found[f"gap {kind} {seed}"]["places"] for seed in range(settings["seeds"])]
        for t, values in enumerate(np.transpose(curves)):
            yield {"panel": "c", "network": kind, "step": t + 1, "seen": int(not GAP[0] <= t < GAP[1])} | over_seeds(values)


def needed(rows: list, kind: str, share: float) -> float:
    """How many training sequences for this accuracy on 20 steps, from the logarithms of the numbers; inf if never."""
    found = s.select(rows, panel="b", network=kind)
    numbers, means = s.column(found, "number"), s.column(found, "mean")
    above = np.flatnonzero(means >= share)
    if not above.size:
        return math.inf
    k = int(above[0])
    if k == 0:
        return float(numbers[0])
    part = (share - means[k - 1]) / (means[k] - means[k - 1])
    return float(numbers[k - 1] * (numbers[k] / numbers[k - 1]) ** part)


def claims(settings: dict, rows: list) -> list:
    at = {(row["network"], row["length"]): row["mean"] for row in s.select(rows, panel="a")}
    unseen = {kind: np.mean(s.column(s.select(rows, panel="c", network=kind, seen=0), "mean")) for kind in ("shared", "own")}
    count = {kind: s.select(rows, panel="b", network=kind)[0]["parameters"] for kind in NETWORKS}
    most, steps = settings["numbers"][-1], f"{GAP[0] + 1} to {GAP[1]}"
    few = needed(rows, "shared", 0.8)
    own, wide = needed(rows, "own", 0.8) / few, needed(rows, "own", 0.8) / needed(rows, "wide", 0.8)
    first = [abs(at["own first", T] - (at["own", 20] * STEPS / T + (1 - STEPS / T) / 4)) for T in LENGTHS[1:]]
    share = "each step's own weights see one key in 20; no published number"
    return [
        s.close("weights, own for each step over shared", count["own"] / count["shared"], STEPS, 0, "closed form"),
        s.at_least(f"shared, {most} sequences up to 20 steps: accuracy on 200", at["shared", 200], 0.9, SOURCE),
        s.at_least(f"own weights, {most} sequences: accuracy on 20 steps, where it can answer", at["own", 20], 0.75, "able, if less well"),
        s.close("own weights, step 20's used again: accuracy on 200 steps is chance", at["own again", 200], 0.25, 0.06, SOURCE),
        s.at_most("own weights, first 20 steps read: deviation from a 20/T + (1 - 20/T)/4", max(first), 0.04, "closed form"),
        s.at_least("sequences needed for 80 % on 20 steps, own weights over shared", own, 4, share),
        s.at_least("the same over shared with as many weights", wide, 4, share),
        s.at_least(f"key at steps {steps}, where it never was: accuracy, shared", unseen["shared"], 0.9, SOURCE),
        s.close(f"key at steps {steps}, where it never was: accuracy, own weights", unseen["own"], 0.25, 0.1, "chance: saw none"),
    ]


# Drawing --------------------------------------------------------------------------------------------------------------


def draw(rows: list[dict], record: dict):
    import matplotlib.pyplot as plt

    from fastrnn import plot

    count = {kind: int(s.select(rows, panel="b", network=kind)[0]["parameters"]) for kind in NETWORKS}
    names = {kind: NAMES[kind].format(count[kind]) for kind in NETWORKS} | BEYOND
    look = {kind: {"color": plot.COLORS[k], "marker": plot.MARKERS[k], "label": names[kind]} for k, kind in enumerate(names)}
    figure, axes = plt.subplots(1, 3, figsize=(plot.PAGE, 2.9), sharey=True, layout="constrained")
    draw_lengths(axes[0], s.select(rows, panel="a"), look)
    draw_numbers(axes[1], s.select(rows, panel="b"), look)
    draw_places(axes[2], s.select(rows, panel="c"), look)
    for ax in axes:
        ax.axhline(0.25, color="0.5", linestyle=":", linewidth=0.9, label="chance")
        ax.set_ylim(0, 1.05)
    axes[0].set_ylabel("accuracy")
    handles = dict(zip(*axes[0].get_legend_handles_labels()[::-1]))
    figure.legend(handles.values(), handles, loc="outside lower center", ncol=4, columnspacing=1.2, handlelength=2.0)
    return figure


def draw_lengths(ax, rows: list, look: dict) -> None:
    from fastrnn import plot

    ax.axvspan(10, 21, color="0.92", linewidth=0)
    for k, kind in enumerate(look):
        found = s.select(rows, network=kind)
        length, mean, low, high = (s.column(found, name) for name in ("length", "mean", "low", "high"))
        plot.points_with_intervals(length * 1.02 ** (k - 2), mean, low, high, ax=ax, **look[kind])
    lengths = np.geomspace(20, 230, 100)
    ax.plot(lengths, [at_best(T) for T in lengths], color="black", linestyle="--", linewidth=0.8, label="20/T + (1 - 20/T)/4")
    ax.get_legend().remove()
    ax.set_xscale("log")
    ax.set_xlim(16, 230)
    ax.set_xticks(LENGTHS, [str(T) for T in LENGTHS])
    ax.minorticks_off()
    ax.set_xlabel("test length T (steps)")
    ax.set_title("(a) beyond the 20 steps of training", loc="left")


def draw_numbers(ax, rows: list, look: dict) -> None:
    from fastrnn import plot

    for kind in NETWORKS:
        found = s.select(rows, network=kind)
        number, mean, low, high = (s.column(found, name) for name in ("number", "mean", "low", "high"))
        plot.points_with_intervals(number, mean, low, high, ax=ax, **look[kind])
    ax.get_legend().remove()
    ax.set_xscale("log")
    ax.set_xlabel("training sequences")
    ax.set_title("(b) 20 steps, few sequences", loc="left")


def draw_places(ax, rows: list, look: dict) -> None:
    ax.axvspan(GAP[0] + 0.5, GAP[1] + 0.5, color="0.92", linewidth=0)
    for kind in ("shared", "own"):
        found = s.select(rows, network=kind)
        step, mean, low, high = (s.column(found, name) for name in ("step", "mean", "low", "high"))
        style = look[kind]
        ax.plot(step, mean, color=style["color"], marker=style["marker"], markersize=3)
        ax.fill_between(step, low, high, color=style["color"], alpha=0.2, linewidth=0)
    ax.set_xticks([1, 5, 10, 15, 20])
    ax.set_xlabel("step of the key")
    ax.set_title("(c) grey: key never there in training", loc="left")


if __name__ == "__main__":
    raise SystemExit(s.run(__file__, __doc__, compute, draw, seeds=(3, 5)))
