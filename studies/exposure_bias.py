"""What does a network do when it is left alone, and does it help to leave it alone in training?

Trained with the true past as input (teacher forcing), a network never sees its own errors, and in use sees nothing else: that is
the exposure bias. Networks learn to go on with the Santa Fe laser (its first 1000 points; a gru of 64 units), with Lorenz' system
of 1963 (.01 apart, 5 % noise in training; a gru of 32) and with an English text (a gru of 64), under

- teacher forcing; scheduled sampling, the probability of the teacher falling linearly from 1 to .5 or to 0, one coin a step
  and sequence; free running;
- generalized teacher forcing, on Lorenz' system, where a value tells the state: a network without inputs, whose state is drawn after
  every step towards one that puts out the true value, all the way (α = 1) or a little (α = .05).

(a) The task of the competition: the laser past its first 1000 points, and what two of the networks go on with. (b) The
free-running error by horizon: of series normalized, so that 1 is the mean's and √2 that of another stretch of the same series (a
mark where half of the starts have passed .5: the valid time); of text, bits that the true character costs after so many of
the network's own. (c) One-step error against free-running error at one horizon. (d) Distances of distributions: of
hidden states in forced and in free runs (energy coefficient), of points of state
space (D_stsp, 30 boxes an axis, for the laser with delays of 2 and 4 steps; Jensen-Shannon divergence of pairs of characters for
the text), of power over frequency (D_H, σ = 20); and PE(20), the squared error at 20 steps. Dashed: what another stretch of
the truth gives. (e) The one-step error as the networks learn. (f) A network whose only recurrence is its own output [Goodfellow
et al. 2016, section 10.2.1] against one with hidden-to-hidden weights (tanh, 64 units): it trains in parallel over time, and
is weaker where the output does not tell all.

Held against: Bengio et al. 2015 (TIMIT, one-step / decoding error: teacher 15.0 / 46.0, scheduled .9 → .5 19.8 / 42.0,
.25 → 0 34.3 / 34.5, always own 34.6 / 35.8; recalled, and the shape only: with less forcing the one-step error rises, and the
free-running error falls); Hess et al. 2023 (with a small α the attractor is nearer the true one); Huszár 2015 (scheduled sampling
of symbols does not learn the distribution); a GRU-64 in PyTorch on the laser: one-step .07, free-running at 10 / 50 steps
.11 / 7.5.

Where the shape fails: on Lorenz' system, scheduled sampling lowers the one-step error as well, with or without noise in
training. Perhaps because a step of .01 changes little: one-step errors then say little about the dynamics, those that have added up more.
"""

import math

import _forecasting as f
import _study as s
import character_model
import numpy as np

FORCINGS = ("teacher", "scheduled .5", "scheduled 0", "free", "generalized 1", "generalized .05")
NAMES = {
    "teacher": "teacher forcing",
    "scheduled .5": "scheduled, 1 → .5",
    "scheduled 0": "scheduled, 1 → 0",
    "free": "free running",
    "generalized 1": "generalized, α = 1",
    "generalized .05": "generalized, α = .05",
    "rnn": "hidden recurrence",
    "output": "output recurrence",
}
TITLES = {"laser": "laser", "lorenz": "Lorenz 1963", "text": "text"}
HIDDEN = {"laser": 64, "lorenz": 32, "text": 64}
JUDGED = {"laser": 50, "lorenz": 100, "text": 20}  # the horizon of (c)
BENGIO = "Bengio et al. 2015, TIMIT, recalled: the shape"


def sizes(arguments) -> dict:
    """What --quick makes smaller."""
    quick = arguments.quick
    return {
        "length": 60 if quick else 100,
        "updates": 1000 if quick else 10_000,
        "rate": 5e-3,
        "batch": 16,
        "evaluations": 8 if quick else 20,
        "starts": 256,
        "horizon": {"laser": 100, "lorenz": 400, "text": 40},
        "long": 1000,
        "runs": 8 if quick else 32,
        "batches": [1, 4, 16, 64],
    }


# Computing ------------------------------------------------------------------------------------------------------------


def compute(arguments, parts: s.Parts) -> s.Result:
    settings = sizes(arguments)
    todo = [*forcing_jobs(settings, arguments.seeds), *network_jobs(settings, arguments.seeds)]
    found = s.compute_parts(parts, todo, f.train, label="training", workers=arguments.workers)
    # by itself, as two measurements at a time are in each other's way
    times = s.compute_parts(parts, speed_jobs(settings), f.speed, label="speed", workers=1)
    runs = [(job, found[name]) for name, job in todo]
    forced = [run for run in runs if run[0]["network"] == "gru"]
    compared = [run for run in runs if run[0]["network"] != "gru"]
    rows = table(forced, compared, times)
    written = [(job["forcing"], run["sample"]) for job, run in forced if job["task"] == "text" and job["seed"] == 0]
    samples = {forcing: character_model.read(None).decode(tokens[:400]) for forcing, tokens in written}
    return s.Result(rows, settings, claims(rows), {"samples": samples})


