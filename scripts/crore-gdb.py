"""gdb commands for programs that run crore. Load with: source crore-gdb.py

    crore list                 the coroutines of each runtime: what they are, and what they wait for
    crore bt ID [OPTION ...]   backtrace of a scheduled coroutine, by the id that the list gives; options as for bt
    crore bt ADDRESS           of any coroutine, by an expression that gives its struct cr_co *
    crore bt all               of all scheduled ones

They work on a process and on a core file, and change neither: gdb is shown a parked coroutine as what called the
innermost frame, by an unwinder that is switched on for the time of one command. (A core file that gdb itself wrote lacks most
stacks: it gives up at the first guard. The kernel's have all.) Coroutines made with cr_co_create are
known to whoever made them only, so the list has none of them; a scheduled one that waits inside a bare one is shown with both
stacks. crore itself must have its debug information.

One whose bytes are in an image, since its virtual stack is frozen, or somebody else is on its shared stack, is unwound in its image; nothing is thawed.
Its locals are those of the image. But gdb looks for what they point to on the stack, where it is not: a line says which addresses these are. Code without
optimization finds arrays of variable length by such a pointer, too.

A task has no stack: for each of its frames it is shown where that awaits something. Its locals are in the frame, a struct that begins with struct cr_task.

What is known here of a parked context, its stack pointer, and of the code where it goes on is said in crore/co_inline.h."""
import re

import gdb
import gdb.unwinder

CHUNK_BYTES = 256 * 1024
HANDLE_STEP_BYTES = 16
ROOM_UNIT_BYTES = 16
TOP_BYTES = 32
PACKED_BYTES = 2048
STATES = ("new", "suspended", "running", "ended", "scheduled", "free", "a thread's own", "ended")
TASK, AWAY, STARTED = 8, 0x2000, 0x8000 # bits beside them
SCHEDULED, FREE, ROOT, DONE = range(4, 8)
STACKS = ("static", "virtual", "shared")
STACK_SHIFT = 10
WAITS = {
    "CR__WAIT_NONE": "",
    "CR__WAIT_SLEEP": "a point in time",
    "CR__WAIT_JOIN": "the end of another coroutine",
    "CR__WAIT_READABLE": "something to read",
    "CR__WAIT_WRITABLE": "room to write",
    "CR__WAIT_STACK": "a stack",
    "CR__WAIT_MUTEX": "a mutex",
    "CR__WAIT_COND": "a condition variable",
    "CR__WAIT_READ_LOCK": "a readers-writer lock, to read",
    "CR__WAIT_WRITE_LOCK": "a readers-writer lock, to write",
    "CR__WAIT_SEM": "a semaphore",
    "CR__WAIT_GROUP": "a wait group",
    "CR__WAIT_ONCE": "another one's cr_once",
    "CR__WAIT_BARRIER": "others at a barrier",
    "CR__WAIT_SEND": "room in a channel",
    "CR__WAIT_RECV": "a value from a channel",
    "CR__WAIT_SELECT": "one of several channels",
    "CR__WAIT_BROADCAST": "a broadcast",
    "CR__WAIT_SCOPE": "the coroutines of its scope",
    "CR__WAIT_UNPARK": "being unparked",
    "CR__WAIT_PACKET": "a packet from a link",
    "CR__WAIT_BLOCKING": "a blocking call on another thread",
    "CR__WAIT_SIGNAL": "a signal",
    "CR__WAIT_CHILD": "the end of a child process",
    "CR__WAIT_EVENT": "an event",
    "CR__WAIT_NET_READABLE": "something to read from a network",
    "CR__WAIT_NET_WRITABLE": "room to write to a network",
}


# ---- Where a parked context goes on ----------------------------------------------------------------------------------

class Registers:
    """Of a parked context, as they are once the code where it goes on has taken it off its stack. The first of those that it has saved is the frame pointer."""

    def __init__(self, pc, sp, saved):
        self.pc, self.sp, self.saved = pc, sp, saved
        self.frame_pointer = next(iter(saved))


class Live:
    """The live bytes of a parked context: they belong at sp, and are there, or in an image."""

    def __init__(self, sp, top, place):
        self.sp, self.top, self.place = sp, top, place
        self.moved = place != sp

    def belongs(self, address):
        return self.moved and self.sp <= address <= self.top

    def found(self, address):
        return address - self.sp + self.place if self.belongs(address) else address

    def holds(self, address):
        return self.place <= address <= self.place + self.top - self.sp


