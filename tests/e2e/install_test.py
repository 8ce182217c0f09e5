"""What `meson install` puts in place: symbols, headers, pkg-config, C and C++ programs built with it, the manual page."""
import atexit
import glob
import json
import os
import re
import shutil
import subprocess
import tempfile

from tap import MORE, Skip, main

BUILD, PROGRAM = (os.path.abspath(path) for path in MORE)
ROOT = tempfile.mkdtemp(prefix="crore-install-")
atexit.register(shutil.rmtree, ROOT)
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
C_COMPILERS, CXX_COMPILERS = ["gcc", "clang"], ["g++", "clang++"]
C_STANDARDS, CXX_STANDARDS = ["-std=gnu17", "-std=c11"], ["-std=c++17"]


def call(*args, **kwargs):
    done = subprocess.run(args, capture_output=True, text=True, timeout=100, check=False, **kwargs)
    assert done.returncode == 0, (args, done.stdout, done.stderr)
    return done.stdout


def options():
    return {option["name"]: option["value"] for option in json.loads(call("meson", "introspect", "--buildoptions", BUILD))}


OPTIONS = options()
call("meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", ROOT)
PREFIX = ROOT + OPTIONS["prefix"]
LIB, INCLUDE = os.path.join(PREFIX, OPTIONS["libdir"]), os.path.join(PREFIX, OPTIONS["includedir"])
HEADERS = sorted(glob.glob(INCLUDE + "/crore/*.h"))


def compilers(standards):
    """(compiler, standard) of those that are here."""
    found = [(compiler, standard) for names, those in standards for compiler in names if shutil.which(compiler) for standard in those]
    if not found:
        raise Skip("no compiler")
    return found


def pkg_config(*args):
    environment = {**os.environ, "PKG_CONFIG_PATH": os.path.join(LIB, "pkgconfig")}
    return call("pkg-config", "--define-variable=prefix=" + PREFIX, *args, "crore", env=environment).split()


def symbols(*args):
    if OPTIONS.get("b_sanitize", "none") != "none":
        raise Skip("built with sanitizers")
    names = [line.split()[-1] for line in call("nm", "--defined-only", *args).splitlines() if len(line.split()) == 3]
    assert len(names) > 50, names
    return names


def declared():
    """The functions that the headers export."""
    text = "".join(open(header).read() for header in HEADERS)
    found = re.findall(r'^CR_API[^;{=]*?\b(cr_\w+)\([^;{]*?\)(?: __asm__\("(\w+)"\))?;', text, re.M)
    return {label or name for name, label in found}, text


def build_and_run(compiler, standard, output, *flags):
    """The program, built with those flags; returns the libraries that it needs."""
    if OPTIONS.get("b_sanitize", "none") != "none":
        raise Skip("built with sanitizers")
    language = ["-x", "c++"] if "++" in compiler else []
    path = os.path.join(ROOT, output)
    call(compiler, standard, "-O2", *WARNINGS, *language, PROGRAM, *(["-x", "none"] if language else []), "-o", path, *flags)
    said = call(path, env={**os.environ, "LD_LIBRARY_PATH": LIB})
    assert said == f"crore {version()}: 3\n", said
    return re.findall(r"NEEDED.*\[(.*)\]", call("readelf", "-d", path))


def version():
    text = open(os.path.join(INCLUDE, "crore/api.h")).read()
    return ".".join(re.search(rf"CR_VERSION_{part} (\d+)", text).group(1) for part in ("MAJOR", "MINOR", "PATCH"))


def test_exported():
    """the shared library exports what the headers declare, and nothing else"""
    exported = set(symbols("-D", os.path.join(LIB, "libcrore.so")))
    functions, text = declared()
    assert len(functions) > 60, functions
    assert not functions - exported, functions - exported
    assert not {name for name in exported if not name.startswith("cr_")}
    assert not {name for name in exported if not re.search(rf"\b{name}\b", text)}


