"""Search answers by what the ledger calls live, and shows what the sources still hold."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from dropmill import search as search_module
from dropmill.errors import DropmillError, UsageError
from dropmill.index import Shard
from dropmill.index.reading import open_shards
from dropmill.job import Job, Kind, Lane, Outcome, Verdict
from dropmill.processors import text as text_processor
from dropmill.processors.watchlist import WatchList
from dropmill.search import FileHits, Line, Query, excerpts, search, selection
from dropmill.source import fingerprint
from dropmill.store.completion import Completion
from dropmill.store.ledger import Admission, Ledger
from dropmill.store.lookup import Lookup

SMALL_BLOCK = 200
T = TypeVar("T")


class Mill:
    """A watched folder and the state folder that belongs to it, worked on by two workers."""

    def __init__(self, folder: Path) -> None:
        self.inbox = os.fsencode(folder / "inbox")
        self.state = os.fsencode(folder / "state")
        os.makedirs(self.inbox)
        os.makedirs(self.state)
        lock = threading.Lock()
        self.ledger = Ledger(self.state)
        self.shards = [Shard(self.state, number) for number in range(2)]
        self.completions = [Completion(self.state, lock, number, 3) for number in range(2)]

    def close(self) -> None:
        for shard, completion in zip(self.shards, self.completions, strict=True):
            shard.close()
            completion.close()
        self.ledger.close()

    def path(self, name: str | bytes) -> bytes:
        return os.path.join(self.inbox, os.fsencode(name))

    def write(self, name: str | bytes, content: bytes | str) -> bytes:
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        return path

    def admit(self, path: bytes) -> None:
        mark = fingerprint(os.lstat(path))._replace(device=0)
        folder, name = os.path.split(path)
        self.ledger.admit([Admission(folder, name, mark, Kind.TEXT, Lane.FRESH)])

    def take_in(self, path: bytes, shard: int = 0) -> Verdict:
        """Admits the file and does what a worker would."""
        self.admit(path)
        return self.work(path, shard)

    def work(self, path: bytes, shard: int = 0) -> Verdict:
        outcome = self.look_at(path, shard)
        (verdict,) = self.completions[shard].complete([outcome])
        return verdict

    def look_at(self, path: bytes, shard: int = 0, *, only: slice = slice(None)) -> Outcome:
        """The outcome, its blocks in the shard, its takes not in the ledger yet."""
        file = self.ledger.find(path)
        assert file is not None
        (row,) = self.ledger.queued_rows([file])
        job = Job(
            random.getrandbits(63), row.id, row.seq, row.kind, self.inbox,
            os.path.relpath(path, self.inbox), row.fingerprint,
            encoding=row.encoding, known=tuple(self.ledger.takes(row.id)),
        )  # fmt: skip
        descriptor = os.open(path, os.O_RDONLY)
        try:
            taken = text_processor.process(
                descriptor, job, row.fingerprint.size, self.shards[shard].add, WatchList([])
            )
        finally:
            os.close(descriptor)
        self.shards[shard].commit()
        return Outcome(
            job, taken.verdict, time.time_ns(), encoding=taken.encoding,
            keep_to=taken.keep_to, takes=taken.takes[only],
        )  # fmt: skip

    def put(self, name: str | bytes, content: bytes | str, shard: int = 0) -> bytes:
        path = self.write(name, content)
        assert self.take_in(path, shard) is Verdict.DONE
        return path

    def find(
        self,
        *terms: str,
        at_most: int = 0,
        context: int = 0,
        any_term: bool = False,
        excluded: tuple[str, ...] = (),
        under: bytes | None = None,
        paths_only: bool = False,
    ) -> list[FileHits]:
        query = Query(terms, any_term, excluded, under)
        result = search(self.state, query, at_most=at_most, context=context, paths_only=paths_only)
        return list(result)

    def names(self, *terms: str, **options: object) -> list[str]:
        found = self.find(*terms, **options)  # type: ignore[arg-type]
        return [os.fsdecode(os.path.relpath(hits.path, self.inbox)) for hits in found]

    def lines(self, *terms: str, **options: object) -> list[tuple[int, str]]:
        """The lines of the one file that is found."""
        (hits,) = self.find(*terms, **options)  # type: ignore[arg-type]
        assert hits.lines is not None
        return [(line.number, line.text) for line in hits.lines]


@pytest.fixture
def mill(tmp_path: Path) -> Iterator[Mill]:
    made = Mill(tmp_path)
    yield made
    made.close()


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_processor, "BLOCK", SMALL_BLOCK)


@pytest.fixture(params=["ranked", "newest"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with all words rare, and with all words too common to be ranked."""
    if request.param == "newest":
        monkeypatch.setattr(selection, "_RANKED", 0)
    return str(request.param)


