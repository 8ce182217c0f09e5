"""`crore demo`, small."""
import json
import os
import pty
import re
import shutil
import subprocess
import tempfile

import tap
from tap import CRORE, Skip, sanitized


def demo(*args, files=None):
    prefix = ["prlimit", f"--nofile={files}:{files}"] if files else []
    return subprocess.run([*prefix, CRORE, "demo", *args], capture_output=True, text=True, timeout=100)


def without_privilege():
    """A prefix that keeps root from raising a hard limit."""
    return ["setpriv", "--bounding-set", "-sys_resource"] if os.geteuid() == 0 else []


def test_holds():
    """200 connections are opened, held and verified; a live line, a summary, figures that fit together, and a report that carries them"""
    with tempfile.TemporaryDirectory() as folder:
        report = os.path.join(folder, "new", "report")
        figures = os.path.join(folder, "figures.json")
        result = demo("--connections", "200", "--duration", "2s", "--report", report, "--json", figures)
        assert result.returncode == 0, result
        assert re.search(r"s +200 connections, +\d+ bytes each +\d+ messages/s  p50 .* ms  p99", result.stdout), result.stdout
        assert "messages wrong                    0" in result.stdout
        with open(figures) as file:
            text = file.read()
        run = json.loads(text)["swarm"]
        assert run["good"] and run["opened"] == 200 and run["received"] == run["sent"] == 400, run
        least = 500 if os.environ.get("CR_STACK") == "shared" else 1000 # whose stacks are shared, too
        assert least < json.loads(text)["user_bytes_per_connection"] < 20000
        with open(os.path.join(report, "index.html")) as file:
            page = file.read()
        assert text in page and "@FIGURES@" not in page
        assert not re.search(r"(src|href)=", page), "the report needs another file"


def test_parked_kinds():
    """parked coroutines of each kind of stack are all spawned, woken once each, verified, and end"""
    for kind in ("virtual", "shared", "stackless", *([] if sanitized(CRORE) else ["static"])): # whose 4 KiB hold no sanitizer's frames
        result = demo("--parked", "3000", "--stack", kind)
        assert result.returncode == 0, (kind, result)
        assert f"3000 coroutines, {kind}, " in result.stdout and "3000 locals right, 0 wrong, 0 lost: good" in result.stdout, (kind, result.stdout)


def test_parked_live():
    """on a terminal a line tells how far it is, while they are spawned and while they are woken"""
    master, slave = pty.openpty()
    command = subprocess.Popen([CRORE, "demo", "--parked", "60000", "--stack", "virtual", "--no-freeze"], stdout=slave, stderr=slave)
    os.close(slave)
    seen = b""
    try:
        while chunk := os.read(master, 65536):
            seen += chunk
    except OSError: # the other side is closed
        pass
    os.close(master)
    assert command.wait(timeout=100) == 0, seen
    assert re.search(rb"\r\x1b\[K  spawned \d+ of 60000, [\d.]+ s, \d+ MiB", seen), seen
    assert b"60000 locals right, 0 wrong, 0 lost: good" in seen, seen


def test_workers():
    """with several workers on each side all is held and verified, too"""
    result = demo("--workers", "2", "--connections", "100", "--duration", "1s")
    assert result.returncode == 0 and "2 workers on each side" in result.stdout, result
    assert float(re.search(r"server's time +(\d+) +% of one processor", result.stdout).group(1)) < 200, result.stdout


def test_held_back():
    """a limit on open files is found, named, and what it allows is held"""
    command = [*without_privilege(), "prlimit", "--nofile=150:150", CRORE, "demo", "--duration", "1s"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result
    assert "held back: a process may open 150 files here, hard limit (ulimit -Hn): 50 connections, not 100000" in result.stdout
    assert re.search(r"connections opened +50 +of 50", result.stdout), result.stdout


def test_steady_memory():
    """while it holds steady neither side makes a kernel call for memory"""
    if not shutil.which("strace"):
        raise Skip("no strace")
    if sanitized(CRORE):
        raise Skip("built with sanitizers")
    with tempfile.TemporaryDirectory() as folder:
        log = os.path.join(folder, "calls")
        calls = "mmap,munmap,mremap,brk,madvise"
        result = subprocess.run(["strace", "-f", "-ttt", "-o", log, "-e", "trace=" + calls + ",accept4", CRORE, "demo", "--connections", "500", "--duration", "8s"],
                                capture_output=True, text=True, timeout=100)
        assert result.returncode == 0, result
        with open(log) as file:
            lines = [line.split(None, 2) for line in file]
    accepted = [float(when) for _, when, call in lines if "accept4" in call and re.search(r"= \d+$", call.strip())]
    steady = accepted[-1] + 4.5 # what opening them took, and holding does not, has gone back by then
    memory = [call for _, when, call in lines if steady < float(when) < steady + 2.5 and call.split("(")[0] in calls.split(",")]
    assert len(accepted) == 500 and len(lines) > 550 and not memory, (len(accepted), memory)


def test_bad_usage():
    """bad input: one clear line and status 2"""
    for args, part in [(["--connections", "0"], "--connections"), (["--connections", "many"], "--connections"), (["x"], "'x' is not an option"),
                       (["--duration", "1y"], "--duration"), (["--size", "100k"], "--size"),
                       (["--stack", "shared"], "--stack goes with --parked"), (["--no-freeze"], "--no-freeze goes with --parked"),
                       (["--parked", "5", "--json", "/proc/nowhere/x"], "--json /proc/nowhere/x"), (["--json", "/proc/nowhere/x"], "--json /proc/nowhere/x"),
                       *((["--parked", "5", option, value], f"{option} does not go with --parked") for option, value in
                         [("--connections", "5"), ("--workers", "2"), ("--report", "x"), ("--duration", "1s"), ("--rate", "1"), ("--size", "1k")])]:
        result = demo(*args)
        assert result.returncode == 2 and part in result.stderr and len(result.stderr.splitlines()) == 1, (args, result)
    result = demo("--connections", "1", "--duration", "100ms", "--report", "/proc/nowhere")
    assert result.returncode == 2 and "--report /proc/nowhere" in result.stderr, result


def test_parked_without_stacks():
    """where not all find a stack it says how many have, and ends"""
    if sanitized(CRORE):
        raise Skip("sanitizers reserve more than that themselves")
    for kind, status, part in [("static", 1, "20000 locals right, 0 wrong, 0 lost"), ("virtual", 2, "no addresses are left for one")]:
        result = subprocess.run(["prlimit", "--as=400000000", CRORE, "demo", "--parked", "20000", "--stack", kind], capture_output=True, text=True, timeout=60)
        assert result.returncode == status and part in result.stdout + result.stderr, result
        assert kind != "static" or re.search(r"after \d+ of 20000: Cannot allocate memory", result.stdout), result


def test_no_room():
    """with no room for a connection it says so"""
    command = [*without_privilege(), "prlimit", "--nofile=90:90", CRORE, "demo"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert result.returncode == 2 and "no room for even one connection: a process may open 90 files" in result.stderr, result


if __name__ == "__main__":
    tap.main(globals())
