#!/usr/bin/env python3
"""Writes a C++ source that holds files' contents: embed.py OUTPUT FUNCTION INPUT...

Used by the build for the scenario catalog, so that the installed program needs no data folder.
"""
import os
import sys


def literal(data: bytes) -> str:
    """C++ string literal pieces; short enough for any compiler's limit on one literal."""
    pieces = []
    for line in data.splitlines(keepends=True):
        text = "".join(
            c if c not in '"\\' and 32 <= ord(c) < 127 else "\\n" if c == "\n" else "\\%03o" % ord(c)
            for c in line.decode("latin-1"))
        pieces.append('"%s"' % text)
    return "\n      ".join(pieces) or '""'


def main() -> None:
    output, function, *inputs = sys.argv[1:]
    entries = []
    for path in sorted(inputs, key=os.path.basename):
        name = os.path.basename(path).split(".")[0]
        with open(path, "rb") as file:
            entries.append('      {"%s",\n      %s},' % (name, literal(file.read())))
    with open(output, "w", encoding="ascii") as out:
        out.write('#include "host/run/%s.h"\n\nnamespace ktstr {\n\n' % function)
        out.write("std::vector<EmbeddedFile> %s() {\n  return {\n%s\n  };\n}\n\n" % (function, "\n".join(entries)))
        out.write("}  // namespace ktstr\n")


if __name__ == "__main__":
    main()
