"""What does it cost to cut back-propagation through time off after a window of K steps?

(a) Relative bias |E g_K - E g| / |E g| of the truncated gradient (recurrent weights) against the window, on the adding problem and
    on temporal order, at initialisation and after training with the full gradient: tanh network, LSTM, GRU. Dashed: the bound of
    Aicher, Foti & Fox 2019, with the rate of decay estimated from the gradient's norm at lags T/10 to T/2 alone; it is infinite
    where nothing decays, as in what has learned to remember, and may fail where a few sequences have most of the gradient.
    Thin: the median over batches of |g_K - g| / |g|. At initialisation the two agree: the bias is not noise. Where training has
    brought E g close to 0 that of a batch is the steadier one. Dotted: 1 - K/T, where every lag adds the same.
(b) Cosine of E g_K and E g.
(c) The loss that an LSTM reaches in equal numbers of updates, against the window. Where a window never reaches what is to be
    remembered, weights shared by all steps may still learn to remember it; where it reaches nothing of it, they cannot.
(d, e) Influence balancing (Tallec & Ollivier 2017, 2018): a parameter helps soon and harms later. The gradient has the wrong sign,
    and descent diverges, unless the window is far longer than the chain of 23 units: from closed forms, 41 steps for a window that
    slides, 110 for chunks, whose first steps see little.

Held against: closed forms and chance levels; Aicher et al. 2019 (recalled, and derived anew in `_truncation.bound`); Tallec &
Ollivier 2018, abstract: "truncated BPTT diverges unless the truncation span is very significantly longer than the intrinsic temporal
range". Their chain of 23 units, 13 with a minus, is recalled; Google Research's two programs for it have the same.
"""

import math

import _study as s
import _truncation as t
import numpy as np

import fastrnn as fr

TASKS = ("adding", "temporal order")
CELLS = ("tanh", "lstm 1", "gru")
NAMES = {"tanh": "rnn, tanh", "lstm 1": "lstm", "gru": "gru"}
# how far before the end, in parts of T, what is to be remembered stands: the later of the two things at least, and the earlier
REACH = {"adding": (0.0, 0.5), "temporal order": (0.4, 0.8)}
SHADES = ("0.95", "0.87")
SLIDING, CHUNKED = (1, 5, 10, 20, 30, 40, 41, 50, 60), (10, 50, 109, 110, 200, 400)
COURSES = ((10, 10), (30, 10), (50, 10), (100, 10), (100, 100), (200, 200))
BALANCE = {"updates": 400, "learning_rate": 1e-3}
AICHER, TALLEC = "Aicher et al. 2019; recalled, derived anew", "Tallec & Ollivier 2018, abstract"


def sizes(arguments) -> dict:
    """What --quick makes smaller."""
    quick = arguments.quick
    T = 30 if quick else 50
    parts = (0.03, 0.07, 0.1, 0.17, 0.27, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)
    return {
        "model": {"length": T, "hidden": 16 if quick else 32, "batch": 32, "updates": 600 if quick else 3000, "learning_rate": 0.01},
        "windows": sorted({max(round(part * T), 1) for part in parts}),
        "batches": 16 if quick else 64,
        "training_windows": [1, *(round(part * T) for part in (0.07, 0.17, 0.33, 0.5, 0.67, 0.83, 1.0))],
        "seeds": arguments.seeds,
    }


# Computing ------------------------------------------------------------------------------------------------------------


def compute(arguments, parts: s.Parts) -> s.Result:
    settings = sizes(arguments)

    def done(label, jobs, function):
        return s.compute_parts(parts, list(jobs), function, label=label, workers=arguments.workers)

    bias = done("bias", bias_jobs(settings), t.before_and_after)
    training = done("training", training_jobs(settings), t.train)
    seen = done("influence seen", influence_jobs(), influence_seen)
    courses = done("influence balancing", ((f"course {w} {k}", BALANCE | {"window": w, "stride": k}) for w, k in COURSES), t.balance)
    rows = [*bias_rows(settings, bias), *training_rows(settings, training), *influence_rows(seen), *course_rows(courses)]
    claims = [*bias_claims(settings, rows), *training_claims(settings, rows), *influence_claims(rows, courses)]
    return s.Result(rows, settings | {"balance": BALANCE}, claims)