def word(address):
    return int.from_bytes(gdb.selected_inferior().read_memory(address, 8).tobytes(), "little")


def code(address, size):
    return gdb.selected_inferior().read_memory(address, size).tobytes()


def x86_64(sp):
    """movq 8(%rsp), %rbx; movq 16(%rsp), %rbp; leaq N(%rsp), %rsp."""
    pc = word(sp)
    there = code(pc, 18)
    if there[:10] != bytes.fromhex("488b5c2408488b6c2410") or there[10:12] != b"\x48\x8d" or there[13] != 0x24:
        raise gdb.GdbError(f"where the coroutine goes on, at {pc:#x}, is not a switch of crore's")
    if there[12] == 0x64:
        taken, length = there[14], 15
    else:
        taken, length = int.from_bytes(there[14:18], "little"), 18
    return Registers(pc + length, sp + taken, {"rbp": word(sp + 16), "rbx": word(sp + 8)})


def aarch64(sp):
    """bti j; ldr x29, [sp, #8]; ldr x19, [sp, #16]; add sp, sp, #32"""
    return Registers(word(sp) + 16, sp + 32, {"x29": word(sp + 8), "x19": word(sp + 16)})


def riscv(sp):
    """ld s0, 8(sp); ld s1, 16(sp); addi sp, sp, 32: of two or four bytes each"""
    pc = word(sp)
    for _ in range(3):
        pc += 4 if code(pc, 1)[0] & 3 == 3 else 2
    return Registers(pc, sp + 32, {"fp": word(sp + 8), "s1": word(sp + 16)})


def parked_registers(live):
    name = gdb.newest_frame().architecture().name()
    for part, decode in (("x86-64", x86_64), ("aarch64", aarch64), ("riscv", riscv)):
        if part in name:
            registers = decode(live.place)
            registers.saved[registers.frame_pointer] = live.found(registers.saved[registers.frame_pointer])
            return registers
    raise gdb.GdbError(f"crore does not know the architecture {name}")


class FrameId:
    def __init__(self, sp, pc):
        self.sp, self.pc = sp, pc


class ParkedUnwinder(gdb.unwinder.Unwinder):
    """Makes a parked context the caller of the frame that runs at (pc, sp). In an image, a frame whose frame pointer has been read from there, and says where
    that frame belongs, becomes the caller of a double that says where it is."""

    def __init__(self):
        super().__init__("crore parked coroutine")
        self.enabled = False

    def show(self, context, live):
        newest = gdb.newest_frame()
        self.at = (int(newest.read_register("pc")), int(newest.read_register("sp")))
        self.context, self.live = context, live
        self.doubled = set()
        self.enabled = True
        gdb.invalidate_cached_frames()

    def hide(self):
        self.enabled = False
        gdb.invalidate_cached_frames()

    def belongs_elsewhere(self, frame):
        """frame: one, or a pending one."""
        value = frame.read_register(self.context.frame_pointer)
        return not value.is_optimized_out and self.live.belongs(int(value))

    def is_double(self, frame):
        """Also of what is inlined there."""
        return (int(frame.read_register("pc")), int(frame.read_register("sp"))) in self.doubled and self.belongs_elsewhere(frame)

    def __call__(self, pending):
        pc, sp = pending.read_register("pc"), pending.read_register("sp")
        if (int(pc), int(sp)) == self.at:
            return self.to_context(pending, pc, sp)
        if self.live.moved and self.belongs_elsewhere(pending):
            self.doubled.add((int(pc), int(sp)))
            return self.to_place(pending, pc, sp)
        return None

    def to_context(self, pending, pc, sp):
        context = self.context
        # an id on the parked stack, and below its first frame: the way out of it is not one to a younger frame
        info = pending.create_unwind_info(FrameId(gdb.Value(context.sp - 8).cast(sp.type), pc))
        for name, value in [("pc", context.pc), ("sp", context.sp), *context.saved.items()]:
            info.add_saved_register(name, gdb.Value(value).cast(pending.read_register(name).type))
        return info

    def to_place(self, pending, pc, sp):
        info = pending.create_unwind_info(FrameId(sp, pc))
        for register in pending.architecture().registers("general"):
            value = pending.read_register(register.name)
            if register.name == self.context.frame_pointer:
                value = gdb.Value(self.live.found(int(value))).cast(value.type)
            if not value.is_optimized_out:
                info.add_saved_register(register.name, value)
        return info


