#!/usr/bin/env python3
"""Writes an assembler source that holds files: embed_objects.py OUTPUT NAME=FILE...

Each becomes the bytes between the symbols NAME_begin and NAME_end.
"""
import os
import sys


def main() -> None:
    output, *pairs = sys.argv[1:]
    lines = ["  .section .rodata"]
    for pair in pairs:
        name, path = pair.split("=", 1)
        lines += [
            "  .balign 8", "  .globl %s_begin, %s_end" % (name, name),
            "%s_begin:" % name, '  .incbin "%s"' % os.path.abspath(path), "%s_end:" % name]
    lines.append('  .section .note.GNU-stack, "", @progbits')
    with open(output, "w", encoding="utf-8") as out:
        out.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
