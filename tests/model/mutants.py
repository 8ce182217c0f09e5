#!/usr/bin/env python3
"""Which weakened memory orders the model tests notice.

    tests/model/mutants.py SURVIVORS TEST...

Runs each test program with --mutate. A mutant, one order at one place made weaker, is killed if any test finds something; it
survives if all that come by that place hold. Prints TAP, a test for each mutant. One that survives, or for which the time was too short, fails unless it is in the file
SURVIVORS with its reason, and so does an entry there that did not survive. Lines of that file, besides comments (#):

    FILE FUNCTION OPERATION NTH ORDER WEAKER: why that is as it should be"""
import collections
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys


def allowed(path):
    entries = {}
    for line in pathlib.Path(path).read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            key, _, reason = line.partition(": ")
            entries[key.strip()] = reason.strip()
    return entries


def run(test):
    """Of one program: its mutants by key, and what went wrong."""
    result = subprocess.run([test, "--mutate"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    found, name = [], pathlib.Path(test).name
    for line in result.stdout.splitlines():
        if line.startswith("# mutant\t"):
            _, verdict, file, function, operation, nth, order, weaker, number, how = line.split("\t")
            key = f"{file} {function} {operation.replace(' ', '-')} {nth} {order} {weaker}"
            found.append((key, verdict, f"{file}:{number}", how))
    wrong = [] if result.returncode == 0 else [f"{name} --mutate failed:", *result.stdout.splitlines()[-40:]]
    return name, found, wrong


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    reasons = allowed(sys.argv[1])
    mutants = collections.defaultdict(list)  # key: [(verdict, test, how)]
    places, number, failed = {}, 0, 0

    def say(good, text, *more):
        nonlocal number, failed
        number += 1
        failed += not good
        for line in more:
            print("#", line)
        print("ok" if good else "not ok", number, "-", text, flush=True)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, found, wrong in pool.map(run, sys.argv[2:]):
            if wrong:
                say(False, f"{name} holds without mutants", *wrong)
            for key, verdict, place, how in found:
                mutants[key].append((verdict, name, how))
                places[key] = place
    for key in sorted(mutants, key=lambda k: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", places[k] + k)]):
        killers = sorted({f"{how} in {name}" for verdict, name, how in mutants[key] if verdict == "killed"})
        text = f"{key.rsplit(' ', 2)[0]} ({places[key].rpartition(':')[2]}): {' to '.join(key.rsplit(' ', 2)[1:])}"
        if killers:
            say(key not in reasons, f"{text}, killed: {', '.join(killers)}",
                *(["is in the list of survivors, but did not survive"] if key in reasons else []))
        elif key in reasons:
            say(True, f"{text}, survives: {reasons[key]}")
        else:
            say(False, f"{text}, survives in {', '.join(sorted({name + ' (' + how + ')' for _, name, how in mutants[key]}))}",
                "no test fails with this order weakened: write one, or weaken it, or say in the list of survivors why not:", key)
    for key in reasons:
        if key not in mutants:
            say(False, f"{key} is in the list of survivors, but no test comes by")
    print(f"1..{number}")
    return 1 if failed else 0


sys.exit(main())
