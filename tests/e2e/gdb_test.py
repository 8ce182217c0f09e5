"""Coroutines in gdb: scripts/crore-gdb.py on a process and on a core file, and gdb's own backtrace in a coroutine."""
import os
import re
import shutil
import signal
import subprocess
import tempfile

from tap import MORE, Skip, main, sanitized

TARGET, SCRIPT = (os.path.abspath(path) for path in MORE)
with open(TARGET, "rb") as file:
    IMAGE = file.read()
PARKED = ["sleeps_inner", "sleeps_outer", "sleeper_main", "cr__arch_entry"]
RUNNING = ["stop_here", "runs_inner", "runner_main", "cr__arch_entry"]
KEEPER = ["keeps", "keeps_more", "keeper_main", "cr__arch_entry"]


def gdb(*commands, program=(TARGET,)):
    """What each command says: [text, ...]"""
    if not shutil.which("gdb"):
        raise Skip("no gdb")
    if b".debug_info" not in IMAGE:
        raise Skip("built without debug information")
    if sanitized(TARGET):
        raise Skip("built with sanitizers")
    args = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-iex", "set startup-with-shell off", "-ex", f"source {SCRIPT}"]
    for number, command in enumerate(commands):
        args += ["-ex", f"echo \\n<<{number}>>\\n", "-ex", command]
    done = subprocess.run([*args, *program], capture_output=True, text=True, timeout=100)
    both = done.stdout + done.stderr
    if "Python scripting is not supported" in both:
        raise Skip("a gdb without Python")
    if "ptrace: Operation not permitted" in both:
        raise Skip("no process may be traced here")
    parts = re.split(r"<<\d+>>\n", done.stdout)[1:]
    assert len(parts) == len(commands), both
    gdb.errors = done.stderr
    return parts


def stopped(*commands):
    """In coroutine runner_main, at the breakpoint. No command may complain, and the program must end well after all."""
    parts = gdb("break stop_here", "run", *commands, "delete", "continue")
    assert "ends well" in parts[-1] and "exited normally" in parts[-1], (parts, gdb.errors)
    assert not gdb.errors.strip(), gdb.errors
    return parts[2:-2]


def kinds(*commands):
    """The same in coroutine kinds: what the program has said first, and of each command."""
    parts = gdb("handle SIGSEGV nostop noprint", "break stop_here", "run kinds", *commands, "delete", "continue")
    assert "ends well" in parts[-1] and "exited normally" in parts[-1], (parts, gdb.errors)
    assert not gdb.errors.strip(), gdb.errors
    return parts[2:-2]


def functions(backtrace):
    """The functions of a backtrace, innermost first; checks that it ends without complaint."""
    assert "Backtrace stopped" not in backtrace and "corrupt" not in backtrace, backtrace
    unknown = [line for line in backtrace.splitlines() if "??" in line and "/libc.so" not in line] # that one's symbols may be missing
    assert not unknown, backtrace
    frames = re.findall(r"^ *#(\d+) +(?:0x[0-9a-f]+ in )?(\S+) \(", backtrace, re.M)
    numbers = [int(number) for number, _ in frames]
    assert numbers == sorted(numbers) or numbers.count(0) > 1, backtrace
    return [name.replace(".", "__") for _, name in frames] # gdb takes assembly of clang's for Ada


def ends_with(backtrace, names):
    """That these functions come last, and what they called is crore's."""
    found = functions(backtrace)
    inside = found[:-len(names)]
    assert found[-len(names):] == names, backtrace
    assert not inside or inside[-1].startswith(("cr", "stream_read", "abort", "__GI_abort")), backtrace


def by_id(text):
    """What crore bt all says of each coroutine."""
    return dict(zip(*[iter(re.split(r"^coroutine (\d+) ", text, flags=re.M)[1:])] * 2))


def test_running():
    """plain bt in a scheduled coroutine ends at the coroutine's entry"""
    ends_with(stopped("bt")[0], RUNNING)


def test_running_bare():
    """plain bt in a bare coroutine ends at the coroutine's entry"""
    ends_with(stopped("continue", "bt")[1], ["stop_here", "runs_inner", "runs_bare_main", "cr__arch_entry"])


