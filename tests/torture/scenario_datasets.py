"""Tables dropped, grown, edited, renamed, deleted, amid kills: each record is counted once.

Tables with quoted line breaks, some large enough to be cut into ranges, and lists of numbers. They
change while workers and the service are killed with SIGKILL, and while the rules are edited. At
each pause all that is said of them must be what plain Python makes of the files (see `tables`).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from dropmill.slots import Phase, Slots

from ..dropmill_process import Place
from ..polling import eventually
from .bench import Bench, Findings, kill
from .tables import Aggregate, Auditor, Number, Rule
from .usage import family

LONG = 30.0  # the short form is one round
KILLS_A_ROUND = 4  # of workers: one file's workers may be killed ten times at no charge
PATIENCE = 0.5  # seconds to look for a worker that is busy
MOST_FILES = 40
LARGE = {".csv": 5 << 20, ".tsv": 18 << 20}  # bytes: a text is cut every 4 MiB, others every 16
CONTENT = "text: {suffixes: [.csv, .txt]}\ndatasets:\n"  # a CSV file is a text as well
REGIONS = ["north", "south", "", 'up "there"', "far,\nfar away", "Übersee"]


def run(bench: Bench) -> Findings:
    scene = Scene(bench)
    is_long = bench.seconds >= LONG
    problems: list[str] = []
    rounds = 0
    try:
        while (not rounds or (is_long and bench.time_is_left())) and not problems:
            scene.round()
            rounds += 1
            problems = [f"in round {rounds}: {each}" for each in scene.compare()]
    finally:
        scene.slots.close()
    problems += bench.audit(scene.place)
    problems += [f"left behind: {path}" for path in scene.place.folder.rglob(".dropmill-*")]
    phases = ", ".join(f"{count} {phase}" for phase, count in scene.struck.items())
    note = f"{scene.files_count()} files at the end; workers were {phases}"
    return Findings({**scene.done, "pauses": rounds}, problems, note)


# ---- the rules -----------------------------------------------------------------------------------


def rules(version: int) -> list[Rule]:
    """Those in force after so many edits."""
    least, divisor = version * 7 % 40, (2, 3, 5)[version % 3]
    orders = Rule(
        "orders",
        (".csv",),
        "*.csv",
        {
            "orders": Aggregate("count", ""),
            "priced": Aggregate("count", "price", lambda of: of["price"], ("price",)),
            "units": Aggregate("sum", "quantity", lambda of: of["quantity"], ("quantity",)),
            "turnover": Aggregate("sum", "price * quantity", turnover, ("price", "quantity")),
            "price": Aggregate("mean", "price", lambda of: of["price"], ("price",)),
            "dearest": Aggregate("max", "price", lambda of: of["price"], ("price",)),
        },
        ("quantity", "price"),
        ("region", "item") if version % 2 else ("region",),
        output="./aggregates",
    )
    north = Rule(
        "north",
        (".csv", ".tsv"),
        "*.[ct]sv",
        {
            "units": Aggregate("sum", "quantity", lambda of: of["quantity"], ("quantity",)),
            "each": Aggregate("mean", "quantity", lambda of: of["quantity"], ("quantity",)),
            "orders": Aggregate("count", ""),
        },
        ("quantity",),
        where=f"region = 'north' AND quantity > {least}",
        keeps=lambda record, of: record["region"] == "north" and above(of["quantity"], least),
    )
    numbers = Rule(
        "numbers",
        (".nums",),
        "*.nums",
        {
            "total": Aggregate("sum", "value", lambda of: of["value"], ("value",)),
            "values": Aggregate("count", "value", lambda of: of["value"], ("value",)),
            "smallest": Aggregate("min", "value", lambda of: of["value"], ("value",)),
        },
        ("value",),
        where=f"value % {divisor} = 0",
        keeps=lambda record, of: of["value"] is not None and of["value"] % divisor == 0,
        output="./sums",
        skips_bad_cells=True,
    )
    return [orders, north, numbers]


def turnover(of: dict[str, Number | None]) -> Number | None:
    price, quantity = of["price"], of["quantity"]
    return None if price is None or quantity is None else price * quantity


def above(value: Number | None, least: int) -> bool:
    return value is not None and value > least


# ---- what happens --------------------------------------------------------------------------------


class Scene:
    """The folder, the service, and all that is done to both."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._chance = bench.chance
        # Of its own: what happens to the files depends on the seed alone, whoever is struck when.
        self._aim = random.Random(bench.seed)
        self._serials = itertools.count()
        self._version = 0
        self.place: Place = bench.place(more=self._more())
        self._aside = self.place.folder / "aside"
        self._aside.mkdir()
        for name in ("a", "b"):
            (self.place.inbox / name).mkdir()
        self._auditor = Auditor(self.place)
        self.struck: Counter[str] = Counter()
        self.operations: dict[str, Callable[[], bool]] = {
            "dropped": self._drop,
            "large dropped": self._drop_large,
            "grown": self._grow,
            "rewritten": self._rewrite,
            "edited": self._edit,
            "renamed": self._rename,
            "moved": self._move,
            "deleted": self._delete,
            "restored": self._restore,
            "rule edits": self._edit_a_rule,
            "worker kills": self._kill_a_worker,
            "service kills": self._kill_the_service,
        }
        self.done: Counter[str] = Counter(dict.fromkeys(self.operations, 0))
        self.place.start()
        self.slots = Slots(os.fsencode(self.place.folder / "state"))
        for _ in range(10):
            self._drop()

    def _more(self) -> str:
        return CONTENT + "".join(rule.yaml for rule in rules(self._version))

    def files_count(self) -> int:
        return len(self._files())

    def round(self) -> None:
        """Each of the operations once, and more of those that change files, in any order."""
        changes = ["dropped", "grown", "grown", "edited", "rewritten", "renamed", "moved"]
        rare = ["large dropped", "rule edits", "service kills"]
        plan = [kind for kind in self.operations if kind not in rare]
        plan += [*self._chance.choices(changes, k=12), "deleted", "restored", *rare]
        plan += ["worker kills"] * (KILLS_A_ROUND - 1)
        self._chance.shuffle(plan)
        for kind in plan:
            self.done[kind] += self.operations[kind]()

    def compare(self) -> list[str]:
        """Once nothing is left to do, by the rules that stand in the file now."""
        self._bench.settle(self.place)
        with contextlib.suppress(AssertionError):  # the audit tells what is not
            eventually(self._all_is_counted, seconds=20, what="all is counted by the rules")
        self._bench.settle(self.place)
        return self._auditor.differences(rules(self._version))

    def _all_is_counted(self) -> bool:
        """An edited configuration may be in force a little later than all else is done."""
        return not any(
            "not counted yet" in self.place.run("aggregate", rule.name).stderr
            for rule in rules(self._version)
        )

    # ---- content -----------------------------------------------------------------------------

    def _records(self, suffix: str, count: int, padding: str = "") -> str:
        if suffix == ".nums":
            return "".join(f"{self._value()}\n" for _ in range(count))
        separator = "\t" if suffix == ".tsv" else ","
        return "".join(self._row(separator, padding) for _ in range(count))

    def _value(self) -> str:
        if self._chance.random() < 0.02:
            return self._chance.choice(["n/a", "-", f"{1 << 70}", f"-{3 << 62}", "  8 "])
        return str(self._chance.randrange(-(10**6), 10**6))

    def _row(self, separator: str, padding: str) -> str:
        """Prices are quarters; a note may hold quoted separators, quotation marks, line breaks."""
        chance = self._chance
        quarters = chance.randrange(400)
        price = "" if quarters < 8 else f"{quarters // 4}{('', '.25', '.5', '.75')[quarters % 4]}"
        region = chance.choice(REGIONS)
        note = f"order {next(self._serials)}"
        if chance.random() < 0.1:
            note += chance.choice(['\n"north",3,\n', ",\t,", "\r\n\r\n", '""', "\n" * 5])
        note += padding
        cells = [region, f"i{quarters % 5}", str(chance.randrange(100)), price, note]
        return separator.join(map(quoted, cells)) + "\n"

    def _content(self, suffix: str, count: int) -> str:
        names = ["region", "item", "quantity", "price", "note"]
        separator = "\t" if suffix == ".tsv" else ","
        header = "" if suffix == ".nums" else separator.join(names) + "\n"
        return header + self._records(suffix, count)

    # ---- files -------------------------------------------------------------------------------

    def _files(self) -> list[Path]:
        found = (path for path in self.place.inbox.rglob("*") if path.is_file())
        return sorted(path for path in found if not path.name.startswith("."))

    def _some_file(self) -> Path | None:
        found = self._files()
        return self._chance.choice(found) if found else None

    def _new_path(self, suffix: str) -> Path:
        folder = self.place.inbox / self._chance.choice([".", "a", "b"])
        return folder / f"t{next(self._serials)}{suffix}"

    def _some_suffix(self) -> str:
        return self._chance.choice([".csv", ".csv", ".tsv", ".nums"])

    def _count(self) -> int:
        return self._chance.choice([0, 1, 10, 300, 2_000])

    def _drop(self) -> bool:
        if len(self._files()) >= MOST_FILES:
            self._delete()
        path = self._new_path(self._some_suffix())
        self._put(path, self._content(path.suffix, self._count()).encode())
        return True

    def _put(self, path: Path, content: bytes) -> None:
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(content)
        part.rename(path)

    def _drop_large(self) -> bool:
        """And a worker is killed at once: it is likely to have a part of this one in hand."""
        suffix = self._chance.choice([*LARGE])
        for path in self._files():
            if path.stat().st_size > 4 << 20:
                path.unlink()  # one at a time
        some = self._records(suffix, 1_000, padding=" and so on" * 60)
        content = self._content(suffix, 0) + some * (LARGE[suffix] // len(some) + 1)
        self._put(self._new_path(suffix), content.encode())
        self.done["worker kills"] += self._kill_a_worker()
        return True

    def _grow(self) -> bool:
        """In two pieces, the first of which ends anywhere, with a pause between them at times."""
        path = self._some_file()
        if path is None:
            return False
        more = self._records(path.suffix, self._chance.choice([1, 3, 200])).encode()
        self._write(path, "ab", more)
        return True

    def _rewrite(self) -> bool:
        path = self._some_file()
        if path is None:
            return False
        content = self._content(path.suffix, self._count()).encode()
        if self._chance.random() < 0.5:
            self._put(path, content)
        else:
            self._write(path, "wb", content)
        return True

    def _write(self, path: Path, mode: str, content: bytes) -> None:
        cut = self._chance.randrange(len(content) + 1)
        for piece in (content[:cut], content[cut:]):
            with path.open(mode) as file:
                file.write(piece)
            mode = "ab"
            if self._chance.random() < 0.4:
                time.sleep(self._chance.uniform(0.0, 0.3))

    def _edit(self) -> bool:
        """A record's digit in the middle becomes another: no size changes, nothing moves."""
        path = self._some_file()
        if path is None:
            return False
        content = path.read_bytes()
        first = content.find(b"\n", len(content) // 2) + 1
        digits = [
            at for at in range(first, min(first + 200, len(content))) if is_digit(content, at)
        ]
        if not first or not digits:
            return self._grow()
        at = self._chance.choice(digits)
        digit = b"123456789".replace(content[at : at + 1], b"")[self._chance.randrange(8)]
        with path.open("r+b") as file:
            file.seek(at)
            file.write(bytes([digit]))
        return True

    def _rename(self) -> bool:
        path = self._some_file()
        if path is None:
            return False
        path.rename(path.with_name(f"r{next(self._serials)}{path.suffix}"))
        return True

    def _move(self) -> bool:
        """To another folder, in the place of a file there at times."""
        path = self._some_file()
        if path is None:
            return False
        folders = [self.place.inbox / name for name in (".", "a", "b")]
        folder = self._chance.choice([each for each in folders if each != path.parent])
        there = [each for each in self._files() if each.parent == folder]
        alike = [each for each in there if each.suffix == path.suffix]
        if alike and self._chance.random() < 0.3:
            path.rename(self._chance.choice(alike))
        else:
            path.rename(folder / path.name)
        return True

    def _delete(self) -> bool:
        """Moved away or unlinked; a copy is kept."""
        path = self._some_file()
        if path is None:
            return False
        if self._chance.random() < 0.5:
            path.rename(self._aside / path.name)
        else:
            shutil.copy2(path, self._aside)
            path.unlink()
        return True

    def _restore(self) -> bool:
        """Back from where it was kept: as it was, or as a copy with the old time."""
        kept = sorted(self._aside.iterdir())
        if not kept:
            self._delete()
            kept = sorted(self._aside.iterdir())
        path = self._chance.choice(kept)
        target = self.place.inbox / self._chance.choice([".", "a", "b"]) / path.name
        if self._chance.random() < 0.5:
            path.rename(target)
        else:
            part = target.with_name(f".{target.name}.part")
            shutil.copy2(path, part)
            part.rename(target)
        return True

    # ---- rules and kills ---------------------------------------------------------------------

    def _edit_a_rule(self) -> bool:
        before = self._more()
        self._version += 1
        text = self.place.configuration.read_text()
        edited = self.place.folder / "dropmill.yaml~"
        edited.write_text(text.replace(before, self._more()))
        edited.rename(self.place.configuration)
        return True

    def _kill_a_worker(self) -> bool:
        """One that is busy, if any is seen so in time; else one that waits."""
        assert self.place.service is not None
        ours = set(family(self.place.service.pid))
        end = time.monotonic() + PATIENCE
        while (now := time.monotonic()) < end + PATIENCE:
            for _, slot in self.slots.in_hand():
                # Not one that is starting: by it the service tells that none can be started.
                is_wanted = bool(slot.message) or (slot.phase is Phase.WAITING and now > end)
                if not is_wanted or slot.pid not in ours or self._aim.random() < 0.7:
                    continue
                if kill(slot.pid, signal.SIGKILL):
                    self.struck[slot.phase.name.lower()] += 1
                    return True
        return False

    def _kill_the_service(self) -> bool:
        time.sleep(self._aim.uniform(0.0, 0.3))
        self.place.stop(signal.SIGKILL)
        self.place.start()
        return True


def quoted(cell: str) -> str:
    if any(sign in cell for sign in '",\t\r\n'):
        return '"' + cell.replace('"', '""') + '"'
    return cell


def is_digit(content: bytes, at: int) -> bool:
    """Whether there is a digit that may be another one: behind a point quarters are to stay."""
    return content[at : at + 1].isdigit() and b"." not in content[at - 2 : at]
