"""Texts: whatever happens to a file, its takes cover it and every word of it is in the index."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dropmill import feeder
from dropmill.errors import NotOurs
from dropmill.index import Block, Shard, ShardReader, tokenize
from dropmill.job import Job, Kind, Take, Verdict
from dropmill.processors import cuts, text
from dropmill.processors.watchlist import WatchList
from dropmill.source import fingerprint

BLOCK, RANGE, OVERLAP = 64, 256, 32


@pytest.fixture(autouse=True)
def small_pieces() -> Iterator[None]:
    """Blocks and ranges so small that a few hundred bytes are a large text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "BLOCK", BLOCK)
        patch.setattr(text, "RANGE", RANGE)
        patch.setattr(text, "OVERLAP", OVERLAP)
        patch.setattr(text, "VERIFY", 3 * BLOCK)
        patch.setattr(feeder, "RANGE", RANGE)
        patch.setattr(cuts, "WINDOW", 32)
        yield


class Indexed(NamedTuple):
    block: Block
    text: str  # its own and what it overlaps with


class TextFile:
    """A text file and what the index holds of it, worked on as feeder and workers do it."""

    def __init__(self, path: Path, keywords: tuple[str, ...] = ()) -> None:
        self.path = os.fsencode(path)
        self.takes: list[Take] = []
        self.encoding: str | None = None
        self.blocks: list[Indexed] = []
        self.jobs = 0
        self._watch_list = WatchList(keywords)

    def write(self, content: bytes) -> None:
        with open(self.path, "wb") as file:
            file.write(content)

    def content(self) -> bytes:
        with open(self.path, "rb") as file:
            return file.read()

    def take_in(self, chooser: random.Random | None = None) -> Verdict:
        """Works until the file is done, the ranges of a large one in any order."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            return self._take_in(descriptor, chooser or random.Random(0))
        finally:
            os.close(descriptor)

    def _take_in(self, descriptor: int, chooser: random.Random) -> Verdict:
        size = os.fstat(descriptor).st_size
        known = tuple(self.takes)
        encoding = self.encoding if known else None
        job = _job(descriptor)._replace(known=known, encoding=encoding)
        taken = self._process(descriptor, job, size)
        while taken.verdict is Verdict.VERIFYING:
            assert taken.trusted > job.trusted, "verifying gets on"
            job = job._replace(trusted=taken.trusted)
            taken = self._process(descriptor, job, size)
        if taken.verdict is Verdict.UNCHANGED:
            return taken.verdict
        made = [take for take in known if 0 < take.end <= taken.keep_to] + list(taken.takes)
        self.encoding = taken.encoding
        ranges = feeder._missing([(take.first, take.end) for take in made], size, text.RANGE)
        chooser.shuffle(ranges)
        while ranges:
            # Now and then all is lost but what the ledger has: the rest is cut up anew.
            first, end, exact = ranges.pop()
            part = job._replace(first=first, end=end, exact=exact, ranged=True, known=())
            made += self._process(descriptor, part._replace(encoding=taken.encoding), size).takes
            if chooser.random() < 0.2:
                made.sort(key=lambda take: take.first)
                ranges = feeder._missing(
                    [(take.first, take.end) for take in made], size, text.RANGE
                )
                chooser.shuffle(ranges)
        self.takes = sorted(made, key=lambda take: take.first)
        return Verdict.DONE

    def _process(self, descriptor: int, job: Job, size: int) -> text.Taken:
        self.jobs += 1
        assert self.jobs < 10_000
        return text.process(descriptor, job, size, self._add, self._watch_list)

    def _add(self, block: Block, content: str) -> None:
        self.blocks.append(Indexed(block, content))

    def live(self) -> list[Indexed]:
        alive = {take.id for take in self.takes}
        found = [each for each in self.blocks if each.block.take in alive]
        return sorted(found, key=lambda each: each.block.first)

    def words(self) -> list[str]:
        """The words of the live blocks, without those that begin in an overlap."""
        found: list[str] = []
        for block, content in self.live():
            own = self.content()[block.first : block.end].decode(self.encoding or "", "replace")
            assert content.startswith(own)
            end = len(own.encode("utf-8", "replace"))
            found += [word for first, _, word in _tokens(content) if first < end]
        return found


def _job(descriptor: int) -> Job:
    return Job(1, 1, 1, Kind.TEXT, b"/", b"x", fingerprint(os.fstat(descriptor)))


def _tokens(content: str) -> list[tuple[int, int, str]]:
    return tokenize(content.encode("utf-8", "replace"))


def check_takes(file: TextFile) -> None:
    """The takes are the content: without gap or overlap, hashed, counted."""
    content = file.content()
    if not content:
        assert [(take.first, take.end, take.newlines) for take in file.takes] == [(0, 0, 0)]
        return
    at = 0
    for take in file.takes:
        assert take.first == at < take.end
        at = take.end
        part = content[take.first : take.end]
        assert take.digest == hashlib.blake2b(part, digest_size=16).digest()
        assert take.newlines == _newlines(part, file.encoding or "")
    assert at == len(content)
    is_open = not content.decode(file.encoding or "", "replace").endswith("\n")
    assert [take.unterminated for take in file.takes] == [
        is_open and take is file.takes[-1] for take in file.takes
    ]


def check_blocks(file: TextFile) -> None:
    """Each take's blocks are the take, each with the right number of line breaks before it."""
    blocks = [each.block for each in file.live()]
    for take in file.takes:
        at, newlines = take.first, 0
        for block in (block for block in blocks if block.take == take.id):
            assert (block.first, block.newlines) == (at, newlines)
            assert block.end - block.first <= BLOCK
            at = block.end
            part = file.content()[block.first : block.end]
            newlines += _newlines(part, file.encoding or "")
        assert at == take.end