def filler(lines: int, word: str = "filler") -> str:
    return "".join(f"{word} line {number} of some text\n" for number in range(lines))


# ---- what a query means --------------------------------------------------------------------------


def test_terms_are_anded_over_a_file_and_its_lines_are_given_in_order(
    mill: Mill, either_way: str
) -> None:
    path = mill.put("a.txt", "disk\nnothing\nFailure of a Disk\n")
    mill.put("b.txt", "disk\n", shard=1)
    assert mill.find("failure", "disk") == [
        FileHits(
            path, [Line(1, "disk", ((0, 4),)), Line(3, "Failure of a Disk", ((0, 7), (13, 17)))]
        )
    ]


def test_different_blocks_and_takes_of_a_file_may_hold_the_different_terms(
    mill: Mill, small_blocks: None, either_way: str
) -> None:
    mill.put("a.txt", "disk\n" + filler(40) + "failure\n")
    mill.put("b.txt", "disk\n" + filler(40), shard=1)
    mill.put("c.txt", "failure\n")
    assert mill.lines("disk", "failure") == [(1, "disk"), (42, "failure")]


def test_any_of_the_terms_is_enough_when_asked_so(mill: Mill, either_way: str) -> None:
    mill.put("a.txt", "disk\n")
    mill.put("b.txt", "failure\n", shard=1)
    mill.put("c.txt", "neither\n")
    assert sorted(mill.names("disk", "failure", any_term=True)) == ["a.txt", "b.txt"]


def test_a_file_that_holds_an_excluded_term_anywhere_is_left_out(
    mill: Mill, small_blocks: None, either_way: str
) -> None:
    mill.put("a.txt", "disk\n" + filler(40) + "a test case\n")
    mill.put("b.txt", "disk\n", shard=1)
    mill.put("c.txt", "disk\ntest a case\n")
    assert mill.names("disk", excluded=("test",)) == ["b.txt"]
    assert sorted(mill.names("disk", excluded=("test case",))) == ["b.txt", "c.txt"]
    assert mill.names("disk", excluded=("tes*", "zzz")) == ["b.txt"]


def test_a_prefix_and_a_phrase_with_a_prefix_are_found(mill: Mill) -> None:
    mill.put("a.txt", "the disk failed\n")
    mill.put("b.txt", "failing, a disk\n")
    assert sorted(mill.names("fail*")) == ["a.txt", "b.txt"]
    assert mill.names("disk fail*") == ["a.txt"]


def test_words_are_those_of_grep_w_and_case_and_accents_do_not_matter(mill: Mill) -> None:
    mill.put("a.txt", "Überraschung: foo_bar, net/core-2\n")
    for term in ("uberraschung", "FOO_BAR", "net/core", "core-2", "NET"):
        assert mill.names(term) == ["a.txt"], term
    for term in ("foo", "core_2", "berraschung"):
        assert mill.names(term) == [], term


