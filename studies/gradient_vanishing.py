"""How fast does the gradient die on its way back through time, and what keeps it alive?

(a) Norm of dL/dh_{t-k} against the lag k at initialisation, on the inputs of the temporal-order task, from a random
    direction at the last step: tanh networks of several spectral radii, orthogonal, IRNN, LSTM with forget bias 0, 1
    and 3, GRU. Dashed: closed forms (radius^k; 1 for orthogonal and identity weights; sigmoid(b)^k for gates without
    recurrent weights). For an LSTM it is the norm by the whole state (h, c): its memory is in c.
(b) The same for the gradient of the task's own loss, after 0, 100, ... updates on the adding problem (8 units, Adam
    5e-3, batch 32, clip 1; REFERENCE: LSTM .0007, tanh .0706, trivial .667) and on temporal order (Pascanu, Mikolov &
    Bengio 2013: 50 units, batch 20, clip 1; here with Adam 1e-3). Does training revive it?
(c) The share of runs that solve temporal order (no error on 10 000 fresh sequences), against length, for SGD .01, SGD
    .01 with the norm clipped to 1 (both as Pascanu et al., figure 7) and Adam 1e-3.
(d) The effective memory: steps until the norm has halved, counted from lag 1.

Held against: closed forms; Pascanu et al. 2013 (bound, clipping); Le, Jaitly & Hinton 2015 (IRNN); Hochreiter &
Schmidhuber 1997 and Gers et al. 2000 (error carousel, forget gate); Arjovsky, Shah & Bengio 2016 (copy problem, with
the full run only).
"""

import math

import _gradients as g
import _study as s
import numpy as np

import fastrnn as fr

AT_START = (*(f"tanh {r}" for r in g.RADII), "orthogonal", "irnn", *(f"lstm {b}" for b in g.FORGET_BIASES), "gru")
TRAINED = ("tanh", "irnn", "lstm 1", "gru")
RACING = ("tanh", "lstm 1", "gru")
OPTIMIZERS = ("SGD", "SGD, clipped", "Adam, clipped")
TASKS = ("adding", "temporal order")
NAMES = {"tanh": "rnn, tanh", "orthogonal": "rnn, orthogonal", "irnn": "IRNN", "lstm 1": "lstm, b = 1", "gru": "gru"}
NAMES |= {f"tanh {r}": f"rnn, tanh, ρ = {r:g}" for r in g.RADII} | {f"lstm {b}": f"lstm, b = {b}" for b in g.FORGET_BIASES}


def sizes(arguments) -> dict:
    """What --quick makes smaller."""
    quick = arguments.quick
    return {
        "start": {"length": 200, "hidden": 100, "sequences": 10, "seeds": 4 * arguments.seeds},
        "probes": [0, 50, 200, 600] if quick else [0, 100, 300, 1000, 3000, 8000],
        "length": {"adding": 30 if quick else 100, "temporal order": 30 if quick else 50},
        "lengths": [20, 40] if quick else [20, 50, 100, 150, 200],
        "updates": 750 if quick else 50_000,
        "test_every": 250,
        "training_runs": min(arguments.seeds, 3) if quick else arguments.seeds,
        "runs": arguments.seeds,
        "copy": {} if quick else {"length": 100, "updates": 20_000},
    }


# Computing ------------------------------------------------------------------------------------------------------------


def compute(arguments, parts: s.Parts) -> s.Result:
    settings = sizes(arguments)

    def done(label, jobs, function):
        return s.compute_parts(parts, jobs, function, label=label, workers=arguments.workers)

    # one condition of every kernel first, so that two processes do not compile the same one
    order = sorted(AT_START, key=lambda kind: (kind not in ("lstm 0", "tanh 0.5", "gru", "irnn"), kind != "lstm 0"))
    start = done("at initialisation", [(kind, settings["start"] | {"kind": kind}) for kind in order], g.at_initialisation)
    forms = done("closed forms", [(f"closed {name}", {"name": name} | settings["start"]) for name in CLOSED], closed_form)
    training = done("gradient in training", list(training_jobs(settings)), g.train)
    races = done("success against length", list(race_jobs(settings)), g.race)
    copies = done("copy problem", list(copy_jobs(settings)), g.train) if settings["copy"] else {}
    rows = [*start_rows(start), *training_rows(settings, training), *race_rows(settings, races)]
    rows += memory_rows(start)
    claims = [*closed_claims(forms, start), *start_claims(rows), *training_claims(settings, rows), *race_claims(settings, rows)]
    return s.Result(rows, settings, claims + copy_claims(settings, copies))


