"""tshark reads what the tests of the network have on the wire, and its expert finds nothing wrong with it.

    tshark_test.py CRORE DIR      DIR: where net_script_test and its kin are

What is wrong: a frame that is malformed or short, a checksum that is bad or was left out, an acknowledged segment, or one before another, that nobody has seen, an IP fragment that does not fit, and whatever else the
expert says that is not in USUAL. What is looked at: every capture that CR_PCAP has the test programs write (tests/net/capture.h). Frames are recorded where they leave, before a line that drops and corrupts on purpose
has had them; so there, too, nothing may be wrong. Of tests in which one side is made by hand (scripts, by_hand.h) and says what is wrong on purpose, only the stack's frames are judged: those from 02:00:00:00:00:01.

Captures of one program are read as one, which is quicker: each test has connections between addresses of its own. Those of the seeds have not, and are read one by one."""
import concurrent.futures
import functools
import os
import re
import shutil
import struct
import subprocess
import tempfile

from tap import CRORE, MORE, Server, Skip, main, run, sanitized

STACK = "02:00:00:00:00:01"
SEEDS = 10  # of both families

# program: (tests; none: all, further environment, judged: of whom, layers that are not judged)
PROGRAMS = {
    "script": ([], {}, {STACK}, ()),
    "state": ([], {}, {STACK}, ()),
    "listen": ([], {}, {STACK}, ()),
    "tcp": ([], {}, None, ()),
    "udp": ([], {}, None, ()),
    # What these send as TCP or UDP is filling: they are tests of what is below.
    "ip": ([], {}, None, ("tcp", "udp")),
    "icmp": ([], {}, None, ("tcp", "udp")),
    "neighbour": ([], {}, None, ("tcp", "udp")),
    "fragment": ([], {}, None, ("tcp", "udp")),
    "lockstep": (["every_byte_arrives_once_and_in_order_over_a_bad_line"], {"CR_SEEDS": str(SEEDS)}, None, ()),
    "stream": (["the_same_over_ipv6", "half_close_lets_the_other_side_finish", "a_reset_is_an_error_after_what_came_before_it_was_not_read"], {}, None, ()),
    "datagram": (["datagrams_keep_their_bounds_and_their_sender", "datagrams_over_ipv6_and_to_nobody"], {}, None, ()),
    "lookup": (["names_are_looked_up_with_the_networks_own_name_servers", "the_same_by_ipv6", "an_answer_that_was_truncated_comes_whole_by_tcp", "the_same_over_ipv6"], {}, None, ()),
}
AS_PROGRAMS = ("stream", "datagram", "lookup")  # each of their captures is of networks of its own

# What the expert says of connections over good lines and bad ones: opening, closing, sending again, windows that fill.
USUAL = re.compile(r"""Connection\ (establish\ (request|acknowledge)\ \(SYN(\+ACK)?\):\ server\ port\ \d+|finish\ \(FIN\)|reset\ \(RST\))
    |This\ frame\ (initiates|undergoes)\ the\ connection\ closing
    |This\ frame\ is\ a\ \(suspected\)\ (fast\ retransmission|spurious\ retransmission|retransmission|out-of-order\ segment)
    |Duplicate\ ACK\ \(\#\d+\)
    |D-SACK\ Sequence
    |A\ new\ tcp\ session\ is\ started\ with\ the\ same\ ports\ as\ an\ earlier\ session\ in\ this\ trace
    |TCP\ (window\ update|Zero\ Window\ segment|window\ specified\ by\ the\ receiver\ is\ now\ completely\ full|keep-alive\ segment|Zero\ Window\ Probe)
    |ACK\ to\ a\ TCP\ (keep-alive\ segment|Zero\ Window\ Probe)""", re.X)

UNSEEN = ("ACKed segment that wasn't captured (common at capture start)", "Previous segment(s) not captured (common at capture start)")

# By capture: what else the expert says, and why that is well.
EXPLAINED = {
    # It does not count a segment that begins with what was sent before and goes beyond it.
    r"script-rfc9293-3.10.7.4-overlap-left": re.escape(UNSEEN[0]),
    # It does not count the text in a segment with SYN and FIN.
    r"script-rfc9293-3.5.2-reset-counts-syn-fin-and-text": re.escape(UNSEEN[0]),
    # The peer's second SYN has the ISN of its first (the timestamp is what lets it in), so it takes that for the same connection; and ours, which scripts fix, for one of old.
    r"script-rfc6191-2-time-wait-reuse-by-timestamp": re.escape(UNSEEN[1]),
    # A host that moves to another Ethernet address, which is what these are about.
    r"tcp-.*moved.*|neighbour-who_is_doubted_from_above_is_asked_at_once.*": r"Duplicate IP address configured \(.*\)",
}

CHECKSUMS = ["ip.checksum.status", "tcp.checksum.status", "udp.checksum.status", "icmp.checksum.status", "icmpv6.checksum.status"]
FIELDS = ["frame.number", "eth.src", "frame.protocols", *CHECKSUMS, "_ws.malformed", "_ws.short", "_ws.expert.message"]
GOOD = "1"  # of a checksum's status: 0 is bad, 3 not there

