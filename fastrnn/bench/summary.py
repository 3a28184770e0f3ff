"""What the rounds say: medians over rounds, ratios within a round, and who was left out and why."""

import numpy as np

from .cases import Case, operations, traffic

QUARTILES = [0.25, 0.5, 0.75]


def rows(units: dict[str, list[dict]]) -> list[dict]:
    """A row for every case and pass that was timed.

    Returns
    -------
    list of dict
        ``case`` (Case) and ``pass``; ``seconds`` of fastrnn, the median, and ``rounds``, how many; ``gflops``, 10^9 operations a second,
        and ``operations``, ``bytes`` as `cases` counts them; ``peers``, by library a dict of ``seconds`` (median), ``rounds`` (seconds
        of each), ``ratio``, its time over fastrnn's in the same round, as a triple of quartiles, and ``difference``, as far as
        its results are off.
    """
    times, differences = {}, {}
    for name, records in units.items():
        for record in records:
            if "seconds" in record:
                at = times.setdefault((Case(*record["case"]), record["pass"]), {}).setdefault(record["library"], {})
                at[name.partition(",")[0]] = record["seconds"]
            elif "difference" in record:
                differences[record["library"], Case(*record["case"])] = record["difference"]
    return [_row(case, direction, found, differences) for (case, direction), found in times.items() if "fastrnn" in found]


def _row(case: Case, direction: str, found: dict, differences: dict) -> dict:
    ours = found["fastrnn"]
    seconds, work = float(np.median([*ours.values()])), operations(case, direction)
    row = {"case": case, "pass": direction, "seconds": seconds, "rounds": list(ours.values()), "operations": work}
    row |= {"bytes": traffic(case, direction), "gflops": work / seconds / 1e9, "peers": {}}
    for peer, theirs in found.items():
        ratios = [theirs[k] / ours[k] for k in theirs if k in ours]
        if peer != "fastrnn" and ratios:
            quartiles = tuple(float(q) for q in np.quantile(ratios, QUARTILES))
            row["peers"][peer] = {"seconds": float(np.median([*theirs.values()])), "rounds": list(theirs.values()), "ratio": quartiles}
            row["peers"][peer]["difference"] = differences.get((peer, case), 0.0)
    return row


def fastest(row: dict) -> tuple[str, float] | None:
    """The fastest peer of a row, and its ratio; None where nobody else was timed."""
    ratios = {peer: found["ratio"][1] for peer, found in row["peers"].items()}
    return min(ratios.items(), key=lambda entry: entry[1]) if ratios else None


def left_out(units: dict[str, list[dict]]) -> list[str]:
    """Sentences: what a peer lacks, got wrong, or failed at. Those that are not installed are the caller's to name."""
    reasons = {}
    for name, records in units.items():
        for record in records:
            library = record["library"]
            if "lacks" in record:
                reasons.setdefault((library, record["lacks"]), set()).add(Case(*record["case"]))
            elif record.get("agrees") is False:
                reason = f"its results are off by {record['difference']:.1e}"
                reasons.setdefault((library, reason), set()).add(Case(*record["case"]))
            elif "failed" in record:
                what = {Case(*record["case"])} if "case" in record else set()
                reasons.setdefault((library, f"failed in {name}: {record['failed']}"), set()).update(what)
    return [f"{library}: {reason}{_where(cases)}" for (library, reason), cases in sorted(reasons.items(), key=lambda entry: entry[0])]


def _where(cases: set[Case]) -> str:
    return f" ({len(cases)} case{'s' * (len(cases) > 1)}, such as {label(min(cases))})" if cases else ""


def disagreements(units: dict[str, list[dict]]) -> int:
    """How many cases a peer computes otherwise than fastrnn."""
    return sum(record.get("agrees") is False for records in units.values() for record in records)


def label(case: Case) -> str:
    """Cell, dtype and sizes on one line.

    Examples
    --------
    >>> from fastrnn.bench.cases import Case
    >>> label(Case("lstm", "float32", 100, 32, 64, 64, "ragged"))
    'lstm float32 T 100, B 32, D 64, H 64, ragged'
    """
    name = f"{case.cell} {case.dtype} T {case.T}, B {case.B}, D {case.D}, H {case.H}"
    return name if case.variant == "plain" else f"{name}, {case.variant}"


def table(units: dict[str, list[dict]], peers) -> list[str]:
    """The rows as lines of text: milliseconds, rate, and for every peer milliseconds, ratio and its middle half, agreement.

    The ratio is the peer's time over fastrnn's: above 1 where fastrnn is faster.
    """
    head = f"{'cell':<5}{'dtype':<8}{'T':>6}{'B':>5}{'D':>5}{'H':>5}  {'variant':<14}{'pass':<9}{'ms':>10}{'GFLOP/s':>9}"
    lines = [head + "".join(f" | {peer + ' ms':>14} ratio (middle half)  off by" for peer in peers)]
    for row in rows(units):
        case = row["case"]
        line = f"{case.cell:<5}{case.dtype:<8}{case.T:>6}{case.B:>5}{case.D:>5}{case.H:>5}  {case.variant:<14}{row['pass']:<9}"
        line += f"{1e3 * row['seconds']:>10.3f}{row['gflops']:>9.1f}"
        for peer in peers:
            found = row["peers"].get(peer)
            if found is None:
                line += f" | {'':>14}{'-':>6}{'':22}"
                continue
            low, middle, high = found["ratio"]
            half = f"({low:.2f} - {high:.2f})"
            line += f" | {1e3 * found['seconds']:>14.3f}{middle:>6.2f} {half:<14} {found['difference']:>6.0e}"
        lines.append(line.rstrip())
    return lines


def ceilings(units: dict[str, list[dict]]) -> list[dict]:
    """The records of the machine's ceilings."""
    return units.get("ceilings", [])


def ceiling(units: dict[str, list[dict]], **wanted) -> float:
    """One of them, by its columns; NaN where it was not measured."""
    found = [r["value"] for r in ceilings(units) if all(r.get(key) == value for key, value in wanted.items())]
    return found[0] if found else float("nan")
