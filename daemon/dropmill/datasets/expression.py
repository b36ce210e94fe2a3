"""The expressions of a rule: a small part of SQL, checked here and evaluated by Polars.

    condition  := conjunction (OR conjunction)*         conjunction := negation (AND negation)*
    negation   := NOT negation | comparison
    comparison := sum [ (= | != | <> | < | <= | > | >=) sum | IS [NOT] NULL | [NOT] LIKE 'pattern'
                      | [NOT] IN (literal, ...) | [NOT] BETWEEN sum AND sum ]
    sum        := product ((+ | -) product)*            product := factor ((* | / | %) factor)*
    factor     := - factor | number | 'text' | column | "column" | function(sum) | (condition)
    aggregate  := count() | count(*) | (count | sum | mean | min | max)(sum)

Polars parses SQL of its own, but tells neither the place of a mistake nor which columns must be
numbers; and of what it offers much would not mean the same for every way a file is cut. What is
checked is written out again in one way (`sql`) that Polars takes.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn


class Sort(enum.Enum):
    """What an expression is."""

    NUMBER = "a number"
    TEXT = "a text"
    TRUTH = "a condition"


class WrongExpression(ValueError):  # noqa: N818 - a verdict on a text
    """An expression that cannot be used; `at` is the first character that is at fault, from 0."""

    def __init__(self, at: int, text: str) -> None:
        super().__init__(text)
        self.at = at
        self.text = text


class Expression(NamedTuple):
    """A checked expression."""

    sql: str  # as Polars takes it
    columns: dict[str, int]  # name → where it first stands in what was written
    numbers: frozenset[str]  # the columns that must be numbers
    texts: frozenset[str]  # those that must be texts
    factors: int  # at most so many numbers are multiplied with each other
    terms: int  # at most so many products are added up
    largest: int  # of the whole numbers that stand in it
    same: tuple[tuple[str, str], ...]  # columns that are compared with each other: of one sort
    ordered: frozenset[str]  # of them, those that are asked which is larger
    divisors: tuple[str, ...]  # as Polars takes them; by none of them can be divided where it is 0


class Aggregate(NamedTuple):
    """A checked aggregate; `of` is None for `count()`."""

    function: str
    of: Expression | None


AGGREGATES = ("sum", "count", "mean", "min", "max")
_FUNCTIONS = {  # name → what it takes, what it gives
    "abs": (Sort.NUMBER, Sort.NUMBER),
    "floor": (Sort.NUMBER, Sort.NUMBER),
    "ceil": (Sort.NUMBER, Sort.NUMBER),
    "round": (Sort.NUMBER, Sort.NUMBER),
    "lower": (Sort.TEXT, Sort.TEXT),
    "upper": (Sort.TEXT, Sort.TEXT),
    "length": (Sort.TEXT, Sort.NUMBER),
}
_KEYWORDS = {"and", "or", "not", "is", "null", "in", "between", "like"}
_DEEPEST = 50  # of what is written
_DEEPEST_SQL = 45  # of what Polars reads: beyond 48 it gives up
_MOST_IN_A_ROW = 100  # added up or multiplied; Polars takes 0.06 s for 100, for 400 ten times that
_LONGEST = 10_000  # characters
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<text>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")+")
    | (?P<word>[^\W\d]\w*)
    | (?P<sign><=|>=|<>|!=|[-+*/%(),=<>])
    | (?P<end>\Z)
    )""",
    re.VERBOSE,
)


class _Token(NamedTuple):
    kind: str
    text: str
    at: int

    @property
    def word(self) -> str:
        return self.text.lower() if self.kind == "word" else ""


def condition(written: str) -> Expression:
    """A checked `where`. Raises WrongExpression."""
    parser = _Parser(written)
    found = parser.condition()
    parser.need(found, Sort.TRUTH)
    return parser.ended(found)


def aggregate(written: str) -> Aggregate:
    """A checked aggregate. Raises WrongExpression."""
    return _Parser(written).aggregate()


def column_sql(name: str) -> str:
    """A column's name as SQL has it."""
    return '"' + inner_name(name).replace('"', '""') + '"'


def inner_name(name: str) -> str:
    """What a column is called where Polars looks for it: `*` and `^...$` would be patterns."""
    return f"={name}" if name[:1] in ("*", "^", "=") else name


class _Part(NamedTuple):
    """A part of an expression while it is read."""

    sql: str
    sort: Sort | None  # None: a column of which nothing is known yet
    at: int
    factors: int = 1
    terms: int = 1
    column: str | None = None  # where it is a column and nothing else
    depth: int = 1  # of the SQL


