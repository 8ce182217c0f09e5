"""crore swarm, against crore serve and against servers that misbehave in known ways."""
import json
import os
import selectors
import signal
import socket
import subprocess
import tempfile
import threading
import time

from tap import CRORE, Server, main, run, wait_until


class Echo:
    """An echo server in a thread. answer(connection's number, bytes sent back so far, data) gives what to send back, or None to
    close; it may sleep, which stalls all connections."""

    def __init__(self, answer=lambda number, done, data: data, tick=None):
        self.answer, self.tick = answer, tick
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.url = "tcp://127.0.0.1:%d" % self.listener.getsockname()[1]
        self.done, self.numbers, self.ends = {}, {}, False
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def serve(self):
        select = selectors.DefaultSelector()
        select.register(self.listener, selectors.EVENT_READ)
        while not self.ends:
            for key, _ in select.select(0.05):
                if key.fileobj is self.listener:
                    sock = self.listener.accept()[0]
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self.numbers[sock], self.done[sock] = len(self.numbers), 0
                    select.register(sock, selectors.EVENT_READ)
                elif not self.serve_one(key.fileobj):
                    select.unregister(key.fileobj)
                    key.fileobj.close()
            if self.tick:
                self.tick(self, select)
        for sock in self.numbers:
            sock.close()

    def serve_one(self, sock):
        try:
            data = sock.recv(65536)
            data = self.answer(self.numbers[sock], self.done[sock], data) if data else None
            if data is None:
                return False
            sock.sendall(data)
            self.done[sock] += len(data)
            return True
        except OSError:
            return False

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ends = True
        self.thread.join()
        self.listener.close()


