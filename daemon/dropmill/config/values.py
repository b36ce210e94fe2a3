"""Single values as people write them: durations, sizes, counts, folders, names, words.

Each function gives the value or raises ValueError with the sentence to show; each pattern is the
same rule as a regular expression for the JSON Schema.
"""

from __future__ import annotations

import os
import re
import string
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNITS = {
    "ms": "ms|msec|millisecond|milliseconds",
    "s": "s|sec|second|seconds",
    "m": "m|min|minute|minutes",
    "h": "h|hr|hour|hours",
    "d": "d|day|days",
}
_UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in words.split("|")}
_WORDS = "|".join(sorted(_UNIT_OF, key=len, reverse=True))
_DURATION_PART = rf"({_NUMBER}) *({_WORDS})(?![a-z])"

DURATION_PATTERN = rf"^(0|{_NUMBER} *({_WORDS})( *{_NUMBER} *({_WORDS}))*)$"
SIZE_PATTERN = rf"^{_NUMBER} *([kKmMgGtT]([iI]?[bB])?|[bB])?$"
COUNT_PATTERN = rf"^{_NUMBER} *[kKmMgG]?$"

SUFFIX_PATTERN = r"^\.[^./\s]+$"

DEFAULT_STATE = "/var/lib/dropmill"
LONGEST = 365 * 86400.0
LARGEST = 2**63 - 1  # what the system's calls take
MOST_WORKERS = 256

_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_DECIMAL_ENDS = ("kb", "mb", "gb", "tb")


def show(value: object) -> str:
    """A value as an error message shows it: texts in quotes and cut short, the rest by its sort."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = str(value)
    if len(text) > 60:
        text = text[:59] + "…"
    if isinstance(value, bool):
        return text.lower()
    return quoted(text) if isinstance(value, str) else text


def quoted(text: str) -> str:
    """A text in double quotes, as YAML and JSON have it, on one line whatever is in it."""
    import json  # 3 ms that search does without

    written = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in written)


def duration(written: object) -> float:
    """Seconds: `500ms`, `10s`, `2m`, `1.5h`, `1d`, `2m30s`; 0 needs no unit."""
    text = _numeric_text(written)
    if text is not None and re.fullmatch(rf"-?{_NUMBER}", text):
        if float(text) == 0:
            return 0.0
        if not text.startswith("-"):
            raise ValueError(f"{text} has no unit: is it {text}ms, {text}s or {text}m?")
    seconds = _sum_of_parts(text.strip()) if text is not None else None
    if seconds is None:
        raise ValueError(f"{show(written)} is not a duration (examples: 500ms, 10s, 2m)")
    if seconds > LONGEST:
        raise ValueError(f"{show(written)} is longer than 365d")
    return seconds


def _sum_of_parts(text: str) -> float | None:
    """`2m30s` → 150.0: each unit once, the larger first; None where it is no duration."""
    pattern = re.compile(_DURATION_PART, re.ASCII)
    seconds, smaller_than, at = 0.0, float("inf"), 0
    while at < len(text):
        part = pattern.match(text, at)
        if part is None:
            return None
        scale = _SECONDS[_UNIT_OF[part[2]]]
        if scale >= smaller_than:
            return None
        seconds += float(part[1]) * scale
        smaller_than, at = scale, part.end()
        while text.startswith(" ", at):
            at += 1
    return seconds if text else None


def size(written: object) -> int:
    """Bytes: `1GiB` and `1G` are 2^30, `1GB` is 10^9; a plain number is bytes."""
    text = _numeric_text(written)
    match = re.fullmatch(rf"({_NUMBER}) *([kmgt]?i?b?)", (text or "").strip().lower(), re.ASCII)
    if match is None or match[2] in ("i", "ib", "ki", "mi", "gi", "ti"):
        raise ValueError(f"{show(written)} is not a size (examples: 512MiB, 1GiB, 500MB)")
    unit = match[2]
    base = 1000 if unit in _DECIMAL_ENDS else 1024
    return _scaled(match[1], base ** _POWER[unit.rstrip("ib")], written)


def count(written: object) -> int:
    """A number of things: `300k`, `100M` and `1.5G` are thousands, millions and milliards."""
    text = _numeric_text(written)
    match = re.fullmatch(rf"({_NUMBER}) *([kmg]?)", (text or "").strip().lower(), re.ASCII)
    if match is None:
        raise ValueError(f"{show(written)} is not a number (examples: 300k, 100M, 50000000)")
    return _scaled(match[1], 1000 ** _POWER[match[2]], written)


def _scaled(number: str, scale: int, written: object) -> int:
    if float(number) * scale > LARGEST:
        raise ValueError(f"{show(written)} is too large")
    return int(number) * scale if number.isdigit() else round(float(number) * scale)


def _numeric_text(written: object) -> str | None:
    """What was written, where it may be a number with or without a unit."""
    if isinstance(written, (str, int, float)) and not isinstance(written, bool):
        return str(written)
    return None


def folder(written: object, base: str) -> Path:
    """The absolute path, links resolved, of a folder written relative to `base` or with `~`."""
    from pathlib import Path  # 7 ms that search does without

    return Path(absolute(written, base))


def absolute(written: object, base: str) -> str:
    """`folder`, as a string."""
    if written is None:
        raise ValueError('has no value (the home folder is written "~", in quotes, or ~/)')
    if not isinstance(written, str):
        raise ValueError(f"a folder was expected, not {show(written)}")
    if not written.strip():
        raise ValueError("a folder was expected, not an empty text")
    if "\0" in written or not _can_be_a_name(written):
        raise ValueError(f"{show(written)} cannot be the name of a folder")
    expanded = os.path.expanduser(written)
    if expanded.startswith("~"):
        user = written.partition("/")[0][1:]
        mend = show(f"./~{user}")
        raise ValueError(f"{show(written)}: there is no user {show(user)} (a folder: {mend})")
    return os.path.realpath(os.path.join(base, expanded))


def _can_be_a_name(written: str) -> bool:
    try:
        os.fsencode(written)
    except UnicodeEncodeError:
        return False
    return True


def workers(written: object) -> int | str:
    """`auto`, or how many."""
    if written == "auto":
        return "auto"
    if isinstance(written, bool) or not isinstance(written, int):
        raise ValueError(f"auto or a whole number was expected, not {show(written)}")
    if not 1 <= written <= MOST_WORKERS:
        raise ValueError(f"must be from 1 to {MOST_WORKERS}, not {written}")
    return written


def suffix(written: str) -> str:
    """A file name's suffix in lower case: its last dot and what follows."""
    if not written.startswith("."):
        mend = show(f".{written}")
        raise ValueError(f"{show(written)} has no dot: a suffix is written {mend}")
    if not re.fullmatch(SUFFIX_PATTERN[1:-1], written) or "\0" in written:
        raise ValueError(f"{show(written)} is not a suffix: a name's last dot and what follows it")
    return written.lower()