folder = tempfile.TemporaryDirectory()


def needs_tshark():
    if not shutil.which("tshark"):
        raise Skip("no tshark")
    if sanitized(CRORE):
        raise Skip("the captures of a sanitized build are the same")


def tshark(capture, without=()):
    """What it says of each frame: a dict of FIELDS."""
    # Ports mean nothing here: what is in a segment is data.
    command = ["tshark", "-n", "-r", capture, "-d", "tcp.port==1-65535,data", "-d", "udp.port==1-65535,data"]
    for layer in ("ip", "tcp", "udp"):
        command += ["-o", f"{layer}.check_checksum:TRUE"]
    for protocol in without:
        command += ["--disable-protocol", protocol]
    command += ["-T", "fields", "-E", "aggregator=\x1f"]
    for field in FIELDS:
        command += ["-e", field]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    said = done.stderr.replace('Running as user "root" and group "root". This could be dangerous.\n', "")
    assert done.returncode == 0 and not said.strip(), f"{capture}: {said}"
    return [dict(zip(FIELDS, line.split("\t"))) for line in done.stdout.splitlines()]


def wrong_with(frame):
    """What is wrong with a frame, in words."""
    for field in ("_ws.malformed", "_ws.short"):
        if frame[field]:
            yield field
    for field in CHECKSUMS:
        if any(status != GOOD for status in frame[field].split("\x1f") if status):
            yield f"{field} {frame[field]}"
    # A line has made another protocol of the next header of IPv6, which no checksum is over; the error about that quotes it, and is right.
    quotes_nonsense = frame["frame.protocols"] == "eth:ethertype:ipv6:icmpv6:ipv6:ip"
    for message in frame["_ws.expert.message"].split("\x1f"):
        if message and not USUAL.fullmatch(message) and not (quotes_nonsense and message == "Bogus IP version"):
            yield message


def is_explained(capture, what):
    return any(re.fullmatch(name, capture) and re.fullmatch(said, what) for name, said in EXPLAINED.items())


def frames_of(path):
    """The head of a capture, and its records as they are in the file."""
    with open(path, "rb") as file:
        text = file.read()
    assert text[:4] == b"\x4d\x3c\xb2\xa1", path
    records, at = [], 24
    while at < len(text):
        size = struct.unpack_from("<I", text, at + 8)[0]
        records.append(text[at:at + 16 + size])
        at += 16 + size
    assert at == len(text), f"{path} ends within a frame"
    return text[:24], records


def write(name, head, records):
    path = os.path.join(folder.name, name)
    with open(path, "wb") as file:
        file.write(head + b"".join(records))
    return path


def judge(name, paths, senders=None, without=()):
    """Reads captures as one: (how many frames, protocols that occurred, what is wrong: where and what)."""
    heads, whose = [], []
    merged = []
    for path in paths:
        head, records = frames_of(path)
        heads.append(head)
        merged += records
        whose += [(os.path.basename(path)[:-len(".pcap")], number) for number in range(1, len(records) + 1)]
    frames = tshark(write(f"{name}.merged", heads[0], merged), without)
    assert len(frames) == len(merged), f"{name}: {len(frames)} of {len(merged)} frames were read"
    kinds, wrong = set(), []
    for frame, (capture, number) in zip(frames, whose):
        if senders and frame["eth.src"] not in senders:
            continue
        kinds.add(frame["frame.protocols"])
        wrong += [f"{capture}, frame {number}: {what}" for what in wrong_with(frame) if not is_explained(capture, what)]
    return len(frames), kinds, wrong


@functools.lru_cache(maxsize=None)
def captures(program):
    """Runs a test program that records; the captures, in groups that may be read as one."""
    needs_tshark()
    tests, environment, _, _ = PROGRAMS[program]
    where = os.path.join(folder.name, program)
    os.makedirs(where)
    for test in tests or [None]:
        done = subprocess.run([os.path.join(MORE[0], f"net_{program}_test"), *([test] if test else [])], env={**os.environ, "CR_PCAP": where, **environment}, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stdout
    groups = {}
    for name in sorted(os.listdir(where)):
        number = re.search(r"-(\d+)\.pcap$", name)
        groups.setdefault(number.group(1) if number and program not in ("script", *AS_PROGRAMS) else "1" if program not in AS_PROGRAMS else name, []).append(os.path.join(where, name))
    return groups


def check(*programs, kinds=()):
    """Captures of these have nothing wrong in them, and frames of these kinds."""
    jobs = [(f"{program}.{group}", paths, *PROGRAMS[program][2:]) for program in programs for group, paths in captures(program).items()]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda job: judge(*job), jobs))
    wrong = [each for _, _, found in results for each in found]
    assert not wrong, f"{len(wrong)} findings:\n" + "\n".join(wrong[:20])
    seen = set().union(*(found for _, found, _ in results))
    for kind in kinds:
        assert any(kind in protocols for protocols in seen), f"no {kind} among {sorted(seen)}"
    print(f"# {sum(len(paths) for _, paths, *_ in jobs)} captures, {sum(count for count, _, _ in results)} frames")


