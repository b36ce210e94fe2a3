"""Whether dropmill and ripgrep agree on which lines of a file hold a word.

    python -m tests.agreement_with_rg CONFIG TREE [--pairs 500] [--seed 1]

CONFIG is a configuration whose service has taken in TREE. Draws (file, word) pairs from the tree's
files, seeded, and compares the whole set of lines that `dropmill search` gives for the word in that
file with what `rg -nwi` gives. Prints each difference; exits with 1 if there is one.

Where they are known to differ: rg takes a file with a NUL byte for binary, and `\\w` holds a few
characters that the index's tokenizer does not (and the other way round).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .dropmill_process import COMMAND, environment

WORD = re.compile(r"\w+")


def files_below(tree: Path) -> list[Path]:
    """The regular files of a tree that the default patterns do not leave out, sorted."""
    found = []
    for folder, folders, names in os.walk(tree):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "~")))
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith((".", "~")) and path.is_file() and not path.is_symlink():
                found.append(path)
    return found


def pairs(tree: Path, count: int, seed: int) -> Iterator[tuple[Path, str]]:
    """Files drawn at random, each with a word drawn from a line of it drawn at random."""
    chance = random.Random(seed)
    files = files_below(tree)
    while count:
        path = chance.choice(files)
        lines = path.read_text("utf-8", "replace").split("\n")
        words = WORD.findall(chance.choice(lines).replace("\ufffd", " "))
        if words:
            count -= 1
            yield path, chance.choice(words)


def lines_by_rg(path: Path, word: str) -> set[int]:
    found = subprocess.run(
        ["rg", "--no-config", "-nwi", "--fixed-strings", "-e", word, "--", str(path)],
        capture_output=True,
        check=False,
    )
    return {int(line.split(b":", 1)[0]) for line in found.stdout.splitlines() if b":" in line}


def lines_by_dropmill(configuration: Path, path: Path, word: str) -> set[int]:
    options = ["--config", str(configuration), "-m", "0", "--json"]
    found = subprocess.run(
        [*COMMAND, "search", *options, "--under", str(path), "--", word],
        capture_output=True,
        env=environment(),
        check=False,
    )
    assert found.returncode in (0, 1), found.stderr.decode()
    return {json.loads(line)["line"] for line in found.stdout.splitlines()}


def main() -> int:
    parser = argparse.ArgumentParser(description="Compares dropmill's hits with rg's.")
    parser.add_argument("configuration", type=Path)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    differences = lines = 0
    for path, word in pairs(options.tree.resolve(), options.pairs, options.seed):
        ours = lines_by_dropmill(options.configuration, path, word)
        theirs = lines_by_rg(path, word)
        lines += len(theirs)
        if ours != theirs:
            differences += 1
            print(f"{path}: {word!r}: only dropmill {sorted(ours - theirs)[:10]},"
                  f" only rg {sorted(theirs - ours)[:10]}")  # fmt: skip
    print(f"seed {options.seed}: {options.pairs} pairs, {lines} lines, {differences} differ")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
