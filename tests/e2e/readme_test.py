"""The server that the README builds step by step: compiled as it stands there, and talked to; and an example that it names."""
import ipaddress
import os
import re
import signal
import socket
import struct
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


def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    return ~(total % 65535) & 0xFFFF or 0xFFFF


def icmp(kind, rest, pseudo=b""):
    bytes_of = bytes([kind, 0, 0, 0]) + rest
    return bytes_of[:2] + struct.pack(">H", checksum(pseudo + bytes_of)) + bytes_of[4:]


def icmp6(source, to, kind, rest):
    message = icmp(kind, rest, source + to + struct.pack(">II", 4 + len(rest), 58))
    return struct.pack(">IHBB", 0x60000000, len(message), 58, 255) + source + to + message


def write_capture(path, frames):
    with open(path, "wb") as file:
        file.write(struct.pack("=IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for number, frame in enumerate(frames):
            file.write(struct.pack("=IIII", 1, number, len(frame), len(frame)) + frame)


def read_capture(path):
    with open(path, "rb") as file:
        recorded = file.read()
    at, frames = 24, []
    while at < len(recorded):
        size = struct.unpack("=IIII", recorded[at:at + 16])[2]
        frames.append(recorded[at + 16:at + 16 + size])
        at += 16 + size
    return frames


def test_packets():
    """the example of links answers recorded questions for its addresses, and recorded pings, of both families, and nothing else"""
    theirs, ours, mac = bytes([10, 0, 0, 9]), bytes([10, 0, 0, 1]), b"\2\0\0\0\0\7"
    theirs6, ours6 = (ipaddress.ip_address(text).packed for text in ("fd00::9", "fd00::1"))
    many = ipaddress.ip_address("ff02::1:ff00:1").packed

    def asks(address):
        return struct.pack(">HHBBH", 1, 0x800, 6, 4, 1) + mac + theirs + bytes(6) + address

    def pings(address):
        return struct.pack(">BBHHHBBH", 0x45, 0, 33, 0, 0, 64, 1, 0) + theirs + address + icmp(8, b"\0\1\0\2hello\0")[:-1]

    def asks6(address):
        return icmp6(theirs6, many, 135, bytes(4) + address + b"\1\1" + mac)

    def pings6(address):
        return icmp6(theirs6, address, 128, b"\0\1\0\2hello!")
    questions = [(0x806, asks(ours)), (0x800, pings(ours)), (0x86DD, asks6(ours6)), (0x86DD, pings6(ours6))]
    others = [(0x806, asks(theirs)), (0x800, pings(theirs)), (0x86DD, asks6(theirs6)), (0x86DD, pings6(theirs6)), (0x800, b"nothing for it"), (0x86DD, b"")]
    frames = [b"\xff" * 6 + mac + struct.pack(">H", kind) + rest for kind, rest in questions + others]
    with tempfile.TemporaryDirectory() as folder:
        asked, said = os.path.join(folder, "asked"), os.path.join(folder, "said")
        write_capture(asked, frames)
        done = subprocess.run([os.path.join(BUILD, "examples", "packets"), f"pcap:{said},pcap:{asked}", "10.0.0.1", "fd00::1"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "seen 10, asked for our addresses 2 times, pinged 2 times" in done.stderr, done
        recorded = read_capture(said)
    arp, pong, told, pong6 = [each for each in recorded if each[:6] == mac]
    assert sorted(each for each in recorded if each[:6] != mac) == sorted(frames)
    it = arp[6:12]
    assert all(each[6:12] == it != mac for each in (pong, told, pong6))
    assert arp[12:] == frames[0][12:20] + b"\0\2" + it + ours + mac + theirs
    assert pong[26:34] == ours + theirs and pong[34:] == icmp(0, b"\0\1\0\2hello\0")[:-1]
    assert told[14:] == icmp6(ours6, theirs6, 136, b"\x60\0\0\0" + ours6 + b"\2\1" + it), told
    assert pong6[14:] == icmp6(ours6, theirs6, 129, b"\0\1\0\2hello!"), pong6


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
