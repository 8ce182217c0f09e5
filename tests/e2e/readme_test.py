"""The server that the README builds step by step: compiled as it stands there, and talked to; and an example that it names."""
import os
import re
import signal
import socket
import subprocess
import tempfile
import time

import tap
from tap import CRORE, MORE, Skip, sanitized, wait_until

BUILD, README = MORE
with open(README) as file:
    BLOCKS = re.findall(r"^```c\n(.*?)^```$", file.read(), re.M | re.S)


def compiled(folder, source, name):
    if sanitized(CRORE):
        raise Skip("built with sanitizers")
    path = os.path.join(folder, name)
    with open(path + ".c", "w") as file:
        file.write(source)
    environment = {**os.environ, "PKG_CONFIG_PATH": os.path.join(BUILD, "meson-uninstalled")}
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "crore"], env=environment, check=True, capture_output=True, text=True).stdout.split()
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", path + ".c", "-o", path, *flags, "-Wl,-rpath," + os.path.join(BUILD, "src")], check=True)
    return path


class Running:
    """A program that serves on a free port."""

    def __init__(self, path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen([path, f"tcp://127.0.0.1:{self.port}"], stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        assert wait_until(self.listens)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def listens(self):
        try:
            self.connect().close()
            return True
        except ConnectionRefusedError:
            return False

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)


def test_first_step():
    """the first program compiles without a warning, and echoes"""
    with tempfile.TemporaryDirectory() as folder, Running(compiled(folder, BLOCKS[0], "first")) as server, server.connect() as sock:
        sock.sendall(b"hello\n")
        assert sock.recv(100) == b"hello\n"


def test_last_step():
    """the last one, put together from all steps, answers whole lines and ends on SIGTERM when its clients have gone"""
    head = BLOCKS[0][:BLOCKS[0].index("static void session")]
    with tempfile.TemporaryDirectory() as folder, Running(compiled(folder, head + "".join(BLOCKS[1:4]), "last")) as server:
        with server.connect() as sock:
            sock.sendall(b"one\ntwo\nthr")
            assert sock.recv(100) == b"one\ntwo\n"
            server.process.send_signal(signal.SIGTERM)
            sock.sendall(b"ee\n")
            assert sock.recv(100) == b"three\n"
        assert server.process.wait(timeout=10) == 0


def test_task_echo():
    """the example of tasks answers several clients"""
    with Running(os.path.join(BUILD, "examples", "task_echo")) as server, server.connect() as one, server.connect() as two:
        for sock, text in ((one, b"one"), (two, b"two"), (one, b"again")):
            sock.sendall(text)
            assert sock.recv(100) == text


def test_fan_out():
    """the example of a pipeline adds up the same on one worker and on several, and gives up at its deadline"""
    for workers in ("1", "3"):
        done = subprocess.run([os.path.join(BUILD, "examples", "fan_out"), "20000"], env={**os.environ, "CR_WORKERS": workers}, capture_output=True, text=True, timeout=60)
        steps = sum(map(steps_of, range(1, 20001)))
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"{steps} steps"), done
    begin = time.time()
    done = subprocess.run([os.path.join(BUILD, "examples", "fan_out"), "1000000000"], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "not done in time" and 1.9 < time.time() - begin < 30, done


def steps_of(x):
    steps = 0
    while x != 1:
        x = 3 * x + 1 if x % 2 else x // 2
        steps += 1
    return steps


if __name__ == "__main__":
    tap.main(globals())
