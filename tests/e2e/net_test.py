"""crore serve and crore swarm over a TCP/IP stack of their own, in two processes with shared memory between."""
import concurrent.futures
import os
import signal
import subprocess
import tempfile
import time

from tap import MORE, Server, main, run


def test_echo_over_shared_memory():
    """serve and swarm talk over shm:, and what one of them records is a capture"""
    with tempfile.TemporaryDirectory() as folder:
        wire, capture = os.path.join(folder, "wire"), os.path.join(folder, "capture.pcap")
        with Server("--net", f"pcap:{capture},shm:{wire} addr=10.0.0.2/24", "--echo", url="tcp://10.0.0.2:0") as server:
            done = run("swarm", "--quiet", "--net", f"shm:{wire} addr=10.0.0.1/24", "--connections", "50", "--rate", "500", "--duration", "1s", server.url)
            assert done.returncode == 0 and "connections opened" in done.stdout, done
            status, out, err = server.stop()
            assert status == 0 and "served 50 connections" in out, (out, err)
        with open(capture, "rb") as file:
            assert file.read(4) in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1")
        assert os.path.getsize(capture) > 50 * 64


def test_a_dump_tells_of_the_network():
    """SIGQUIT has a server tell of its link, its addresses and where it listens"""
    with tempfile.TemporaryDirectory() as folder:
        with Server("--net", f"shm:{folder}/wire addr=10.0.0.2/24 addr=fd00::2/64", "--echo", url="tcp://:80") as server:
            server.process.send_signal(signal.SIGQUIT)
            server.wait_until_told("listens on")
            _, _, err = server.stop()
    for part in ("network \"shm:", "address 10.0.0.2/24", "address [fd00::2]/64", "listens on [::]:80"):
        assert part in err, err


def test_crore_net_shows_links_neighbours_and_connections():
    """crore net PID shows what the networks of a running server do, worker by worker, and of an unknown process says so"""
    with tempfile.TemporaryDirectory() as folder:
        wire = os.path.join(folder, "wire")
        with Server("--net", f"shm:{wire} addr=10.0.0.2/24 gw=10.0.0.9 workers=all", "--workers", "2", "--echo", url="tcp://:80") as server:
            swarm = ["swarm", "--quiet", "--net", f"shm:{wire} addr=10.0.0.1/24 workers=all", "--workers", "2", "--connections", "40", "--rate", "400", "--duration", "3s"]
            with concurrent.futures.ThreadPoolExecutor() as pool:
                talk = pool.submit(run, *swarm, "tcp://10.0.0.2:80")
                done = run("net", str(server.process.pid))
                while done.stdout.count(": established, cwnd ") < 40 and not talk.done(): # until all have opened
                    time.sleep(0.1)
                    done = run("net", str(server.process.pid))
                assert talk.result().returncode == 0, talk.result()
            status, out, err = server.stop()
            assert status == 0 and "served 40 connections" in out, (out, err)
    shown = done.stdout
    assert done.returncode == 0 and shown.count("network \"shm:") == 2, done
    assert "on worker 0: link up" in shown and "on worker 1: link up" in shown, shown
    for part in ("  address 10.0.0.2/24", " by 10.0.0.9", "  listens on [::]:80", "  neighbour 10.0.0.1 at "):
        assert part in shown, (part, shown)
    lines = [line for line in shown.splitlines() if " to 10.0.0.1:" in line]
    assert len(lines) == 40 and all(": established, cwnd " in line and ", rtt " in line and " sent again" in line for line in lines), shown
    assert all(line.startswith(("network ", "  ")) for line in shown.splitlines()), shown
    done = run("net", "1")
    assert done.returncode == 2 and "no control socket" in done.stderr, done
    assert run("net").returncode == 2 and run("net", "x").returncode == 2


class NameServer:
    """Names, and an echo server at port 80, of 10.0.0.2 and fd00::2, on a link; who gives it, and says so, is at 10.0.0.1 and fd00::1: self.net."""

    def __init__(self, wire):
        self.net = f"shm:{wire} addr=10.0.0.1/24 addr=fd00::1/64"
        self.process = subprocess.Popen([MORE[0], f"shm:{wire} addr=10.0.0.2/24 addr=fd00::2/64"], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


def test_lookup_asks_the_networks_name_servers():
    """crore lookup --net prints what the network's own name servers say, and says why there is nothing to print"""
    with tempfile.TemporaryDirectory() as folder, NameServer(os.path.join(folder, "wire")) as names:
        for dns in ("dns=10.0.0.2", "dns=10.0.0.2:54 dns=[fd00::2]:53"):
            done = run("lookup", "--net", f"{names.net} {dns}", "both.example")
            assert done.returncode == 0 and done.stdout == "fd00::2\n10.0.0.2\n" and not done.stderr, done
        done = run("lookup", "--net", f"{names.net} dns=10.0.0.2", "long.example")
        assert done.returncode == 0 and done.stdout.split() == [f"10.0.1.{i}" for i in range(1, 31)], done
        for name, options, part in (("nobody.example", [], "no such name"), ("silent.example", ["--timeout", "300ms"], "timed out")):
            done = run("lookup", *options, "--net", f"{names.net} dns=10.0.0.2", name)
            assert done.returncode == 1 and not done.stdout and f"crore: {name}: " in done.stderr and part in done.stderr.lower(), done
        done = run("lookup", "--net", f"{names.net} dns=10.0.0.2:54", "both.example")
        assert done.returncode == 1 and "no name server has answered" in done.stderr, done


def test_lookup_by_the_kernels_network():
    """without --net it is this machine's names; and what makes no sense is bad usage"""
    done = run("lookup", "localhost")
    assert done.returncode == 0 and done.stdout == "127.0.0.1\n::1\n", done
    assert "usage: crore lookup" in run("lookup", "--help").stdout
    for arguments, part in (([], "name one NAME"), (["a", "b"], "name one NAME"), (["--colour", "a"], "--colour"), (["--net", "mem:a addr=10.0.0.1/24", "a"], "without dns="),
                            (["--net", "mem:a addr=10.0.0.1/24 dns=here", "a"], "dns=here"), (["x" * 300], "is no name")):
        done = run("lookup", *arguments)
        assert done.returncode == 2 and part in done.stderr, (arguments, done)


def test_swarm_dials_a_name():
    """crore swarm --net dials a host by its name, which the network's own name servers know"""
    with tempfile.TemporaryDirectory() as folder, NameServer(os.path.join(folder, "wire")) as names:
        swarm = ["swarm", "--quiet", "--connections", "20", "--rate", "200", "--duration", "500ms", "--net", f"{names.net} dns=fd00::2"]
        done = run(*swarm, "tcp://both.example:80")
        assert done.returncode == 0 and "connections opened" in done.stdout, done
        done = run(*swarm, "tcp://nobody.example:80")
        assert done.returncode == 1, done


def test_bad_usage():
    """a --net that makes no sense is bad usage, and the word that is wrong is named"""
    for command in (["serve", "--echo"], ["swarm", "tcp://10.0.0.1:80"]):
        for spec, part in (("mem:a", "it has no address"), ("mem:a addr=10.0.0.1/24 colour=blue", "colour=blue"), ("bus:x addr=10.0.0.1/24", "bus:x")):
            done = run(*command, "--net", spec)
            assert done.returncode == 2 and part in done.stderr, (command, spec, done)
        done = run(*command, "--net", "mem:a addr=10.0.0.1/24", "--workers", "2")
        assert done.returncode == 2 and "one worker" in done.stderr, done


main(globals())