def check_words(file: TextFile) -> None:
    """Every word is in the block where it begins, and none is in two or was made up."""
    whole = file.content().decode(file.encoding or "", "replace")
    assert file.words() == [word for _, _, word in _tokens(whole)]


def _newlines(content: bytes, encoding: str) -> int:
    return content.decode(encoding, "replace").count("\n")


def check(file: TextFile) -> None:
    check_takes(file)
    check_blocks(file)
    check_words(file)


# ---- any content, any history ------------------------------------------------------------------

WORDS = st.text("abcdefgZ019_äéßЖ字\u0301", min_size=1, max_size=6)
BETWEEN = st.sampled_from([" ", " ", "\n", "\n", "\r\n", "\n\n", ", ", "\t", " — ", ".\n", "-"])
TEXTS = st.lists(st.tuples(WORDS, BETWEEN), max_size=120).map(
    lambda pairs: "".join(word + between for word, between in pairs)
)
UNTERMINATED = st.tuples(TEXTS, st.booleans()).map(
    lambda both: both[0].rstrip() * both[1] or both[0]
)


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, int, str]:
    kind = draw(st.sampled_from(["append", "append", "edit", "truncate", "touch"]))
    return kind, draw(st.integers(0, 10**6)), draw(UNTERMINATED)


def changed(content: str, change: tuple[str, int, str]) -> str:
    kind, number, new = change
    place = number % (len(content) + 1)
    match kind:
        case "append":
            return content + new
        case "edit":
            return content[:place] + new[:20] + content[place + len(new[:20]) :]
        case "truncate":
            return content[:place]
    return content


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(UNTERMINATED, st.lists(changes(), max_size=4), st.integers(0, 99))
@example("", [("append", 0, "a\n")], 0)
@example("a" * 63 + "\n" + "b", [("append", 0, "c\n")], 0)
@example("word " * 200, [("append", 0, "more " * 100), ("edit", 600, "x")], 1)
def test_whatever_happens_to_a_text_its_takes_and_blocks_cover_it_and_hold_its_words(
    tmp_path: Path,
    encoding: str,
    content: str,
    history: list[tuple[str, int, str]],
    seed: int,
) -> None:
    mark = "\ufeff" if encoding != "utf-8" else ""
    file = TextFile(tmp_path / "x")
    chooser = random.Random(seed)
    for change in [("touch", 0, ""), *history]:
        content = changed(content, change)
        file.write((mark + content).encode(encoding))
        file.take_in(chooser)
        assert file.encoding == encoding
        check_takes(file)
        check_blocks(file)
        # In UTF-16 a word of 60 characters is longer than a block, and cut.
        if encoding == "utf-8" or max(map(len, content.split()), default=0) < BLOCK // 4:
            check_words(file)


ALPHABETS = {
    "utf-8": "abz_9äßЖ字漢\u0301\U00020000",
    "utf-16-le": "abz_9äßЖ字漢\u0301\U00020000",
    "utf-16-be": "abz_9äßЖ字漢\u0301\U00020000",
    "utf-32-le": "abz_9äЖ字\u0301\U00020000",
    "cp1252": "abz_9äßÿé",
    "koi8-r": "abz_9жЯю",
    "gb18030": "abz9字漢中国文äЖ\U00020000",
    "gbk": "abz_9字漢中国文Ж",
    "big5": "abz_9字漢中國文",
    "shift-jis": "abz_9字漢表ソｱカ",
    "euc-jp": "abz_9字漢表ソカ",
    "euc-kr": "abz_9한국어字",
}


