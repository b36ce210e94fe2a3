"""The entry point: runs a command and makes its exit code, and its failures, fit for people."""

from __future__ import annotations

import os
import sys
from typing import NoReturn, TextIO

from .errors import DropmillError

_INTERRUPTED = 130


def main() -> NoReturn:
    """Runs the command that the command line gives, and exits with its code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character is no reason to fail.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = _answer(sys.argv[1:])
        sys.stdout.flush()
    except DropmillError as error:
        code = _tell(error)
    except BrokenPipeError:
        code = 0  # as rg: whoever read has seen enough
        _let_go_of(sys.stdout)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    sys.exit(code)


def _answer(arguments: list[str]) -> int:
    given, command = None, arguments
    if arguments[:1] == ["--config"] and len(arguments) > 2:
        given, command = arguments[1], arguments[2:]
    if command[:1] == ["search"] and "_DROPMILL_COMPLETE" not in os.environ:
        from .commands import search

        plain = search.parse(command[1:])
        if plain is not None:
            return search.search({**plain, "config_file": plain["config_file"] or given})
    from .cli import answer

    return answer(arguments)


def _tell(error: DropmillError) -> int:
    import re

    from .log import for_stderr, printable

    lines = [printable(line) for line in str(error).splitlines()]
    if not re.match(r".+?:\d+:\d+: ", lines[0]):  # an editor jumps to such a place, as it stands
        lines[0] = f"dropmill: {lines[0]}"
    print("\n".join(for_stderr(lines)), file=sys.stderr)
    return error.exit_code


def _let_go_of(stream: TextIO) -> None:
    """Keeps the interpreter from complaining, at its end, of what it cannot write."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


if __name__ == "__main__":
    main()
