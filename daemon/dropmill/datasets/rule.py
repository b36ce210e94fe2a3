"""A rule of the configuration as workers use it: which files, and what is asked of them."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from typing import Any, NamedTuple

from .expression import Aggregate, Expression
from .partial import Shape


class Rule(NamedTuple):
    """One entry of `datasets:`."""

    name: str
    match: str  # a pattern of file names; upper and lower case are the same
    where: Expression | None
    group_by: tuple[str, ...]
    aggregates: tuple[tuple[str, Aggregate], ...]
    skips_bad_cells: bool
    output: bytes | None  # the folder that a CSV file a source goes to

    @property
    def shape(self) -> Shape:
        functions = tuple(aggregate.function for _, aggregate in self.aggregates)
        return Shape(self.group_by, tuple(name for name, _ in self.aggregates), functions)

    @property
    def told(self) -> tuple[object, ...]:
        """All that results depend on, the same in every process (no sets)."""
        of = [(name, each.function, each.of and each.of.sql) for name, each in self.aggregates]
        where = self.where and self.where.sql
        return (self.name, where, self.group_by, of, self.skips_bad_cells, self.output)

    @property
    def expressions(self) -> list[Expression]:
        """All expressions in it."""
        of = [aggregate.of for _, aggregate in self.aggregates]
        return [each for each in (self.where, *of) if each is not None]

    @property
    def numbers(self) -> frozenset[str]:
        """The columns whose cells must be numbers.

        Two that are asked which is larger are, where nothing says that they are texts.
        """
        all_of = set[str]().union
        numbers = all_of(*(each.numbers for each in self.expressions))
        texts = self._with_those_alike(all_of(*(each.texts for each in self.expressions)))
        ordered = all_of(*(each.ordered for each in self.expressions))
        return frozenset(self._with_those_alike(numbers | (ordered - texts)))

    def _with_those_alike(self, names: set[str]) -> set[str]:
        """With the columns that they are compared with, and those that these are, and so on."""
        found, same = set(names), [pair for each in self.expressions for pair in each.same]
        while more := {name for pair in same if found & {*pair} for name in pair} - found:
            found |= more
        return found

    @property
    def columns(self) -> list[str]:
        """The columns that a table must have, in the order of their first use."""
        used = [name for each in self.expressions for name in each.columns]
        return list(dict.fromkeys([*self.group_by, *used]))


class RuleSet:
    """All rules, asked for every file. The first of the configuration comes first."""

    def __init__(
        self,
        rules: tuple[Rule, ...] = (),
        texts: frozenset[str] | None = None,
        images: frozenset[str] = frozenset(),
    ) -> None:
        """`texts` are the suffixes of what is indexed as text too; None: all but `images`."""
        self.rules = rules
        self._texts = texts
        self._images = images
        self._digests: dict[tuple[tuple[str, ...], bool], bytes] = {}
        self._patterns = [
            (re.compile(fnmatch.translate(rule.match.lower())), rule) for rule in rules
        ]

    def of(self, name: str) -> tuple[Rule, ...]:
        """The rules that a file is a data set by, by its name."""
        if not self.rules:
            return ()
        folded = name.lower()
        return tuple(rule for pattern, rule in self._patterns if pattern.match(folded))

    @property
    def told(self) -> list[tuple[object, ...]]:
        """All that decides which file is a data set, and by what."""
        return [(rule.match, *rule.told) for rule in self.rules]

    def is_text(self, name: str) -> bool:
        """Whether a data set is indexed as text too."""
        suffix = suffix_of(name)
        return suffix not in self._images if self._texts is None else suffix in self._texts

    def __reduce__(self) -> tuple[Any, ...]:
        return RuleSet, (self.rules, self._texts, self._images)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RuleSet) and self.__reduce__() == other.__reduce__()

    __hash__ = None  # type: ignore[assignment]

    def digest(self, name: str) -> bytes | None:
        """Another one whenever a file of that name would come to something else; None: of none."""
        rules = self.of(name)
        return self._digest_of(rules, self.is_text(name)) if rules else None

    def _digest_of(self, rules: tuple[Rule, ...], is_text: bool) -> bytes:
        key = (tuple(rule.name for rule in rules), is_text)
        if key not in self._digests:
            told = repr(([rule.told for rule in rules], is_text))
            digest = hashlib.blake2b(told.encode("utf-8", "surrogateescape"), digest_size=16)
            self._digests[key] = digest.digest()
        return self._digests[key]


def suffix_of(name: str) -> str:
    """A name's suffix, in lower case."""
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix}".lower() if dot and stem else ""
