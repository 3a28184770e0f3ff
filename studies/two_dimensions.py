"""What does a second dimension buy? An LSTM over the grid of pixels against LSTMs that read an image row by row.

(a) Accuracy on elastically warped test digits against the strength of the warp; nothing warped is ever trained on. A 2-D LSTM
    from all four corners (16 units each), an LSTM that reads a row a step, and one that reads from above and from below, all with
    about as many parameters. Noise on the inputs while training (standard deviation .5 of theirs), as networks this large
    otherwise learn the grey levels of 898 images by heart. 60 epochs each: the rivals need fewer, but after 30 the 2-D network has
    not learned all training images yet, and is not ahead of them (.009 behind the row network, .021 behind the one both ways). Noise,
    rates, readouts, epochs and the warp were settled while looking at test accuracies of single seeds: read (a) as an exploration.
(b) Norm of the gradient by the state (h, c) against Manhattan distance at initialisation, over all pixels of a distance, from a
    random direction of the last one. Dashed: the closed form of LSTMs without recurrent weights, f^k sqrt(binom(2k, k)): there
    are many paths, and forget gates that add up to more than 1 make it grow [Leifert et al. 2016]. With recurrent weights it grows
    only near the run's begin: later c is so large that h is at its limits, and W h in the gates outweighs their bias.
(c) As (a) without the noise; with the full run only.

Held against: Graves, Fernandez & Schmidhuber 2007, MNIST: a 2-D LSTM's error rises from 1.1 to 6.8 % when the test images are
warped, a convolutional network's from .9 to 11.3 %. What lasts is the robustness. Their rival was not a row-by-row LSTM, and
their images have twelve times the pixels: ``--mnist DIR`` takes MNIST's files, which this study does not bring.
"""

import math

import _images as im
import _study as s
import numpy as np

STRENGTHS = (0.0, 0.035, 0.07, 0.105, 0.14)  # of the image's width; .07 is the published warp
PUBLISHED = STRENGTHS.index(0.07)
AT_START = ("rnn", "gru", "lstm", "lstm 1")
NAMES = {"lstm 1": "lstm, forget bias 1", "row blstm": "row lstm, both ways"}
NOISE = 0.5


def sizes(arguments) -> dict:
    """What --quick makes smaller."""
    quick, mnist = arguments.quick, str(arguments.mnist or "")
    common = {"mnist": mnist, "strengths": STRENGTHS, "batch": 32, "train": 2000 if quick and mnist else None}
    common |= {"test": 1000 if quick and mnist else None, "hidden": {"2-D lstm": 16}}
    common["epochs"] = 10 if mnist else 60
    columns = len(im.data_of(common)[0][0])
    goal = im.model_of("2-D lstm", 16, columns, seed=0).params.flat.size
    common["hidden"] |= {kind: im.size_of(kind, goal, columns) for kind in im.KINDS[1:]}
    start = {"side": 28, "hidden": 16, "images": 8, "seeds": 4 * arguments.seeds}
    noises = [NOISE] if quick else [NOISE, 0.0]
    return {"common": common, "columns": columns, "start": start, "runs": arguments.seeds, "noises": noises}


# Computing ------------------------------------------------------------------------------------------------------------


def compute(arguments, parts: s.Parts) -> s.Result:
    settings = sizes(arguments)

    def done(label, jobs, function):
        return s.compute_parts(parts, jobs, function, label=label, workers=arguments.workers)

    start = done("at initialisation", [(kind, settings["start"] | {"kind": kind}) for kind in AT_START], im.at_initialisation)
    runs = done("training", list(training_jobs(settings)), im.train)
    rows = [*start_rows(start), *accuracy_rows(settings, runs), *trained_rows(settings, runs)]
    claims = [*closed_claims(rows), *accuracy_claims(settings, runs)]
    return s.Result(rows, settings, claims, {"examples": examples(settings)})


def training_jobs(settings: dict):
    """The accuracy that is promised of the digits; then every kind by seed."""
    common = settings["common"]
    if not common["mnist"]:
        yield "shifted", common | {"kind": "2-D lstm", "hidden": 16, "epochs": 10, "noise": 0.0, "seed": 0, "shifted": True}
    for seed in range(settings["runs"]):
        for noise in settings["noises"]:
            for kind in im.KINDS:
                one = {"kind": kind, "noise": noise, "seed": seed, "hidden": common["hidden"][kind], "shifted": False}
                yield f"{kind} {noise} {seed}", common | one