def swarm(url, *args, timeout=60):
    """(exit status, table, figures) of a run; checks what must hold in each."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        done = run("swarm", "--quiet", "--json", file.name, *args, url, timeout=timeout)
        assert done.returncode in (0, 1) and done.stderr == "", done
        figures = json.load(file)
    check_figures(figures)
    assert figures["good"] == (done.returncode == 0), (done, figures)
    return done.returncode, done.stdout, figures


def check_figures(f):
    latency = f["latency_ns"]
    order = [latency[name] for name in ("p50", "p90", "p99", "p99.9", "p99.99", "max")]
    assert order == sorted(order) and 0 <= latency["mean"] <= latency["max"], latency
    assert f["received"] <= f["sent"] and f["wrong"] <= f["received"] and f["late"] <= f["received"], f
    assert f["opened"] <= f["connections"] and f["lost"] <= f["opened"], f
    assert f["received_bytes"] >= f["received"] * f["size_bytes"], f
    if f["send_seconds"] > 0:
        assert abs(f["messages_per_second"] - f["received"] / f["send_seconds"]) <= 0.01 * f["messages_per_second"] + 0.1, f
    assert f["lost"] == sum(f["io_errors"].values()), f
    values = [value for _, value in f["distribution"]]
    assert values == sorted(values) and all(0 <= at < 1 for at, _ in f["distribution"]), f
    seconds = [sample["seconds"] for sample in f["samples"]]
    assert seconds == sorted(seconds), f
    for sample in f["samples"]:
        assert 0 <= sample["open"] <= f["connections"] and sample["p50_ns"] <= sample["p99_ns"] <= sample["max_ns"] <= latency["max"], sample


def row(table, name):
    """The number in that line of the table."""
    line = next(line for line in table.splitlines() if line.strip().startswith(name))
    return float(line.strip()[len(name):].split()[0])


def test_good():
    """against crore serve --echo all comes back right, at the rate and for as long as asked"""
    with Server("--echo") as server:
        code, table, f = swarm(server.url, "--connections", "50", "--rate", "2000", "--size", "100", "--duration", "2s")
    assert code == 0, (table, f)
    assert (f["connections"], f["rate"], f["size_bytes"], f["opened"], f["lost"], f["wrong"]) == (50, 2000, 100, 50, 0, 0), f
    assert f["sent"] == f["received"] and abs(f["received"] - 4000) <= 50 and f["received_bytes"] == 100 * f["received"], f
    assert 1.9 < f["send_seconds"] < 4 and f["dial_errors"] == f["io_errors"] == {} and not f["interrupted"], f
    assert any(sample["sending"] and sample["open"] == 50 and 500 < sample["messages_per_second"] < 8000 for sample in f["samples"]), f["samples"]
    assert row(table, "connections opened") == 50 and row(table, "messages") == f["received"] and row(table, "messages wrong") == 0, table


def test_workers():
    """with several workers all comes back right, each connection is counted once, and the samples add up"""
    with Server("--echo", "--workers", "3") as server:
        for count in ("50", "2"):
            code, table, f = swarm(server.url, "--workers", "3", "--connections", count, "--rate", "2000", "--duration", "2s")
            assert code == 0 and f["opened"] == int(count) and f["workers"] == 3, (table, f)
            assert f["sent"] == f["received"] and abs(f["received"] - 4000) <= 50, f
            assert any(sample["open"] == int(count) and 500 < sample["messages_per_second"] < 8000 for sample in f["samples"]), f["samples"]
        code, table, f = swarm(server.url, "--workers", "3", "--connections", "9", "--dials", "3", "--rate", "0", "--duration", "500ms")
        assert code == 0 and f["received"] > 300, (table, f)
    with Echo(lambda number, done, data: data[:-1] + bytes([data[-1] ^ 1]) if number == 3 and done == 640 else data) as server:
        code, table, f = swarm(server.url, "--workers", "3", "--connections", "5", "--rate", "500", "--duration", "500ms")
    assert code == 1 and f["wrong"] == 1, (table, f)


def test_rate_0():
    """with --rate 0 each connection sends as soon as it has its answer"""
    with Server("--echo") as server:
        code, table, f = swarm(server.url, "--connections", "5", "--rate", "0", "--duration", "500ms")
    assert code == 0 and f["received"] > 1000 and f["late"] == 0 and "messages late" not in table, (table, f)
    assert f["latency_ns"]["mean"] * f["received"] <= 5 * 1e9 * f["send_seconds"] * 1.01, "one message is out at a time: their times can't add up to more than there was"


def test_sizes():
    """messages from one byte to 64 KiB come back right"""
    with Server("--echo") as server:
        for size in ("1", "7", "16383", "16385", "64k"):
            code, table, f = swarm(server.url, "--connections", "3", "--rate", "60", "--size", size, "--duration", "200ms")
            assert code == 0 and f["received"] >= 9 and f["received_bytes"] == f["received"] * f["size_bytes"], (size, table, f)


def test_unix():
    """a unix: URL works"""
    with tempfile.TemporaryDirectory() as folder, Server("--echo", url=f"unix:{folder}/echo") as server:
        code, table, f = swarm(server.url, "--connections", "20", "--rate", "1000", "--duration", "300ms")
    assert code == 0 and f["opened"] == 20 and f["received"] >= 280, (table, f)


def test_corrupted():
    """one wrong byte is seen: one message is counted, and the exit status is 1"""
    with Echo(lambda number, done, data: data[:-1] + bytes([data[-1] ^ 1]) if number == 3 and done == 640 else data) as server:
        code, table, f = swarm(server.url, "--connections", "5", "--rate", "500", "--duration", "500ms")
    assert code == 1 and f["wrong"] == 1 and f["sent"] == f["received"] and row(table, "messages wrong") == 1, (table, f)


def test_mixed_up():
    """an answer that belongs to another connection is wrong"""
    held = {}

    def swap(number, done, data):
        held[number] = data
        return held.get(1 - number, data) if done else data

    with Echo(swap) as server:
        code, table, f = swarm(server.url, "--connections", "2", "--rate", "100", "--duration", "300ms")
    assert code == 1 and f["wrong"] >= f["received"] - 4 > 0, (table, f)


def test_too_much():
    """more than was sent coming back is wrong"""
    with Echo(lambda number, done, data: data + b"!" if done == 640 else data) as server:
        code, table, f = swarm(server.url, "--connections", "2", "--rate", "200", "--duration", "300ms")
    assert code == 1 and f["wrong"] >= 1, (table, f)


def test_refused():
    """a connection that is refused: exit status 1, and the table says why"""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = "tcp://127.0.0.1:%d" % unused.getsockname()[1]
    begin = time.time()
    code, table, f = swarm(url, "--connections", "10", "--duration", "20s")
    assert time.time() - begin < 5
    assert code == 1 and f["opened"] == f["sent"] == 0 and list(f["dial_errors"]) == ["Connection refused"], (table, f)
    assert any("could not connect" in line and "Connection refused" in line for line in table.splitlines()), table


def test_stall():
    """a server that stops answering for a second shows in all messages that were due meanwhile"""
    stalled = []

    def stall(number, done, data):
        if not stalled and done >= 64 * 100:
            stalled.append(True)
            time.sleep(1)
        return data

    with Echo(stall) as server:
        code, table, f = swarm(server.url, "--connections", "10", "--rate", "1000", "--duration", "4s")
    latency = f["latency_ns"]
    assert code == 0 and f["sent"] == f["received"] and abs(f["received"] - 4000) <= 10, (table, f)
    assert latency["max"] >= 0.9e9 and latency["p99"] >= 0.85e9 and latency["p90"] >= 0.4e9, latency
    assert 800 <= f["late"] <= 2500, f["late"] # 1000 were due; catching up takes Python a while
    slow = [1 - at for at, value in f["distribution"] if value >= 0.1e9]
    assert 0.7 * 900 <= max(slow) * f["received"] <= 2500, f["distribution"] # 900 were due more than 0.1 s before its end
    assert max(sample["max_ns"] for sample in f["samples"]) == latency["max"], f["samples"]


def test_closed_midway():
    """connections that the server closes while it owes an answer are lost: counted, named, exit status 1"""
    with Echo(lambda number, done, data: None if number < 4 and done >= 64 * 5 else data) as server:
        code, table, f = swarm(server.url, "--connections", "10", "--rate", "500", "--duration", "500ms")
    assert code == 1 and f["lost"] == 4 and row(table, "connections lost") == 4, (table, f)
    assert sum(f["io_errors"].values()) == 4 and "connection error" in table and "Connection reset by peer" in table, (table, f)
    assert f["received"] >= 6 * 24, "the others go on"


def test_closed_idle():
    """connections that the server closes while they have nothing to send are lost, too"""
    closed = []

    def close_some(server, select):
        if closed or sum(server.done.values()) < 64 * 3: # the sending has begun
            return
        for sock, number in server.numbers.items():
            if number >= 15:
                closed.append(number)
                select.unregister(sock)
                sock.close()

    with Echo(tick=close_some) as server: # the last five have no message before the end
        code, table, f = swarm(server.url, "--connections", "20", "--rate", "10", "--duration", "1s")
    assert len(closed) == 5 and code == 1 and f["lost"] == 5, (table, f)


def start(*args):
    return subprocess.Popen([CRORE, "swarm", "--quiet", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def interrupt(process):
    process.send_signal(signal.SIGINT)
    begin = time.time()
    out, err = process.communicate(timeout=20)
    assert time.time() - begin < 2 and err == "", (time.time() - begin, err)
    assert process.returncode in (0, 1) and "connections opened" in out and "interrupted" in out, (process.returncode, out)
    return out


def test_interrupted():
    """SIGINT ends the sending soon, with the table of what was seen"""
    with Echo() as server, start("--workers", "2", "--connections", "10", "--rate", "500", "--duration", "60s", server.url) as process:
        assert wait_until(lambda: sum(server.done.values()) > 64 * 20)
        out = interrupt(process)
    assert row(out, "connections opened") == 10 and row(out, "connections lost") == 0 and row(out, "messages") >= 20, out


def test_interrupted_opening():
    """SIGINT ends the opening of connections soon, too"""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0) # takes one or two; the kernel ignores the others
        with start("--connections", "20", "--duration", "60s", "tcp://127.0.0.1:%d" % full.getsockname()[1]) as process:
            time.sleep(0.5)
            assert process.poll() is None
            out = interrupt(process)
    assert row(out, "messages") == 0, out


def test_connect_rate():
    """--connect-rate opens that many a second"""
    with Server("--echo") as server:
        _, table, f = swarm(server.url, "--connections", "50", "--connect-rate", "100", "--rate", "50", "--duration", "100ms")
    assert f["opened"] == 50 and 0.4 < f["open_seconds"] < 2, (table, f)


def test_json_to_standard_output():
    """--json - writes the figures to standard output, and the table elsewhere"""
    with Server("--echo") as server:
        done = run("swarm", "--quiet", "--connections", "2", "--rate", "20", "--duration", "100ms", "--json", "-", server.url)
    assert done.returncode == 0 and json.loads(done.stdout)["good"] is True and "connections opened" in done.stderr, done


def test_bad_usage():
    """bad input: one line that names it, exit status 2"""
    url = "tcp://127.0.0.1:1"
    for args, part in [
        ([], "name one URL"), ([url, url], "name one URL"), (["http://127.0.0.1"], "http://127.0.0.1"), (["127.0.0.1:7000"], "127.0.0.1:7000"),
        (["--rate", "-1", url], "--rate"), (["--rate", "x", url], "--rate"), (["--connections", "0", url], "--connections"),
        (["--size", "0", url], "--size"), (["--size", "65537", url], "--size"), (["--dials", "0", url], "--dials"), (["--dials", "1025", url], "--dials"),
        (["--duration", "0", url], "--duration"), (["--duration", "1y", url], "--duration"), (["--connect-rate", "1.5", url], "--connect-rate"),
        (["--cpu", "1000", url], "--cpu"), (["--workers", "0", url], "--workers"), (["--json", "/nowhere/x.json", url], "/nowhere/x.json"), (["--nonsense", url], "nonsense"),
    ]:
        done = run("swarm", *args)
        assert done.returncode == 2 and part in done.stderr and done.stdout == "", (args, done)
        lines = done.stderr.splitlines()
        assert len(lines) == 1 and lines[-1].startswith("crore: "), (args, done)
    assert run("swarm", "--help").returncode == 0


def test_bad_url():
    """a URL of a known kind that makes no sense is bad usage, too"""
    for url in ("tcp://127.0.0.1", "tcp://127.0.0.1:99999", "unix:"):
        done = run("swarm", url)
        assert done.returncode == 2 and url in done.stderr and done.stdout == "" and len(done.stderr.splitlines()) == 1, (url, done)


main(globals())