def keyword(written: str) -> str:
    """A term of the watch list: something that a text can hold."""
    if not any(character.isalnum() or character == "_" for character in written):
        raise ValueError(f"{show(written)} holds no letter or digit: no text can be found by it")
    return written


def file_pattern(written: str) -> str:
    """A pattern of file names."""
    if not written or "/" in written or "\0" in written:
        raise ValueError(f"{show(written)} is no pattern of file names (such as sales-*.csv)")
    return written


def rule_name(written: str) -> str:
    """What a rule is called."""
    if not written.strip() or not written.isprintable():
        raise ValueError(f"{show(written)} is no name")
    return written


def column(written: str) -> str:
    """The name of a column, of a table or of results."""
    if not written or not written.isprintable():
        raise ValueError(f"{show(written)} is no name of a column")
    return written


def copy_name(written: str) -> str:
    """The template of a copy's name: stem before suffix, once each.

    A suffix holds one dot, its first character, so two sources never give one name.
    """
    shown = show(written)
    if "/" in written or "\0" in written:
        raise ValueError(f"{shown} is not a file name: it holds a slash or a NUL")
    try:
        parts = list(string.Formatter().parse(written))
    except ValueError:
        raise ValueError(f"{shown}: a brace without its pair (a brace itself: {{{{)") from None
    for _, field, form, conversion in parts:
        if field is not None and (field not in ("stem", "suffix") or form or conversion):
            raise ValueError(f"{shown}: only {{stem}} and {{suffix}} can stand in braces")
    if [field for _, field, _, _ in parts if field is not None] != ["stem", "suffix"]:
        raise ValueError(f"{shown} must hold {{stem}} and after it {{suffix}}, once each")
    return written