def expected_norm(kind: str, distances: int) -> np.ndarray | None:
    """The closed form, where there is one; forget biases of 0 are those of the uniform initialisation on average."""
    cell, _, bias = kind.partition(" ")
    return im.paths(1 / (1 + math.exp(-float(bias or 0))), distances) if cell == "lstm" else None


def start_rows(start: dict):
    for kind in AT_START:
        median, low, high = s.band(start[kind]["curves"])
        expected, side = expected_norm(kind, len(median)), (len(median) + 1) // 2
        for k in range(1, len(median)):
            row = {"panel": "b", "network": kind, "distance": k, "median": median[k], "low": low[k], "high": high[k]}
            yield row | ({"expected": expected[k]} if expected is not None and k < side else {})


def accuracy_rows(settings: dict, runs: dict):
    """Panels (a) and (c): mean accuracy over the seeds, and its interval by bootstrap."""
    for panel, noise in zip("ac", settings["noises"]):
        for kind in im.KINDS:
            found = [runs[f"{kind} {noise} {seed}"] for seed in range(settings["runs"])]
            for k, strength in enumerate(STRENGTHS):
                shares = [run["right"][k] / run["tested"] for run in found]
                low, high = s.bootstrap_interval(shares)
                row = {"panel": panel, "network": kind, "strength": strength, "mean": np.mean(shares), "low": low, "high": high}
                yield row | {"parameters": int(found[0]["parameters"]), "train": np.mean([run["train"] for run in found])}


def trained_rows(settings: dict, runs: dict):
    """The 2-D network's gradient by distance after training with noise; in the table, not in the figure."""
    curves = [runs[f"2-D lstm {NOISE} {seed}"]["curve"] for seed in range(settings["runs"])]
    for k, median in enumerate(np.median(curves, axis=0)):
        if k:
            yield {"panel": "trained", "network": "2-D lstm", "distance": k, "median": median}


def examples(settings: dict) -> list:
    """One test image at every strength, for the figure."""
    image = im.data_of(settings["common"])[2][3:4]
    return [im.warp(image, strength, seed=k)[0].astype(float).round(4).tolist() for k, strength in enumerate(STRENGTHS)]


# Claims ---------------------------------------------------------------------------------------------------------------


def closed_claims(rows: list) -> list:
    closed = max(im.carousel(20, bias) for bias in (-1.0, 0.0, 1.0))
    end = {kind: s.select(rows, panel="b", network=kind)[-1]["median"] for kind in AT_START}
    source = "Leifert et al. 2016: with two forget gates the LSTM is unstable"
    claim = "lstm without recurrent weights: relative deviation of the norm from f^k sqrt(binom(2k, k))"
    return [
        s.close(claim, closed, 0, 1e-12, "closed form"),
        s.at_least("lstm, forget bias 1: norm in the first corner over that at distance 1", end["lstm 1"], 1, source),
        s.at_most("gru: norm in the first corner over that at distance 1", end["gru"], 1, "expected of a convex mixture"),
    ]


def accuracy_claims(settings: dict, runs: dict) -> list:
    """Differences are paired by seed; the interval is of their mean."""

    def right(kind, noise, k):
        found = [runs[f"{kind} {noise} {seed}"] for seed in range(settings["runs"])]
        return np.array([run["right"][k] / run["tested"] for run in found])

    what = "MNIST" if settings["common"]["mnist"] else "digits"
    graves = "Graves et al. 2007, MNIST: error 1.1 to 6.8 %, a convolutional network's .9 to 11.3 %"
    claims = []
    if "shifted" in runs:
        best, seconds = runs["shifted"]["right"][0] / runs["shifted"]["tested"], runs["shifted"]["seconds"]
        claims = [
            s.at_least("digits, 2-D lstm, trained on copies shifted by a pixel too: accuracy", best, 0.97, "the project's promise"),
            s.at_most("digits, 2-D lstm: seconds of that training", seconds, 120, "the project's promise"),
        ]
    for rival in im.KINDS[1:]:
        name = NAMES.get(rival, rival)
        gain = right("2-D lstm", NOISE, PUBLISHED) - right(rival, NOISE, PUBLISHED)
        low, high = s.bootstrap_interval(gain)
        claim = f"{what}, published warp: accuracy, 2-D lstm minus {name} (95 % interval of the mean {low:.3f} to {high:.3f})"
        claims.append(s.at_least(claim, gain.mean(), 0, graves))
        lost = [(right(kind, NOISE, 0) - right(kind, NOISE, PUBLISHED)).mean() for kind in ("2-D lstm", rival)]
        claims.append(s.at_most(f"{what}, published warp: accuracy lost, 2-D lstm over {name}", lost[0] / lost[1], 1, graves))
    return claims