def table(forced: list, compared: list, times: dict) -> list[dict]:
    """Everything that is plotted or claimed, from (settings, results) of the runs."""
    rows = [*horizon_rows(forced), *summary_rows(forced), *example_rows(forced), *course_rows(forced, "forcing")]
    return [*rows, *summary_rows(compared), *course_rows(compared, "network"), *speed_rows(times)]


def forcing_jobs(settings: dict, seeds: int):
    for seed in range(seeds):
        for task in f.TASKS:
            for forcing in FORCINGS:
                # one value must tell the state: of Lorenz' system it does, of the laser or a text it does not
                if task == "lorenz" or not forcing.startswith("generalized"):
                    one = {"task": task, "network": "gru", "hidden": HIDDEN[task], "forcing": forcing, "seed": seed}
                    yield f"{task} {forcing} {seed}", settings | one


def network_jobs(settings: dict, seeds: int):
    for seed in range(seeds):
        for task in ("laser", "lorenz"):
            for network in ("rnn", "output"):
                one = {"task": task, "network": network, "hidden": 64, "forcing": "teacher", "seed": seed}
                yield f"{task} {network} {seed}", settings | one


def speed_jobs(settings: dict):
    for network in ("rnn", "output"):
        for batch in settings["batches"]:
            one = {"network": network, "batch": batch, "hidden": 64, "forcing": "teacher", "seed": 0, "length": 200, "repeats": 30}
            yield f"speed {network} {batch}", one


def grouped(runs, *keys):
    """(values of the keys, results) of all seeds that have them in common."""
    groups = {}
    for job, found in runs:
        groups.setdefault(tuple(job[key] for key in keys), []).append(found)
    return groups.items()


def horizon_rows(runs):
    """Panel (b); n in steps, Lyapunov times of Lorenz' system beside it."""
    step = f.load("lorenz").step
    for (task, forcing), found in grouped(runs, "task", "forcing"):
        for n, (median, low, high) in enumerate(zip(*s.band([run["curve"] for run in found])), 1):
            time = n * step if task == "lorenz" else n
            yield {"panel": "horizon", "task": task, "forcing": forcing, "n": n, "time": time, "median": median, "low": low, "high": high}


def summary_rows(runs):
    """What every network came to, one row each."""
    names = ("one", "states", "states_floor", "d_stsp", "d_stsp_floor", "d_h", "d_h_floor", "pe20", "weights")
    for job, found in runs:
        row = {"panel": "summary"} | {key: job[key] for key in ("task", "network", "forcing", "seed")}
        row |= {"free": found["curve"][JUDGED[job["task"]] - 1], "valid": np.median(found["valid"]) if "valid" in found else math.nan}
        yield row | {name: float(found[name]) for name in names if name in found}


def example_rows(runs):
    """Panel (a): the laser, and what the networks of seed 0 make of it."""
    for job, found in runs:
        if job["task"] == "laser" and job["seed"] == 0 and job["forcing"] in ("teacher", "scheduled 0"):
            for n, (true, own) in enumerate(zip(*found["example"]), 1):
                yield {"panel": "example", "forcing": job["forcing"], "n": n, "true": true, "own": own}


def course_rows(runs, key: str):
    """Panels (e) and (f): errors against updates and seconds of processor time."""
    for (task, name), found in grouped(runs, "task", key):
        for p, update in enumerate(found[0]["update"]):
            row = {"panel": f"course {key}", "task": task, key: name, "update": update}
            row["seconds"] = np.median([run["seconds"][p] for run in found])
            for what in ("one_step", "free_20"):
                median, low, high = s.band([run[what][p] for run in found])
                row |= {what: median, f"{what}_low": low, f"{what}_high": high}
            yield row


def speed_rows(times: dict):
    for name, found in times.items():
        _, network, batch = name.split()
        low, median, high = np.percentile(found["milliseconds"], [10, 50, 90])
        yield {"panel": "speed", "network": network, "batch": int(batch), "median": median, "low": low, "high": high}


# Claims ---------------------------------------------------------------------------------------------------------------


def claims(rows: list) -> list:
    return [*shape_claims(rows), *attractor_claims(rows), *convergence_claims(rows), *network_claims(rows)]


