"""Text: cut into blocks, each given to the index; the takes that cover it, with their hashes.

A text's content is covered, without gap or overlap, by takes. One up to a block long is one take;
a longer one has its last block as a take of its own, so that what is appended later replaces that
one alone. One longer than RANGE is worked on by several workers at once, a range each.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from ..index import Block
from ..job import Job, Take, Verdict
from . import cuts
from .encoding import detect, line_break
from .watchlist import WatchList

BLOCK = 256 * 1024
# Half a second's work where words are many: so long may a note wait that finds all hands full.
RANGE = 4 * 1024 * 1024
FIRST = 1024 * 1024  # of a data set, whose other workers wait for its first range
OVERLAP = 4096  # of the next line, indexed with a block so that a phrase may cross
VERIFY = 256 * 1024 * 1024  # read again and compared in one go
_DETECT = 1024 * 1024

AddBlock = Callable[[Block, str], None]


class Digest(Protocol):
    """A hash in the making."""

    def update(self, content: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class Records(Protocol):
    """What a data set asks of the cuts, and gives for each take."""

    rules: bytes  # the digest of its rules
    is_indexed: bool  # as text too

    def begin(self, read: Callable[[int, int], bytes], size: int, encoding: str) -> None:
        """To be told before anything else, once the encoding is known."""

    def after(self, position: int) -> int:
        """The first beginning of a record at or after a position, or the end."""

    def partial(self, first: int, end: int) -> str:
        """What the records in these bytes come to, packed."""


class Taken(NamedTuple):
    """What became of a text: DONE to its end or to the range's; UNCHANGED; VERIFYING."""

    verdict: Verdict
    encoding: str | None = None
    keep_to: int = 0  # known takes that end here or before are still true
    takes: tuple[Take, ...] = ()
    trusted: int = 0  # up to here the known takes agree with the content


