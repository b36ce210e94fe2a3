"""Where a copy lies: `<output>/<name of the watched folder>/<path below it>`, renamed by template.

Distinct sources get distinct copies as long as the template holds `{stem}` once and ends in
`{suffix}`: a suffix has one dot, at its front, so the last dot of a copy's name tells where the
stem ended.
"""

from __future__ import annotations

import hashlib
import os
import re

NAME_MAX = 255
_MARK_BYTES = 17  # "-" and 16 hexadecimal digits
_PLACE = re.compile(rb"\{(stem|suffix)\}")
_MARKED = re.compile(rb"-[0-9a-f]{16}\Z")


def copy_path(output: bytes, root_name: bytes, relative: bytes, template: str) -> bytes:
    """The path of the copy of the file at `relative` below the watched folder `root_name`.

    Raises ValueError where that would lie outside of `<output>/<root_name>`.
    """
    folder, _, name = relative.rpartition(b"/")
    parts = [*folder.split(b"/")] if folder else []
    copy = _copy_name(name, os.fsencode(template))
    for part in (root_name, name, copy, *parts):
        if part in (b".", b"..") or b"/" in part or b"\0" in part:
            raise ValueError(f"{os.fsdecode(relative)}: its copy would lie outside of the output")
    return os.path.join(output, root_name, *parts, copy)


def split_suffix(name: bytes) -> tuple[bytes, bytes]:
    """A name's stem and its suffix with the dot; `.jpg` is all suffix, `README` all stem."""
    at = name.rfind(b".")
    return (name, b"") if at < 0 else (name[:at], name[at:])


def _copy_name(name: bytes, template: bytes) -> bytes:
    stem, suffix = split_suffix(name)
    copy = _fill(template, stem, suffix)
    # What reads like a shortened name gets a mark of its own, or the two could meet.
    is_lookalike = len(copy) > NAME_MAX - 4 and _MARKED.search(stem) is not None
    if len(copy) <= NAME_MAX and not is_lookalike:
        return copy
    mark = b"-" + hashlib.blake2b(name, digest_size=8).hexdigest().encode()
    room = NAME_MAX - _MARK_BYTES - len(_fill(template, b"", suffix))
    if room < 0:  # a suffix that nearly fills a name: no stem fits, nor does the suffix
        return mark[1:] + suffix[:32]
    return _fill(template, _cut(stem, room) + mark, suffix)


def _fill(template: bytes, stem: bytes, suffix: bytes) -> bytes:
    values = {b"stem": stem, b"suffix": suffix}
    return _PLACE.sub(lambda place: values[place[1]], template)


def _cut(stem: bytes, room: int) -> bytes:
    """At most `room` bytes of the stem, not ending within a UTF-8 character."""
    end = min(room, len(stem))
    for _ in range(3):
        if 0 < end < len(stem) and stem[end] & 0xC0 == 0x80:
            end -= 1
    return stem[:end]
