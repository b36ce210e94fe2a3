"""Files and folders made, changed, renamed, deleted by chance: search agrees at pauses, no leak.

A model in memory is told each operation too. At each pause a search that waits for all that was
written must give the model's lines, and words must be in the model's files. At the end the service
has no more memory, threads and descriptors than after a third of it, and no dead rows are left.
1,500 operations in the short form, 300 a second in the long one.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import apsw

from ..dropmill_process import Place
from ..polling import eventually
from . import saboteur
from .audit import EVERY
from .bench import Bench, Findings
from .inside import Inside
from .usage import Usage, growth, usage

LONG = 120.0
BETWEEN_PAUSES = 150
MOST_FILES = 200
WORDS = [f"word{number}" for number in range(40)]
ASKED = 4  # words a pause


def run(bench: Bench) -> Findings:
    place = bench.place()
    place.start(saboteur.MODULE, **saboteur.variables(place.folder / "torture", "hasty"))
    count = 1_500 if bench.seconds < LONG else int(300 * bench.seconds)
    model = Model(bench, place.inbox)
    problems: list[str] = []
    usages: list[Usage] = []
    assert place.service is not None
    for number in range(count):
        model.step()
        if bench.chance.random() < 0.3:
            time.sleep(bench.chance.uniform(0.0, 0.01))
        if number % BETWEEN_PAUSES == BETWEEN_PAUSES - 1:
            problems += [
                f"after {number} operations: {each}" for each in compare(bench, place, model)
            ]
            usages.append(usage(place.service.pid))
            if problems:
                break
    problems += dead_rows(place) + growth(usages[len(usages) // 3], usages[-1])
    faults = {**model.done, "pauses": len(usages)}
    return Findings(faults, problems + bench.audit(place), f"{len(model.files)} files at the end")


class Model:
    """What is on disk, by relative path, and the operations that change both."""

    def __init__(self, bench: Bench, inbox: Path) -> None:
        self._chance = bench.chance
        self._inbox = inbox
        self._serials = itertools.count()
        self.files: dict[str, list[str]] = {}  # path → its lines
        self.folders: set[str] = {"."}
        self.stale: list[str] = []  # serial numbers of lines that are nowhere any more
        self.operations: dict[str, Callable[[], bool]] = {
            "written": self._write,
            "rewritten": self._rewrite,
            "appended": self._append,
            "renamed": self._rename,
            "deleted": self._delete,
            "folders made": self._make_folder,
            "folders renamed": self._rename_folder,
            "folders removed": self._remove_folder,
        }
        self.done: Counter[str] = Counter(dict.fromkeys(self.operations, 0))

    def step(self) -> None:
        """One operation, of a kind that is possible now."""
        weights = [12, 6, 6, 6, 12 if len(self.files) > MOST_FILES else 4, 2, 2, 1]
        while True:
            (kind,) = self._chance.choices([*self.operations], weights)
            if self.operations[kind]():
                self.done[kind] += 1
                return

    def _some_path(self) -> str:
        folder = self._chance.choice(sorted(self.folders))
        suffix = self._chance.choice([".txt", ".log", ""])
        return os.path.normpath(f"{folder}/t{self._chance.randrange(20)}{suffix}")

    def _some_file(self) -> str | None:
        return self._chance.choice(sorted(self.files)) if self.files else None

    def _line(self) -> str:
        words = " ".join(self._chance.choices(WORDS, k=self._chance.randint(1, 4)))
        return f"{EVERY} serial{next(self._serials)} {words}"

    def _forget(self, path: str) -> None:
        self.stale += [line.split()[1] for line in self.files.pop(path, [])]

    # ---- files -------------------------------------------------------------------------------

    def _write(self) -> bool:
        self._put(self._some_path(), by_rename=self._chance.random() < 0.7)
        return True

    def _rewrite(self) -> bool:
        path = self._some_file()
        if path is not None:
            self._put(path, by_rename=self._chance.random() < 0.5)
        return path is not None

    def _put(self, path: str, *, by_rename: bool) -> None:
        lines = [self._line() for _ in range(self._chance.choice([1, 2, 5, 30]))]
        content = "".join(f"{line}\n" for line in lines)
        whole = self._inbox / path
        if by_rename:
            part = whole.with_name(f".{whole.name}.part")
            part.write_text(content)
            part.rename(whole)
        else:
            whole.write_text(content)
        self._forget(path)
        self.files[path] = lines

    def _append(self) -> bool:
        path = self._some_file()
        if path is None:
            return False
        line = self._line()
        with (self._inbox / path).open("a") as file:
            file.write(f"{line}\n")
        self.files[path].append(line)
        return True

    def _rename(self) -> bool:
        path, new = self._some_file(), self._some_path()
        if path is None or path == new:
            return False
        (self._inbox / path).rename(self._inbox / new)
        self._forget(new)
        self.files[new] = self.files.pop(path)
        return True

    def _delete(self) -> bool:
        path = self._some_file()
        if path is None:
            return False
        (self._inbox / path).unlink()
        self._forget(path)
        return True

    # ---- folders -----------------------------------------------------------------------------

    def _some_new_folder(self) -> str | None:
        parent = self._chance.choice(sorted(self.folders))
        path = os.path.normpath(f"{parent}/d{self._chance.randrange(6)}")
        return None if path in self.folders or path.count("/") > 3 else path

    def _make_folder(self) -> bool:
        path = self._some_new_folder()
        if path is None:
            return False
        (self._inbox / path).mkdir()
        self.folders.add(path)
        return True

    def _rename_folder(self) -> bool:
        path, new = self._some_folder(), self._some_new_folder()
        if path is None or new is None or below(new, path):
            return False
        (self._inbox / path).rename(self._inbox / new)
        for old in [each for each in self.folders if below(each, path)]:
            self.folders.remove(old)
            self.folders.add(new + old[len(path) :])
        for old in [each for each in self.files if below(each, path)]:
            self.files[new + old[len(path) :]] = self.files.pop(old)
        return True

    def _remove_folder(self) -> bool:
        path = self._some_folder()
        if path is None:
            return False
        shutil.rmtree(self._inbox / path)
        self.folders = {each for each in self.folders if not below(each, path)}
        for each in [each for each in self.files if below(each, path)]:
            self._forget(each)
        return True

    def _some_folder(self) -> str | None:
        folders = sorted(self.folders - {"."})
        return self._chance.choice(folders) if folders else None


def below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")


# ---- at a pause ------------------------------------------------------------------------------


def compare(bench: Bench, place: Place, model: Model) -> list[str]:
    problems = []
    wanted = Counter(
        (path, number, line)
        for path, lines in model.files.items()
        for number, line in enumerate(lines, 1)
    )
    answer = place.run("search", "--sync", "-m", "0", "--json", EVERY)
    found = Counter(
        (os.path.relpath(row["path"], place.inbox), row["line"], row["text"])
        for row in map(json.loads, answer.stdout.splitlines())
    )
    if found != wanted:
        missing, more = sorted((wanted - found).keys()), sorted((found - wanted).keys())
        problems.append(f"missing {missing[:3]}, double or stale {more[:3]} {answer.stderr}")
        problems.append(what_is_known(place, (missing or more)[0][0]))
    for word in bench.chance.sample(WORDS, ASKED):
        problems += compare_word(place, model, word)
    stale, model.stale = model.stale[-200:], []
    if stale:
        left = place.run("search", "-m", "0", "-l", "--any", *stale).stdout
        problems += [f"stale by the index: {left}"] if left else []
    return problems


def what_is_known(place: Place, path: str) -> str:
    """Of a file that search and the model do not agree on: now, and a little later."""
    explained = place.run("explain", str(place.inbox / path)).stdout
    with contextlib.suppress(AssertionError):
        eventually(lambda: place.search("-l", EVERY, "--under", str(place.inbox / path)))
        return f"found by now: {path}\n{explained}"
    lines = [line for line in place.log.read_text().splitlines() if path.split("/")[-1] in line]
    return "\n".join([f"not found later: {path}", explained, *lines[-5:]])


def compare_word(place: Place, model: Model, word: str) -> list[str]:
    found = set(place.search("-l", word))
    wanted = {path for path, lines in model.files.items() if word in " ".join(lines).split()}
    return [f"{word} in {found ^ wanted}"] if found != wanted else []


def dead_rows(place: Place) -> list[str]:
    """What a shard holds beyond the live takes, once there was time to compact."""
    inside = Inside(place)

    def left() -> int:
        live = {take for (take,) in inside.query("SELECT id FROM takes WHERE state < 3")}
        dead = len(inside.query("SELECT id FROM takes WHERE state >= 3"))
        for path in (place.folder / "state" / "index").glob("shard-*.db"):
            shard = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
            dead += sum(take not in live for (take,) in shard.execute("SELECT take FROM blocks"))
            shard.close()
        return dead

    try:
        eventually(lambda: not left(), seconds=30, what="no dead rows are left")
    except AssertionError as error:
        return [f"{error}: {left()}"]
    finally:
        inside.close()
    return []