def training_jobs(settings: dict):
    """Panel (b): the published settings of each task."""
    common = {"optimizer": "Adam, clipped", "probe_sequences": 50, "probes": settings["probes"]}
    common["updates"] = settings["probes"][-1]
    own = {
        "adding": {"hidden": 8, "batch": 32, "learning_rate": 5e-3},
        "temporal order": {"hidden": 50, "batch": 20, "learning_rate": 1e-3},
    }
    for task in TASKS:
        for cell in TRAINED:
            for seed in range(settings["training_runs"]):
                one = {"task": task, "cell": cell, "seed": seed, "length": settings["length"][task]}
                yield f"{task} {cell} {seed}", common | own[task] | one


def race_jobs(settings: dict):
    """Panel (c): all seeds of a condition in one job."""
    common = {"task": "temporal order", "hidden": 50, "batch": 20, "updates": settings["updates"]}
    common |= {"test_every": settings["test_every"], "seeds": settings["runs"]}
    for length in settings["lengths"]:
        for cell in RACING:
            for optimizer in OPTIMIZERS:
                rate = 1e-3 if optimizer.startswith("Adam") else 1e-2
                one = {"cell": cell, "optimizer": optimizer, "learning_rate": rate, "length": length}
                yield f"race {cell} {optimizer} {length}", common | one


def copy_jobs(settings: dict):
    """Arjovsky et al. 2016: T blanks, batch 20, RMSprop 1e-3, the gradient clipped to ±1; 80 units."""
    common = settings["copy"] | {"task": "copy", "hidden": 80, "batch": 20, "probes": []}
    for cell in ("tanh", "lstm 1"):
        one = {"cell": cell, "optimizer": "RMSprop, clipped", "learning_rate": 1e-3, "seed": 0}
        yield f"copy {cell}", common | one


CLOSED = ("orthogonal", "leaky", "carousel", "irnn", "determinant", "circular mean", "circular slope", "chaos")


