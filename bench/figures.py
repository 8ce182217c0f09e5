"""What was measured, and its tables."""
import json
import statistics

OURS = "ours"


class Absent(Exception):
    """Someone who can't take part, and why."""


class Aim:
    """What was aimed at: that a ratio be at least so much; or, with own, our figure itself."""

    def __init__(self, least, own=False):
        self.least, self.own = least, own

    def result(self, ours, ratio):
        """None while it can't be told."""
        value = ours if self.own else ratio
        return {"least": self.least, "of": OURS if self.own else "ratio",
                "reached": None if value is None else value >= self.least}


class AtMost(Aim):
    """What was aimed at: that our figure be at most so much."""

    def __init__(self, most):
        super().__init__(most, own=True)

    def result(self, ours, ratio):
        return {**super().result(ours, ratio), "reached": None if ours is None else ours <= self.least}


class Within(Aim):
    """That our figure be neither less nor more."""

    def __init__(self, least, most):
        super().__init__(least, own=True)
        self.most = most

    def result(self, ours, ratio):
        return {**super().result(ours, ratio), "most": self.most, "reached": None if ours is None else self.least <= ours <= self.most}


class Row:
    """One line of a table: what each contestant measured, in the order in which they came.

    rate: more is better. against: the peers of which the best one makes the ratio; None: all."""

    def __init__(self, name, unit, rate=False, aim=None, against=None):
        self.name, self.unit, self.rate, self.aim, self.against = name, unit, rate, aim, against
        self.values = {}

    def add(self, contestant, value):
        self.values.setdefault(contestant, []).append(value)

    def ratio(self, ours, peers):
        rivals = [value for peer, value in peers.items() if not self.against or peer in self.against]
        if not rivals or not ours or not min(rivals):
            return None
        return round(ours / max(rivals) if self.rate else min(rivals) / ours, 4)

    def result(self):
        peers = {who: round(statistics.median(values), 4) for who, values in self.values.items()}
        ours = peers.pop(OURS, None)
        ratio = self.ratio(ours, peers)
        return {"name": self.name, "unit": self.unit, "ours": ours, "peers": peers, "ratio": ratio,
                "aim": self.aim and self.aim.result(ours, ratio)}


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def print_table(rows):
    """rows: lists of cells, the first one the heading; the first two columns are words, the others numbers."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        aligned = [cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))]
        print("  ".join(aligned).rstrip())
    print(flush=True)


def aim_cell(aim):
    if not aim:
        return "-"
    most = f" to {aim['most']:.4g}" if "most" in aim else ""
    return f"{'ours ' if aim['of'] == OURS else ''}{aim['least']:.4g}{most}{', missed' if aim['reached'] is False else ''}"


def cells(results, show):
    """The table of one benchmark's results; show(result, contestant) gives a figure's text."""
    peers = list(dict.fromkeys(peer for result in results for peer in result["peers"]))
    aims = any(result.get("aim") for result in results)
    yield ["name", "unit", OURS, *peers, "ratio", *(["aim"] if aims else [])]
    for result in results:
        figures = ["-" if median(result, who) is None else show(result, who) for who in (OURS, *peers)]
        ratio = "-" if result["ratio"] is None else f"{result['ratio']:.2f}"
        yield [result["name"], result["unit"], *figures, ratio, *([aim_cell(result.get("aim"))] if aims else [])]


def median(result, who):
    """None if it has none."""
    return result["ours"] if who == OURS else result["peers"].get(who)


def print_rows(rows):
    by_name = {row.name: row for row in rows}

    def with_spread(result, who):
        values = by_name[result["name"]].values[who]
        return f"{number(median(result, who))} ({number(min(values))}..{number(max(values))})"

    print_table(list(cells([row.result() for row in rows], with_spread)))


def print_markdown(path):
    benchmarks = {}
    for result in json.loads(path.read_text()):
        benchmarks.setdefault(result["name"].split(".")[0], []).append(result)
    for name, results in benchmarks.items():
        table = list(cells(results, lambda result, who: number(median(result, who))))
        table.insert(1, ["---", "---", *["---:"] * (len(table[0]) - 2)])
        print(f"### {name}\n")
        for row in table:
            print("| " + " | ".join(row) + " |")
        print()