def test_archive():
    """every global name in the static library begins with cr_"""
    assert not [name for name in symbols("-g", os.path.join(LIB, "libcrore.a")) if not name.startswith("cr_")]


def test_headers():
    """each header compiles alone, with all warnings, in C and in C++"""
    assert "crore.h" in [os.path.basename(header) for header in HEADERS]
    for compiler, standard in compilers([(C_COMPILERS, C_STANDARDS), (CXX_COMPILERS, CXX_STANDARDS)]):
        for header in HEADERS:
            for level in ("-O0", "-O2"):
                source = f"#include <crore/{os.path.basename(header)}>\nint main(void) {{ return 0; }}\n"
                call(compiler, standard, level, *WARNINGS, "-Wpedantic", "-x", "c++" if "++" in compiler else "c", "-", "-fsyntax-only",
                     "-I" + INCLUDE, input=source)


def test_shared():
    """pkg-config builds C programs with the shared library"""
    for compiler, standard in compilers([(C_COMPILERS, C_STANDARDS)]):
        needed = build_and_run(compiler, standard, "shared", *pkg_config("--cflags", "--libs"))
        assert "libcrore.so.0" in needed, needed


def test_shared_cxx():
    """and C++ programs"""
    for compiler, standard in compilers([(CXX_COMPILERS, CXX_STANDARDS)]):
        build_and_run(compiler, standard, "shared-cxx", *pkg_config("--cflags", "--libs"))


def test_static():
    """pkg-config --static names all that the static library needs, in C and in C++"""
    flags = ["-l:libcrore.a" if flag == "-lcrore" else flag for flag in pkg_config("--cflags", "--libs", "--static")]
    assert "-l:libcrore.a" in flags, flags
    for compiler, standard in compilers([(C_COMPILERS, C_STANDARDS), (CXX_COMPILERS, CXX_STANDARDS)]):
        needed = build_and_run(compiler, standard, "static", *flags)
        assert not [name for name in needed if "crore" in name], needed


def test_bound_at_once():
    """nothing is bound while a coroutine runs: not the library's calls, not the command's, nor those of a program that pkg-config builds"""
    build_and_run("gcc", "-std=gnu17", "bound", *pkg_config("--cflags", "--libs"))
    binaries = [os.path.join(LIB, "libcrore.so"), os.path.join(ROOT, "bound"), *([os.path.join(PREFIX, OPTIONS["bindir"], "crore")] if OPTIONS["programs"] else [])]
    for path in binaries:
        assert re.search(r"\(FLAGS(_1)?\).*\b(BIND_)?NOW\b", call("readelf", "-d", path)), path


def test_wholly_static():
    """a program may be static as a whole"""
    for name in ("libcares.a", "libc.a"):
        if os.path.basename(call("gcc", "-print-file-name=" + name).strip()) == call("gcc", "-print-file-name=" + name).strip():
            raise Skip("no " + name)
    assert build_and_run("gcc", "-std=gnu17", "wholly", "-static", *pkg_config("--cflags", "--libs", "--static")) == []


def test_command():
    """the command is installed, runs, and has the library's version"""
    if not OPTIONS["programs"]:
        raise Skip("built without programs")
    assert version() in call(os.path.join(PREFIX, OPTIONS["bindir"], "crore"), "--version")


def test_gdb_script():
    """the gdb commands are installed, and are Python"""
    with open(os.path.join(PREFIX, OPTIONS["datadir"], "crore/crore-gdb.py")) as script:
        compile(script.read(), "crore-gdb.py", "exec")


def test_manual():
    """the manual page has nothing that mandoc objects to"""
    pages = glob.glob(os.path.join(PREFIX, OPTIONS["mandir"], "man*/*"))
    if not pages:
        raise Skip("no manual page is installed")
    if not shutil.which("mandoc"):
        raise Skip("no mandoc")
    call("mandoc", "-T", "lint", "-W", "warning", *pages)


main(globals())