def test_list():
    """crore list shows each coroutine's id, state, function, name and what it waits for"""
    lines = [" ".join(line.split()) for line in stopped("crore list")[0].splitlines()]
    assert lines[0] == "thread 1: worker 0, 8 coroutines live", lines
    for line in ["3 parked static joiner_main the end of coroutine 2", "6 ready static ready_main", "7 running static runner_main", "9 new static new_main"]:
        assert line in lines, (line, lines)
    for pattern in [r'2 parked static sleeper_main "the sleeper" a point in time, 3\d\d\d\.\d+ s from now', r"4 parked static reader_main something to read, fd \d+",
                    r"5 parked static outside_main a point in time, .*", r"8 parked task calls_task a point in time, .*"]:
        assert any(re.fullmatch(pattern, line) for line in lines), (pattern, lines)
    assert not any(line.startswith("1 ") for line in lines), "the first one has ended"


def test_parked():
    """crore bt shows a parked scheduled coroutine's frames in order, down to its entry and no further"""
    text, by_address, again = stopped("crore bt 2", "crore bt sleeper", "crore bt 2")
    assert text.startswith('coroutine 2 "the sleeper" in sleeper_main, parked (static): waits for a point in time'), text
    ends_with(text, PARKED)
    assert functions(text)[0].replace(".", "__") == "cr__wait_left", text # gdb may take it for Ada
    assert text.strip() == by_address.strip() == again.strip(), (text, by_address, again)


def test_parked_task():
    """crore bt shows where a parked task's frames are"""
    lines = stopped("crore bt 8")[0].strip().splitlines()
    assert lines[0].startswith("task 8 in calls_task, parked: waits for a point in time"), lines
    assert re.fullmatch(r"  #0  sleeps_task at .*gdb_target\.c:\d+", lines[1]) and re.fullmatch(r"  #1  calls_task at .*gdb_target\.c:\d+", lines[2]), lines


def test_parked_bare():
    """crore bt shows bare coroutines, whether the yield was inlined in the program or called"""
    inlined, called, new, ended = stopped("crore bt bare_inlined", "crore bt bare_called", "crore bt bare_new", "crore bt bare_ended")
    ends_with(inlined, [*["yields_inlined"] * 3, "bare_inlined_main", "cr__arch_entry"])
    ends_with(called, ["yields_by_call", "bare_called_main", "cr__arch_entry"])
    assert inlined.startswith("bare coroutine 1 in bare_inlined_main, suspended"), inlined
    assert ", new (static)\n  (it has not begun)" in new and ", ended (static)\n  (it has ended)" in ended, (new, ended)


def test_parked_inside():
    """a scheduled coroutine that waits inside a bare one is shown with both stacks"""
    inner, outer = stopped("crore bt 5")[0].split("which was resumed by coroutine 5 in outside_main:\n")
    ends_with(inner, ["sleeps_inner", "sleeps_outer", "inside_main", "cr__arch_entry"])
    ends_with(outer, ["resumes", "outside_main", "cr__arch_entry"])


def test_all():
    """crore bt all shows all of them, the running one included"""
    text = stopped("crore bt all")[0]
    parts = by_id(text)
    assert sorted(parts) == list("2345679"), text
    ends_with(parts["2"], PARKED)
    ends_with(parts["3"], ["joiner_main", "cr__arch_entry"])
    ends_with(parts["4"], ["reader_main", "cr__arch_entry"])
    ends_with(parts["6"], ["ready_main", "cr__arch_entry"])
    assert functions(parts["7"]) == RUNNING, parts["7"]
    assert "(it has not begun)" in parts["9"]


def test_nothing_changes():
    """after it registers, frame and gdb's own backtrace are as before"""
    before, _, after, bt = stopped("info registers", "crore bt all", "info registers", "bt")
    assert before == after and "sp " in before, (before, after)
    ends_with(bt, RUNNING)
    frame, _, frame_after, bt = stopped("frame 1", "crore bt 2", "frame", "bt")
    assert frame == frame_after and "runs_inner" in frame, (frame, frame_after)
    ends_with(bt, RUNNING)


def test_bad_input():
    """what is not there is said in one line"""
    parts = gdb("break stop_here", "run", "crore bt 99", "crore bt", "crore bt nonsense")
    assert not any(part.strip() for part in parts[2:]), parts
    said = gdb.errors.splitlines()
    assert len(said) == 3 and "no coroutine 99" in said[0] and "ID|ADDRESS|all" in said[1] and "nonsense" in said[2], said
    gdb("crore list")
    assert gdb.errors.strip() == "there is no process", gdb.errors