@pytest.mark.parametrize("encoding", ALPHABETS)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_in_any_encoding_blocks_hold_the_words_of_the_whole(
    tmp_path: Path, encoding: str, data: st.DataObject
) -> None:
    """Lines are short or endless; some bytes fit no character."""
    words = st.text(ALPHABETS[encoding], min_size=1, max_size=5)
    between = st.sampled_from([" ", " ", ", ", "\n", "!", "-"])
    pairs = data.draw(st.lists(st.tuples(words, between), min_size=20, max_size=200))
    parts = [(word + gap).encode(encoding) for word, gap in pairs]
    if encoding in ("utf-8", "cp1252"):
        for place in data.draw(st.lists(st.integers(0, len(parts) - 1), max_size=20)):
            parts[place] += b"\x81"
    file = TextFile(tmp_path / "x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "detect", lambda *_, **__: encoding)
        for upto in (len(parts) // 2, len(parts)):
            file.write(b"".join(parts[:upto]))
            file.take_in(random.Random(data.draw(st.integers(0, 9))))
            check(file)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=1500).map(lambda content: content.replace(b"\0", b"")), st.binary())
@example(b"\xff\xfea\0\n\0b", b"")
@example(b"\n" * 300, b"\n")
@example(b"x" * 1000, b"y" * 200)
@example("ж".encode() * 700, b"\n")
def test_whatever_the_bytes_the_takes_cover_them(
    tmp_path: Path, content: bytes, appended: bytes
) -> None:
    file = TextFile(tmp_path / "x")
    for now in (content, content + appended):
        file.write(now)
        try:
            file.take_in()
        except NotOurs:
            return
        except UnicodeError:
            pytest.fail("an encoding was found that cannot be used")
        check_blocks(file)
        assert sum(take.end - take.first for take in file.takes) == len(now)


@pytest.mark.parametrize("around", [BLOCK, 2 * BLOCK, RANGE, RANGE + BLOCK, 2 * RANGE, 3 * RANGE])
@pytest.mark.parametrize("line", [1, 7, 40, 63, 64, 65, 200, 10_000])
def test_sizes_around_a_block_and_a_range_are_covered(
    tmp_path: Path, around: int, line: int
) -> None:
    words = b"".join(b"w%d " % number for number in range(2 * around))
    broken = b"".join(words[at : at + line] + b"\n" for at in range(0, len(words), line))
    for size in range(around - 3, around + 4):
        for end in (b"", b"\n"):
            file = TextFile(tmp_path / "x")
            file.write(broken[: size - len(end)] + end)
            file.take_in()
            check(file)
            if line == 7:
                file.write(file.content() + b"more\n")
                file.take_in()
                check(file)


# ---- what is worked on, and what is not --------------------------------------------------------


def test_an_unchanged_text_is_not_indexed_again(tmp_path: Path) -> None:
    file = TextFile(tmp_path / "x")
    file.write(b"some words\n" * 100)
    file.take_in()
    blocks = len(file.blocks)
    assert file.take_in() is Verdict.UNCHANGED
    assert len(file.blocks) == blocks


def test_an_empty_text_is_done_and_unchanged_the_next_time(tmp_path: Path) -> None:
    file = TextFile(tmp_path / "x")
    file.write(b"")
    assert file.take_in() is Verdict.DONE
    check_takes(file)
    assert file.take_in() is Verdict.UNCHANGED


def test_a_line_appended_to_a_large_text_costs_its_last_block_and_no_more(tmp_path: Path) -> None:
    file = TextFile(tmp_path / "x")
    file.write(b"some words\n" * 500)
    file.take_in()
    for number in range(50):
        blocks = len(file.blocks)
        file.write(file.content() + b"line %d\n" % number)
        file.take_in()
        assert len(file.blocks) - blocks <= 2
        check(file)


def test_a_word_appended_to_an_endless_line_costs_two_blocks_at_most(tmp_path: Path) -> None:
    file = TextFile(tmp_path / "x")
    for size in range(11 * RANGE, 12 * RANGE, 7):
        file.write((b"some words " * 500)[:size])
        file.takes = []
        file.take_in()
        for number in range(3):
            blocks = len(file.blocks)
            file.write(file.content() + b" word%d" % number)
            file.take_in()
            indexed = [each.block for each in file.blocks[blocks:]]
            assert sum(block.end - block.first for block in indexed) <= 2 * BLOCK
        check(file)


def test_an_edit_in_the_middle_of_a_large_text_is_found(tmp_path: Path) -> None:
    file = TextFile(tmp_path / "x")
    content = b"some words\n" * 500
    file.write(content)
    file.take_in()
    file.write(content[:3003] + b"HERE" + content[3007:])
    file.take_in()
    check(file)
    assert "here" in file.words()


