"""End-to-end tests: each function named test_... is a test; its docstring is what it shows. Prints TAP.

    NAME_test.py CRORE [what the test needs more ...] [test_...]     CRORE: the command; test_...: that test only"""
import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback

CRORE = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else "crore"
MORE = [argument for argument in sys.argv[2:] if not argument.startswith("test_")]


def without_slow_reports(text):
    """What a runtime says on a machine that is busy, or slow, is not what these tests are about."""
    if not isinstance(text, str):
        return text
    return re.sub(r"^crore: coroutine .* has run for .* without suspending.*\n(?:[ \t].*\n)*", "", text, flags=re.M)


class Skip(Exception):
    pass


def sanitized(program):
    """Whether it was built with sanitizers, which strace and programs of other builds don't get along with."""
    with open(program, "rb") as file:
        return re.search(b"__(asan|tsan)_init", file.read())


def run_all(namespace, only=None):
    tests = [(n, f) for n, f in list(namespace.items()) if n.startswith("test_") and (not only or n == only)]
    failed = 0
    for number, (name, function) in enumerate(tests, 1):
        what = (function.__doc__ or name).strip().splitlines()[0]
        signal.alarm(120)
        try:
            function()
            print(f"ok {number} - {what}")
        except Skip as why:
            print(f"ok {number} - {what} # SKIP {why}")
        except BaseException:
            failed += 1
            for line in traceback.format_exc().splitlines():
                print("#", line)
            print(f"not ok {number} - {what}")
        finally:
            signal.alarm(0)
        sys.stdout.flush()
    print(f"1..{len(tests)}")
    return 1 if failed else 0


def main(namespace):
    # A shell without job control has what it starts in the background ignore these, and so its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("took too long")))
    only = [argument for argument in sys.argv[2:] if argument.startswith("test_")]
    sys.exit(run_all(namespace, only[0] if only else None))


class Server:
    """`crore serve ...` on a free port; self.address, self.port, self.stop()."""

    def __init__(self, *args, files=None, url="tcp://127.0.0.1:0"):
        prefix = ["prlimit", f"--nofile={files}:{files}"] if files else []
        self.process = subprocess.Popen([*prefix, CRORE, "serve", "--listen", url, *args],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.told = b"" # on standard error, as far as somebody has waited for it
        self.line = self.process.stdout.readline()
        found = re.search(r"on (\S+)$", self.line.strip())
        if not found:
            raise AssertionError("did not start: " + self.line + self.process.stderr.read())
        self.url = found.group(1)
        self.port = int(self.url.rsplit(":", 1)[1]) if self.url.startswith("tcp") else None
        self.address = ("127.0.0.1", self.port)

    def connect(self):
        return socket.create_connection(self.address, timeout=20)

    def wait_until_told(self, text):
        """Until that is on its standard error, or it has ended."""
        while text.encode() not in self.told:
            more = os.read(self.process.stderr.fileno(), 65536)
            if not more:
                break
            self.told += more

    def stop(self, how=signal.SIGTERM, timeout=30):
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, without_slow_reports(self.told.decode() + err)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def run(*args, timeout=60):
    return subprocess.run([CRORE, *args], capture_output=True, text=True, timeout=timeout)


def wait_until(condition, seconds=10):
    end = time.time() + seconds
    while time.time() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False
