"""How hits are printed: as `rg` prints them, on a terminal and in a pipe, and as JSON.

On a terminal nothing that a file holds, or is called, reaches the terminal's own controls: escape
codes, and characters that turn the reading direction, are spelled out. A pipe gets text and paths
as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any

from .excerpts import FileHits, Line

# C0 but the tab, DEL, C1; what turns the reading direction; surrogates (bytes of a strange name)
_UNSAFE = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_PATH, _NUMBER, _HIT, _PLAIN = "\x1b[35m", "\x1b[32m", "\x1b[1;31m", "\x1b[0m"


def write(results: Iterable[FileHits], *, style: str, color: bool, out: IO[Any]) -> bool:
    """Prints the hits, file by file as they come; gives whether there were any.

    `terminal` groups lines under their file, `pipe` puts the path before each, `lines` is the one
    of the two that suits `out`; `paths` and `counts` give a line a file, `json` an object a line.
    A file that the caller may not read is its path alone. `out` is a binary stream, or a text
    stream over one (`sys.stdout`).
    """
    raw: IO[bytes] = getattr(out, "buffer", out)
    if style == "lines":
        style = "terminal" if out.isatty() else "pipe"
    marks = _Marks(color, escaped=style == "terminal" or out.isatty())
    found = False
    for piece in _pieces(results, style, marks):
        raw.write(piece)
        raw.flush()
        found = True
    return found


def more(count: int | None) -> str | None:
    """What to say of further files, `count` as in `Result.more`; None: there are none."""
    if count == 0:
        return None
    amount = "" if count is None else f"{count:,} "
    return f"… and {amount}more {'file' if count == 1 else 'files'}: -m 0 shows all"


def _pieces(results: Iterable[FileHits], style: str, marks: _Marks) -> Iterator[bytes]:
    if style == "terminal":
        return _grouped(results, marks)
    if style == "pipe":
        return _piped(results)
    if style == "json":
        return map(_json, results)
    return (_summed_up(hits, marks, counted=style == "counts") for hits in results)


class _Marks:
    """Colours where they are wanted, and controls made harmless where a terminal reads them."""

    def __init__(self, color: bool, *, escaped: bool) -> None:
        self._color = color
        self._escaped = escaped

    def text(self, text: str) -> str:
        return _UNSAFE.sub(_spelled_out, text) if self._escaped else text

    def path(self, path: bytes) -> str:
        return self._in(_PATH, self.text(os.fsdecode(path)))

    def number(self, number: int) -> str:
        return self._in(_NUMBER, str(number))

    def line(self, line: Line) -> str:
        """A line's text with its hits marked."""
        shown, place = "", 0
        for start, end in line.spans:
            shown += self.text(line.text[place:start])
            shown += self._in(_HIT, self.text(line.text[start:end]))
            place = end
        return shown + self.text(line.text[place:])

    def _in(self, mark: str, text: str) -> str:
        return f"{mark}{text}{_PLAIN}" if self._color else text


def _spelled_out(match: re.Match[str]) -> str:
    code = ord(match.group())
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _grouped(results: Iterable[FileHits], marks: _Marks) -> Iterator[bytes]:
    between = ""
    for path, lines in results:
        shown = [marks.path(path)]
        for line, follows in _in_groups(lines or []):
            if not follows:
                shown.append("--")
            sign = ":" if line.spans else "-"
            shown.append(f"{marks.number(line.number)}{sign}{marks.line(line)}")
        yield _encoded(between + "\n".join(shown) + "\n")
        between = "\n"


def _piped(results: Iterable[FileHits]) -> Iterator[bytes]:
    had_context = False
    for path, lines in results:
        shown = [b"--"] if had_context else []
        if not lines:
            shown.append(path)
        for line, follows in _in_groups(lines or []):
            if not follows:
                shown.append(b"--")
            sign = b":" if line.spans else b"-"
            shown.append(sign.join((path, b"%d" % line.number, _encoded(line.text))))
        yield b"\n".join(shown) + b"\n"
        had_context = _has_context(lines or [])


def _summed_up(hits: FileHits, marks: _Marks, *, counted: bool) -> bytes:
    shown = marks.path(hits.path)
    if counted and hits.lines is not None:
        shown += f":{sum(1 for line in hits.lines if line.spans)}"
    return shown.encode("utf-8", "surrogateescape") + b"\n"


def _json(hits: FileHits) -> bytes:
    import json  # not for those who want none

    def dumped(value: dict[str, Any]) -> bytes:
        return _encoded(json.dumps(value, ensure_ascii=False)) + b"\n"

    path = _json_path(hits.path)
    if not hits.lines:
        return dumped({"path": path})
    return b"".join(
        dumped({"path": path, "line": line.number, "text": line.text, "spans": line.spans})
        for line in hits.lines
    )


def _json_path(path: bytes) -> str | dict[str, str]:
    try:
        return path.decode("utf-8")
    except UnicodeDecodeError:
        import base64

        return {"bytes": base64.b64encode(path).decode("ascii")}


def _in_groups(lines: list[Line]) -> Iterator[tuple[Line, bool]]:
    """Each line, and whether it follows the one before; without context all of them do."""
    has_context = _has_context(lines)
    before = lines[0].number - 1 if lines else 0
    for line in lines:
        yield line, not has_context or line.number == before + 1
        before = line.number


def _has_context(lines: list[Line]) -> bool:
    return any(not line.spans for line in lines)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
