"""The bench: dropmill beside its peers and the machine's limits, each pair in one run, by turns.

    python -m tests.benchmarks [ROW...] [--text DIR] [--images DIR] [--quick] [--json FILE]
                               [--turns N] [--scratch DIR] [--list] [--show-peers]

The figures that the targets speak of were measured with a kernel source tree (the folders
drivers/net, Documentation, kernel and fs of it, or all of it) and a collection of large
photographs. Any folders will do; of Debian's packages linux-source holds such a tree,
plasma-workspace-wallpapers and others like it hold such photographs.
"""

from __future__ import annotations

import argparse
import compileall
import json
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import dropmill

from . import (
    frame,
    peers,
    rows_datasets,
    rows_images,
    rows_live,
    rows_scale,
    rows_search,
    rows_text,
)
from .bench import Bench, MissingError, Options, adopt_orphans
from .frame import Line, Row
from .machine import about, load

ROWS = (
    *rows_images.ROWS,
    *rows_text.ROWS,
    *rows_datasets.ROWS,
    *rows_live.ROWS,
    *rows_search.ROWS,
    *rows_scale.ROWS,
)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    by_name = {row.name: row for row in ROWS}
    unknown = [name for name in options.rows if name not in by_name]
    if unknown:
        print(f"no such row: {', '.join(unknown)} (--list shows them)", file=sys.stderr)
        return 2
    if options.show_peers:
        print(Path(peers.__file__).read_text(), end="")
        return 0
    wanted = [by_name[name] for name in options.rows] or list(ROWS)
    if options.list:
        for row in wanted:
            print(f"{row.name:16} {row.what}")
        return 0
    return _measure(wanted, options)


def _parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("rows", nargs="*", metavar="ROW", help="what to measure; without any: everything")
    add("--text", type=Path, metavar="DIR", help="a tree of texts")
    add("--images", type=Path, metavar="DIR", help="a folder of large photographs")
    add("--quick", action="store_true", help="less input, one turn: a minute in all")
    add("--turns", type=int, default=3, metavar="N", help="of each side (3); the median counts")
    add("--json", type=Path, metavar="FILE", help="where to write the figures, and each turn's")
    add("--list", action="store_true", help="the rows")
    add("--show-peers", action="store_true", help="the programs we are measured against, in full")
    add(
        "--scratch",
        type=Path,
        default=Path(tempfile.gettempdir(), "dropmill-benchmarks"),
        metavar="DIR",
        help="for input made once and kept (up to 8 GB), and for the runs (%(default)s)",
    )
    return found


def _measure(rows: list[Row], options: argparse.Namespace) -> int:
    scratch = options.scratch.resolve()
    text, images = (folder and folder.resolve() for folder in (options.text, options.images))
    bench = Bench(Options(scratch, text, images, options.quick, options.turns))
    adopt_orphans()
    # As pip leaves it: else each start compiles us, where no bytecode may be written.
    compileall.compile_dir(Path(dropmill.__file__).parent, quiet=1)
    surroundings = about()
    for name, value in surroundings.items():
        print(f"{name:12} {value}")
    print(f"\n{frame.heading()}", flush=True)
    lines: list[dict[str, Any]] = []
    failed = 0
    for row in rows:
        began = time.monotonic()
        for line in _lines(row, bench):
            failed += line.note.startswith("failed")
            print(frame.shown(line), flush=True)
            lines.append(line.as_json(row.name) | {"load": load()})
        lines[-1]["seconds"] = time.monotonic() - began
    shutil.rmtree(scratch / "runs", ignore_errors=True)
    if options.json is not None:
        found = {"about": surroundings, "quick": options.quick, "lines": lines}
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    if options.quick:
        print("\nThe quick form: so little work that starts weigh most of it; targets are for all.")
    print(f"\nload {load()}; the input is kept in {scratch / 'inputs'}")
    return 1 if failed else 0


def _lines(row: Row, bench: Bench) -> list[Line]:
    """A row that cannot be measured here says so, and the others go on."""
    found = []
    try:
        for line in row.run(bench):
            found.append(line)
    except MissingError as missing:
        found.append(Line(row.what, note=str(missing)))
    except Exception:
        found.append(Line(row.what, note=f"failed: {traceback.format_exc()}"))
    return found


if __name__ == "__main__":
    sys.exit(main())