@pytest.mark.parametrize(
    "query", [Query(()), Query(("++",)), Query(("",)), Query((), excluded=("a",))]
)
def test_a_query_without_a_word_is_refused_as_wrong_use(mill: Mill, query: Query) -> None:
    with pytest.raises(UsageError) as refused:
        search(mill.state, query)
    assert refused.value.exit_code == 2


def test_quotes_and_operators_of_the_index_mean_nothing_in_a_term(mill: Mill) -> None:
    mill.put("a.txt", 'say "disk" OR NEAR(it)\n')
    for term in ('"disk', 'say "disk"', "disk OR", "NEAR(it", "or", 'disk"'):
        assert mill.names(term) == ["a.txt"], term
    assert mill.names("NOT") == []


def test_without_a_state_folder_the_answer_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DropmillError, match=r"results\.db"):
        search(os.fsencode(tmp_path), Query(("a",)))


# ---- which lines ---------------------------------------------------------------------------------


def test_a_phrase_over_a_line_break_marks_its_parts_on_each_line(mill: Mill) -> None:
    path = mill.put("a.txt", "a disk\r\n  failure here\r\n")
    assert mill.find("disk failure") == [
        FileHits(path, [Line(1, "a disk", ((2, 6),)), Line(2, "  failure here", ((2, 9),))])
    ]


def test_a_phrase_over_a_block_border_is_found_once(mill: Mill, small_blocks: None) -> None:
    head = ("x" * 9 + "\n") * 19 + "the disk\n"
    assert len(head) < SMALL_BLOCK <= len(head) + 7
    path = mill.put("a.txt", head + "failure\n" + filler(30))
    assert mill.find("disk failure") == [
        FileHits(path, [Line(20, "the disk", ((4, 8),)), Line(21, "failure", ((0, 7),))])
    ]


def test_a_line_with_hits_from_two_blocks_is_given_once_with_all_its_spans(
    mill: Mill, small_blocks: None
) -> None:
    head = ("x" * 9 + "\n") * 19 + "the disk\n"
    mill.put("a.txt", head + "failure of a disk failure\n" + filler(30))
    (hits,) = mill.find("disk failure")
    assert hits.lines is not None
    assert hits.lines[1] == Line(21, "failure of a disk failure", ((0, 7), (13, 25)))


def test_line_numbers_run_on_over_blocks_and_takes(mill: Mill, small_blocks: None) -> None:
    lines = [f"line {number} {'needle' if number % 37 == 0 else 'hay'}" for number in range(1, 400)]
    path = mill.put("log", "\n".join(lines))
    for more in range(3):
        lines += [f"grown {more}", "needle again"]
        mill.write("log", "\n".join(lines))
        assert mill.take_in(path, shard=more % 2) is Verdict.DONE
    expected = [(at, line) for at, line in enumerate(lines, 1) if "needle" in line]
    assert mill.lines("needle") == expected


def test_context_comes_with_the_lines_also_over_block_borders(
    mill: Mill, small_blocks: None
) -> None:
    lines = [
        f"line {number} {'needle' if number in (1, 9, 30) else 'hay'}" for number in range(1, 31)
    ]
    mill.put("a.txt", "\n".join(lines) + "\n")
    shown = sorted({at for hit in (1, 9, 30) for at in range(hit - 2, hit + 3)} & set(range(1, 31)))
    assert mill.lines("needle", context=2) == [(at, lines[at - 1]) for at in shown]
    (hits,) = mill.find("needle", context=2)
    assert [line.number for line in hits.lines or () if line.spans] == [1, 9, 30]


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b"\xef\xbb\xbf"),
        ("utf-16-le", b"\xff\xfe"),
        ("utf-16-be", b"\xfe\xff"),
        ("utf-32-le", b"\xff\xfe\0\0"),
    ],
)
def test_a_byte_order_mark_is_not_shown_and_line_ends_neither(
    mill: Mill, small_blocks: None, encoding: str, mark: bytes
) -> None:
    text = "größe häuser\r\n" + filler(30).replace("\n", "\r\n") + "ਊ hauser Ċ 文\r\nend"
    mill.put("a.txt", mark + text.encode(encoding))
    assert mill.lines("hauser") == [(1, "größe häuser"), (32, "ਊ hauser Ċ 文")]
    (hits,) = mill.find("hauser")
    assert [line.spans for line in hits.lines or ()] == [((6, 12),), ((2, 8),)]