def test_binary_content_is_not_ours(tmp_path: Path) -> None:
    file = TextFile(tmp_path / "x")
    file.write(b"\x7fELF\x00\x01\x02" * 50)
    with pytest.raises(NotOurs, match="binary content"):
        file.take_in()
    assert not file.blocks


def test_a_text_that_shrank_while_it_was_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"word " * 100)
    with open(path, "rb") as file:
        job = _job(file.fileno())
        os.truncate(path, 200)
        with pytest.raises(EOFError):
            text.process(file.fileno(), job, 500, lambda *_: None, WatchList(()))


def test_what_grew_while_it_was_read_is_left_for_later(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"word\n" * 100)
    with open(path, "rb") as file:
        taken = text.process(file.fileno(), _job(file.fileno()), 50, lambda *_: None, WatchList(()))
    assert [(take.first, take.end) for take in taken.takes][-1][1] == 50


def test_line_numbers_of_ranges_add_up_to_those_of_the_file(tmp_path: Path) -> None:
    file = TextFile(tmp_path / "x", ("needle",))
    lines = [b"needle %d" % number if number % 9 == 0 else b"hay" for number in range(400)]
    file.write(b"\n".join(lines))
    file.take_in(random.Random(3))
    found, before = [], 0
    for take in file.takes:
        found += [before + line for line in take.keywords.get("needle", [])]
        before += take.newlines
    assert found == [number + 1 for number in range(400) if number % 9 == 0]


# ---- phrases across blocks ---------------------------------------------------------------------


def phrases(file: TextFile) -> set[tuple[str, str]]:
    """Neighbours that begin in a live block's own part."""
    found = set()
    for _, content in file.live():
        words = [word for _, _, word in _tokens(content)]
        found |= set(itertools.pairwise(words))
    return found


def test_a_phrase_may_cross_from_one_block_into_the_next_line(tmp_path: Path) -> None:
    file = TextFile(tmp_path / "x")
    file.write(b"".join(b"w%d\n" % number for number in range(400)))
    file.take_in()
    assert phrases(file) >= {(f"w{number}", f"w{number + 1}") for number in range(399)}


def test_a_phrase_may_cross_a_cut_in_an_endless_line(tmp_path: Path) -> None:
    file = TextFile(tmp_path / "x")
    file.write(b"".join(b"w%d " % number for number in range(400)))
    file.take_in()
    assert phrases(file) >= {(f"w{number}", f"w{number + 1}") for number in range(399)}


def test_a_phrase_may_cross_into_a_line_that_was_finished_only_later(tmp_path: Path) -> None:
    file = TextFile(tmp_path / "x")
    file.write(b"x" * 58 + b" disk\nfail")  # the first block ends after "disk"
    file.take_in()
    assert len(file.takes) == 2
    file.write(file.content() + b"ure\nmore\n")
    file.take_in()
    check(file)
    assert ("disk", "failure") in phrases(file)


def test_a_phrase_that_an_edit_made_across_two_blocks_is_found(tmp_path: Path) -> None:
    file = TextFile(tmp_path / "x")
    file.write(b"x" * 58 + b" disk\nquota\n" + b"more\n" * 40)
    file.take_in()
    file.write(file.content().replace(b"quota", b"error"))
    file.take_in()
    check(file)
    assert ("disk", "error") in phrases(file)
    assert ("disk", "quota") not in phrases(file)


def test_words_of_an_endless_line_in_utf_16_are_not_cut(tmp_path: Path) -> None:
    file = TextFile(tmp_path / "x")
    file.write(("\ufeff" + "many words in one line " * 60).encode("utf-16-le"))
    file.take_in()
    check(file)


def test_words_between_other_than_ascii_punctuation_are_not_cut(tmp_path: Path) -> None:
    file = TextFile(tmp_path / "x")
    file.write("слово—другое\u3000третье\u00a0".encode() * 60)
    file.take_in()
    check(file)


# ---- with the real index -----------------------------------------------------------------------


def test_every_word_of_a_text_is_found_by_the_index_in_the_block_that_holds_it(
    tmp_path: Path,
) -> None:
    file = TextFile(tmp_path / "x")
    file.write("".join(f"wört{number} and Éclair\n" for number in range(300)).encode())
    file.take_in(random.Random(1))
    shard = Shard(os.fsencode(tmp_path), 0)
    for block, content in file.live():
        shard.add(block, content)
    shard.commit()
    reader = ShardReader(os.fsencode(tmp_path), 0)
    whole = file.content()
    for number in range(300):
        place = whole.index(f"wört{number} ".encode())
        found = [hit.block for hit in reader.find(f'"WORT{number}"', ranked=False)]
        assert any(block.first <= place < block.end for block in found)
    assert len(list(reader.find("eclair", ranked=True))) == len(file.live())
    reader.close()
    shard.close()