def bias_jobs(settings: dict):
    for seed in range(settings["seeds"]):
        for task in TASKS:
            for cell in CELLS:
                one = {"task": task, "cell": cell, "seed": seed, "windows": settings["windows"], "batches": settings["batches"]}
                yield f"bias {task} {cell} {seed}", settings["model"] | one


def training_jobs(settings: dict):
    for task in TASKS:
        one = {"task": task, "cell": "lstm 1", "seeds": settings["seeds"], "windows": settings["training_windows"]}
        yield f"training {task}", settings["model"] | one


def influence_jobs():
    for window, stride in (*((window, 1) for window in SLIDING), *((window, window) for window in CHUNKED)):
        yield f"influence {window} {stride}", {"window": window, "stride": stride}


def influence_seen(settings: dict) -> dict:
    return {"measured": t.measured_influence(**settings), "expected": t.mean_influence(**settings)}


def bias_rows(settings: dict, found: dict):
    """Panels (a) and (b)."""
    windows, T = settings["windows"], settings["model"]["length"]
    for task in TASKS:
        for cell in CELLS:
            runs = [found[f"bias {task} {cell} {seed}"] for seed in range(settings["seeds"])]
            for when, trained in enumerate((0, settings["model"]["updates"])):
                at = {"task": task, "network": cell, "updates": trained, "loss": np.median([run["loss"][when] for run in runs])}
                rates = [t.decay(run["terms"][when], T // 10, T // 2) for run in runs]
                bounds = [t.bound(run["terms"][when], rate, T // 10, windows, run["norm"][when]) for run, rate in zip(runs, rates)]
                at |= {"decay": np.median(rates)}
                for k, window in enumerate(windows):
                    row = {"panel": "a", **at, "window": window, "bound": np.median([bound[k] for bound in bounds])}
                    # how far the bias is above its bound in the worst of the runs
                    row["excess"] = max(run["bias"][when, k] / bound[k] for run, bound in zip(runs, bounds))
                    row["batch"] = np.median([run["batch"][when, k] for run in runs])
                    for name, prefix in (("bias", ""), ("cosine", "cosine_")):
                        values = s.band([run[name][when, k] for run in runs])
                        row |= dict(zip((f"{prefix}median", f"{prefix}low", f"{prefix}high"), values))
                    yield row


def training_rows(settings: dict, found: dict):
    """Panel (c)."""
    for task in TASKS:
        runs = found[f"training {task}"]
        for window, losses, solved in zip(settings["training_windows"], runs["loss"], runs["solved"]):
            median, low, high = s.band(losses)
            row = {"panel": "c", "task": task, "window": window, "median": median, "low": low, "high": high}
            yield row | {"solved": np.mean(solved)}


def influence_rows(found: dict):
    """Panel (d)."""
    for name, values in found.items():
        window, stride = map(int, name.split()[1:])
        row = {"panel": "d", "kind": "sliding" if stride == 1 else "chunks", "window": window, "stride": stride}
        yield row | {"measured": float(values["measured"]), "expected": float(values["expected"])}


def course_rows(courses: dict):
    """Panel (e): |θ - θ*|, every fifth update."""
    for name, course in courses.items():
        window, stride = map(int, name.split()[1:])
        for update in range(0, len(course["theta"]), 5):
            distance, expected = (abs(course[key][update] - t.OPTIMUM) for key in ("theta", "expected"))
            yield {"panel": "e", "window": window, "stride": stride, "update": update, "distance": distance, "expected": expected}


# Claims ---------------------------------------------------------------------------------------------------------------


def bias_claims(settings: dict, rows: list) -> list:
    rows, T, claims = s.select(rows, panel="a"), settings["model"]["length"], []
    half = min(settings["windows"], key=lambda window: abs(window - T / 2))
    beyond = [window for window in settings["windows"] if window >= T // 10]
    for task in TASKS:
        start, end = s.select(rows, task=task, updates=0), s.select(rows, task=task, updates=settings["model"]["updates"])
        excess = max(row["excess"] for row in start if row["window"] in beyond)
        claims.append(s.at_most(f"{task}, before training: bias over its bound, worst of all networks and windows", excess, 1.0, AICHER))
        for cell in CELLS:
            found = [row for row in s.select(start, network=cell) if T // 10 <= row["window"] <= 0.9 * T]
            slope = np.polyfit(s.column(found, "window"), np.log(s.column(found, "median")), 1)[0]
            claim = f"{task}, {NAMES[cell]}, before training: the bias's decay a step over that of the gradient's norm by lag"
            claims.append(s.close(claim, math.exp(slope) / found[0]["decay"], 1.0, 0.1, AICHER))
        before, after = (s.select(part, network="lstm 1", window=half)[0]["median"] for part in (start, end))
        source = "expected: what learns to remember has gradients that last; no published number"
        claims.append(s.at_least(f"{task}, lstm, window {half}: bias after training over that before", after / before, 10, source))
    lasting = s.select(rows, task="adding", network="lstm 1", updates=settings["model"]["updates"], window=half)[0]["batch"]
    claim, source = f"adding, lstm, after training: bias of a batch at window {half}", "closed form 1 - K/T where every lag adds the same"
    return [*claims, s.close(claim, lasting, 1 - half / T, 0.1, source)]


def training_claims(settings: dict, rows: list) -> list:
    T, chance = settings["model"]["length"], {"adding": fr.data.Adding(9, "symmetric").chance, "temporal order": math.log(4)}
    loss = {(row["task"], row["window"]): row["median"] for row in s.select(rows, panel="c")}
    blind = [window for window in settings["training_windows"] if window <= REACH["temporal order"][0] * T]
    least = min(loss["temporal order", window] for window in blind)
    short, long = settings["training_windows"][1], settings["training_windows"][5]
    one = "closed form: the loss of knowing the second thing alone"
    blindly = f"temporal order, T = {T}, windows to {max(blind)}, which reach no symbol: least cross-entropy"
    symbol = f"temporal order, T = {T}, window {long}, short of the first symbol: cross-entropy"
    value = f"adding, T = {T}, window {short}, short of the first value: squared error"
    return [
        s.close(blindly, least, math.log(4), 0.05, "closed form: chance"),
        s.at_most(symbol, loss["temporal order", long], math.log(2), one),
        s.at_most(value, loss["adding", short], chance["adding"] / 2, one),
        *(
            s.at_most(f"{task}, window {T}: loss over chance", loss[task, T] / chance[task], 0.1, "LSTMs solve both")
            for task in TASKS
        ),
    ]


def influence_claims(rows: list, courses: dict) -> list:
    found, closed = s.select(rows, panel="d"), "closed form"
    deviation = max(abs(row["measured"] - row["expected"]) for row in found)
    at = {(row["kind"], row["window"]): row["measured"] for row in found}
    course = max(np.max(np.abs(c["theta"] / c["expected"] - 1)) for c in courses.values())
    claims = [s.at_most("influence balancing: deviation of the truncated gradient from its closed form", deviation, 1e-12, closed)]
    wrong = [(window, kind) for kind, window in at if at[kind, window] > 0]
    for kind, last in (("sliding", 40), ("chunks", 109)):
        longest = max(window for window, name in wrong if name == kind)
        claims.append(s.close(f"influence balancing, {kind}: longest window measured with the wrong sign", longest, last, 0, closed))
    claims.append(s.at_most("influence balancing: relative deviation of θ's course from the chain's own recursion", course, 1e-9, closed))
    for window, stride in COURSES:
        theta = courses[f"course {window} {stride}"]["theta"]
        ratio = abs(theta[-1] - t.OPTIMUM) / abs(theta[0] - t.OPTIMUM)
        name = f"influence balancing, window {window}, an update every {stride} steps: distance to the optimum over that at the start"
        diverges = t.mean_influence(window, stride) > 0
        claims.append((s.at_least if diverges else s.at_most)(name, ratio, 1.0, TALLEC))
    return claims


# Drawing --------------------------------------------------------------------------------------------------------------


def draw(rows: list[dict], record: dict):
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(7.0, 7.6), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=[2.9, 2.3, 2.4])
    T, updates = (record["settings"]["model"][key] for key in ("length", "updates"))
    axes = top.subplots(1, 4, sharex=True, sharey=True)
    for k, (task, trained) in enumerate((task, trained) for task in TASKS for trained in (0, updates)):
        when = f"{trained:g} updates" if trained else "initialisation"
        draw_bias(axes[k], s.select(rows, panel="a", task=task, updates=trained), f"(a) {task},\n{when}")
        if trained:
            axes[k].plot(np.arange(1, T), 1 - np.arange(1, T) / T, color="black", linestyle=":", linewidth=1.2, zorder=3)
    axes[0].set_ylabel("relative bias of the gradient")
    axes[0].set_ylim(1e-6, 10)
    axes[0].plot([], [], color="black", linestyle="-", linewidth=0.5, label="one batch")
    axes[0].plot([], [], color="black", linestyle="--", linewidth=0.9, label="bound, Aicher et al. 2019")
    axes[0].plot([], [], color="black", linestyle=":", linewidth=1.2, label="1 - K/T")
    top.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=6, columnspacing=1.2)
    *cosines, left, right = middle.subplots(1, 4, sharex=True)
    for ax, task in zip(cosines, TASKS):
        draw_cosine(ax, s.select(rows, panel="a", task=task), updates, f"(b) {task}")
    draw_losses(left, s.select(rows, panel="c", task="adding"), "(c) adding", T, {"chance": 2 / 3, "one known": 1 / 3})
    levels = {"chance": math.log(4), "one known": math.log(2)}
    draw_losses(right, s.select(rows, panel="c", task="temporal order"), "(c) temporal order", T, levels)
    handles = [plt.Line2D([], [], color="black", linestyle=style) for style in (":", "-")]
    handles += [plt.Rectangle((0, 0), 1, 1, color=shade) for shade in SHADES]
    labels = ["(b) initial", "(b) trained", "(c) reaches the later one", "(c) reaches both"]
    middle.legend(handles, labels, loc="outside lower center", ncol=4)
    sign, course = bottom.subplots(1, 2)
    draw_influence(sign, s.select(rows, panel="d"))
    draw_courses(course, s.select(rows, panel="e"))
    return figure


def draw_bias(ax, rows: list, title: str) -> None:
    from fastrnn import plot

    for k, cell in enumerate(CELLS):
        found = s.select(rows, network=cell)
        window, median, low, high, bound = (s.column(found, name) for name in ("window", "median", "low", "high", "bound"))
        ax.plot(window, median, color=plot.COLORS[k], marker=plot.MARKERS[k], markersize=3, label=NAMES[cell])
        ax.fill_between(window, low, high, color=plot.COLORS[k], alpha=0.2, linewidth=0)
        ax.plot(window, s.column(found, "batch"), color=plot.COLORS[k], linewidth=0.5)
        ax.plot(window, np.where(np.isfinite(bound), bound, np.nan), color=plot.COLORS[k], linestyle="--", linewidth=0.9)
    if not np.isfinite(s.column(rows, "bound")).any():
        ax.text(0.5, 0.05, "no bound", transform=ax.transAxes, ha="center")
    ax.set_yscale("log")
    ax.set_title(title, loc="left")
    ax.set_xlabel("window K (steps)")


def draw_cosine(ax, rows: list, updates: int, title: str) -> None:
    from fastrnn import plot

    for k, cell in enumerate(CELLS):
        for trained, style in ((0, ":"), (updates, "-")):
            found = s.select(rows, network=cell, updates=trained)
            ax.plot(s.column(found, "window"), s.column(found, "cosine_median"), color=plot.COLORS[k], linestyle=style)
    ax.set_ylim(min(0.0, s.column(rows, "cosine_median").min() - 0.05), 1.05)
    ax.set_title(title, loc="left")
    ax.set_ylabel("cosine with full gradient")
    ax.set_xlabel("window K (steps)")


def draw_losses(ax, rows: list, title: str, T: int, levels: dict) -> None:
    from fastrnn import plot

    window, median, low, high = (s.column(rows, name) for name in ("window", "median", "low", "high"))
    reach = [part * T for part in REACH[rows[0]["task"]]]
    for begin, end, shade in zip(reach, (*reach[1:], T), SHADES):
        ax.axvspan(begin, end, color=shade, linewidth=0)
    plot.points_with_intervals(window, median, low, high, color=plot.COLORS[1], marker=plot.MARKERS[1], ax=ax)
    places = (("right", T, 2, "bottom"), ("left", 0, -2, "top"))  # clear of the points
    for (label, level), style, (side, at, above, edge) in zip(levels.items(), ("-", "--"), places):
        ax.axhline(level, color="0.3", linestyle=style, linewidth=0.8)
        ax.annotate(label, (at, level), xytext=(0, above), textcoords="offset points", ha=side, va=edge, fontsize=6.5)
    ax.set_yscale("log")
    ax.set_ylim(min(low.min() / 2, 1e-3), 3 * max(levels.values()))
    ax.set_title(title, loc="left")
    ax.set_ylabel("squared error" if rows[0]["task"] == "adding" else "cross-entropy (nats)")
    ax.set_xlabel("window K (steps)")


def draw_influence(ax, rows: list) -> None:
    from fastrnn import plot

    windows, full = np.arange(1, 401), 2 * (t.POSITIVE - t.NEGATIVE)
    for k, (kind, label) in enumerate((("sliding", "sliding window"), ("chunks", "chunks of K steps"))):
        found, color = s.select(rows, kind=kind), plot.COLORS[k]
        expected = [t.mean_influence(window, 1 if kind == "sliding" else window) for window in windows.tolist()]
        ax.plot(windows, np.array(expected) / full, color=color, linestyle="--", linewidth=0.9)
        ax.plot(s.column(found, "window"), s.column(found, "measured") / full, plot.MARKERS[k], color=color, label=label)
    ax.plot([], [], color="black", linestyle="--", linewidth=0.9, label="closed form")
    ax.axhspan(-3, 0, color="0.92", linewidth=0)
    ax.text(1.1, -2.85, "wrong sign", fontsize=7)
    ax.set_xscale("log")
    ax.set_ylim(-3, 1.2)
    ax.set_xlabel("window K (steps)")
    ax.set_ylabel("truncated / full gradient")
    ax.set_title("(d) influence balancing: gradient at rest", loc="left")
    ax.legend(loc="upper left")


def draw_courses(ax, rows: list) -> None:
    from fastrnn import plot

    for k, (window, stride) in enumerate(COURSES):
        found = s.select(rows, window=window, stride=stride)
        update, distance, expected = (s.column(found, name) for name in ("update", "distance", "expected"))
        kind = "chunks" if window == stride else f"every {stride:g}"
        ax.plot(update, distance, color=plot.COLORS[k], marker=plot.MARKERS[k], markevery=(3 * k, 20), label=f"K = {window:g}, {kind}")
        ax.plot(update, expected, color="black", linestyle="--", linewidth=0.7)
    ax.plot([], [], color="black", linestyle="--", linewidth=0.7, label="closed form")
    ax.set_yscale("log")
    ax.set_ylim(1e-7, 1e7)
    ax.set_xlabel("update")
    ax.set_ylabel("|θ - θ*|")
    ax.set_title("(e) influence balancing: descent", loc="left")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


if __name__ == "__main__":
    raise SystemExit(s.run(__file__, __doc__, compute, draw, seeds=(3, 10)))