def test_latin_1_is_read_as_it_was_indexed(mill: Mill) -> None:
    text = "Die Größe der Häuser ist für die Straße überhaupt nicht maßgeblich.\n" * 20
    mill.put("a.txt", text.encode("latin-1"))
    lines = mill.lines("hauser")
    assert len(lines) == 20
    assert "Häuser" in lines[0][1]


def test_a_very_long_line_is_shown_around_its_hit(mill: Mill) -> None:
    mill.put("a.txt", "x y " * 50_000 + "needle " + "z " * 50_000 + "\nshort needle\n")
    (hits,) = mill.find("needle")
    assert hits.lines is not None
    long, short = hits.lines
    assert long.number == 1
    assert 300 < len(long.text) < 1_100
    assert long.text.startswith("…")
    assert long.text.endswith("…")
    assert [long.text[start:end] for start, end in long.spans] == ["needle"]
    assert short == Line(2, "short needle", ((6, 12),))


def test_an_endless_line_over_many_blocks_is_one_line(mill: Mill, small_blocks: None) -> None:
    mill.put("a.txt", "first\n" + "ab cd needle " * 300 + "\nlast needle")
    (hits,) = mill.find("needle")
    assert hits.lines is not None
    assert [line.number for line in hits.lines] == [2, 3]
    for line in hits.lines:
        assert {line.text[start:end] for start, end in line.spans} == {"needle"}


def test_nul_bytes_and_strange_names_do_no_harm(mill: Mill) -> None:
    name = b"caf\xe9 \n\x1b[31m.txt"
    path = mill.put(name, "needle \x1b[31m\n")
    assert mill.find("needle") == [FileHits(path, [Line(1, "needle \x1b[31m", ((0, 6),))])]


# ---- how many, in which order --------------------------------------------------------------------


def test_the_best_file_comes_first_and_ties_by_path(mill: Mill) -> None:
    mill.put("c.txt", "needle " + filler(50))
    mill.put("a.txt", "needle needle needle\n")
    mill.put("e.txt", "needle " + filler(50))
    mill.put("b.txt", filler(3))
    assert mill.names("needle") == ["a.txt", "c.txt", "e.txt"]


def test_no_more_files_are_read_than_asked_for_and_the_rest_is_counted(mill: Mill) -> None:
    for number in range(60):
        mill.put(f"{number:02}.txt", "needle\n", shard=number % 2)
    result = search(mill.state, Query(("needle",)), at_most=5)
    assert len(list(result)) == 5
    assert result.more == 55
    result = search(mill.state, Query(("needle",)), at_most=60)
    assert len(list(result)) == 60
    assert result.more == 0
    result = search(mill.state, Query(("needle",)), at_most=0)
    assert len(list(result)) == 60
    assert result.more == 0


def test_very_common_words_give_the_newest_files_first(
    mill: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "_RANKED", 10)
    for number in range(40):
        mill.put(f"{number:02}.txt", "needle\n", shard=number % 2)
    result = search(mill.state, Query(("needle",)), at_most=3)
    assert [os.path.basename(hits.path) for hits in result] == [b"39.txt", b"38.txt", b"37.txt"]
    assert result.more is None
    assert len(mill.find("needle")) == 40


def test_only_files_below_the_folder_asked_for_are_given(mill: Mill, either_way: str) -> None:
    for name in ("in/a.txt", "in/deep/b.txt", "in-not/c.txt", "d.txt"):
        mill.put(name, "needle\n")
    assert sorted(mill.names("needle", under=mill.path("in"))) == ["in/a.txt", "in/deep/b.txt"]
    assert sorted(mill.names("needle", under=mill.path("in/"))) == ["in/a.txt", "in/deep/b.txt"]
    assert mill.names("needle", under=mill.path("d.txt")) == ["d.txt"]
    assert len(mill.names("needle", under=b"/")) == 4
    assert mill.names("needle", under=mill.path("absent")) == []