def test_scripts():
    """what the stack answers in each script is right to tshark"""
    check("script", kinds=("ip:tcp", "ipv6:tcp", "arp", "icmpv6"))


def test_segments_by_hand():
    """what it answers a peer that is made by hand is right"""
    check("state", "listen", kinds=("ip:tcp",))


def test_two_hosts():
    """between two hosts, over a line that loses packets, too, no segment is acknowledged that was not sent"""
    check("tcp", kinds=("ip:tcp:data", "ipv6:tcp:data"))


def test_seeds():
    """the same of seeds of the lockstep test"""
    check("lockstep", kinds=("ip:tcp:data", "ipv6:tcp:data"))


def test_datagrams_fragments_and_what_is_below():
    """UDP, fragments, ICMP, ARP and NDP are right"""
    check("udp", "ip", "icmp", "neighbour", "fragment", kinds=("ip:udp:data", "ipv6:udp:data", "ipv6:ipv6.fraghdr", "arp", "ip:icmp:ip", "ip:icmp:data", "ipv6:icmpv6", "icmpv6:ipv6"))


def test_sockets():
    """what programs exchange over networks with a pcap: link is right"""
    check("stream", "datagram", kinds=("ip:tcp:data", "ipv6:tcp:data", "ip:udp:data"))


def test_lookups():
    """names that are looked up over such networks are questions and answers of DNS, by UDP and TCP, of both families"""
    check("lookup", kinds=("ip:udp:data", "ipv6:udp:data", "ip:tcp:data", "ipv6:tcp:data"))
    seen = set()
    for path in [path for paths in captures("lookup").values() for path in paths]:
        done = subprocess.run(["tshark", "-n", "-r", path, "-Y", "dns", "-T", "fields", "-e", "frame.protocols", "-e", "dns.qry.name", "-e", "dns.flags.truncated", "-e", "_ws.malformed"],
                              capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done
        seen.update(line.replace("eth:ethertype:", "") for line in done.stdout.splitlines())
    for line in ("ip:udp:dns\tboth.example\t0\t", "ipv6:udp:dns\tboth.example\t0\t", "ip:udp:dns\tlong.example\t1\t", "ip:tcp:dns\tlong.example\t0\t", "ipv6:tcp:dns\tlong.example\t0\t"):
        assert line in seen, (line, sorted(seen))


def test_serve_and_swarm():
    """and what crore serve records of crore swarm"""
    needs_tshark()
    for address, bits in (("10.0.0.2", 24), ("[fd00::2]", 64)):
        wire, capture = os.path.join(folder.name, "wire"), os.path.join(folder.name, "serve.pcap")
        with Server("--net", f"pcap:{capture},shm:{wire} addr={address.strip('[]')}/{bits}", "--echo", url=f"tcp://{address}:0") as server:
            done = run("swarm", "--quiet", "--net", f"shm:{wire} addr={address.strip('[]')[:-1]}1/{bits}", "--connections", "20", "--rate", "200", "--duration", "500ms", server.url)
            assert done.returncode == 0, done
            server.stop()
        count, kinds, wrong = judge("serve", [capture])
        assert count > 20 * 6 and not wrong, (count, wrong[:20])


def test_what_is_wrong_is_found():
    """a checksum that is flipped, a frame that is missing or cut, and one that says too little are each found"""
    head, records = frames_of(captures("tcp")["1"][[os.path.basename(path) for path in captures("tcp")["1"]].index("tcp-without_sack_and_timestamps_a_lossy_line_loses_no_byte.pcap")])
    records = records[:200]
    assert not judge("whole", [write("whole.pcap", head, records)])[2]
    full = [number for number, record in enumerate(records) if len(record) > 1400]

    def broken(name, change):
        copy = list(records)
        change(copy)
        return "\n".join(judge(name, [write(f"{name}.pcap", head, copy)])[2])

    def flip(at):
        def change(copy):
            record = bytearray(copy[full[3]])
            record[16 + at] ^= 1
            copy[full[3]] = bytes(record)
        return change

    def cut(copy):
        seconds, parts, size, _ = struct.unpack_from("<4I", copy[full[3]])
        copy[full[3]] = struct.pack("<4I", seconds, parts, size - 700, size - 700) + copy[full[3]][16:-700]

    assert "tcp.checksum.status 0" in broken("tcp", flip(14 + 20 + 20 + 5))
    assert "ip.checksum.status 0" in broken("ip", flip(14 + 8))
    assert "_ws.malformed" in broken("cut", cut) or "IPv4 total length exceeds packet length" in broken("cut", cut)
    found = broken("missing", lambda copy: copy.pop(full[3]))
    assert UNSEEN[1] in found, found
    found = broken("all", lambda copy: [copy.pop(number) for number in reversed(full)])
    assert UNSEEN[0] in found, found


main(globals())
