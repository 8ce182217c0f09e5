"""Very many parked coroutines, by kind of stack: `crore demo --parked`, and peers' programs."""
import json
import re
import subprocess

from figures import OURS, Absent, AtMost, Row

# row: (options of ours, {peer: command}, at most so many bytes)
PEERS = {"Boost.Fiber": "peer_boost parked", "Go": "peer_go parked", "State Threads": "peer_st parked", "Tokio": "peer_tokio parked"}
MEMORY = {
    "memory.stackless": (["--stack", "stackless"], PEERS, 320),
    "memory.shared": (["--stack", "shared"], PEERS, 400),
    "memory.frozen": (["--stack", "virtual"], PEERS, 768),
    "memory.virtual": (["--stack", "virtual", "--no-freeze"], PEERS, 4600),
    "memory.static": (["--stack", "static"], PEERS, None),
    "memory.static-2k": (["--stack", "packed"], PEERS, 2250),
}
COUNTS = {"100k": 100000, "1M": 1000000, "10M": 10000000}
MOST_SECONDS = 1200
TEN_MILLION = {f"ten-million.{kind}-{count}-{figure}": (kind, count, figure)
               for kind in ("shared", "virtual", "stackless") for count in COUNTS for figure in ("spawn", "wake")}


class Demo:
    """Runs of `crore demo --parked`: each once."""

    def __init__(self, settings):
        self.settings, self.done = settings, {}

    def run(self, count, options):
        key = count, tuple(options)
        if key not in self.done:
            command = [self.settings.build / "tools" / "crore" / "crore", "demo", "--parked", str(count), *options, "--json", "-"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=MOST_SECONDS, check=False)
            found = re.search(r"^\{.*\}$", done.stdout, re.M)
            if done.returncode or not found:
                self.done[key] = Absent(f"'demo --parked {count} {' '.join(options)}' ended with {done.returncode}: {done.stderr.strip()[-300:]}")
            else:
                self.done[key] = json.loads(found[0])
        if isinstance(self.done[key], Exception):
            raise self.done[key]
        return self.done[key]


def peer_bytes(settings, command, count):
    name, case = command.split()
    path, case = settings.build / "bench" / name, f"{case}-{count}"
    if not path.exists():
        raise Absent(f"{path} was not built: its compiler or library is missing")
    done = subprocess.run([path, case, "0"], capture_output=True, text=True, timeout=MOST_SECONDS, check=False, env={"GOMAXPROCS": "1"})
    found = re.search(rf"^{case} ([0-9.]+)$", done.stdout, re.M)
    if done.returncode or not found:
        raise Absent(f"'{name} {case}' ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return float(found[1])


def bench_memory(settings, wanted):
    """Bytes of each, once: it is no figure that varies."""
    demo, rows, peers = Demo(settings), [], {}
    count = COUNTS["100k" if settings.quick else "1M"]
    for name in wanted:
        options, commands, most = MEMORY[name]
        row = Row(name, "bytes", aim=most and AtMost(most))
        with settings.present(OURS):
            figures = demo.run(count, options)
            if name == "memory.frozen" and figures["frozen"] < count:
                raise Absent(f"only {figures['frozen']} of {count} were frozen")
            row.add(OURS, figures["bytes"])
        for who, command in commands.items():
            with settings.present(who):
                if who not in peers:
                    peers[who] = peer_bytes(settings, command, count)
                row.add(who, peers[who])
        rows.append(row)
    return rows


def bench_ten_million(settings, wanted):
    demo, rows = Demo(settings), []
    for name in wanted:
        kind, count, figure = TEN_MILLION[name]
        if settings.quick and count == "10M":
            continue
        row = Row(name, "ns", aim=AtMost(1000) if name == "ten-million.shared-10M-wake" else None)
        with settings.present(OURS):
            row.add(OURS, demo.run(COUNTS[count], ["--stack", kind])[f"{figure}_ns"])
        rows.append(row)
    return rows