class _Parser:
    def __init__(self, written: str) -> None:
        if len(written) > _LONGEST:
            raise WrongExpression(0, f"is longer than {_LONGEST:,} characters")
        self._tokens = list(_tokens(written))
        self._place = 0
        self._depth = 0
        self._columns: dict[str, int] = {}
        self._sorts: dict[str, Sort] = {}
        self._same: list[tuple[str, str]] = []  # columns that are compared with each other
        self._ordered: set[str] = set()
        self._largest = 0
        self._divisors: list[str] = []

    # ---- the whole ---------------------------------------------------------------------------

    def ended(self, found: _Part) -> Expression:
        """What was read, as nothing may follow it."""
        if self._now.kind != "end":
            self._wrong(f"{_shown(self._now)} was not expected here")
        if found.depth > _DEEPEST_SQL:
            self._wrong("is nested too deep", at=found.at)
        for _ in self._same:
            for one, other in self._same:
                self._agree(one, other)
        by_sort = {
            sort: frozenset(name for name, known in self._sorts.items() if known is sort)
            for sort in Sort
        }
        return Expression(
            found.sql,
            dict(self._columns),
            by_sort[Sort.NUMBER],
            by_sort[Sort.TEXT],
            found.factors,
            found.terms,
            self._largest,
            tuple(dict.fromkeys(self._same)),
            frozenset(self._ordered),
            tuple(dict.fromkeys(self._divisors)),
        )

    def _agree(self, one: str, other: str) -> None:
        for name, model in ((one, other), (other, one)):
            if model in self._sorts:
                self._column_is(name, self._sorts[model], self._columns[name])

    def aggregate(self) -> Aggregate:
        offered = ", ".join(AGGREGATES)
        token = self._next()
        if token.word not in AGGREGATES:
            self._wrong(f"one of {offered} was expected, not {_shown(token)}", token)
        self._expect("(")
        if token.word == "count" and self._now.text in (")", "*"):
            self._take("*")
            self._expect(")")
            self.ended(_Part("", None, 0))
            return Aggregate("count", None)
        found = self.sum()
        if token.word != "count":
            self.need(found, Sort.NUMBER)
        elif found.sort is Sort.TRUTH:
            self._wrong("count takes a column, not a condition", token)
        self._expect(")")
        return Aggregate(token.word, self.ended(found))

    # ---- conditions --------------------------------------------------------------------------

    def condition(self) -> _Part:
        return self._joined("or", lambda: self._joined("and", self._negation))

    def _joined(self, word: str, part: Callable[[], _Part]) -> _Part:
        parts = [part()]
        while self._now.word == word:
            self._next()
            parts.append(part())
            for side in parts[-2:]:
                self.need(side, Sort.TRUTH)
        return self._halved(parts, word.upper())

    def _halved(self, parts: list[_Part], word: str) -> _Part:
        """All of them joined, as a tree of the least depth: Polars takes 2 s for 400 in a row."""
        if len(parts) == 1:
            return parts[0]
        middle = len(parts) // 2
        one, other = self._halved(parts[:middle], word), self._halved(parts[middle:], word)
        return self._both(one, other, f"({one.sql} {word} {other.sql})")

    def _negation(self) -> _Part:
        if self._now.word != "not":
            return self._comparison()
        at = self._next().at
        with self._deeper():
            found = self._negation()
        self.need(found, Sort.TRUTH)
        return found._replace(sql=f"(NOT {found.sql})", at=at, depth=found.depth + 2)

    def _comparison(self) -> _Part:
        left = self.sum()
        token = self._now
        if token.text in ("=", "!=", "<>", "<", "<=", ">", ">="):
            self._next()
            right = self.sum()
            self._alike(left, right, is_ordered=token.text in ("<", "<=", ">", ">="))
            return self._both(left, right, f"({left.sql} {token.text} {right.sql})")
        if token.word == "is":
            self._next()
            negated = "NOT " if self._take("not") else ""
            self._expect("null")
            return self._truth(left, f"({left.sql} IS {negated}NULL)")
        negated = "NOT " if token.word == "not" else ""
        if negated:
            self._next()
        match self._now.word:
            case "like":
                return self._like(left, negated)
            case "in":
                return self._in(left, negated)
            case "between":
                return self._between(left, negated)
        if negated:
            self._wrong(f"LIKE, IN or BETWEEN was expected, not {_shown(self._now)}")
        return left

    def _like(self, left: _Part, negated: str) -> _Part:
        self._next()
        self.need(left, Sort.TEXT)
        pattern = self._next()
        if pattern.kind != "text":
            self._wrong(f"a text in single quotes was expected, not {_shown(pattern)}", pattern)
        return self._truth(left, f"({left.sql} {negated}LIKE {pattern.text})")

    def _in(self, left: _Part, negated: str) -> _Part:
        self._next()
        self._expect("(")
        items: list[str] = []
        while not items or self._take(","):
            item = self._factor()
            if item.column is not None or item.sort is None:
                self._wrong("a list of numbers or texts was expected", at=item.at)
            self._alike(left, item)
            items.append(item.sql)
        self._expect(")")
        return self._truth(left, f"({left.sql} {negated}IN ({', '.join(items)}))")

    def _between(self, left: _Part, negated: str) -> _Part:
        self._next()
        low = self.sum()
        self._expect("and")
        high = self.sum()
        self._alike(left, low, is_ordered=True)
        self._alike(left, high, is_ordered=True)
        found = self._both(self._both(left, low, ""), high, "")
        return found._replace(sql=f"({left.sql} {negated}BETWEEN {low.sql} AND {high.sql})")

    # ---- numbers and texts -------------------------------------------------------------------

    def sum(self) -> _Part:
        return self._in_a_row(
            ("+", "-"),
            self._product,
            lambda sign, one, other: (max(one.factors, other.factors), one.terms + other.terms),
        )

    def _product(self) -> _Part:
        return self._in_a_row(
            ("*", "/", "%"),
            self._factor,
            lambda sign, one, other: (
                (one.factors + other.factors, one.terms * other.terms)
                if sign == "*"
                else (max(one.factors, other.factors), max(one.terms, other.terms))
            ),
        )

    def _in_a_row(
        self,
        signs: tuple[str, ...],
        part: Callable[[], _Part],
        size: Callable[[str, _Part, _Part], tuple[int, int]],
    ) -> _Part:
        """Numbers with such signs between them; `size` gives the factors and terms of two."""
        first = found = part()
        pieces, depth = [first.sql], first.depth
        while self._now.text in signs:
            sign, other = self._next(), part()
            self._both_numbers(found, other)
            if len(pieces) >= 2 * _MOST_IN_A_ROW - 1:
                self._wrong(f"more than {_MOST_IN_A_ROW} in a row", sign)
            if sign.text in ("/", "%"):
                # For Polars a division by 0 gives infinity, which is larger than any number.
                self._divisors.append(other.sql)
                other = other._replace(sql=f"NULLIF({other.sql}, 0)", depth=other.depth + 1)
            pieces += [sign.text, other.sql]
            depth = max(depth, other.depth)
            found = _Part("", Sort.NUMBER, first.at, *size(sign.text, found, other))
        if found is first:
            return first
        return found._replace(sql=f"({' '.join(pieces)})", depth=depth + 2)

    def _factor(self) -> _Part:
        token = self._next()
        if token.text == "-":
            with self._deeper():
                found = self._factor()
            self.need(found, Sort.NUMBER)
            return found._replace(
                sql=f"(- {found.sql})",
                sort=Sort.NUMBER,
                at=token.at,
                column=None,
                depth=found.depth + 2,
            )
        if token.text == "(":
            with self._deeper():
                found = self.condition()
            self._expect(")")
            return found._replace(at=token.at)
        if token.kind == "number":
            return _Part(self._number(token), Sort.NUMBER, token.at)
        if token.kind == "text":
            return _Part(token.text, Sort.TEXT, token.at)
        if token.kind == "quoted":
            return self._column(token, token.text[1:-1].replace('""', '"'))
        if token.kind == "word" and self._now.text == "(":
            return self._function(token)
        if token.kind != "word" or token.word in _KEYWORDS:
            expected = "a column, a number, a text in single quotes or a function"
            self._wrong(f"{expected} was expected, not {_shown(token)}", token)
        return self._column(token, token.text)

    def _number(self, token: _Token) -> str:
        if token.text.isdecimal():
            value = int(token.text)
            if value >= 1 << 63:
                self._wrong(f"{token.text} does not fit into 64 bits", token)
            self._largest = max(self._largest, value)
            return str(value)
        value_ = float(token.text)
        if value_ in (float("inf"),):
            self._wrong(f"{token.text} is too large", token)
        return f"{value_!r}e0" if "e" not in repr(value_) else repr(value_)  # no decimal type

    def _function(self, token: _Token) -> _Part:
        if token.word not in _FUNCTIONS:
            name = token.text
            if token.word in AGGREGATES:
                self._wrong(f"{name}() cannot stand within an expression", token)
            self._wrong(f"no such function: {name} (offered: {', '.join(_FUNCTIONS)})", token)
        takes, gives = _FUNCTIONS[token.word]
        self._expect("(")
        with self._deeper():
            found = self.sum()
        self.need(found, takes)
        self._expect(")")
        sql = f"{token.word}({found.sql})"
        if token.word == "length":
            sql = f"CAST({sql} AS BIGINT)"  # unsigned, it would wrap around below 0
        depth = found.depth + 3
        return _Part(sql, gives, token.at, found.factors, found.terms, depth=depth)

    def _column(self, token: _Token, name: str) -> _Part:
        self._columns.setdefault(name, token.at)
        return _Part(column_sql(name), self._sorts.get(name), token.at, column=name)

    # ---- sorts -------------------------------------------------------------------------------

    def need(self, part: _Part, sort: Sort) -> None:
        """Has a part be of that sort, or says why it is not."""
        if part.column is not None:
            if sort is Sort.TRUTH:
                self._wrong(f"a condition was expected, not the column {part.column}", at=part.at)
            self._column_is(part.column, sort, part.at)
        elif part.sort is not sort:
            was = part.sort.value if part.sort else "a column"
            self._wrong(f"{sort.value} was expected, not {was}", at=part.at)

    def _column_is(self, name: str, sort: Sort, at: int) -> None:
        known = self._sorts.setdefault(name, sort)
        if known is not sort:
            self._wrong(f"{name} is used as {known.value} and as {sort.value}", at=at)

    def _alike(self, one: _Part, other: _Part, *, is_ordered: bool = False) -> None:
        """Two sides of a comparison are of one sort."""
        sorts = [self._sort(part) for part in (one, other)]
        if sorts == [None, None]:
            if one.column is not None and other.column is not None:
                self._same.append((one.column, other.column))
                if is_ordered:
                    self._ordered |= {one.column, other.column}
            return
        for part, model in ((one, sorts[1]), (other, sorts[0])):
            if model is Sort.TRUTH:
                self._wrong("conditions cannot be compared: join them with AND or OR", at=part.at)
            if model is not None:
                self.need(part, model)

    def _sort(self, part: _Part) -> Sort | None:
        return part.sort if part.column is None else self._sorts.get(part.column)

    def _both_numbers(self, one: _Part, other: _Part) -> None:
        for part in (one, other):
            self.need(part, Sort.NUMBER)

    @staticmethod
    def _truth(part: _Part, sql: str) -> _Part:
        return part._replace(sql=sql, sort=Sort.TRUTH, column=None, depth=part.depth + 2)

    def _both(self, one: _Part, other: _Part, sql: str) -> _Part:
        factors, terms = max(one.factors, other.factors), max(one.terms, other.terms)
        depth = max(one.depth, other.depth) + 2
        return _Part(sql, Sort.TRUTH, one.at, factors, terms, depth=depth)

    # ---- tokens ------------------------------------------------------------------------------

    @property
    def _now(self) -> _Token:
        return self._tokens[self._place]

    def _next(self) -> _Token:
        token = self._now
        if token.kind != "end":
            self._place += 1
        return token

    def _take(self, what: str) -> bool:
        if what not in (self._now.text, self._now.word):
            return False
        self._place += 1
        return True

    def _expect(self, what: str) -> None:
        if not self._take(what):
            self._wrong(f"{what.upper()} was expected, not {_shown(self._now)}")

    def _deeper(self) -> _Depth:
        return _Depth(self)

    def enter(self) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            self._wrong(f"nested more than {_DEEPEST} deep")

    def leave(self) -> None:
        self._depth -= 1

    def _wrong(self, text: str, token: _Token | None = None, at: int | None = None) -> NoReturn:
        raise WrongExpression((token or self._now).at if at is None else at, text)


class _Depth:
    def __init__(self, parser: _Parser) -> None:
        self._parser = parser

    def __enter__(self) -> None:
        self._parser.enter()

    def __exit__(self, *exception: object) -> None:
        self._parser.leave()


def _tokens(written: str) -> Iterator[_Token]:
    place = 0
    while True:
        found = _TOKEN.match(written, place)
        if found is None:
            at = place + len(written[place:]) - len(written[place:].lstrip())
            raise WrongExpression(at, _no_token(written[at]))
        kind = str(found.lastgroup)
        yield _Token(kind, found[kind], found.start(kind))
        if kind == "end":
            return
        place = found.end()


def _no_token(character: str) -> str:
    if character in "'\"":
        return f"{character} is never closed"
    return f"{character} cannot stand here"


def _shown(token: _Token) -> str:
    return "the end" if token.kind == "end" else token.text
