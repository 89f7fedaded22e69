"""Writes src/formats/unicode_tables.cc from Python's unicodedata.

    python3.11 tools/make_unicode_tables.py

Unicode 14.0 (Python 3.11) on purpose: it is the version of PCRE2 10.42, which runs the patterns of
tokenizer.json, and of the Oniguruma inside the `tokenizers` library that made most vocabularies.
"""

import pathlib
import sys
import unicodedata

CLASSES = ["kOther", "kUpper", "kLower", "kTitle", "kModifier", "kOtherLetter", "kMark", "kNumber",
           "kPunctuation", "kSymbol", "kSpace"]
BY_CATEGORY = {"Lu": 1, "Ll": 2, "Lt": 3, "Lm": 4, "Lo": 5, "M": 6, "N": 7, "P": 8, "S": 9, "Z": 10}
CONTROLS_THAT_ARE_SPACE = {0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x85}  # Unicode's White_Space property


def char_class(code):
    if code in CONTROLS_THAT_ARE_SPACE:
        return 10
    category = unicodedata.category(chr(code))
    return BY_CATEGORY.get(category, BY_CATEGORY.get(category[0], 0))


def class_runs():
    runs, last = [], None
    for code in range(0x110000):
        found = char_class(code)
        if found != last:
            runs.append((code << 8) | found)
            last = found
    return runs


def canonical_pairs():
    """Canonical decompositions as (code, first, second or 0); Hangul is computed, not listed."""
    pairs = []
    for code in range(0x110000):
        text = unicodedata.decomposition(chr(code))
        if not text or text.startswith("<"):
            continue
        parts = [int(part, 16) for part in text.split()]
        pairs.append((code, parts[0], parts[1] if len(parts) > 1 else 0))
    return pairs


def composed(pairs):
    """The pairs that NFC puts together again (composition exclusions left out), by (first, second)."""
    return sorted((first, second, code) for code, first, second in pairs
                  if second and unicodedata.normalize("NFC", chr(code)) == chr(code))


def combining_runs():
    runs, last = [], None
    for code in range(0x110000):
        found = unicodedata.combining(chr(code))
        if found != last:
            runs.append((code << 8) | found)
            last = found
    return runs


def table(name, type_name, comment, rows):
    lines, line = [], " "
    for row in rows:
        item = f" {row},"
        if len(line) + len(item) > 100:
            lines.append(line)
            line = " "
        line += item
    lines.append(line)
    body = "\n".join(lines)
    return f"// {comment}\nconst {type_name} {name}[] = {{\n{body}\n}};\nconst size_t {name}Size = std::size({name});\n"


def main():
    if unicodedata.unidata_version != "14.0.0":
        sys.exit(f"Unicode 14.0.0 is wanted (Python 3.11), this Python has {unicodedata.unidata_version}")
    pairs = canonical_pairs()
    parts = [
        "// Made by tools/make_unicode_tables.py from Unicode 14.0.0; do not edit.\n"
        "// clang-format off\n"
        '#include <iterator>\n\n#include "formats/unicode_tables.h"\n\n'
        "namespace weft::formats::unicode {\n",
        table("kClassRuns", "uint32_t", "first code point << 8 | CharClass, until the next run",
              (hex(run) for run in class_runs())),
        table("kCombiningRuns", "uint32_t", "first code point << 8 | canonical combining class",
              (hex(run) for run in combining_runs())),
        table("kDecompositions", "Decomposition", "{composed, first, second or 0}, by composed",
              (f"{{{c:#x},{a:#x},{b:#x}}}" for c, a, b in pairs)),
        table("kCompositions", "Composition", "{first, second, composed}, by first and second",
              (f"{{{a:#x},{b:#x},{c:#x}}}" for a, b, c in composed(pairs))),
        "}  // namespace weft::formats::unicode\n",
    ]
    root = pathlib.Path(__file__).resolve().parent.parent
    (root / "src/formats/unicode_tables.cc").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
