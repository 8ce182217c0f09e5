#!/bin/sh
# prelink.sh OBJCOPY OUT EXPLORER.a CRORE.a CC...: the explorer and what it needs of crore as one object, in which only its interface is
# global.
set -eu
objcopy=$1 out=$2 explorer=$3 crore=$4
shift 4
"$@" -r -nostdlib -o "$out.tmp" -Wl,--whole-archive "$explorer" -Wl,--no-whole-archive "$crore"
"$objcopy" --wildcard --keep-global-symbol='model_*' --keep-global-symbol='__tsan_*' --keep-global-symbol='__wrap_*' \
    --keep-global-symbol=main "$out.tmp" "$out"
rm -f "$out.tmp"
