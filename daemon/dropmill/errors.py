"""The exceptions, few on purpose: one for the command line, three for whose fault it is."""

from __future__ import annotations


class DropmillError(Exception):
    """A failure with a sentence for a person; ends the command with `exit_code`.

    The sentence names the thing (a file, an option), the fact and the mend.
    """

    exit_code = 1


class UsageError(DropmillError):
    """What was asked cannot be understood: a wrong configuration, a bad query, wrong use."""

    exit_code = 2


class BrokenState(DropmillError):  # noqa: N818 - the vocabulary's word
    """A database of ours cannot be read: the next start moves it aside and rebuilds it."""


class FileFault(Exception):  # noqa: N818 - the vocabulary's word
    """A permanent fault of the file itself: it is quarantined at once, for the reason given."""


class NotOurs(Exception):  # noqa: N818 - a verdict, not an error
    """The file was looked at and is not ours (binary content under a text suffix): `skipped`."""


class MachineFault(Exception):  # noqa: N818 - the vocabulary's word
    """A fault of the machine (disk full, out of descriptors): charges nobody, pauses the pool."""
