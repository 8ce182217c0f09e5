"""What was measured, and its tables."""
import json
import statistics

OURS = "ours"


class Absent(Exception):
    """Someone who can't take part, and why."""


class Row:
    """One line of a table: what each contestant measured, in the order in which they came."""

    def __init__(self, name, unit, rate=False):
        self.name, self.unit, self.rate, self.values = name, unit, rate, {}

    def add(self, contestant, value):
        self.values.setdefault(contestant, []).append(value)

    def result(self):
        medians = {who: round(statistics.median(values), 4) for who, values in self.values.items()}
        ours = medians.pop(OURS)
        ratio = None
        if medians and ours and min(medians.values()):
            ratio = round(ours / max(medians.values()) if self.rate else min(medians.values()) / ours, 4)
        return {"name": self.name, "unit": self.unit, "ours": ours, "peers": medians, "ratio": ratio}


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def print_table(rows):
    """rows: lists of cells, the first one the heading; the first two columns are words, the others numbers."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        aligned = [cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))]
        print("  ".join(aligned).rstrip())
    print(flush=True)


def cells(results, show):
    """The table of one benchmark's results; show(result, contestant) gives a figure's text."""
    peers = list(dict.fromkeys(peer for result in results for peer in result["peers"]))
    yield ["name", "unit", OURS, *peers, "ratio"]
    for result in results:
        ratio = "-" if result["ratio"] is None else f"{result['ratio']:.2f}"
        figures = [show(result, peer) if peer in result["peers"] else "-" for peer in peers]
        yield [result["name"], result["unit"], show(result, OURS), *figures, ratio]


def median(result, who):
    return number(result["ours"] if who == OURS else result["peers"][who])


def print_rows(rows):
    by_name = {row.name: row for row in rows}

    def with_spread(result, who):
        values = by_name[result["name"]].values[who]
        return f"{median(result, who)} ({number(min(values))}..{number(max(values))})"

    print_table(list(cells([row.result() for row in rows], with_spread)))


def print_markdown(path):
    benchmarks = {}
    for result in json.loads(path.read_text()):
        benchmarks.setdefault(result["name"].split(".")[0], []).append(result)
    for name, results in benchmarks.items():
        table = list(cells(results, median))
        table.insert(1, ["---", "---", *["---:"] * (len(table[0]) - 2)])
        print(f"### {name}\n")
        for row in table:
            print("| " + " | ".join(row) + " |")
        print()