unwinder = ParkedUnwinder()
gdb.unwinder.register_unwinder(None, unwinder, replace=True)


class Place:
    """The user's thread and frame, found again afterwards."""

    def __enter__(self):
        self.thread = gdb.selected_thread()
        if self.thread is None:
            raise gdb.GdbError("there is no process")
        self.level = gdb.selected_frame().level()

    def __exit__(self, *_):
        self.thread.switch()
        frame = gdb.newest_frame()
        while frame.level() < self.level and frame.older() is not None:
            frame = frame.older()
        frame.select()


def backtrace_lines(options, is_wanted=lambda number: True):
    """What bt says, but for frames that are not wanted. A number among the options counts those that are."""
    counts = [int(option) for option in options.split() if re.fullmatch(r"-?\d+", option)]
    others = " ".join(option for option in options.split() if not re.fullmatch(r"-?\d+", option))
    frames = []
    for line in gdb.execute("with width 0 -- backtrace " + others, to_string=True).splitlines():
        found = re.match(r"#(\d+) *(.*)", line)
        if found:
            frames.append([])
            wanted = is_wanted(int(found.group(1)))
            line = found.group(2)
        if frames and wanted:
            frames[-1].append(line)
    wanted_frames = [lines for lines in frames if lines]
    numbered = [[f"#{number:<3}{lines[0]}", *lines[1:]] for number, lines in enumerate(wanted_frames)]
    for count in counts:
        numbered = numbered[:count] if count >= 0 else numbered[count:]
    return [line for lines in numbered for line in lines]


def parked_frames(context, live):
    """The numbers of its frames, and whether they go down to its entry."""
    numbers, complete = [], False
    frame = gdb.newest_frame()
    while frame is not None and int(frame.read_register("sp")) != context.sp:
        frame = frame.older()
    if frame is None:
        raise gdb.GdbError("gdb does not ask for how to unwind the innermost frame")
    while frame is not None:
        if live.moved and not live.holds(int(frame.read_register("sp"))):
            return numbers, False
        if not unwinder.is_double(frame):
            numbers.append(frame.level())
        complete = frame.unwind_stop_reason() in (gdb.FRAME_UNWIND_NO_REASON, gdb.FRAME_UNWIND_OUTERMOST)
        frame = frame.older()
    return numbers, complete


def parked_lines(live, options):
    context = parked_registers(live)
    unwinder.show(context, live)
    try:
        numbers, complete = parked_frames(context, live)
        lines = backtrace_lines(options, lambda number: number in numbers)
    finally:
        unwinder.hide()
    if complete or not live.moved:
        return lines
    return [*(line for line in lines if not line.startswith("Backtrace stopped")), "(the rest can not be told from an image)"]


# ---- Coroutines ------------------------------------------------------------------------------------------------------

def symbol(address):
    text = gdb.execute(f"info symbol {address:#x}", to_string=True)
    return f"{address:#x}" if text.startswith("No symbol") else text.split(" in section")[0].strip()


def pointer_to(name):
    try:
        return gdb.lookup_type("struct " + name).pointer()
    except gdb.error as error:
        raise gdb.GdbError("crore's debug information is missing: " + str(error))


class Thread:
    """One that has used crore: what runs there, and its worker (a gdb.Value, or None)."""

    def __init__(self, thread, own):
        self.thread = thread
        self.number = thread.num
        self.current = own["current"]
        self.task = int(own["task"])
        worker = own["worker"].cast(pointer_to("cr__worker"))
        self.worker = worker if int(worker) else None
        self.chunks = list(self.chunks_of_virtual_stacks()) if self.worker else []

    def chunks_of_virtual_stacks(self):
        chunk = self.worker["virtuals"]["chunks"]
        while int(chunk):
            yield int(chunk["base"]), int(chunk["slot_bytes"]), int(chunk["slots"]), chunk["states"]
            chunk = chunk["next"]


