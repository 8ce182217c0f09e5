"""Benchmarks of servers: HTTP, echo and idle connections.

All servers run on as many processors as they have workers, in turns, and the load on another one; where there is none
left, on the last. What counts is the servers' processor time, so that it may be shared.

Ours runs twice, over epoll and over io_uring, and has rows for both; those of its peers are the same."""
import contextlib
import http.client
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from figures import OURS, Absent, Row

OURS_URING = f"{OURS}-uring"


def server_cpus(workers):
    return f"0-{min(workers, os.cpu_count()) - 1}"


def load_cpu(workers):
    return str(min(workers, os.cpu_count() - 1))


class Server:
    """A server of the benchmark's own, on a free port, in a process group of its own, which ends with the context."""

    def __init__(self, settings, name, command, workers):
        self.settings, self.name, self.command, self.workers = settings, name, command, workers

    def __enter__(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        log_path = self.settings.out / f"{self.name.lower().replace(' ', '-')}.log"
        with log_path.open("w", encoding="utf-8") as log:
            command = ["taskset", "-c", server_cpus(self.workers), *self.command(self.port)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        self.__exit__()
        raise Absent(f"did not start: {log_path.read_text(encoding='utf-8').strip()[-300:]}")

    def __exit__(self, *unused):
        self.process.terminate()
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def pids(self):
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(stat.read_text().rpartition(")")[2].split()[2]) == self.process.pid:  # its group
                    yield stat.parent

    def cpu_ns(self):
        """Processor time of all its processes and threads, user and system."""
        return sum(int(path.read_text().split()[0]) for pid in self.pids() for path in pid.glob("task/*/schedstat"))

    def uses_uring(self):
        return any("io_uring" in os.readlink(fd) for pid in self.pids() for fd in (pid / "fd").iterdir())

    def private_bytes(self):
        maps = "".join((pid / "smaps_rollup").read_text() for pid in self.pids())
        return 1024 * sum(map(int, re.findall(r"^Private_(?:Clean|Dirty): *(\d+) kB", maps, re.M)))


@contextlib.contextmanager
def all_up(settings, commands, workers, check=lambda server: None):
    """Those of the servers that start and answer as they should."""
    with contextlib.ExitStack() as stack:
        up = {}
        for name, command in commands.items():
            with settings.present(name):
                server = stack.enter_context(Server(settings, name, command, workers))
                check(server)
                if name == OURS_URING and not server.uses_uring():
                    raise Absent("CR_POLLER=uring changes nothing")
                up[name] = server
        yield up


def program_path(name, *places):
    path = shutil.which(name, path=os.pathsep.join([*map(str, places), os.environ["PATH"], "/usr/sbin"]))
    if not path:
        raise Absent(f"{name} is not here")
    return path


def crore_serve(settings, workers, poller, *options):
    path = settings.build / "tools" / "crore"
    count = ["--workers", str(workers)] if workers > 1 else []
    return lambda port: ["env", f"CR_POLLER={poller}", "CR_WORKERS=1", program_path("crore", path), "serve", "--quiet",
                         "--idle-timeout", "600s", "--listen", f"tcp://127.0.0.1:{port}", *count, *options]


def built(settings, program, *arguments):
    """Of the arguments, PORT stands for the port."""
    return lambda port: [program_path(program, settings.build / "bench"),
                         *(str(port) if word == "PORT" else str(word) for word in arguments)]


NGINX = """daemon off; worker_processes {workers}; pid {folder}/nginx.pid; error_log stderr crit; {user}
events {{ worker_connections 16384; }}
http {{
    access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096 reuseport;
        location / {{ default_type text/plain; return 200 "hello"; }}
    }}
}}
"""
H2O = """num-threads: {workers}
max-connections: 16384
{user}
listen: {{host: 127.0.0.1, port: {port}}}
hosts:
  default:
    paths:
      /: {{file.dir: {folder}/files}}
"""


def configured(folder, workers, name, template, user, arguments):
    """A server with a configuration file, which keeps the account that runs the benchmark."""
    def command(port):
        path = folder / f"{name}.conf"
        path.write_text(template.format(folder=folder, port=port, workers=workers,
                                        user=user if os.geteuid() == 0 else ""))
        return [program_path(name), *arguments, "-c", str(path)]
    return command


def check_hello(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        body = answer.read()
    except http.client.HTTPException as error:
        raise Absent(f"does not speak HTTP: {error!r}") from error
    finally:
        connection.close()
    if answer.status != 200 or body != b"hello":
        raise Absent(f"answers {answer.status} {body[:40]!r} instead of 200 'hello'")


def wrk(settings, server, connections):
    """(requests, requests a second) of a load without an error."""
    command = ["taskset", "-c", load_cpu(server.workers), program_path("wrk"), "-t1", f"-c{connections}",
               f"-d{settings.seconds}s", f"http://127.0.0.1:{server.port}/"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=settings.seconds + 30, check=False).stdout
    requests = re.search(r"(\d+) requests in", said)
    rate = re.search(r"Requests/sec: *([0-9.]+)", said)
    if "Socket errors" in said or "Non-2xx" in said or not requests or not rate:
        raise Absent(f"under load: {said.strip()[-300:]}")
    return int(requests[1]), float(rate[1])


class Loads:
    """Which loads a benchmark has, and its rows: for each load processor time and rate, over each poller of ours.

    connections: {workers: numbers of connections}. cost: how the names of rows of processor time begin."""

    def __init__(self, bench, cost, connections):
        self.bench, self.cost, self.connections = bench, cost, connections

    def pair(self, workers, count, poller):
        suffix = (f"-{workers}w" if workers > 1 else "") + ("-uring" if poller == OURS_URING else "")
        return (Row(f"{self.bench}.{self.cost}{count}{suffix}", "CPU ns"),
                Row(f"{self.bench}.rate-{count}{suffix}", "per second", rate=True))

    def pairs(self, wanted=None):
        """{workers: {connections: {poller: pair}}} of those of which a row is wanted."""
        pairs = {}
        for workers, counts in self.connections.items():
            for count in counts:
                for poller in OURS, OURS_URING:
                    pair = self.pair(workers, count, poller)
                    if wanted is None or any(row.name in wanted for row in pair):
                        pairs.setdefault(workers, {}).setdefault(count, {})[poller] = pair
        return pairs


def rows_of(pairs):
    return [row for counts in pairs.values() for pollers in counts.values() for pair in pollers.values()
            for row in pair]


def row_names(loads):
    return [row.name for row in rows_of(loads.pairs())]


def record(pollers, who, cost_ns, per_second):
    """Each of ours belongs to the rows of its poller, a peer to all."""
    for poller, (cost, rate) in pollers.items():
        if who == poller or who not in (OURS, OURS_URING):
            cost.add(OURS if who == poller else who, cost_ns)
            rate.add(OURS if who == poller else who, per_second)


def bench_loads(settings, wanted, loads, servers_of, run):
    """servers_of(workers): a context with the servers; run(settings, server, connections): (messages, a second)."""
    pairs = loads.pairs(wanted)
    for workers, counts in pairs.items():
        with servers_of(workers) as servers:
            for count, pollers in counts.items():
                for _ in range(settings.rounds):
                    for who, server in servers.items():
                        with settings.present(who):
                            cost_ns, per_second = run(settings, server, count)
                            record(pollers, who, cost_ns, per_second)
    return [row for row in rows_of(pairs) if row.name in wanted]


HTTP = Loads("http", "cpu-", {1: (100, 1000), 2: (1000,)})


def http_servers(settings, folder, workers):
    return {
        OURS: crore_serve(settings, workers, "epoll", "--return", "hello"),
        OURS_URING: crore_serve(settings, workers, "uring", "--return", "hello"),
        "nginx": configured(folder, workers, "nginx", NGINX, "user root;", ["-e", "stderr", "-p", str(folder)]),
        "h2o": configured(folder, workers, "h2o", H2O, "user: root", []),
        "hyper": built(settings, "peer_tokio", f"http-{workers}", "PORT"),
        "Go": built(settings, "peer_go", f"http-{workers}", "PORT"),
    }


def load_http(settings, server, connections):
    before = server.cpu_ns()
    requests, per_second = wrk(settings, server, connections)
    return (server.cpu_ns() - before) / requests, per_second


def bench_http(settings, wanted):
    """Server processor time of one request for "hello", keep-alive, and how many a second."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "files").mkdir()
        (folder / "files" / "index.html").write_text("hello")

        def servers_of(workers):
            return all_up(settings, http_servers(settings, folder, workers), workers, check_hello)

        return bench_loads(settings, wanted, HTTP, servers_of, load_http)


class EchoLoad:
    """echo_load with its connections open; resets them at the end of the context."""

    def __init__(self, settings, server, connections):
        path = settings.build / "bench" / "echo_load"
        command = ["timeout", "120", "taskset", "-c", load_cpu(server.workers), path, server.port, connections,
                   settings.seconds]
        self.process = subprocess.Popen([str(word) for word in command], text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __enter__(self):
        self.said("ready")
        return self

    def said(self, pattern):
        line = self.process.stdout.readline()
        found = re.match(pattern, line)
        if not found:
            self.process.kill()
            raise Absent(f"under load: {self.process.stderr.read().strip()[-300:]}")
        return found

    def run(self):
        """(messages, messages a second)"""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found = self.said(r"messages (\d+) seconds ([0-9.]+)")
        return int(found[1]), int(found[1]) / float(found[2])

    def __exit__(self, *unused):
        self.process.communicate()


ECHO = Loads("echo", "", {1: (64, 1000, 10000), 2: (1000,)})
IDLE_CONNECTIONS = 10000


def echo_servers(settings, workers):
    return {
        OURS: crore_serve(settings, workers, "epoll", "--echo"),
        OURS_URING: crore_serve(settings, workers, "uring", "--echo"),
        "epoll by hand": built(settings, "peer_epoll", "PORT", workers),
        "io_uring by hand": built(settings, "peer_uring", "PORT", workers),
        "Tokio": built(settings, "peer_tokio", f"echo-{workers}", "PORT"),
        "Go": built(settings, "peer_go", f"echo-{workers}", "PORT"),
    }


def load_echo(settings, server, connections):
    with EchoLoad(settings, server, connections) as load:
        before = server.cpu_ns()
        messages, per_second = load.run()
        return (server.cpu_ns() - before) / messages, per_second


def bench_echo(settings, wanted):
    """Server processor time of one message of 64 bytes with all connections active, and how many a second."""
    def servers_of(workers):
        return all_up(settings, echo_servers(settings, workers), workers)

    return bench_loads(settings, wanted, ECHO, servers_of, load_echo)


MOST_CONNECTIONS = 19500 # what a process that may open 20,000 files can hold


def idle_memory(settings, server):
    """Bytes of user memory of a connection."""
    with EchoLoad(settings, server, 1):
        pass
    before = server.private_bytes()
    with EchoLoad(settings, server, IDLE_CONNECTIONS):
        time.sleep(settings.seconds / 4)
        return (server.private_bytes() - before) / IDLE_CONNECTIONS


def idle_cpu(settings, server):
    """Per cent of a processor, with as many connections as there can be, and nothing to do."""
    with EchoLoad(settings, server, MOST_CONNECTIONS):
        time.sleep(1)
        before, begin = server.cpu_ns(), time.monotonic_ns()
        time.sleep(settings.seconds * 2)
        return 100 * (server.cpu_ns() - before) / (time.monotonic_ns() - begin)


IDLE = {"idle.connection": ("bytes", idle_memory), "idle.cpu": ("% of a core", idle_cpu)}


def bench_idle(settings, wanted):
    """Connections on which one message went to and fro, and then none. Fresh servers each time."""
    rows = [Row(name, IDLE[name][0]) for name in wanted]
    for row in rows:
        for _ in range(settings.rounds if row.name == "idle.connection" else 1):
            for who, command in echo_servers(settings, 1).items():
                with settings.present(who), Server(settings, who, command, 1) as server:
                    row.add(who, IDLE[row.name][1](settings, server))
    return rows