def test_paths_only_reads_no_source_that_is_unchanged(mill: Mill) -> None:
    mill.put("a.txt", "needle\n")
    os.remove(mill.put("b.txt", "needle\n"))
    mill.write(os.path.basename(mill.put("c.txt", "needle\n")), "something else\n")
    assert [(hits.path, hits.lines) for hits in mill.find("needle", paths_only=True)] == [
        (mill.path("a.txt"), [])
    ]


# ---- what is live --------------------------------------------------------------------------------


def test_blocks_of_a_worker_that_died_before_the_ledger_knew_are_invisible(mill: Mill) -> None:
    path = mill.write("a.txt", "needle\n")
    mill.admit(path)
    mill.look_at(path)
    assert mill.names("needle") == []
    assert mill.work(path) is Verdict.DONE
    assert mill.lines("needle") == [(1, "needle")]


def test_what_a_rewrite_took_away_is_not_found(mill: Mill, either_way: str) -> None:
    path = mill.put("a.txt", "needle\n")
    mill.write("a.txt", "hay\n")
    assert mill.take_in(path, shard=1) is Verdict.DONE
    assert mill.names("needle") == []
    assert mill.names("hay") == ["a.txt"]


def test_a_file_that_is_gone_is_not_found(mill: Mill, either_way: str) -> None:
    path = mill.put("a.txt", "needle\n")
    mill.ledger.absence.mark_gone([path])
    assert mill.names("needle") == []


def test_ranges_of_a_large_text_are_numbered_rightly_before_the_others_are_there(
    mill: Mill, small_blocks: None
) -> None:
    content = filler(100) + "needle\n"
    path = mill.write("a.txt", content)
    mill.admit(path)
    outcome = mill.look_at(path, only=slice(-1, None))
    outcome = outcome._replace(job=outcome.job._replace(ranged=True))
    assert outcome.takes[0].first > 0
    assert mill.completions[0].complete([outcome]) == [Verdict.PART]
    assert mill.lines("needle") == [(101, "needle")]


def test_a_rewrite_between_the_two_snapshots_hides_nothing(
    mill: Mill, monkeypatch: pytest.MonkeyPatch, either_way: str
) -> None:
    path = mill.put("a.txt", "needle\n")

    def rewriting(opening: Callable[[bytes], T]) -> Callable[[bytes], T]:
        def opened(state_folder: bytes) -> T:
            made = opening(state_folder)
            mill.write("a.txt", f"needle {random.random()}\n")
            assert mill.take_in(path, shard=random.randrange(2)) is Verdict.DONE
            return made

        return opened

    monkeypatch.setattr(search_module, "Lookup", rewriting(Lookup))
    monkeypatch.setattr(search_module, "open_shards", rewriting(open_shards))
    for _ in range(10):
        assert mill.names("needle") == ["a.txt"]


def test_a_take_that_dies_while_searching_is_found_still_or_its_successor(mill: Mill) -> None:
    path = mill.put("a.txt", "needle 0\n")
    stop = threading.Event()
    failures: list[BaseException] = []

    def rewrite() -> None:
        try:
            for number in range(1, 400):
                if stop.is_set():
                    return
                mill.write("a.txt.new", f"needle {number}\n")
                os.rename(mill.path("a.txt.new"), path)
                mill.take_in(path, shard=number % 2)
        except BaseException as failure:
            failures.append(failure)

    writer = threading.Thread(target=rewrite)
    writer.start()
    missed = [at for at in range(150) if not mill.names("needle")]
    stop.set()
    writer.join()
    assert not failures
    assert not missed


