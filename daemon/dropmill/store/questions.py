"""What is asked of an outcome, or of the takes in it, before it goes into the ledger."""

from __future__ import annotations

from collections.abc import Iterable

from ..job import Outcome, State, Take, Verdict

RACY_NS = 20 * 10**6  # a file read so soon after its mtime may have been written once more since
COMPARE_RACY_NS = 10**9
COMPARE_SKIMMED_NS = 60 * 10**9  # of quiet


def is_whole_text(outcome: Outcome) -> bool:
    """Whether it speaks of a text up to its end, and is no range of it."""
    if not (outcome.takes or outcome.encoding) or outcome.job.ranged:
        return False
    end = outcome.takes[-1].end if outcome.takes else outcome.keep_to
    return end >= (outcome.fingerprint or outcome.job.fingerprint).size


def agrees(outcome: Outcome, state: int, reason: str | None) -> bool:
    """Whether a file that was compared once more came to what it came to before."""
    match outcome.verdict:
        case Verdict.UNCHANGED:
            return state == State.DONE
        case Verdict.SKIPPED:
            return state == State.SKIPPED and outcome.reason == reason
        case Verdict.QUARANTINED:
            return state == State.QUARANTINED and outcome.reason == reason
    return False


def compare_at(outcome: Outcome, now: int) -> int | None:
    """When the file is to be compared once more with what was read of it; None: never.

    A second write in the same tick of the kernel's clock leaves size and mtime as they were. An
    mtime that lies further in the future than that comparison says nothing of when it was written.
    """
    if outcome.job.skimmed:
        return now + COMPARE_SKIMMED_NS
    age = outcome.started_ns - (outcome.fingerprint or outcome.job.fingerprint).mtime_ns
    return now + COMPARE_RACY_NS if -COMPARE_RACY_NS < age < RACY_NS else None


def is_tiled(ranges: Iterable[tuple[int, int]], size: int) -> bool:
    """Whether the ranges cover bytes 0 to `size` without gap or overlap."""
    position = 0
    for first, end in ranges:
        if first != position:
            return False
        position = end
    return position == size


def of_takes(takes: Iterable[Take]) -> tuple[int, bool | None]:
    """How many lines a text has, and whether it holds watch-list terms, from all of its takes."""
    lines, is_keyworded = 0, None
    for take in takes:
        lines += take.newlines + take.unterminated  # only the last one may be
        is_keyworded = True if take.keywords else is_keyworded
    return lines, is_keyworded