def mean(rows: list, name: str, **which) -> float:
    """The mean over seeds of one number of the summary, of the gru where no other network is named."""
    return float(s.column(s.select(rows, panel="summary", **({"network": "gru"} | which)), name).mean())


def shape_claims(rows: list) -> list:
    """With less forcing the one-step error rises, the free-running error falls."""
    result = []
    for task in f.TASKS:
        at = f"{TITLES[task]}, scheduled 1 → 0 over teacher forcing"
        ratio = {what: mean(rows, what, task=task, forcing="scheduled 0") / mean(rows, what, task=task, forcing="teacher")
                 for what in ("one", "free")}  # fmt: skip
        result.append(s.at_least(f"{at}: one-step error", ratio["one"], 1.0, BENGIO))
        result.append(s.at_most(f"{at}: free-running error at {JUDGED[task]} steps", ratio["free"], 1.0, BENGIO))
    for task in f.TASKS:
        ratio = mean(rows, "one", task=task, forcing="free") / mean(rows, "one", task=task, forcing="teacher")
        result.append(s.at_least(f"{TITLES[task]}, free running over teacher forcing: one-step error", ratio, 1.0, BENGIO))
    one = mean(rows, "one", task="laser", forcing="teacher")
    result.append(s.close("laser, gru-64, teacher forcing: one-step error", one, 0.07, 0.04, "a GRU-64 in PyTorch, first 1000 points"))
    return result


def attractor_claims(rows: list) -> list:
    def ratio(task, what, forcing):
        return mean(rows, what, task=task, forcing=forcing) / mean(rows, what, task=task, forcing="teacher")

    hess, expected = "Hess et al. 2023, the order", "expected; no published number"
    little, whole = ({"task": "lorenz", "forcing": f"generalized {alpha}"} for alpha in (".05", "1"))
    at = "Lorenz 1963, generalized forcing, α = .05 over α = 1"
    result = [
        s.at_most(f"{at}: D_stsp", mean(rows, "d_stsp", **little) / mean(rows, "d_stsp", **whole), 1.0, hess),
        s.at_most(f"{at}: PE(20)", mean(rows, "pe20", **little) / mean(rows, "pe20", **whole), 1.0, hess),
        s.at_most("laser, scheduled 1 → 0 over teacher forcing: D_stsp", ratio("laser", "d_stsp", "scheduled 0"), 1.0, expected),
        s.at_most("laser, scheduled 1 → 0 over teacher forcing: D_H", ratio("laser", "d_h", "scheduled 0"), 1.0, expected),
        s.at_least("Lorenz 1963, scheduled 1 → 0 over teacher forcing: valid time", ratio("lorenz", "valid", "scheduled 0"), 1.0, expected),
    ]
    for task in ("laser", "lorenz"):
        what = f"{TITLES[task]}, scheduled 1 → 0 over teacher forcing: distance of states in forced and free runs"
        result.append(s.at_most(what, ratio(task, "states", "scheduled 0"), 1.0, "Lamb et al. 2016, professor forcing: the idea"))
    what = "text, free running over teacher forcing: divergence of pairs of characters"
    return [*result, s.at_least(what, ratio("text", "d_stsp", "free"), 1.0, "Huszár 2015: it learns frequencies, not sequences")]


def convergence_claims(rows: list) -> list:
    result = []
    for task in ("laser", "lorenz"):
        teacher, free = (s.select(rows, panel="course forcing", task=task, forcing=name) for name in ("teacher", "free"))
        level = 1.1 * s.column(free, "one_step").min()  # the lowest that both reach
        for unit in ("update", "seconds"):
            ratio = reached(free, level, unit) / reached(teacher, level, unit)
            what = f"{TITLES[task]}, free running over teacher forcing: {unit.rstrip('s')}s until the one-step error is {level:.2g}"
            result.append(s.at_least(what, ratio, 1.0, "Goodfellow et al. 2016, section 10.2.1: teacher forcing trains faster"))
    return result


def reached(course: list, level: float, unit: str) -> float:
    """When the one-step error first was at or below a level."""
    below = np.flatnonzero(s.column(course, "one_step") <= level)
    return float(course[below[0]][unit]) if below.size else math.inf


def network_claims(rows: list) -> list:
    weaker = "Goodfellow et al. 2016, section 10.2.1: strictly less powerful"
    result = []
    for task in ("laser", "lorenz"):
        ratio = mean(rows, "one", task=task, network="output") / mean(rows, "one", task=task, network="rnn")
        result.append(s.at_least(f"{TITLES[task]}, output recurrence over hidden recurrence: one-step error", ratio, 1.0, weaker))
    for batch in sorted({row["batch"] for row in s.select(rows, panel="speed")}):
        hidden, output = (s.select(rows, panel="speed", network=name, batch=batch)[0]["median"] for name in ("rnn", "output"))
        what = f"processor time of an update, T = 200, {batch:g} sequences: hidden recurrence over output recurrence"
        result.append(s.at_least(what, hidden / output, 1.0, "Goodfellow et al. 2016, section 10.2.1: trains in parallel over t"))
    return result


