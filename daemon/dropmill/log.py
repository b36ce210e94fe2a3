"""Logging set-up, called by the parent and by every child: one line a message, to stderr.

Names of files come from strangers: whatever could move a cursor, forge a line or turn text around
is escaped before it reaches a terminal or a journal.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

_QUIET_SECONDS = 60.0
_KEPT_MESSAGES = 1_000

_ERROR = 3
_PRIORITIES = (  # syslog's, as the journal reads them from the `<N>` in front of a line
    (logging.CRITICAL, 2),
    (logging.ERROR, _ERROR),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.NOTSET, 7),
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def shown(path: bytes) -> str:
    """A path as a person may see it: printable, and no two paths look the same.

    Bytes that are not UTF-8 appear as `\\xff`, unprintable characters as `\\n`, `\\x1b` or
    `\\u202e`, a backslash as `\\\\`.
    """
    text = path.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return printable(text.replace("\\", "\\\\"))


def printable(text: str) -> str:
    """The text on one line, with everything unprintable escaped; backslashes stay as they are."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as os.fsdecode gives it
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return _SHORT.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def rfc3339(time_ns: int) -> str:
    """A time of day (nanoseconds since the epoch) in UTC, to the millisecond."""
    seconds, rest = divmod(time_ns, 10**9)
    return f"{_utc(seconds)}.{rest // 1_000_000:03d}Z"


@functools.lru_cache(maxsize=8)  # a listing names the same second many times
def _utc(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class Repeats(logging.Filter):
    """Lets the same message through once a minute; then it says how many were kept back."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, seconds: float = _QUIET_SECONDS
    ) -> None:
        super().__init__()
        self._clock = clock
        self._seconds = seconds
        self._lock = threading.Lock()
        self._said: dict[tuple[object, ...], tuple[float, int]] = {}  # → when, kept back since

    def filter(self, record: logging.LogRecord) -> bool:
        what = record.exc_info[1] if record.exc_info else None
        key = (record.levelno, str(record.msg), repr(record.args), repr(what))
        now = self._clock()
        with self._lock:
            said, kept_back = self._said.get(key, (now - self._seconds, 0))
            if now - said < self._seconds:
                self._said[key] = (said, kept_back + 1)
                return False
            self._said.pop(key, None)
            self._said[key] = (now, 0)
            while len(self._said) > _KEPT_MESSAGES:
                del self._said[next(iter(self._said))]  # the one said longest ago
        if kept_back:
            record.msg, record.args = "%s (%d more like it)", (record.getMessage(), kept_back)
        return True


class _Lines(logging.Formatter):
    """A record as lines, each with what `_head` puts in front of it."""

    def format(self, record: logging.LogRecord) -> str:
        head = self._head(record)
        lines = [printable(record.getMessage()), *_traceback(self, record)]
        return "\n".join(head + line for line in lines)

    def _head(self, record: logging.LogRecord) -> str:
        raise NotImplementedError


class _Plain(_Lines):
    def _head(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        return f"{when} {level}"


class _Journal(_Lines):
    """The journal knows the time and the process; it reads the level from each line's front."""

    def _head(self, record: logging.LogRecord) -> str:
        return next(f"<{number}>" for level, number in _PRIORITIES if record.levelno >= level)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        import json

        line = {
            "time": rfc3339(int(record.created * 1e9)),
            "level": record.levelname.lower(),
            "message": printable(record.getMessage()),
            "logger": record.name,
            "pid": record.process,
        }
        traceback = _traceback(self, record)
        return json.dumps(line | ({"traceback": traceback} if traceback else {}))


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    if not record.exc_info:
        return []
    return [printable(line) for line in formatter.formatException(record.exc_info).splitlines()]


def configure(level: str, format: str) -> None:
    """Sets logging up for this process; may be called again with another configuration.

    `level` is the configuration's (`debug`, `info`, `warning`, `error`); `format` is `auto`,
    `plain`, `journal` or `json`. Libraries are heard from `warning` on.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(format))
    handler.addFilter(Repeats())
    sys.excepthook = _last_words
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("dropmill").setLevel(level.upper())


def _last_words(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """What nobody caught has a level in the journal too, and is one object for a collector."""
    logging.getLogger("dropmill").critical("failed: %s", error, exc_info=(kind, error, trace))


def for_stderr(lines: list[str]) -> list[str]:
    """The lines of a failure as stderr is to get them: with their level, if that is the journal."""
    head = f"<{_ERROR}>" if _stderr_is_the_journal() else ""
    return [head + line for line in lines]


def _formatter(format: str) -> logging.Formatter:
    if format == "json":
        return _Json()
    if format == "journal" or (format == "auto" and _stderr_is_the_journal()):
        return _Journal()
    return _Plain()


def _stderr_is_the_journal() -> bool:
    """Whether systemd connected this very stderr to the journal (systemd.exec(5))."""
    try:
        device, inode = os.environ["JOURNAL_STREAM"].split(":")
        status = os.fstat(2)
        return (status.st_dev, status.st_ino) == (int(device), int(inode))
    except (KeyError, ValueError, OSError):
        return False