# ---- sources that changed since ------------------------------------------------------------------


def test_a_source_that_changed_since_shows_only_what_it_still_holds(
    mill: Mill, either_way: str
) -> None:
    mill.put("a.txt", "needle one\nneedle two\n")
    mill.write("a.txt", "a new line\nanother\nneedle two\n")
    assert mill.lines("needle") == [(3, "needle two")]
    mill.write("a.txt", "nothing\n")
    assert mill.names("needle") == []


def test_a_changed_source_must_still_hold_all_terms_and_none_excluded(mill: Mill) -> None:
    mill.put("a.txt", "disk failure\n")
    mill.write("a.txt", "failure\n")
    assert mill.names("disk", "failure") == []
    assert mill.names("disk", "failure", any_term=True) == ["a.txt"]
    mill.write("a.txt", "failure disk test\n")
    assert mill.names("disk", "failure") == ["a.txt"]
    assert mill.names("disk", excluded=("test",)) == []


def test_an_admitted_change_is_not_taken_for_what_was_indexed(mill: Mill, either_way: str) -> None:
    path = mill.put("a.txt", "needle one\nneedle two\n")
    mill.write("a.txt", "xxxxxx one\nneedle two\n")
    mill.admit(path)
    assert mill.lines("needle") == [(2, "needle two")]
    assert mill.names("needle one") == []


def test_a_large_source_that_changed_shows_what_its_blocks_still_hold(
    mill: Mill, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(excerpts, "_WHOLE", 1_000)
    content = filler(50) + "needle one\n" + filler(50) + "needle two\n"
    mill.put("a.txt", content)
    mill.write("a.txt", content.replace("needle one", "xxxxxx one") + "grown\n")
    assert mill.lines("needle") == [(102, "needle two")]
    assert mill.names("needle", paths_only=True) == ["a.txt"]
    mill.write("a.txt", content[: len(content) // 2])
    assert mill.names("needle two", paths_only=True) == []
    assert mill.names("needle two") == []


def test_a_removed_or_replaced_source_is_left_out(mill: Mill) -> None:
    os.remove(mill.put("a.txt", "needle\n"))
    folder = mill.put("b.txt", "needle\n")
    os.remove(folder)
    os.mkdir(folder)
    link = mill.put("c.txt", "needle\n")
    os.rename(link, mill.path("elsewhere"))
    os.symlink(mill.path("elsewhere"), link)
    fifo = mill.put("d.txt", "needle\n")
    os.remove(fifo)
    os.mkfifo(fifo)
    assert mill.names("needle") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become somebody else")
def test_a_source_that_the_caller_may_not_read_is_its_path_alone() -> None:
    with tempfile.TemporaryDirectory() as folder:
        mill = Mill(Path(folder))
        shut = mill.put("a.txt", "needle\n")
        inside = mill.put("shut/b.txt", "needle needle\n")
        open_to_all = mill.put("c.txt", "needle needle\n")
        for each in (os.fsencode(folder), os.path.join(mill.state, b"index")):
            os.chmod(each, 0o755)
        os.chmod(shut, 0)
        os.chmod(os.path.dirname(inside), 0)
        os.seteuid(65534)
        try:
            found = {hits.path: hits.lines is None for hits in mill.find("needle")}
            paths = mill.names("needle", paths_only=True)
        finally:
            os.seteuid(0)
        mill.close()
    assert found == {shut: True, inside: True, open_to_all: False}
    assert len(paths) == 3


# ---- what it costs -------------------------------------------------------------------------------


def test_nothing_heavy_is_imported_for_a_search() -> None:
    code = "import sys, dropmill.search, dropmill.search.output; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    loaded = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"click", "rich", "pydantic", "yaml", "pathspec", "logging", "dataclasses", "inspect"}
    heavy |= {"asyncio", "json", "watchdog", "PIL", "multiprocessing", "subprocess", "base64"}
    assert not heavy & set(loaded)