def test_attached():
    """all of it works on a process that gdb attaches to while it waits for events"""
    with subprocess.Popen([TARGET, "wait"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "waiting\n"
            listed, parked, own, _ = gdb("crore list", "crore bt 2", "bt", "detach", program=("-p", str(process.pid)))
            assert "coroutines live" in listed and "running" not in listed, (listed, gdb.errors)
            ends_with(parked, PARKED)
            assert functions(own)[-1] == "main", own
            assert process.poll() is None
        finally:
            process.kill()


def test_core():
    """all of it works on a core file that the kernel wrote"""
    with tempfile.TemporaryDirectory(prefix="crore-core-") as folder:
        died = subprocess.run(["prlimit", "--core=unlimited", TARGET, "abort"], cwd=folder, capture_output=True, check=False)
        assert died.returncode == -signal.SIGABRT, died
        cores = os.listdir(folder)
        if not cores:
            raise Skip("core files go elsewhere: " + open("/proc/sys/kernel/core_pattern").read().strip())
        listed, everything, bare = gdb("crore list", "crore bt all", "crore bt bare_inlined", program=(TARGET, os.path.join(folder, cores[0])))
    assert "8 coroutines live" in listed and "no backtrace" not in everything, (listed, everything, gdb.errors)
    parts = by_id(everything)
    ends_with(parts["2"], PARKED)
    ends_with(parts["7"], RUNNING[1:])
    ends_with(bare, [*["yields_inlined"] * 3, "bare_inlined_main", "cr__arch_entry"])


def shows_all_kinds(said, listed, everything):
    virtual = "virtual, frozen" if "2 frozen" in said else "virtual" # not every kernel lets it be
    rows = [" ".join(line.split()) for line in listed.splitlines()]
    for row in ['2 parked static keeper_main "a static one" a', r'3 parked (packed|static) keeper_main "a packed one" a', f'4 parked {virtual} keeper_main "a virtual one" a',
                '5 parked virtual keeper_main "a touched one" a', "6 ended shared new_main$", "7 ended task ends_task$", '8 parked shared, away keeper_main "an absent one" a',
                '9 parked shared keeper_main "a present one" a', "10 parked task calls_task a", "11 new shared new_main$", "12 new task calls_task$"]:
        assert any(re.match(row, line) for line in rows), (row, rows)
    parts = dict(zip(*[iter(re.split(r"^(?:coroutine|task) (\d+) ", everything, flags=re.M)[1:])] * 2))
    assert sorted(map(int, parts)) == list(range(1, 13)), everything
    for number, kept in (("2", 1015), ("3", 1025), ("4", 1035), ("5", 1045), ("8", 1055), ("9", 1065)):
        ends_with(parts[number], KEEPER)
        assert f"kept = {kept}\n" in parts[number], parts[number]
        assert ("from its image" in parts[number]) == (number == "8" or number == "4" and "frozen" in virtual), parts[number]
    assert "#0  sleeps_task at " in parts["10"] and "#1  calls_task at " in parts["10"], parts["10"]
    for number, nothing in (("6", "ended"), ("7", "ended"), ("11", "not begun"), ("12", "not begun")):
        assert re.search(rf"\n  \(it has {nothing}\)\s*$", parts[number]), parts[number]


def test_kinds():
    """each kind of stack is listed, and shown with its locals, frozen or away as well; what has ended or not begun is said to have"""
    said, listed, everything, first, last = kinds("crore list", "crore bt all -full", "crore bt 8 2", "crore bt 8 -2")
    shows_all_kinds(said, listed, everything)
    assert re.findall(r"^  #(\d+)", first, re.M) == ["0", "1"] and functions(last) == KEEPER[-2:], (first, last)


def test_kinds_thaw_nothing():
    """what is frozen or away is so after it has been shown"""
    said, before, _, after = kinds("crore list", "crore bt all -full", "crore list")
    assert before == after, (said, before, after)


def test_kinds_core():
    """the same from a core file"""
    with tempfile.TemporaryDirectory(prefix="crore-core-") as folder:
        died = subprocess.run(["prlimit", "--core=unlimited", TARGET, "kinds-abort"], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        assert died.returncode == -signal.SIGABRT, died
        cores = os.listdir(folder)
        if not cores:
            raise Skip("core files go elsewhere: " + open("/proc/sys/kernel/core_pattern").read().strip())
        shows_all_kinds(died.stdout, *gdb("crore list", "crore bt all -full", program=(TARGET, os.path.join(folder, cores[0]))))


main(globals())