def threads():
    """Those that have used crore; the selected one first."""
    selected, found = gdb.selected_thread(), []
    try:
        for thread in sorted(gdb.selected_inferior().threads(), key=lambda t: (t.num != selected.num, t.num)):
            thread.switch()
            try:
                own = gdb.parse_and_eval("cr__self_tls").cast(pointer_to("cr__self"))
            except gdb.error as error:
                raise gdb.GdbError("crore's per-thread state can not be read: " + str(error))
            if int(own):
                found.append(Thread(thread, own))
    finally:
        selected.switch()
    return found


def enum_name(type_name, number):
    for field in gdb.lookup_type("enum " + type_name).fields():
        if field.enumval == number:
            return field.name
    return str(number)


def handled(handle):
    return int(gdb.parse_and_eval("cr__reserve.base")) + int(handle) * HANDLE_STEP_BYTES


class Coroutine:
    """A struct cr_co *, and where it is among the threads."""

    def __init__(self, co, among, now_ns=0):
        self.co = co
        self.among = among
        self.now_ns = now_ns # when its worker last looked at the clock
        self.address = int(co)
        self.id = int(co["id"])
        self.is_task = bool(int(co["mode"]) & TASK)
        self.kind = int(co["mode"]) & 0xff & ~TASK
        self.scheduled = self.kind in (SCHEDULED, DONE)
        self.thread = next((t for t in among if self.runs_on(t)), None)

    def runs_on(self, thread):
        if self.address in (int(thread.current), thread.task):
            return True
        inner = thread.current
        while int(inner) and int(inner["mode"]) & 0xff == STATES.index("running"): # bare ones inside it
            inner = inner["below"]
        return int(inner) == self.address

    def checked(self):
        if self.kind in (FREE, ROOT) or self.kind >= len(STATES):
            raise gdb.GdbError(f"{self.address:#x} is no coroutine, or no more")
        return self

    def record(self):
        return self.co.cast(pointer_to("cr__record"))

    def name(self):
        cold = self.co["cold"]
        return cold["name"].string() if int(cold) else ""

    def function(self):
        return symbol(int(self.co["entry"]))

    def started(self):
        return bool(int(self.co["mode"]) & STARTED) if self.scheduled else self.kind != STATES.index("new")

    def has_stack(self):
        return not self.is_task and self.state() not in ("ended", "free", "damaged") and self.started() and int(self.co["stack"]["top"]) != 0

    def slot(self):
        """Of a virtual stack."""
        last = int(self.co["stack"]["top"]) - 1
        for base, slot_bytes, slots, states in (chunk for thread in self.among for chunk in thread.chunks):
            if base <= last < base + slots * slot_bytes:
                return states[(last - base) // slot_bytes]
        raise gdb.GdbError(f"the stack of coroutine {self.id} is no worker's")

    def moved(self):
        """Whether its bytes are in an image. A frozen one that somebody has touched is away for its worker, but in place."""
        if not self.has_stack() or self.thread or not int(self.co["mode"]) & AWAY:
            return False
        return self.stack_kind() == "shared" or enum_name("cr__slot_state", int(self.slot()["state"])) != "CR__IN_PLACE"

    def live(self):
        """As parked_at in sched/tally.c."""
        sp, top = int(self.co["sp"]), int(self.co["stack"]["top"])
        if not self.moved():
            return Live(sp, top, sp)
        if self.stack_kind() == "shared":
            place = self.co["stack"]["place"]
            count = int(place["words"]) * 8
            end = top if int(place["with_top"]) else top - TOP_BYTES
            return Live(end - count, end, handled(self.co["stack"]["image"]) + int(place["room"]) * ROOM_UNIT_BYTES - count)
        frozen = gdb.lookup_type("struct image", gdb.lookup_global_symbol("cr__freeze_counts").symtab.static_block())
        return Live(sp, top, int(gdb.Value(handled(self.slot()["image"])).cast(frozen.pointer()).dereference()["bytes"].address))

    def stack_kind(self):
        if self.is_task:
            return "task"
        kind = STACKS[(int(self.co["mode"]) >> STACK_SHIFT & 3) % len(STACKS)]
        return "packed" if kind == "static" and int(self.co["stack"]["size_bytes"]) == PACKED_BYTES else kind

    def stack(self):
        kind = self.stack_kind()
        return kind + (", frozen" if kind == "virtual" else ", away") if self.moved() else kind

    def word(self):
        return int(self.record()["word"].cast(gdb.lookup_type("unsigned int")))

    def starves(self):
        """Whether its turn has come, and no stack was left."""
        return int(self.co["mode"]) >> 8 & int(gdb.parse_and_eval("(int)CR__CO_STARVES")) != 0

    def wait_kind(self):
        return enum_name("cr__wait_kind", self.word() // int(gdb.parse_and_eval("(int)CR__KIND")) % 32)

    def state(self):
        if self.kind != SCHEDULED:
            return STATES[self.kind] if self.kind < len(STATES) else "damaged"
        if self.thread:
            return "running"
        if not self.started():
            return "parked" if self.starves() else "new"
        return "parked" if self.waits() else "ready"

    def waits(self):
        """Whether nobody has ended its wait yet."""
        return self.word() & int(gdb.parse_and_eval("(int)CR__STATE")) == int(gdb.parse_and_eval("(int)CR__WAITING"))

    def waits_for(self):
        if self.state() != "parked":
            return ""
        record = self.record()
        kind = self.wait_kind() if self.started() else "CR__WAIT_STACK"
        what = WAITS.get(kind, kind)
        if kind == "CR__WAIT_JOIN":
            what = f"the end of coroutine {int(record['node']['object'].cast(pointer_to('cr__record'))['co']['id'])}"
        elif kind in ("CR__WAIT_READABLE", "CR__WAIT_WRITABLE"):
            what += f", fd {int(record['node']['object'].cast(pointer_to('cr__pollable'))['fd'])}"
        if int(record["timer"]["link"]):
            what += f", {(int(record['timer']['deadline_ns']) - self.now_ns) / 1e9:.3f} s from now"
        return what

    def who(self):
        quoted = f' "{self.name()}"' if self.name() else ""
        what = "task" if self.is_task else "coroutine" if self.scheduled else "bare coroutine"
        return f"{what} {self.id}{quoted} in {self.function()}"

    def title(self):
        waits_for = self.waits_for()
        title = f"{self.who()}, {self.state()}" + ("" if self.is_task else f" ({self.stack()})")
        title += f" on thread {self.thread.number}" if self.thread else ""
        return title + (f": waits for {waits_for}" if waits_for else "")

    def inner(self, among):
        """The coroutines whose stacks it consists of now, innermost first: bare ones, and itself last."""
        if not self.scheduled or not self.has_stack():
            return [self]
        at = self.thread.current if self.thread else self.co["below"]
        chain, seen = [], set()
        while int(at) != self.address and int(at) not in seen and int(at):
            seen.add(int(at))
            chain.append(Coroutine(at, among))
            at = at["below"]
        return [*chain, self]

    def points(self):
        """Where each of a task's frames is, the innermost first."""
        root = (self.record() + 1).cast(pointer_to("cr_task"))
        frame, lines = root["caller"], []
        while int(frame) != int(root) and len(lines) < 100:
            lines.append(frame["at"])
            frame = frame["caller"]
        return [f"#{i:<2} {at['function'].string()} at {at['file'].string()}:{int(at['line'])}" for i, at in enumerate([*lines, root["at"]])]

    def own_lines(self, options):
        """The backtrace of its own stack."""
        if self.state() == "ended":
            return ["(it has ended)"]
        if not self.started():
            return ["(it has not begun)"]
        if self.is_task and self.thread:
            self.thread.thread.switch()
            return [*backtrace_lines(options), "where each of its frames has last begun, or awaited something:", *self.points()]
        if self.is_task:
            return self.points()
        if self.thread and int(self.thread.current) == self.address:
            self.thread.thread.switch()
            return backtrace_lines(options)
        if not self.has_stack():
            return ["(no stack)"]
        try:
            return self.parked_lines(options)
        except (gdb.MemoryError, gdb.GdbError) as error: # a core file without it; one that was just being moved
            return [f"(no backtrace: {error})"]

    def parked_lines(self, options):
        live = self.live()
        if symbol(word(live.place)).replace(".", "__") == "cr__arch_entry": # gdb may take it for Ada
            return ["(it has not begun)"]
        if not live.moved:
            return parked_lines(live, options)
        note = f"(from its image: what pointers to its locals, {live.sp:#x} to {live.top:#x}, lead to just now is not its)"
        return [note, *parked_lines(live, options)]

    def print_backtrace(self, among, options):
        print(self.title())
        for number, coroutine in enumerate(self.inner(among)):
            if number > 0:
                print(f"which was resumed by {coroutine.who()}:")
            for line in coroutine.own_lines(options):
                print("  " + line)


def addresses(slab):
    """Those of the objects that were ever taken from it."""
    reserve = gdb.parse_and_eval("cr__reserve")
    base = int(reserve["base"])
    for index in range(int(reserve["chunks"])):
        chunk = gdb.Value(base).cast(pointer_to("cr__chunk"))[index]
        if int(chunk["slab"]) == int(slab.address):
            yield from range(base + index * CHUNK_BYTES, int(chunk["fresh"]), int(slab["stride_bytes"]))


def records(worker):
    """A task's lacks what has a stack (src/sched/frames.h)."""
    yield from addresses(worker["records"])
    frames = worker["frames"]
    for i in range(int(frames["used_count"])):
        for address in addresses(frames["slabs"][int(frames["used"][i])]):
            yield address - int(gdb.parse_and_eval("&((struct cr_co *)0)->next"))


def coroutines(thread, among):
    """All of a worker's records that are in use, by id."""
    found = []
    for address in records(thread.worker):
        co = gdb.Value(address).cast(pointer_to("cr_co"))
        kind = int(co["mode"]) & 0xff & ~TASK
        if kind < len(STATES) and STATES[kind] in ("scheduled", "ended"):
            found.append(Coroutine(co, among, int(thread.worker["now_ns"])))
    return sorted(found, key=lambda coroutine: coroutine.id)


# ---- Commands --------------------------------------------------------------------------------------------------------

class Crore(gdb.Command):
    """Coroutines of crore: list them, and look at their stacks."""

    def __init__(self):
        super().__init__("crore", gdb.COMMAND_STACK, gdb.COMPLETE_NONE, True)


class CroreList(gdb.Command):
    """Lists the coroutines of each runtime: crore list"""

    def __init__(self):
        super().__init__("crore list", gdb.COMMAND_STACK, gdb.COMPLETE_NONE)

    def invoke(self, argument, from_tty):
        with Place():
            among = threads()
            for thread in among:
                if thread.worker is None:
                    continue
                found = coroutines(thread, among)
                print(f"thread {thread.number}: worker {int(thread.worker['index'])}, {len(found)} coroutines live")
                for c in found:
                    name = f' "{c.name()}"' if c.name() else ""
                    row = f"  {c.id:>6}  {c.state():<8} {c.stack():<15}  {c.function()}{name}  {c.waits_for()}"
                    print(row.rstrip())
            if not any(thread.worker for thread in among):
                print("no runtime is running")


class CroreBt(gdb.Command):
    """Backtrace of coroutines: crore bt ID|ADDRESS|all [OPTION ...]
ID is as crore list gives it; ADDRESS an expression of type struct cr_co *. The options are those of bt."""

    def __init__(self):
        super().__init__("crore bt", gdb.COMMAND_STACK, gdb.COMPLETE_EXPRESSION)

    def invoke(self, argument, from_tty):
        words = argument.split()
        if not words:
            raise gdb.GdbError("crore bt ID|ADDRESS|all [OPTION ...]")
        with Place():
            among = threads()
            for coroutine in self.wanted(words[0], among):
                coroutine.print_backtrace(among, " ".join(words[1:]))

    @staticmethod
    def wanted(text, among):
        everything = [c for thread in among if thread.worker for c in coroutines(thread, among)]
        if text == "all":
            return everything
        try:
            number = int(gdb.parse_and_eval(text))
        except gdb.error as error:
            raise gdb.GdbError(str(error))
        found = [c for c in everything if number in (c.id, c.address)]
        if not found and number < 2**32:
            raise gdb.GdbError(f"no coroutine {number}; 'crore list' lists those of the runtimes")
        return found or [Coroutine(gdb.Value(number).cast(pointer_to("cr_co")), among).checked()]


Crore()
CroreList()
CroreBt()