def closed_form(settings: dict) -> dict:
    """The measured values of one closed form."""
    name, T, H = settings["name"], settings["length"], settings["hidden"]
    if name == "orthogonal":
        return {"value": g.linear_orthogonal(T, H, 3)}
    if name == "leaky":
        deviation, half = g.leaky_decay(T, 0.1, 0.01)
        return {"value": deviation, "memory": half}
    if name == "carousel":
        return {"value": g.lstm_carousel(T // 2, 5)}
    if name == "irnn":
        return {"value": g.irnn_survivors(T, H, 3)}
    if name == "determinant":
        pairs = [g.mean_exponent(1.5, 64, 3, seed) for seed in range(5)]
        return {"value": np.abs(np.diff(pairs, axis=1)).max()}
    if name == "circular mean":
        return {"value": np.mean([g.mean_exponent(0.9, 256, 3, seed, at_zero=True)[0] for seed in range(10)])}
    if name == "circular slope":
        return {"value": g.growth(0.9, 256, 10, (5, 50), at_zero=True).mean()}
    return {"value": g.growth(1.5, 512, 8, (50, 250), at_zero=False).mean()}


def expected_decay(kind: str) -> float | None:
    """The factor a of the closed form a^k, where there is one."""
    name, _, number = kind.partition(" ")
    if name == "lstm":
        return 1 / (1 + math.exp(-float(number)))
    return {"gru": 0.5, "orthogonal": 1.0, "irnn": 1.0}.get(name, float(number) if number else None)


def start_rows(start: dict):
    for kind in AT_START:
        median, low, high = s.band(start[kind]["curves"])
        for k in range(len(median)):
            row = {"panel": "a", "network": kind, "lag": k, "median": median[k], "low": low[k], "high": high[k]}
            yield row | {"expected": expected_decay(kind) ** k}


def memory_rows(start: dict):
    """Panel (d): one row a network; `high` inf where the norm never halved within the sequence."""
    for kind in AT_START:
        found = [g.memory(curve) for curve in start[kind]["curves"]]
        from_loss = np.median([g.memory(curve, 0) for curve in start[kind]["curves"]])
        low, median, high = np.percentile(found, [10, 50, 90], method="nearest")
        a = expected_decay(kind)
        closed = math.log(2) / -math.log(a) if a < 1 else math.inf
        row = {"panel": "d", "network": kind, "median": median, "low": low, "high": high, "expected": closed}
        yield row | {"from_loss": from_loss}


def training_rows(settings: dict, training: dict):
    """Panel (b): curves; and a row an update with loss, memory and, for plain networks, the spectral radius."""
    for task in TASKS:
        for cell in TRAINED:
            runs = [training[f"{task} {cell} {seed}"] for seed in range(settings["training_runs"])]
            for p, update in enumerate(settings["probes"]):
                at = {"network": cell, "task": task, "update": update}
                # a run that diverged has no later probes
                curves = np.array([run["curves"][p] for run in runs if p < len(run["curves"])])
                curves = curves[np.isfinite(curves).all(axis=1)] if curves.size else curves
                if not len(curves):
                    continue
                median, low, high = s.band(curves)
                for k in range(len(median)):
                    yield {"panel": "b", **at, "lag": k, "median": median[k], "low": low[k], "high": high[k]}
                losses = [run["probe_loss"][p] for run in runs if p < len(run["probe_loss"])]
                middle, low, high = s.band(losses)
                row = {"panel": "b loss", **at, "median": middle, "low": low, "high": high, "runs": len(losses)}
                row["memory"] = np.percentile([g.memory(curve) for curve in curves], 50, method="nearest")
                yield row | {"radius": np.median([run["radius"][p] for run in runs if p < len(run["radius"])])}


def race_rows(settings: dict, races: dict):
    """Panel (c)."""
    for cell in RACING:
        for optimizer in OPTIMIZERS:
            for length in settings["lengths"]:
                found, runs = races[f"race {cell} {optimizer} {length}"], settings["runs"]
                solved = int((found["solved"] >= 0).sum())
                low, high = s.wilson_interval(solved, runs)
                row = {"panel": "c", "network": cell, "optimizer": optimizer, "length": length, "solved": solved}
                row |= {"runs": runs, "median": solved / runs, "low": low, "high": high}
                yield row | {"error": np.mean(found["error"]), "diverged": int(found["diverged"].sum())}


# Claims ---------------------------------------------------------------------------------------------------------------


def closed_claims(forms: dict, start: dict) -> list:
    value = {name: float(forms[f"closed {name}"]["value"]) for name in CLOSED}
    half = float(forms["closed leaky"]["memory"])
    bound = max(np.max(start[kind]["bound"]) for kind in AT_START if kind.startswith("tanh"))
    carousel = "closed form; constant error carousel of Hochreiter & Schmidhuber 1997 at f = 1"
    exponent = "h' = tanh(W h), g = 1.5: deviation of the mean exponent from <ln tanh'> + ln|det W|/N"
    growth = "h' = tanh(W h), g = 1.5, N = 512: growth a step on the attractor, which is λ1"
    return [
        s.close("linear orthogonal rnn: largest deviation of the norm from 1", value["orthogonal"], 0, 1e-12, "closed form"),
        s.close("leaky unit, τ = 10 steps: largest relative deviation from a^k", value["leaky"], 0, 1e-12, "closed form"),
        s.close("leaky unit, τ = 10 steps: effective memory is 10 ln 2", half, 10 * math.log(2), 1e-9, "closed form"),
        s.close("lstm without recurrent weights, float32: relative deviation of dL/dc from σ(b)^k", value["carousel"], 0, 1e-4, carousel),
        s.close("IRNN: deviation of dL/dh from that of the units above 0 all along", value["irnn"], 0, 1e-12, "closed form"),
        s.close(exponent, value["determinant"], 0, 1e-11, "closed form"),
        s.close("random W, g = .9, at 0: mean exponent is ln g - 1/2", value["circular mean"], math.log(0.9) - 0.5, 0.02, "circular law"),
        s.close("random W, g = .9, at 0: slope of the norm is ln g", value["circular slope"], math.log(0.9), 0.02, "circular law"),
        s.close(growth, value["chaos"], 0.06495, 0.02, "davidclark1/rnn-lyapunov, N = 4096"),
        s.at_most("tanh networks: largest ratio of the norm to ‖W‖^k", bound, 1 + 1e-4, "bound of Pascanu et al. 2013"),
    ]


def start_claims(rows: list) -> list:
    memory = {row["network"]: row["median"] for row in s.select(rows, panel="d")}
    left = {row["network"]: row["median"] for row in s.select(rows, panel="a", lag=100)}
    rise = np.diff([left[f"tanh {r}"] for r in g.RADII]).min()
    # a memory beyond the sequence counts as its length
    biases = np.diff([min(memory[f"lstm {b}"], 200.0) for b in g.FORGET_BIASES]).min()
    le, still = "Le et al. 2015: ReLU and W = I do not vanish; recalled", "closed form without recurrent weights"
    return [
        s.close("tanh rnn, ρ = .5: effective memory is ln 2 / -ln ρ", memory["tanh 0.5"], 1.0, 0.2, "closed form of the linear rnn"),
        s.at_least("tanh rnns: gradient at lag 100 rises with ρ; least rise", rise, 0, "closed form ρ^k"),
        s.at_least("IRNN: gradient left at lag 100", left["irnn"], 0.5, le),
        s.at_least("IRNN over tanh rnn, ρ = .9: gradient left at lag 100", left["irnn"] / left["tanh 0.9"], 1e3, le),
        s.at_least("lstm: effective memory rises with the forget bias; least rise", biases, 0, "Gers et al. 2000; σ(b)^k"),
        s.close("lstm, b = 1: effective memory is ln 2 / -ln σ(1)", memory["lstm 1"], math.log(2) / math.log1p(math.exp(-1)), 1.0, still),
        s.close("gru: effective memory is ln 2 / -ln σ(0)", memory["gru"], 1.0, 0.5, still),
    ]


def training_claims(settings: dict, rows: list) -> list:
    """What training does to the gradient at the lag of the information: .85 L in temporal order, .75 L in adding."""
    claims, updates = [], settings["probes"]
    for task, share in (("temporal order", 0.85), ("adding", 0.75)):
        lag = int(share * settings["length"][task])
        for cell in ("lstm 1", "gru"):
            left = [s.select(rows, panel="b", task=task, network=cell, update=u, lag=lag) for u in updates]
            before, *later = [found[0]["median"] for found in left if found]
            claim = f"{task}, {NAMES[cell]}: gradient at lag {lag}, largest in training over that before"
            claims.append(s.at_least(claim, max(later) / before, 10, "expected of gates that learn to hold; no published number"))
    last = {(row["task"], row["network"]): row for row in s.select(rows, panel="b loss", update=updates[-1])}
    lstm, tanh = (last["adding", cell]["median"] for cell in ("lstm 1", "tanh"))
    at = f"adding, T = {settings['length']['adding']}, {updates[-1]} updates: mean squared error"
    source = "a NumPy run at T = 100, 8000 updates: .0007 and .0706"
    claims.append(s.at_most(f"{at} of the lstm over the tanh rnn's", lstm / tanh, 1.0, source))
    lag, source = int(0.75 * settings["length"]["adding"]), "expected; no published number"
    left = {c: s.select(rows, panel="b", task="adding", network=c, update=updates[-1], lag=lag)[0]["median"] for c in TRAINED}
    ratio = left["lstm 1"] / left["tanh"] if left["tanh"] else math.inf
    claims.append(s.at_least(f"adding: gradient at lag {lag} after training, lstm over tanh rnn", ratio, 10, source))
    if updates[-1] >= 8000:
        claims.append(s.at_most(f"{at} of the lstm", lstm, 0.005, "a NumPy run: .0007"))
    radius = last["temporal order", "tanh"]["radius"]
    claim = "temporal order, tanh rnn: ρ(W), .95 before training, after it"
    source = "Pascanu et al.'s own log, with a regulariser: 1.24"
    claims.append(s.at_least(claim, radius, 1.0, source))
    return claims


def race_claims(settings: dict, rows: list) -> list:
    """Over all lengths where none is named.

    Whether clipping solves the task more often is claimed by the full run alone: SGD takes tens of thousands of updates, and of the
    few hundred of the quick one a single lucky run would decide. What they do show is the error.
    """
    rows = s.select(rows, panel="c")

    def share(optimizer, **values):
        found = s.select(rows, optimizer=optimizer, **values)
        return sum(row["solved"] for row in found) / sum(row["runs"] for row in found)

    def error(optimizer):
        return np.mean([row["error"] for row in s.select(rows, optimizer=optimizer, network="tanh")])

    at, (shortest, *_, longest) = f"temporal order, at most {settings['updates']} updates,", settings["lengths"]
    source = "Pascanu et al. 2013, figure 7 (curves recalled; more updates)"
    clipping = share("SGD, clipped", network="tanh") - share("SGD", network="tanh")
    adam = share("Adam, clipped") - share("SGD, clipped")
    by_length = [np.mean([share(optimizer, length=length) for optimizer in OPTIMIZERS]) for length in (shortest, longest)]
    claims = [
        s.at_most(f"{at} tanh rnn: error, clipped SGD minus SGD", error("SGD, clipped") - error("SGD"), 0, source),
        s.at_least(f"{at} all cells: share solved, Adam minus clipped SGD", adam, 0, "expected; no published curve"),
        s.at_least(f"{at} all cells: share solved, L = {shortest} minus L = {longest}", by_length[0] - by_length[1], 0, source),
    ]
    if settings["updates"] >= 50_000:
        claims.append(s.at_least(f"{at} tanh rnn: share solved, clipped SGD minus SGD", clipping, 0, source))
    return claims


def copy_claims(settings: dict, copies: dict) -> list:
    chance, source = fr.data.Copy(100).chance, "Arjovsky et al. 2016: both stay at the memoryless baseline"
    return [
        s.close(f"copy, T = 100, {run['updates']} updates, {name}: cross-entropy", run["loss"], chance, 0.02, source)
        for name, run in copies.items()
    ]


# Drawing --------------------------------------------------------------------------------------------------------------


def draw(rows: list[dict], record: dict):
    """One page: (a) and (d) above, (b) a row a task, (c) below."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(7.0, 8.8), layout="constrained")
    top, *middle, bottom = figure.subfigures(4, 1, height_ratios=[2.9, 1.75, 1.75, 2.1])
    left, centre, right = top.subplots(1, 3, width_ratios=[1, 1, 1.1])
    draw_start(left, rows, [kind for kind in AT_START if kind.startswith("tanh")], "(a) tanh, spectral radius ρ")
    draw_start(centre, rows, [kind for kind in AT_START if not kind.startswith("tanh")], "(a) others")
    draw_memory(right, s.select(rows, panel="d"))
    for part, task in zip(middle, TASKS):
        draw_training(part, s.select(rows, task=task), task, record["settings"]["length"][task])
    draw_races(bottom, s.select(rows, panel="c"), record["settings"]["updates"])
    return figure


def draw_start(ax, rows: list, kinds: list, title: str) -> None:
    from fastrnn import plot

    for kind in kinds:
        found = s.select(rows, panel="a", network=kind)
        lags, median, low, high, expected = (s.column(found, name) for name in ("lag", "median", "low", "high", "expected"))
        label = NAMES[kind].removeprefix("rnn, ").removeprefix("tanh, ")
        plot.gradient_by_lag(lags, median, low, high, label=label, ax=ax)
        ax.plot(lags, expected, color=ax.lines[-1].get_color(), linestyle=(0, (3, 2)), linewidth=0.8)
    ax.set_ylim(1e-9, 1e5)
    ax.set_xlim(0, 200)
    ax.set_title(title, loc="left")
    ax.set_xlabel("lag k (steps)")
    ax.set_ylabel("‖∂L/∂h$_{t-k}$‖ / ‖∂L/∂h$_t$‖")
    ax.plot([], [], color="black", linestyle=(0, (3, 2)), linewidth=0.8, label="closed form")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=2, columnspacing=1.0, handlelength=1.4)


def draw_memory(ax, rows: list) -> None:
    """(d) as a table."""
    ax.axis("off")
    ax.set_title("(d) effective memory (steps)", loc="left")

    longest = 198  # lags 1 to 199 of a sequence of 200

    def number(value, beyond):
        return beyond if value == math.inf else f"{value:.1f}"

    def line(row):
        median, low, high = (number(row[name], f"> {longest}") for name in ("median", "low", "high"))
        between = low if low == high else f"{low} – {high}"
        return [NAMES[row["network"]].removeprefix("rnn, "), median, between, number(row["expected"], "∞")]

    heads, widths, box = ["", "median", "10–90 %", "formula"], [0.37, 0.2, 0.35, 0.19], (-0.14, -0.2, 1.16, 1.18)
    table = ax.table([line(row) for row in rows], colLabels=heads, bbox=box, colWidths=widths)
    table.auto_set_font_size(False)
    table.set_fontsize(6.5)
    for (line, place), cell in table.get_celld().items():
        cell.visible_edges = "B" if line == 0 else ""
        cell.set_text_props(ha="left" if place == 0 else "right")


def draw_training(part, rows: list, task: str, length: int) -> None:
    """(b): a panel a cell; light to dark as training goes on; grey where the information is."""
    import matplotlib.pyplot as plt

    # where what is to be remembered stands: the first mark or symbol, in steps before the end
    where = (0.5, 1.0) if task == "adding" else (0.8, 0.9)
    axes = part.subplots(1, len(TRAINED), sharex=True, sharey=True)
    updates = sorted({row["update"] for row in rows})
    shades = plt.get_cmap("viridis_r")(np.linspace(0.1, 1, len(updates)))
    for ax, cell in zip(axes, TRAINED):
        ax.axvspan(where[0] * length, where[1] * length, color="0.92", linewidth=0)
        for update, shade in zip(updates, shades):
            found = s.select(rows, panel="b", network=cell, update=update)
            lags, median, low, high = (s.column(found, name) for name in ("lag", "median", "low", "high"))
            ax.plot(lags, np.where(median > 0, median, np.nan), color=shade, label=f"{update:g}")
            ax.fill_between(lags, np.where(low > 0, low, 1e-30), high, color=shade, alpha=0.15, linewidth=0)
        ax.set_yscale("log")
        ax.set_xlim(0, length)
        ax.set_xticks(np.linspace(0, length, 4 if length % 3 == 0 else 3))
        ax.set_title(NAMES[cell], fontsize=7.5)
        ax.set_xlabel("lag k (steps)")
        last = s.select(rows, panel="b loss", network=cell)[-1]
        ax.text(0.04, 0.04, f"final loss {last['median']:.2g}", transform=ax.transAxes, fontsize=6.5)
    axes[0].set_ylim(1e-9, 1e2)
    axes[0].set_ylabel("relative gradient norm")
    part.suptitle(f"(b) {task}, T = {length:g}; grey: where the first thing to remember may be", x=0.01, ha="left", fontsize=8)
    part.legend(*axes[0].get_legend_handles_labels(), title="updates", loc="outside right upper", fontsize=6.5, title_fontsize=6.5)


def draw_races(part, rows: list, updates: int) -> None:
    from fastrnn import plot

    axes = part.subplots(1, len(RACING), sharex=True, sharey=True)
    lengths = sorted({row["length"] for row in rows})
    for ax, cell in zip(axes, RACING):
        for n, (optimizer, marker) in enumerate(zip(OPTIMIZERS, plot.MARKERS)):
            found = s.select(rows, network=cell, optimizer=optimizer)
            x, share, low, high = (s.column(found, name) for name in ("length", "median", "low", "high"))
            beside = (n - 1) * 0.02 * (lengths[-1] - lengths[0])  # intervals side by side, not one over the other
            plot.points_with_intervals(x + beside, share, low, high, label=optimizer, color=plot.COLORS[n], marker=marker, ax=ax)
        ax.get_legend().remove()
        ax.set_xticks(lengths, [f"{length:g}" for length in lengths])
        ax.set_ylim(-0.05, 1.05)
        ax.set_title(NAMES[cell], fontsize=7.5)
        ax.set_xlabel("sequence length L (steps)")
    axes[0].set_ylabel("share of runs solved")
    part.suptitle(f"(c) temporal order, at most {updates:g} updates; bars: 95 % Wilson intervals", x=0.01, ha="left", fontsize=8)
    part.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=3)


if __name__ == "__main__":
    raise SystemExit(s.run(__file__, __doc__, compute, draw, seeds=(3, 20)))
