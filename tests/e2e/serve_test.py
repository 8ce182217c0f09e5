"""crore serve, driven from outside."""
import email.utils
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

from tap import CRORE, Server, Skip, main, run, wait_until

ROOT = tempfile.mkdtemp(prefix="crore-serve-")
OUTSIDE = tempfile.mkdtemp(prefix="crore-outside-")
DATA = os.urandom(300000)


def write(path, data, mode="wb"):
    os.makedirs(os.path.dirname(os.path.join(ROOT, path)) or ROOT, exist_ok=True)
    with open(os.path.join(ROOT, path), mode) as file:
        file.write(data)


write("hello.txt", b"hello, world\n")
write("data.bin", DATA)
write("empty", b"")
write("a b&c.html", b"<p>odd name</p>")
write("sub/index.html", b"<h1>index</h1>")
write("list/one.txt", b"1")
write("list/<b>.txt", b"2")
with open(os.path.join(OUTSIDE, "secret"), "w") as secret:
    secret.write("secret")
os.symlink(os.path.join(OUTSIDE, "secret"), os.path.join(ROOT, "out"))
os.symlink("hello.txt", os.path.join(ROOT, "in"))
os.mkfifo(os.path.join(ROOT, "pipe"))


def read_response(sock, head=False):
    """(status, headers, body) of the next response on a connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            raise EOFError(data)
        data += more
    top, rest = data.split(b"\r\n\r\n", 1)
    lines = top.decode().split("\r\n")
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}
    size = 0 if head or lines[0].split()[1] == "304" else int(headers["content-length"])
    while len(rest) < size:
        more = sock.recv(65536)
        if not more:
            raise EOFError(rest)
        rest += more
    read_response.rest = rest[size:]
    return int(lines[0].split()[1]), headers, rest[:size]


def ask(server, request, head=False):
    with server.connect() as sock:
        sock.sendall(request if isinstance(request, bytes) else request.encode())
        return read_response(sock, head)


def get(server, path, *lines, method="GET"):
    request = "".join([f"{method} {path} HTTP/1.1\r\nHost: x\r\n", *[line + "\r\n" for line in lines], "\r\n"])
    return ask(server, request, head=method == "HEAD")


def closes(sock):
    sock.settimeout(10)
    try:
        return sock.recv(100) == b""
    except ConnectionResetError:
        return True


def test_files():
    """files come whole, with type, length, date and tag"""
    with Server(ROOT) as server:
        status, headers, body = get(server, "/hello.txt")
        assert (status, body) == (200, b"hello, world\n"), (status, body)
        assert headers["content-type"].startswith("text/plain")
        assert email.utils.parsedate_to_datetime(headers["date"]) and headers["etag"].startswith('"')
        assert get(server, "/data.bin")[2] == DATA
        assert get(server, "/empty")[2] == b""
        assert get(server, "/a%20b%26c.html?query#x")[2] == b"<p>odd name</p>"
        assert ask(server, "GET http://any/hello.txt HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200
        assert get(server, "//hello.txt")[0] == 200
        assert get(server, "/nothing")[0] == 404


def test_head():
    """HEAD gives the same headers and no body"""
    with Server(ROOT) as server:
        status, headers, body = get(server, "/data.bin", method="HEAD")
        assert status == 200 and headers["content-length"] == str(len(DATA)) and body == b"" and read_response.rest == b""
        assert get(server, "/nothing", method="HEAD")[0] == 404


def test_keep_alive_and_pipelining():
    """requests may follow each other, and be sent ahead"""
    with Server(ROOT) as server, server.connect() as sock:
        for _ in range(3):
            sock.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_response(sock)[0] == 200
        sock.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
        want, got = 200 * b"hello, world\n".count(b"hello"), b""
        while got.count(b"hello, world") < want:
            got += sock.recv(65536)
        sock.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        status, headers, _ = read_response(sock)
        assert headers["connection"] == "close" and closes(sock)


def test_http_1_0():
    """HTTP/1.0 closes, unless asked to keep alive"""
    with Server(ROOT) as server:
        with server.connect() as sock:
            sock.sendall(b"GET /hello.txt HTTP/1.0\r\n\r\n")
            assert read_response(sock)[0] == 200 and closes(sock)
        with server.connect() as sock:
            for _ in range(2):
                sock.sendall(b"GET /hello.txt HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                assert read_response(sock)[1]["connection"] == "keep-alive"


def test_pieces():
    """a request may come byte by byte"""
    with Server(ROOT) as server, server.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n":
            sock.sendall(bytes([byte]))
            time.sleep(0.002)
        assert read_response(sock)[2] == b"hello, world\n"
        sock.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\nGET /hello.txt HT")
        assert read_response(sock)[0] == 200
        sock.sendall(b"TP/1.1\r\nHost: x\r\n\r\n")
        assert read_response(sock)[0] == 200


def test_ranges():
    """ranges: first bytes, last bytes, from the middle on, beyond the end"""
    with Server(ROOT) as server:
        for spec, want in [("0-9", DATA[:10]), ("100000-", DATA[100000:]), ("-5", DATA[-5:]), ("299990-400000", DATA[299990:])]:
            status, headers, body = get(server, "/data.bin", f"Range: bytes={spec}")
            assert status == 206 and body == want, spec
            assert headers["content-range"].endswith(f"/{len(DATA)}")
        for spec in ["300000-", "-0"]:
            status, headers, _ = get(server, "/data.bin", f"Range: bytes={spec}")
            assert status == 416 and headers["content-range"] == f"bytes */{len(DATA)}"
        for spec in ["bytes=5-2", "lines=1-2", "bytes=1-2,5-6", "bytes=x", "bytes=99999999999999999999-"]:
            status, _, body = get(server, "/data.bin", "Range: " + spec)
            assert (status, len(body)) == (200, len(DATA)), (spec, status)
        tag = get(server, "/data.bin")[1]["etag"]
        assert get(server, "/data.bin", "Range: bytes=0-0", f"If-Range: {tag}")[0] == 206
        assert get(server, "/data.bin", "Range: bytes=0-0", 'If-Range: "other"')[0] == 200


def test_conditions():
    """what the client has already is not sent again"""
    with Server(ROOT) as server:
        _, headers, _ = get(server, "/hello.txt")
        assert get(server, "/hello.txt", "If-Modified-Since: " + headers["last-modified"])[0] == 304
        assert get(server, "/hello.txt", "If-Modified-Since: Mon, 01 Jan 1990 00:00:00 GMT")[0] == 200
        assert get(server, "/hello.txt", "If-Modified-Since: nonsense")[0] == 200
        assert get(server, "/hello.txt", 'If-None-Match: "x", ' + headers["etag"])[0] == 304
        assert get(server, "/hello.txt", 'If-None-Match: "x"', "If-Modified-Since: " + headers["last-modified"])[0] == 200


def test_folders():
    """a folder gives its index, or a listing that is safe; without the slash a redirect"""
    with Server(ROOT) as server:
        assert get(server, "/sub/")[2] == b"<h1>index</h1>"
        status, headers, _ = get(server, "/sub")
        assert status == 301 and headers["location"] == "/sub/"
        assert get(server, "/sub?a=b&c")[1]["location"] == "/sub/?a=b&c"
        for length in (300, 340, 380, 420, 900): # a Location larger than a response that was made for small ones
            status, headers, body = get(server, "/sub?" + "q" * length)
            assert status == 301 and headers["location"] == "/sub/?" + "q" * length and body == b"301 Moved Permanently\n"
        assert get(server, "/sub?" + "q" * 1100)[0] == 404
        status, headers, body = get(server, "/list/")
        assert status == 200 and b"one.txt" in body and b"<b>" not in body and b"%3Cb%3E.txt" in body
        assert get(server, "/")[0] == 200


def test_climbing():
    """paths that climb out are not found; symlinks out of the folder are refused unless allowed"""
    paths = ["/../etc/passwd", "/%2e%2e/etc/passwd", "/sub/../../etc/passwd", "/..%2fetc/passwd", "/hello.txt%00.html",
             "/sub/%2e%2e/%2E%2E/etc/passwd", "/%", "/%zz", "/out", "/pipe"]
    with Server(ROOT) as server:
        for path in paths:
            assert get(server, path)[0] == 404, path
        assert get(server, "/in")[0] == 200
    with Server("--follow-symlinks", ROOT) as server:
        assert get(server, "/out")[2] == b"secret"
        assert get(server, "/../etc/passwd")[0] == 404


def test_malformed():
    """malformed requests get 400, and the connection closes"""
    bad = [b"nonsense\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nHost x\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
           b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
           b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
           b"GET / HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n",
           b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", b"GET / FTP/1.1\r\nHost: x\r\n\r\n"]
    with Server(ROOT) as server:
        for request in bad:
            with server.connect() as sock:
                sock.sendall(request)
                assert read_response(sock)[0] == 400, request
                assert closes(sock)
        assert ask(server, "GET / HTTP/2.0\r\nHost: x\r\n\r\n")[0] == 505
        status, headers, _ = ask(server, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert status == 405 and headers["allow"] == "GET, HEAD"
        assert get(server, "/" + "a" * 5000)[0] == 414


def test_smuggling():
    """two lengths, or a length with chunked, get 400 and the rest is never taken for a request"""
    tail = b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n"
    for lines in [b"Content-Length: 5\r\nContent-Length: 6\r\n", b"Content-Length: 5\r\nContent-Length: 5\r\n",
                  b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                  b"Content-Length : 5\r\n", b"Transfer-Encoding : chunked\r\n", b"Content-Length: -1\r\n", b"Content-Length: 1x\r\n", b"Transfer-Encoding: xchunked\r\n",
                  b"Transfer-Encoding: chunked, identity\r\n"]:
        with Server(ROOT) as server, server.connect() as sock:
            sock.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n0\r\n\r\n" + tail)
            assert read_response(sock)[0] == 400, lines
            assert b"hello" not in read_response.rest and closes(sock), lines
    with Server(ROOT) as server, server.connect() as sock:
        sock.sendall(b"GET /hello.txt HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + tail)
        assert read_response(sock)[0] == 400 and b"hello" not in read_response.rest and closes(sock)


def test_bodies():
    """a body that comes with GET is read and dropped, after 100 Continue if asked for; one too large gets 413"""
    with Server("--max-body-bytes", "1000", ROOT) as server, server.connect() as sock:
        sock.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345GET /empty HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_response(sock)[2] == b"hello, world\n"
        time.sleep(0.1)
        sock.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        time.sleep(0.1)
        sock.sendall(b"0\r\n\r\n")
        data = b""
        while data.count(b"200 OK") < 1 or not data.endswith(b"hello, world\n"):
            data += sock.recv(65536)
        sock.sendall(b"GET /empty HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"ab")
        assert read_response(sock)[0] == 200
        sock.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n")
        assert read_response(sock)[0] == 413


def test_limits():
    """headers too large get 431; a client slower than the limit 408; an idle one is closed"""
    with Server("--max-header-bytes", "1k", ROOT) as server:
        assert get(server, "/hello.txt", "X: " + "y" * 800)[0] == 200
        assert get(server, "/hello.txt", "X: " + "y" * 2000)[0] == 431
        with server.connect() as sock:
            sock.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\nX: ")
            try:
                for _ in range(100):
                    sock.sendall(b"y" * 50)
                    time.sleep(0.002)
            except OSError:
                pass
            assert read_response(sock)[0] == 431
    with Server("--header-timeout", "300ms", "--idle-timeout", "300ms", ROOT) as server:
        with server.connect() as sock:
            begin = time.time()
            sock.sendall(b"GET /hello.txt HT")
            assert read_response(sock)[0] == 408 and 0.25 < time.time() - begin < 5
        with server.connect() as sock:
            assert closes(sock)


def test_vanishing_peers():
    """a peer that vanishes costs its own connection only"""
    with Server(ROOT) as server, server.connect() as steady:
        for i in range(50):
            sock = server.connect()
            sock.sendall(b"GET /data.bin HTTP/1.1\r\nHost: x\r\n\r\n"[: 10 + i])
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
        steady.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_response(steady)[0] == 200
        code, _, err = server.stop()
        assert (code, err) == (0, ""), (code, err)


def test_out_of_files():
    """out of file descriptors accepting pauses and says so, open connections work, and it resumes"""
    with Server("--echo", "--workers", "1", files=40) as server:
        held = [server.connect() for _ in range(60)]
        time.sleep(0.3)
        held[0].sendall(b"still")
        assert held[0].recv(10) == b"still"
        for sock in held[1:40]:
            sock.close()
        held[59].sendall(b"late")
        assert held[59].recv(10) == b"late"
        code, _, err = server.stop()
        assert code == 0 and "accepting pauses: Too many open files" in err and "accepting resumes" in err, err
        assert len(err.splitlines()) == 2, err


def test_out_of_files_for_files():
    """with more clients than file descriptors those connected still get files, all at the same time"""
    with Server("--workers", "1", ROOT, files=40) as server:
        held = [server.connect() for _ in range(60)]
        time.sleep(0.2)
        for _ in range(3):
            for sock in held[:20]:
                sock.sendall(b"GET /data.bin HTTP/1.1\r\nHost: x\r\n\r\n")
            for sock in held[:20]:
                status, _, body = read_response(sock)
                assert status == 200 and body == DATA, (status, len(body), body[:30])
        code, _, err = server.stop()
        assert code == 0 and "accepting pauses" in err, err


def test_trailers():
    """a trailer is no header"""
    with Server(ROOT) as server, server.connect() as sock:
        for trailer in (b"If-None-Match: *", b"Range: bytes=0-1"):
            sock.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + trailer + b"\r\n\r\n")
            assert read_response(sock)[::2] == (200, b"hello, world\n"), trailer
        sock.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 2000 + b"0\r\n\r\n")
        assert read_response(sock)[0] == 200, "many small chunks are no large head"
        sock.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        assert read_response(sock)[0] == 400


def test_max_connections():
    """at --max-connections accepting pauses, and goes on when one closes"""
    with Server("--echo", "--workers", "1", "--max-connections", "5") as server:
        held = [server.connect() for _ in range(6)]
        held[5].sendall(b"x")
        held[5].settimeout(0.3)
        try:
            assert not held[5].recv(1)
        except TimeoutError:
            pass
        held[0].close()
        held[5].settimeout(10)
        assert held[5].recv(1) == b"x"


def test_max_connections_on_two_listeners():
    """at the limit with two listeners nobody spins, those connected are served, and it ends"""
    with Server("--echo", "--workers", "1", "--max-connections", "2", "--listen", "tcp://127.0.0.1:0", files=60) as server:
        held = [server.connect() for _ in range(4)]
        for sock in held[:2]:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        ticks = lambda: sum(int(field) for field in open(f"/proc/{server.process.pid}/stat").read().rsplit(")", 1)[1].split()[11:13])
        before = ticks()
        time.sleep(1)
        assert ticks() - before < 50, "it spins"
        held[0].close()
        held[2].sendall(b"y")
        assert held[2].recv(1) == b"y"
        code, _, _ = server.stop()
        assert code == 0


def answering(socks, seconds):
    """How many echo one byte within that time; they have been sent it."""
    end, answered = time.time() + seconds, set()
    while len(answered) < len(socks) and time.time() < end:
        for sock in select.select([sock for sock in socks if sock not in answered], [], [], max(0, end - time.time()))[0]:
            assert sock.recv(10) == b"x"
            answered.add(sock)
    return answered


def test_max_connections_over_several_workers():
    """with several workers exactly --max-connections are served, and others in their place when they have closed"""
    for placement in ("any", "here", "least-loaded"):
        with Server("--echo", "--workers", "3", "--placement", placement, "--max-connections", "5") as server:
            held = [server.connect() for _ in range(15)]
            for sock in held:
                sock.sendall(b"x")
            for _ in range(3):
                served = answering(held, 0.5 if len(held) > 5 else 20)
                assert len(served) == 5, (placement, len(served))
                for sock in served:
                    sock.close()
                    held.remove(sock)
            code, _, err = server.stop()
            assert code == 0 and "accepting pauses: --max-connections reached" in err, err


def test_out_of_files_with_several_workers():
    """out of file descriptors with several workers those connected get files, and who waits gets its turn"""
    with Server("--workers", "3", ROOT, files=60) as server:
        held = [server.connect() for _ in range(100)]
        for sock in held:
            sock.sendall(b"GET /data.bin HTTP/1.1\r\nHost: x\r\n\r\n")
        while held: # those who are connected are answered; they go, and others come in their place
            ready = select.select(held, [], [], 20)[0]
            assert ready, f"{len(held)} wait for ever"
            for sock in ready:
                status, _, body = read_response(sock)
                assert status == 200 and body == DATA, (status, len(body), body[:30])
                sock.close()
                held.remove(sock)
        time.sleep(0.5)  # it looks now and then whether there are files again
        code, _, err = server.stop()
        assert code == 0 and "accepting pauses: Too many open files" in err and "accepting resumes" in err, err


def served_by_worker(out):
    """From what it says at its end."""
    return [int(n) for n in re.search(r"^crore: served \d+ connections, by worker: ([\d, ]+)$", out, re.M).group(1).split(", ")]


def test_several_workers():
    """with several workers each serves some of the connections"""
    for args in (["any"], ["here"], ["least-loaded"]):
        with Server("--workers", "3", "--placement", *args, ROOT) as server:
            held = [server.connect() for _ in range(200)]
            for _ in range(2):
                for sock in held:
                    sock.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n")
                for sock in held:
                    assert read_response(sock)[2] == b"hello, world\n"
            code, out, err = server.stop()
        counts = served_by_worker(out)
        assert (code, err) == (0, "") and sum(counts) == 200 and len(counts) == 3, (code, out, err)
        assert all(n > 0 for n in counts) if args != ["any"] else sum(n > 0 for n in counts) > 1, counts


class Load:
    """Clients in threads that ask without a pause; all that they got by the end."""

    def __init__(self, server, count, path="/hello.txt"):
        self.server, self.path, self.ends, self.answers, self.problems = server, path, False, 0, []
        self.threads = [threading.Thread(target=self.ask, args=(number,), daemon=True) for number in range(count)]
        for thread in self.threads:
            thread.start()

    def ask(self, number):
        request = f"GET {self.path} HTTP/1.1\r\nHost: x\r\nUser-Agent: client {number}\r\n\r\n".encode()
        try:
            with self.server.connect() as sock:
                while not self.ends:
                    sock.sendall(request)
                    status, _, body = read_response(sock)
                    if (status, body) != (200, b"hello, world\n"):
                        self.problems.append((status, body))
                    self.answers += 1
        except EOFError as partial:
            if partial.args[0]:
                self.problems.append(partial)
        except OSError:
            pass # it ended between two requests

    def end(self):
        self.ends = True
        for thread in self.threads:
            thread.join(timeout=20)


def test_drain_with_several_workers():
    """SIGTERM under load, with several workers: no answer is cut, a request that has begun is finished, and what hangs is given up after the drain timeout"""
    with Server("--workers", "3", ROOT) as server:
        load = Load(server, 12)
        busy = [server.connect() for _ in range(9)]
        for sock in busy:
            sock.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\nGET /hello.txt HT")
            assert read_response(sock)[0] == 200
        assert wait_until(lambda: load.answers > 200)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        for sock in busy:
            sock.sendall(b"TP/1.1\r\nHost: x\r\n\r\n")
            status, headers, _ = read_response(sock)
            assert status == 200 and headers["connection"] == "close"
            sock.close()
        out, err = server.process.communicate(timeout=10)
        load.end()
        assert server.process.returncode == 0 and err == "" and not load.problems, (err, load.problems[:3])
        assert sum(served_by_worker(out)) >= 21, out
    with Server("--workers", "3", "--drain-timeout", "300ms", ROOT) as server:
        stuck = [server.connect() for _ in range(9)]
        for sock in stuck:
            sock.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\nGET /hel")
            assert read_response(sock)[0] == 200
        begin = time.time()
        code, _, err = server.stop()
        assert code == 0 and "crore: 9 connections were still busy" in err and 0.25 < time.time() - begin < 5, (code, err, time.time() - begin)


def test_access_log_of_several_workers():
    """the lines that several workers write are whole, and none is missing"""
    log = os.path.join(OUTSIDE, "log-of-several")
    with Server("--workers", "3", "--access-log", log, ROOT) as server:
        load = Load(server, 12, "/hello.txt?" + "q" * 300)
        assert wait_until(lambda: load.answers > 1500, 30)
        load.end()
        code, _, _ = server.stop()
    line = re.compile(r'127\.0\.0\.1 - - \[[^]]+\] "GET /hello\.txt\?q{300} HTTP/1\.1" 200 13 "-" "client \d+"')
    lines = open(log).read().splitlines()
    assert code == 0 and not load.problems, load.problems[:3]
    assert all(line.fullmatch(text) for text in lines), [text for text in lines if not line.fullmatch(text)][:3]
    assert len(lines) == load.answers, (len(lines), load.answers)


def test_hang_up_while_downloading():
    """a client that hangs up in the middle of a file costs its own connection only"""
    write("large.bin", bytes(32 << 20))
    with Server(ROOT) as server:
        for _ in range(20):
            with server.connect() as sock:
                sock.sendall(b"GET /large.bin HTTP/1.1\r\nHost: x\r\n\r\n")
                sock.recv(1000)
        assert get(server, "/hello.txt")[0] == 200
        code, _, _ = server.stop()
        assert code == 0


def test_drain_under_flood():
    """SIGTERM in the middle of a flood ends well"""
    for _ in range(5):
        with Server("--echo", "--drain-timeout", "300ms") as server:
            socks = [server.connect() for _ in range(20)]
            for sock in socks:
                sock.setblocking(False)
            end = time.time() + 0.3
            while time.time() < end:
                for sock in socks:
                    try:
                        sock.send(b"x" * 100)
                        sock.recv(65536)
                    except (BlockingIOError, ConnectionError):
                        pass
            code, _, err = server.stop()
            assert code == 0, (code, err)


def test_drain():
    """SIGTERM finishes what has begun, closes what idles, and ends with status 0"""
    with Server(ROOT) as server:
        idle, busy = server.connect(), server.connect()
        idle.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_response(idle)[0] == 200
        busy.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\nGET /hello.txt HT")
        assert read_response(busy)[0] == 200  # so what follows it has come, too
        server.process.send_signal(signal.SIGTERM)
        assert closes(idle)
        busy.sendall(b"TP/1.1\r\nHost: x\r\n\r\n")
        status, headers, _ = read_response(busy)
        assert status == 200 and headers["connection"] == "close"
        assert server.process.wait(timeout=10) == 0
        try:
            server.connect()
            raise AssertionError("still listens")
        except ConnectionRefusedError:
            pass
    with Server("--drain-timeout", "200ms", ROOT) as server, server.connect() as stuck:
        stuck.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\nGET /hel")
        assert read_response(stuck)[0] == 200
        code, _, err = server.stop()
        assert code == 0 and "still busy" in err, (code, err)


def test_echo():
    """--echo sends back what it receives, over TCP and Unix sockets"""
    with Server("--echo") as server, server.connect() as sock:
        sender = DATA * 4
        sock.setblocking(False)
        sent, got = 0, b""
        end = time.time() + 30
        while len(got) < len(sender) and time.time() < end:
            try:
                sent += sock.send(sender[sent:sent + 65536])
            except BlockingIOError:
                pass
            try:
                got += sock.recv(65536)
            except BlockingIOError:
                time.sleep(0.001)
        assert got == sender
    path = os.path.join(OUTSIDE, "echo.sock")
    with Server("--echo", url="unix:" + path) as server:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            sock.sendall(b"unix")
            assert sock.recv(10) == b"unix"
        server.stop()
    assert not os.path.exists(path)


def test_return():
    """--return answers the same text to every path"""
    with Server("--return", "hello") as server:
        assert get(server, "/any/path")[2] == b"hello"
        assert get(server, "/any/path", method="HEAD")[1]["content-length"] == "5"
        assert ask(server, "GET / HTTP/1.0\r\n\r\n")[2] == b"hello"


def test_access_log():
    """the access log has a line per request, with what clients sent made harmless"""
    log = os.path.join(OUTSIDE, "log")
    with Server("--access-log", log, ROOT) as server:
        get(server, "/hello.txt", 'User-Agent: me "quoted" é', "Referer: http://from/")
        get(server, "/nothing")
        server.stop()
    lines = sorted(open(log).read().splitlines(), key=lambda line: "/nothing" in line)  # who is answered first need not be logged first
    assert len(lines) == 2, lines
    assert lines[0].startswith("127.0.0.1 - - [") and '"GET /hello.txt HTTP/1.1" 200 13 "http://from/" "me \\x22' in lines[0], lines
    assert " 404 " in lines[1]


def test_bad_usage():
    """bad input: one clear line and status 2"""
    with Server("--echo") as server:
        taken = server.url
        for args, part in [
            (["serve"], "name a DIR"), (["serve", "/nowhere"], "/nowhere: No such file"), (["serve", "--listen", "http://x", "."], "unknown kind of URL"),
            (["serve", "--listen", "tcp://x", "."], "not a URL"), (["serve", "--listen", taken, "."], "listens there already"),
            (["serve", "--max-header-bytes", "-5", "."], "not a number"), (["serve", "--idle-timeout", "99999999h", "."], "not a duration"),
            (["serve", "--max-connections", "1e9", "."], "not a number"), (["serve", "--nonsense", "."], "--nonsense"), (["nonsense"], "unknown command"),
            (["serve", "a", "b"], "too many"), (["serve", "--listen", "tcp://192.0.2.1:80", "."], "Cannot assign"), (["serve", "--cpu", "1000", "."], "can't run on"),
            (["serve", "--workers", "0", "."], "not a number"), (["serve", "--placement", "there", "."], "neither any"),
        ]:
            result = run(*args)
            assert result.returncode == 2 and part in result.stderr, (args, result)
            assert len(result.stderr.splitlines()) <= 2 and result.stdout == "", (args, result)
    assert run().returncode == 2
    for args in [["--help"], ["serve", "--help"], ["--version"]]:
        assert run(*args).returncode == 0, args


def test_curl():
    """curl gets files, resumes, and keeps alive"""
    if not shutil.which("curl"):
        raise Skip("no curl")
    with Server(ROOT) as server:
        base = f"http://127.0.0.1:{server.port}"
        assert subprocess.run(["curl", "-sf", base + "/data.bin"], capture_output=True, check=True).stdout == DATA
        part = subprocess.run(["curl", "-sf", "-r", "1000-1999", base + "/data.bin"], capture_output=True, check=True).stdout
        assert part == DATA[1000:2000]
        both = subprocess.run(["curl", "-sfv", base + "/hello.txt", base + "/hello.txt"], capture_output=True, check=True)
        assert both.stdout == b"hello, world\n" * 2 and b"Re-using existing connection" in both.stderr


def test_wrk():
    """wrk sees no error with 200 connections"""
    if not shutil.which("wrk"):
        raise Skip("no wrk")
    with Server(ROOT) as server:
        out = subprocess.run(["wrk", "-t1", "-c200", "-d2", f"http://127.0.0.1:{server.port}/hello.txt"], capture_output=True, text=True, check=True).stdout
        assert "Non-2xx" not in out and "Socket errors" not in out and "requests in" in out, out


def test_no_memory_calls_when_steady():
    """while it holds steady the server makes no kernel call for memory"""
    if not shutil.which("strace"):
        raise Skip("no strace")
    with Server("--echo") as server:
        held = [server.connect() for _ in range(200)]

        def talk(rounds):
            for i in range(rounds):
                for sock in held[i % 4::4]:
                    sock.sendall(b"ping")
                for sock in held[i % 4::4]:
                    assert sock.recv(10) == b"ping"
        talk(20)
        trace = os.path.join(OUTSIDE, "trace")
        for _ in range(3): # strace on a busy machine may hold a worker up for so long that it is reported to be stuck, and that takes memory
            strace = subprocess.Popen(["strace", "-f", "-c", "-o", trace, "-p", str(server.process.pid)], stderr=subprocess.PIPE, text=True)
            if "attached" not in strace.stderr.readline():
                raise Skip("strace may not attach here")
            talk(60)
            strace.send_signal(signal.SIGINT)
            strace.wait(timeout=10)
            calls = [line.split()[-1] for line in open(trace) if line.strip() and line.split()[0][0].isdigit()]
            assert "sendto" in calls, calls
            for_memory = {"mmap", "munmap", "brk", "madvise", "mprotect", "mremap"} & set(calls)
            if not for_memory:
                break
        assert not for_memory, calls


try:
    main(globals())
finally:
    shutil.rmtree(ROOT)
    shutil.rmtree(OUTSIDE)
