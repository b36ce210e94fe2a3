"""The configuration file: which one it is, and what is wrong with it, all at once.

Light on purpose: `search` needs the state folder alone, and starts before YAML or pydantic would
have been imported. What the keys mean stands in `settings`.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from ..errors import UsageError
from . import values

if TYPE_CHECKING:
    from pathlib import Path

    from .document import Document, Position, Where
    from .settings import Config

NAME = "dropmill.yaml"
_LARGEST_FILE = 16 << 20

# `state: some/path` as the first line that is no comment, with nothing that YAML reads otherwise:
# a path of plain characters with a slash in it, not continued on the next line.
_PLAIN_STATE = re.compile(
    rb"(?:[ ]*(?:#[\t\x20-\x7e]*)?\r?\n|---\r?\n)*"
    rb"state:[ ]+(?=[^ \r\n]*/)([A-Za-z0-9_./~][A-Za-z0-9_./~-]*)[ ]*(?: #[\t\x20-\x7e]*)?"
    rb"(?:\r?\n[ ]*(?:#[\t\x20-\x7e]*)?)*(?:\r?\n[A-Za-z]|\r?\n?\Z)"
)


def find(explicit: str | None) -> Path:
    """The file to use: the first that there is of the places where it is looked for.

    A file that was asked for by name (`explicit`, or DROPMILL_CONFIG) is not looked for elsewhere.
    Raises UsageError.
    """
    from pathlib import Path  # 7 ms that search does without

    return Path(located(explicit))


def located(explicit: str | None) -> str:
    """`find`, as a string."""
    from_environment = os.environ.get("DROPMILL_CONFIG")
    for written, by in ((explicit, "--config"), (from_environment, "$DROPMILL_CONFIG")):
        if written:
            if _why_not(written) == "not there":
                raise UsageError(f"{written}: no such file (given by {by})")
            return written
    looked = []
    for path in _places():
        reason = _why_not(path)
        if reason is None:
            return path
        looked.append(f"  {path}: {reason}")
    places = "\n".join(looked)
    raise UsageError(
        f"no configuration was found; looked for\n{places}\n"
        "`dropmill init` writes one here, --config FILE names one that is elsewhere"
    )


def _places() -> list[str]:
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return [NAME, os.path.join(home, "dropmill", NAME), f"/etc/dropmill/{NAME}"]


def _why_not(path: str) -> str | None:
    """Why there is no file at `path`; None if there is one, be it right or wrong."""
    try:
        os.stat(path)
    except PermissionError:
        return "not allowed to look"
    except (OSError, ValueError):
        return "not there"
    return None


def state_folder(path: Path) -> Path:
    """The state folder that `load(path)` would give, without pydantic and mostly without YAML.

    Raises UsageError where the file cannot be read so far; other mistakes in it go unnoticed.
    """
    from pathlib import Path

    return Path(state_of(path))


def state_of(path: str | Path) -> str:
    """`state_folder`, as a string."""
    content = _content(path)
    plain = _PLAIN_STATE.match(content)
    written: object = values.DEFAULT_STATE
    if plain is not None:
        written = plain[1].decode()
    elif b"state" in content or b"\\" in content:
        document = _document(path, content)
        if isinstance(document.data, dict):
            written = document.data.get("state", values.DEFAULT_STATE)
    try:
        return values.absolute(written, _folder_of(path))
    except ValueError as error:
        raise UsageError(f"{path}: state: {error}") from None


def load(path: Path) -> Config:
    """The configuration in a file. Raises UsageError with *all* that is wrong, one a line."""
    # It would look through all that is installed for plugins of its own, for 10 ms.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from .validation import validate

    document = _document(path, _content(path))
    if document.data is None:
        raise UsageError(f"{path}:1:1: the file is empty: at least `watch` is needed")
    if not isinstance(document.data, dict):
        shown = values.show(document.data)
        raise UsageError(f'{path}:1:1: sections ("key: value" lines) were expected, not {shown}')
    config, problems = validate(document.data, _folder_of(path))
    wrong = {(m.position, m.where, m.text) for m in document.mistakes}
    for where, text, at_key, inside in problems:
        wrong.add((document.position(where, at_key=at_key, inside=inside), where, text))
    if config is None or wrong:
        lines = sorted((at, _dotted(where), text) for at, where, text in wrong)
        raise UsageError("\n".join(_line(path, *line) for line in lines))
    return config


def _line(path: str | Path, position: Position | None, key: str, text: str) -> str:
    place = f"{path}:{position[0]}:{position[1]}" if position else f"{path}"
    return f"{place}: {key}: {text}" if key else f"{place}: {text}"


def _dotted(where: Where) -> str:
    """`watch[0].settle`."""
    parts = (f"[{name}]" if isinstance(name, int) else f".{_shown_key(name)}" for name in where)
    return "".join(parts).removeprefix(".")


def _shown_key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]{1,60}", name) else values.show(name)


def _folder_of(path: str | Path) -> str:
    return os.path.realpath(os.path.dirname(path))


def _content(path: str | Path) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path}: cannot be read: {reason}") from None
    if len(content) > _LARGEST_FILE:
        raise UsageError(f"{path}: larger than 16 MiB: that is no configuration")
    return content


def _document(path: str | Path, content: bytes) -> Document:
    from .document import Document, NotYaml

    try:
        return Document(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode(errors="replace")) + 1
        text = "not UTF-8: save the file in that encoding"
        raise UsageError(_line(path, (line, column), "", text)) from None
    except NotYaml as error:
        raise UsageError(_line(path, error.position, "", error.text)) from None