# Drawing --------------------------------------------------------------------------------------------------------------


def draw(rows: list[dict], record: dict):
    import matplotlib.pyplot as plt

    from fastrnn import plot

    figure = plt.figure(figsize=(plot.PAGE, 9.6), layout="constrained")
    parts = figure.subfigures(5, 1, height_ratios=[1.7, 2.3, 2.0, 2.0, 2.0])
    colors = dict(zip((*FORCINGS, "rnn", "output"), (*plot.COLORS[:4], plot.COLORS[5], plot.COLORS[4], plot.COLORS[6], "0.55")))
    draw_example(parts[0].subplots(1, 2, sharey=True), s.select(rows, panel="example"), colors)
    axes = parts[1].subplots(1, 3)
    draw_horizons(axes, s.select(rows, panel="horizon"), colors)
    draw_valid_times(axes, s.select(rows, panel="summary", network="gru"), colors)
    both = zip(FORCINGS, plot.MARKERS)
    handles = [plt.Line2D([], [], color=colors[name], marker=marker, markersize=4, label=NAMES[name]) for name, marker in both]
    parts[1].legend(handles=handles, loc="outside lower center", ncol=3)
    draw_trade(parts[2].subplots(1, 3), s.select(rows, panel="summary", network="gru"), colors)
    draw_distances(parts[3].subplots(1, 4), s.select(rows, panel="summary", network="gru"), colors)
    left, middle, right = parts[4].subplots(1, 3)
    draw_courses(left, s.select(rows, panel="course forcing", task="laser"), colors)
    draw_networks(middle, rows, colors)
    draw_speed(right, s.select(rows, panel="speed"), colors)
    return figure


