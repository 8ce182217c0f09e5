"""Benchmarks of servers: HTTP, echo and idle connections.

All servers run on one processor, in turns, and the load on another; on a machine that has one, on the same."""
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

SERVER_CPU, LOAD_CPU = (0, 1) if os.cpu_count() > 1 else (0, 0)


class Server:
    """A server of the benchmark's own, on a free port, in a process group of its own, which ends with the context."""

    def __init__(self, settings, name, command):
        self.settings, self.name, self.command = settings, name, command

    def __enter__(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        log_path = self.settings.out / f"{self.name.lower().replace(' ', '-')}.log"
        with log_path.open("w", encoding="utf-8") as log:
            command = ["taskset", "-c", str(SERVER_CPU), *self.command(self.port)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True,
                                            env={**os.environ, "GOMAXPROCS": "1"})
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

    def private_bytes(self):
        maps = "".join((pid / "smaps_rollup").read_text() for pid in self.pids())
        return 1024 * sum(map(int, re.findall(r"^Private_(?:Clean|Dirty): *(\d+) kB", maps, re.M)))


@contextlib.contextmanager
def all_up(settings, commands, check=lambda server: None):
    """Those of the servers that start and answer as they should."""
    with contextlib.ExitStack() as stack:
        up = {}
        for name, command in commands.items():
            with settings.present(name, command):
                server = stack.enter_context(Server(settings, name, command))
                check(server)
                up[name] = server
        yield up


def program_path(name, *places):
    path = shutil.which(name, path=os.pathsep.join([*map(str, places), os.environ["PATH"], "/usr/sbin"]))
    if not path:
        raise Absent(f"{name} is not here")
    return path


def crore_serve(settings, *options):
    path = settings.build / "tools" / "crore"
    return lambda port: [program_path("crore", path), "serve", "--quiet", "--idle-timeout", "600s", "--listen",
                         f"tcp://127.0.0.1:{port}", *options]


def built(settings, program, *arguments):
    return lambda port: [program_path(program, settings.build / "bench"), *arguments, str(port)]


NGINX = """daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr crit; {user}
events {{ worker_connections 16384; }}
http {{
    access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ default_type text/plain; return 200 "hello"; }}
    }}
}}
"""
H2O = """num-threads: 1
max-connections: 16384
{user}
listen: {{host: 127.0.0.1, port: {port}}}
hosts:
  default:
    paths:
      /: {{file.dir: {folder}/files}}
"""


def configured(folder, name, template, user, arguments):
    """A server with a configuration file, which keeps the account that runs the benchmark."""
    def command(port):
        path = folder / f"{name}.conf"
        path.write_text(template.format(folder=folder, port=port, user=user if os.geteuid() == 0 else ""))
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


def wrk(port, connections, seconds):
    """(requests, requests a second) of a load without an error."""
    command = ["taskset", "-c", str(LOAD_CPU), program_path("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s",
               f"http://127.0.0.1:{port}/"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=False).stdout
    requests = re.search(r"(\d+) requests in", said)
    rate = re.search(r"Requests/sec: *([0-9.]+)", said)
    if "Socket errors" in said or "Non-2xx" in said or not requests or not rate:
        raise Absent(f"under load: {said.strip()[-300:]}")
    return int(requests[1]), float(rate[1])


def load_rows(bench, unit, wanted, counts, cost="cpu-", rate="rate-"):
    """The two rows of each number of connections that is wanted."""
    rows = {}
    for count in counts:
        pair = Row(f"{bench}.{cost}{count}", unit), Row(f"{bench}.{rate}{count}", "per second", rate=True)
        if any(row.name in wanted for row in pair):
            rows[count] = pair
    return rows


def chosen(rows, wanted):
    return [row for pair in rows.values() for row in pair if row.name in wanted]


HTTP_CONNECTIONS = (100, 1000)


def bench_http(settings, wanted):
    """Server processor time of one request for "hello", keep-alive, and how many a second."""
    rows = load_rows("http", "CPU ns", wanted, HTTP_CONNECTIONS)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "files").mkdir()
        (folder / "files" / "index.html").write_text("hello")
        commands = {
            OURS: crore_serve(settings, "--return", "hello"),
            "nginx": configured(folder, "nginx", NGINX, "user root;", ["-e", "stderr", "-p", str(folder)]),
            "h2o": configured(folder, "h2o", H2O, "user: root", []),
            "Go": built(settings, "peer_go", "http"),
        }
        with all_up(settings, commands, check_hello) as servers:
            for connections, (cost, rate) in rows.items():
                for _ in range(settings.rounds):
                    for who, server in servers.items():
                        with settings.present(who, f"wrk {connections}"):
                            before = server.cpu_ns()
                            requests, per_second = wrk(server.port, connections, settings.seconds)
                            cost.add(who, (server.cpu_ns() - before) / requests)
                            rate.add(who, per_second)
    return chosen(rows, wanted)


class EchoLoad:
    """echo_load with its connections open; resets them at the end of the context."""

    def __init__(self, settings, server, connections):
        path = settings.build / "bench" / "echo_load"
        command = ["timeout", "120", "taskset", "-c", str(LOAD_CPU), path, server.port, connections, settings.seconds]
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


ECHO_CONNECTIONS = (64, 1000, 10000)
IDLE_CONNECTIONS = 10000


def echo_servers(settings):
    return {OURS: crore_serve(settings, "--echo"), "epoll by hand": built(settings, "peer_epoll"),
            "Go": built(settings, "peer_go", "echo")}


def bench_echo(settings, wanted):
    """Server processor time of one message of 64 bytes with all connections active, and how many a second."""
    rows = load_rows("echo", "CPU ns", wanted, ECHO_CONNECTIONS, cost="")
    with all_up(settings, echo_servers(settings)) as servers:
        for connections, (cost, rate) in rows.items():
            for _ in range(settings.rounds):
                for who, server in servers.items():
                    with (settings.present(who, f"echo {connections}"),
                          EchoLoad(settings, server, connections) as load):
                        before = server.cpu_ns()
                        messages, per_second = load.run()
                        cost.add(who, (server.cpu_ns() - before) / messages)
                        rate.add(who, per_second)
    return chosen(rows, wanted)


def bench_idle(settings, wanted):
    """User memory of a connection on which one message went to and fro, and then none. Fresh servers each time."""
    rows = [Row(name, "bytes") for name in wanted]
    for _ in range(settings.rounds):
        for who, command in echo_servers(settings).items():
            with settings.present(who, "idle"), Server(settings, who, command) as server:
                with EchoLoad(settings, server, 1):
                    pass
                before = server.private_bytes()
                with EchoLoad(settings, server, IDLE_CONNECTIONS):
                    time.sleep(settings.seconds / 4)
                    rows[0].add(who, (server.private_bytes() - before) / IDLE_CONNECTIONS)
    return rows