def process(
    descriptor: int,
    job: Job,
    size: int,
    add: AddBlock,
    watch_list: WatchList,
    records: Records | None = None,
) -> Taken:
    """Indexes what the index does not hold yet of a text's first `size` bytes.

    With `records` it is a data set: cut between records, and aggregated.

    Memory is bounded by a block. Raises NotOurs where the content is binary, OSError where it
    cannot be read, EOFError where it is shorter than `size` by now.
    """
    if any(take.rules != (records and records.rules) for take in job.known):
        job = job._replace(known=(), trusted=0, encoding=None)  # they say nothing of these rules
    text = _Text(descriptor, size, job.encoding or "utf-8", add, watch_list, records)
    if job.ranged:
        text.begin(job.encoding or "utf-8")
        first = job.first if job.exact else text.cut(job.first)
        end = size if job.end >= size else text.cut(job.end)
        return Taken(Verdict.DONE, job.encoding, takes=tuple(text.takes(first, end)))
    keep_to, trusted = _verify(text, job)
    if trusted < keep_to:
        return Taken(Verdict.VERIFYING, trusted=trusted)
    if job.known and keep_to == size == job.known[-1].end:
        return Taken(Verdict.UNCHANGED, job.encoding, keep_to)
    # Of another file's takes all are true, or none is of use.
    trusted = 0 if job.moved_from is not None else keep_to
    keep_to = _before_the_change(job, trusted, is_text=records is None)
    if not keep_to or job.encoding is None:
        text.encoding = detect(text.beginning(), whole=size <= _DETECT)
    text.begin(text.encoding)
    end, stride = size, job.stride or RANGE
    if size - keep_to > stride:
        end = (keep_to // stride + 1) * stride
        end = text.cut(end if records is None else min(end, keep_to + FIRST))
    return Taken(Verdict.DONE, text.encoding, keep_to, tuple(text.takes(keep_to, end)), trusted)


def look_again(
    descriptor: int,
    size: int,
    encoding: str,
    blocks: Iterable[Block],
    watch_list: WatchList,
    verify: tuple[int, int, bytes] | None = None,
) -> dict[str, list[int]]:
    """What a watch list finds in blocks of one take, which are indexed already: term → lines, the
    take's first being 1.

    Nothing where the take is no longer in the file: `verify` is its (first, end, digest), for a
    file that changed since. Raises OSError where it cannot be read.
    """
    text = _Text(descriptor, size, encoding, lambda block, text: None, watch_list)
    found: dict[str, list[int]] = {}
    try:
        if verify is not None and text.digest(*verify[:2]) != verify[2]:
            return {}
        for block in sorted(blocks, key=lambda block: block.first):
            content, whole, overlap = text.block(block.first, block.end)
            watch_list.look(content, whole, overlap, block.newlines, found)
    except EOFError:
        return {}
    return found


def _verify(text: _Text, job: Job) -> tuple[int, int]:
    """Where the known takes stop to agree with the content, and how far they were read for it.

    The second is smaller than the first when there is more to read than VERIFY bytes.
    """
    end, budget = 0, VERIFY
    for take in job.known:
        if take.first != end or take.end > text.size:
            break
        if take.end > job.trusted:
            if budget <= 0:
                return job.known[-1].end, end
            budget -= take.end - take.first
            if text.digest(take.first, take.end) != take.digest:
                break
        end = take.end
    return end, end


def _before_the_change(job: Job, keep_to: int, *, is_text: bool) -> int:
    """From where on to index: the last take that agrees is made again with what follows.

    After growth that is the last block, which keeps a log's takes from becoming many, and also
    what lies before it where it was nothing but the short beginning of a line: a block is indexed
    with the line after it. For the same reason, after an edit, it is what lies before the edit.
    """
    kept = [take for take in job.known if take.end <= keep_to]
    if not kept:
        return 0
    grew = len(kept) == len(job.known)
    last = kept[-1]
    if not grew or not is_text or last.end - last.first <= BLOCK:
        keep_to = last.first
    is_beginning = last.unterminated and not last.newlines and last.end - last.first < OVERLAP
    if grew and len(kept) > 1 and is_beginning:
        keep_to = kept[-2].first
    return keep_to


class _Text:
    """One open text file, as blocks."""

    def __init__(
        self,
        descriptor: int,
        size: int,
        encoding: str,
        add: AddBlock,
        watch_list: WatchList,
        records: Records | None = None,
    ) -> None:
        self._descriptor = descriptor
        self.size = size
        self.encoding = encoding
        self._add = add
        self._watch_list = watch_list
        self._records = records
        self._content: bytes | None = None  # all of a small text, once it was read
        self._at_hand = 0, b""  # of a data set, the take that is looked at: (first, its bytes)

    def begin(self, encoding: str) -> None:
        """Tells a data set what it is cut in."""
        if self._records is not None:
            self._records.begin(self.read_up_to, self.size, encoding)

    def beginning(self) -> bytes:
        """What tells the encoding; of a text of one block that is all that is read of it."""
        content = self.read(0, min(self.size, _DETECT))
        if self.size <= BLOCK:
            self._content = content
        return content

    def read(self, first: int, end: int) -> bytes:
        """Bytes `first` to `end`; EOFError when the file has become shorter than that."""
        if self._content is not None:
            return self._content[first:end]
        start, at_hand = self._at_hand
        if start <= first and end <= start + len(at_hand):
            return at_hand[first - start : end - start]
        content = os.pread(self._descriptor, end - first, first)
        while len(content) < end - first:
            more = os.pread(self._descriptor, end - first - len(content), first + len(content))
            if not more:
                raise EOFError
            content += more
        return content

    def read_up_to(self, first: int, end: int) -> bytes:
        """Bytes `first` to `end`, or to the text's end."""
        return self.read(min(first, self.size), min(end, self.size))

    def digest(self, first: int, end: int) -> bytes:
        digest = self._new_digest()
        for position in range(first, end, 4 * BLOCK):
            digest.update(self.read(position, min(end, position + 4 * BLOCK)))
        return digest.digest()[:16]

    def _new_digest(self) -> Digest:
        """Of a table that is parsed only, hashing is a third of the work: by SHA-256, for which
        processors have instructions (1,200 MB/s to blake2b's 530), it is a sixth."""
        if self._records is not None and not self._records.is_indexed:
            return hashlib.sha256(usedforsecurity=False)
        return hashlib.blake2b(digest_size=16)

    def cut(self, position: int) -> int:
        """The first line start at or after a position, or near it in an endless line.

        Depends on the content alone, so that the takes on both sides agree.
        """
        place: int | None = None
        if self._records is not None:
            place = self._records.after(position)
            return self.size if self.size - place < OVERLAP else place
        unit = len(line_break(self.encoding))
        position -= position % unit
        while place is None and position < self.size:
            behind = min(position, cuts.WINDOW)
            window = self.read(position - behind, min(self.size, position + BLOCK))
            place = cuts.after_line(window[behind - unit :], line_break(self.encoding))
            if place is not None:
                place += position - unit
            else:
                place = cuts.between_words(window, behind, self.encoding)
                if place is not None:
                    place += position - behind
            position += BLOCK
        # What is left must be no less than an overlap: see `_block_end`.
        return self.size if place is None or self.size - place < OVERLAP else place

    def takes(self, first: int, end: int) -> Iterator[Take]:
        """Indexes bytes `first` to `end`, which are cuts, and gives the takes they became."""
        if self._records is not None and not self._records.is_indexed:
            yield from self._only_aggregated(self._records, first, end)
            return
        take = _Take(first)
        for block_first, block_end in self._blocks(first, end):
            if block_end == self.size and block_first > first and self._may_begin(block_first):
                yield self._made(take)
                take = _Take(block_first)
            self._index(take, block_first, block_end)
        if end > first or end == 0:
            yield self._made(take)

    def _may_begin(self, position: int) -> bool:
        """Whether a take may begin there: in a data set only where a record does."""
        return self._records is None or self._records.after(position) == position

    def _made(self, take: _Take) -> Take:
        if self._records is None:
            return take.made()
        partial = self._records.partial(take.first, take.end)
        return take.made()._replace(rules=self._records.rules, partial=partial)

    def _only_aggregated(self, records: Records, first: int, end: int) -> Iterator[Take]:
        """The takes of a data set that is no text; its last block is one of its own, too."""
        last = records.after(max(first, end - BLOCK)) if end == self.size else end
        borders = [first, last, end] if first < last < end else [first, end]
        for take_first, take_end in itertools.pairwise(borders):
            take = _Take(take_first)
            take.end, take.digest = take_end, self._new_digest()
            content = self.read(take_first, take_end)
            take.digest.update(content)
            take.newlines = content.count(b"\n")
            take.unterminated = take_end == self.size and content[-1:] not in (b"", b"\n")
            self._at_hand = take_first, content
            yield self._made(take)
            self._at_hand = 0, b""

    def _blocks(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        while first < end:
            block_end = self._block_end(first, end)
            yield first, block_end
            first = block_end

    def _block_end(self, first: int, end: int) -> int:
        """Where the block ends: after a line, else between two words.

        At the end of the text no less than an overlap is left: so the beginning of a line that
        stands there, and goes on later, changes nothing of the block before it. Only where that
        would cut a line of almost a block in two, less may be left.
        """
        if end - first <= BLOCK:
            return end
        content = self.read(first, first + BLOCK)
        most = BLOCK
        if end == self.size:
            most = min(BLOCK, max(BLOCK // 2, end - OVERLAP - first))
        line_feed = line_break(self.encoding)
        found = cuts.after_last_line(content[:most], line_feed)
        found = found or cuts.after_last_line(content, line_feed)
        return first + (found or cuts.before_last_word(content[:most], self.encoding))

    def block(self, first: int, end: int) -> tuple[bytes, str, str]:
        """A block's bytes, its text, and that of the line after it."""
        content = self.read(first, end)
        overlap = self._next_line(end).decode(self.encoding, "replace") if end < self.size else ""
        return content, content.decode(self.encoding, "replace"), overlap

    def _index(self, take: _Take, first: int, end: int) -> None:
        content, text, overlap = self.block(first, end)
        take.digest.update(content)
        self._add(Block(take.id, first, end, take.newlines), text + overlap)
        self._watch_list.look(content, text, overlap, take.newlines, take.keywords)
        line_feed = line_break(self.encoding)
        take.newlines += text.count("\n") if len(line_feed) > 1 else content.count(b"\n")
        take.end = end
        take.unterminated = end == self.size and not content.endswith(line_feed)

    def _next_line(self, first: int) -> bytes:
        """The line after a block, as far as the overlap goes."""
        window = self.read(first, min(self.size, first + OVERLAP))
        return window[: cuts.after_line(window, line_break(self.encoding))]


class _Take:
    """A take in the making."""

    def __init__(self, first: int) -> None:
        self.id = random.getrandbits(63)
        self.first = self.end = first
        self.digest: Digest = hashlib.blake2b(digest_size=16)
        self.newlines = 0
        self.unterminated = False
        self.keywords: dict[str, list[int]] = {}

    def made(self) -> Take:
        return Take(
            self.id,
            self.first,
            self.end,
            self.digest.digest()[:16],
            self.newlines,
            self.unterminated,
            self.keywords,
        )