def log_axes(ax, which: str) -> None:
    """Logarithmic axes with few, plain labels, over less than a decade too."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for letter in which:
        axis = getattr(ax, f"{letter}axis")
        getattr(ax, f"set_{letter}scale")("log")
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,), numticks=12))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def draw_example(axes, rows: list, colors: dict) -> None:
    for ax, forcing in zip(axes, ("teacher", "scheduled 0")):
        found = s.select(rows, forcing=forcing)
        n, true, own = (s.column(found, name) for name in ("n", "true", "own"))
        ax.plot(n, true, color="0.6", linewidth=2.2, label="laser")
        ax.plot(n, own, color=colors[forcing], linewidth=0.9, label=NAMES[forcing])
        ax.set(xlabel="steps without the truth", xlim=(0, len(n)))
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 0.97), ncol=2)
    axes[0].set_ylabel("intensity (s.d.)")
    axes[0].set_title("(a)", loc="left")


def draw_horizons(axes, rows: list, colors: dict) -> None:
    units = {"laser": "horizon (steps)", "lorenz": "horizon (Lyapunov times)", "text": "horizon (characters)"}
    for ax, task in zip(axes, f.TASKS):
        for forcing in FORCINGS:
            found = s.select(rows, task=task, forcing=forcing)
            if not found:
                continue
            time, median, low, high = (s.column(found, name) for name in ("time", "median", "low", "high"))
            ax.plot(time, median, color=colors[forcing], label=NAMES[forcing], linewidth=1)
            ax.fill_between(time, low, high, color=colors[forcing], alpha=0.2, linewidth=0)
        ax.set_xlabel(units[task])
        ax.set_xlim(0, time[-1])
        if task != "text":
            log_axes(ax, "y")
            ax.axhline(1, color="black", linestyle="--", linewidth=0.7)
            ax.axhline(math.sqrt(2), color="black", linestyle=":", linewidth=0.7)
        ax.set_title(("(b) " if task == "laser" else "") + TITLES[task], loc="left")
        ax.set_ylabel("bits per character" if task == "text" else "free-running error")


def draw_valid_times(axes, rows: list, colors: dict) -> None:
    from fastrnn import plot

    for ax, task in zip(axes, ("laser", "lorenz")):
        for forcing, marker in zip(FORCINGS, plot.MARKERS):
            if not s.select(rows, task=task, forcing=forcing):
                continue
            valid = np.median(s.column(s.select(rows, task=task, forcing=forcing), "valid"))
            ax.plot(valid, 0.5, marker, color=colors[forcing], markersize=4.5, markeredgecolor="white", markeredgewidth=0.5, zorder=5)


def draw_trade(axes, rows: list, colors: dict) -> None:
    from fastrnn import plot

    for ax, task in zip(axes, f.TASKS):
        for forcing, marker in zip(FORCINGS, plot.MARKERS):
            found = s.select(rows, task=task, forcing=forcing)
            ax.plot(s.column(found, "one"), s.column(found, "free"), marker, color=colors[forcing], markersize=4, alpha=0.8)
        if task != "text":
            log_axes(ax, "xy")
        unit = " (bits)" if task == "text" else ""
        ax.set(xlabel=f"one-step error{unit}", ylabel=f"error at {JUDGED[task]} steps{unit}")
        ax.set_title(("(c) " if task == "laser" else "") + TITLES[task], loc="left")


def draw_distances(axes, rows: list, colors: dict) -> None:
    """(d): a panel a measure, a place a task, side by side the forcings."""
    from fastrnn import plot

    labels = {
        "states": "(d) states: energy coefficient",
        "d_stsp": "D$_{stsp}$ (nats; text: bits)",
        "d_h": "D$_H$",
        "pe20": "PE(20)",
    }
    for ax, what in zip(axes, labels):
        tasks = [task for task in f.TASKS if any(what in row for row in s.select(rows, task=task))]
        for place, task in enumerate(tasks):
            for k, (forcing, marker) in enumerate(zip(FORCINGS, plot.MARKERS)):
                values = s.column(s.select(rows, task=task, forcing=forcing), what)
                x = np.full(len(values), place + (k - 2.5) * 0.13)
                ax.plot(x, values, marker, color=colors[forcing], markersize=3.5, alpha=0.8)
            # no line where there is no floor
            floor = np.median(s.column(s.select(rows, task=task), f"{what}_floor"))
            ax.plot([place - 0.4, place + 0.4], [floor, floor], color="black", linestyle="--", linewidth=0.8)
        ax.set_xticks(range(len(tasks)), [TITLES[task].split()[0] for task in tasks])
        ax.set_xlim(-0.5, len(tasks) - 0.5)
        log_axes(ax, "y")
        ax.set_title(labels[what], loc="left", fontsize=7.5)


def draw_courses(ax, rows: list, colors: dict) -> None:
    for forcing in dict.fromkeys(row["forcing"] for row in rows):
        found = s.select(rows, forcing=forcing)
        update, median, low, high = (s.column(found, name) for name in ("update", "one_step", "one_step_low", "one_step_high"))
        ax.plot(update, median, color=colors[forcing], linewidth=1)
        ax.fill_between(update, low, high, color=colors[forcing], alpha=0.2, linewidth=0)
    log_axes(ax, "xy")
    ax.set(xlabel="updates", ylabel="one-step error")
    ax.set_title("(e) laser, learning", loc="left")


def draw_networks(ax, rows: list, colors: dict) -> None:
    for network in ("rnn", "output"):
        for task, line in (("laser", "-"), ("lorenz", "--")):
            found = s.select(rows, panel="course network", task=task, network=network)
            seconds, median, low, high = (s.column(found, name) for name in ("seconds", "one_step", "one_step_low", "one_step_high"))
            ax.plot(seconds, median, line, color=colors[network], linewidth=1, label=f"{TITLES[task]}, {NAMES[network].split()[0]}")
            ax.fill_between(seconds, low, high, color=colors[network], alpha=0.2, linewidth=0)
    log_axes(ax, "xy")
    ax.set(xlabel="processor time (s)", ylabel="one-step error")
    ax.set_title("(f) which recurrence", loc="left")
    ax.legend(loc="lower left", fontsize=6, handlelength=1.8)


def draw_speed(ax, rows: list, colors: dict) -> None:
    from fastrnn import plot

    for network, marker in zip(("rnn", "output"), plot.MARKERS):
        found = s.select(rows, network=network)
        batch, median, low, high = (s.column(found, name) for name in ("batch", "median", "low", "high"))
        plot.points_with_intervals(batch, median, low, high, label=NAMES[network], color=colors[network], marker=marker, ax=ax)
    log_axes(ax, "y")
    ax.set(xscale="log", xlabel="sequences in a batch", ylabel="processor time (ms)")
    batches = sorted({row["batch"] for row in rows})
    ax.set_xticks(batches, [f"{batch:g}" for batch in batches])
    ax.minorticks_off()
    ax.set_title("(f) an update, T = 200", loc="left")


if __name__ == "__main__":
    raise SystemExit(s.run(__file__, __doc__, compute, draw, seeds=(2, 5)))