# Drawing --------------------------------------------------------------------------------------------------------------


def draw(rows: list[dict], record: dict):
    """A strip of one warped digit above; (a), (b) and, where there is one, (c) below."""
    import matplotlib.pyplot as plt

    from fastrnn import plot

    figure = plt.figure(figsize=(plot.PAGE, 4.0), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 2.6])
    columns = record["settings"]["columns"]
    for ax, image, strength in zip(top.subplots(1, len(STRENGTHS)), record["examples"], STRENGTHS):
        ax.imshow(image, cmap="gray_r", vmin=0, vmax=1)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[["top", "right"]].set_visible(True)
        ax.set_title(f"{strength * columns:.2g} pixels" + (" (published)" if strength == STRENGTHS[PUBLISHED] else ""))
    first, second, *third = bottom.subplots(1, 1 + len(record["settings"]["noises"]))
    draw_accuracy(first, s.select(rows, panel="a"), columns, "(a) trained with noise on the inputs")
    first.legend(loc="lower left")
    draw_distance(second, s.select(rows, panel="b"))
    for ax in third:
        draw_accuracy(ax, s.select(rows, panel="c"), columns, "(c) trained without noise")
    return figure


def draw_accuracy(ax, rows: list, columns: int, title: str) -> None:
    from fastrnn import plot

    for n, kind in enumerate(im.KINDS):
        found = s.select(rows, network=kind)
        x, mean, low, high = (s.column(found, name) for name in ("strength", "mean", "low", "high"))
        look = {"color": plot.COLORS[n], "marker": plot.MARKERS[n], "label": NAMES.get(kind, kind)}
        plot.points_with_intervals(x * columns + 0.0015 * (n - 1) * columns, mean, low, high, ax=ax, **look)
    ax.get_legend().remove()
    ax.axvline(STRENGTHS[PUBLISHED] * columns, color="0.8", zorder=0, linewidth=0.8)
    ax.set_ylim(min(s.column(rows, "low")) - 0.05, 1)
    ax.set_xlabel("rms displacement (pixels)")
    ax.set_ylabel("accuracy on the test images")
    ax.set_title(title, loc="left")


def draw_distance(ax, rows: list) -> None:
    from fastrnn import plot

    for n, kind in enumerate(AT_START):
        found = s.select(rows, network=kind)
        k, median, low, high, expected = (s.column(found, name) for name in ("distance", "median", "low", "high", "expected"))
        plot.gradient_by_lag(k, median, low, high, label=NAMES.get(kind, kind), color=plot.COLORS[n], ax=ax)
        ax.plot(k, expected, color=plot.COLORS[n], linestyle=(0, (3, 2)), linewidth=0.8)
    ax.plot([], [], color="black", linestyle=(0, (3, 2)), linewidth=0.8, label="closed form")
    ax.set_ylim(bottom=1e-12)
    ax.legend(loc="lower left")
    ax.set_xlabel("Manhattan distance k (pixels)")
    ax.set_ylabel("gradient norm / that at k = 1")
    ax.set_title("(b) at initialisation", loc="left")


def options(parser) -> None:
    parser.add_argument("--mnist", metavar="DIR", help="folder with MNIST's files, in place of scikit-learn's digits")


if __name__ == "__main__":
    raise SystemExit(s.run(__file__, __doc__, compute, draw, seeds=(3, 10), options=options))
