"""The configuration's model: what each key means, its default and its limits.

Frozen, pickled to the workers as it is, and compared with `==` when the file is saved. Durations
are seconds, sizes bytes, folders absolute with their links resolved. What several keys must agree
on stands in consistency.py; `config.load` is how a file becomes a `Config`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    StrictInt,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from ..datasets import expression
from ..datasets.rule import Rule
from . import values
from .exclude import Excludes

DEFAULT_EXCLUDE = ("*.part", "*.crdownload", "*.tmp", ".*", "~*")
# All that a gray copy can be made of; the image processor has the same list.
# fmt: off
DEFAULT_IMAGES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".tif", ".tiff", ".webp", ".gif", ".bmp",
)
# fmt: on
SECTIONS = ("text", "images", "limits", "log")  # may stand empty in the file
_SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TEXT_OR_NUMBER = ["string", "integer"]


def _folder(written: object, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("folder", ".")
    return values.folder(str(written) if isinstance(written, Path) else written, base)


def _pattern(written: str) -> str:
    Excludes([written])
    return written


def _auto_or_list(written: object) -> object:
    if written == "auto":
        return None
    if isinstance(written, (list, tuple)):
        return written
    shown = values.show(written)
    raise ValueError(f"auto or a list (such as [.txt, .log]) was expected, not {shown}")


def _image(suffix: str) -> str:
    if suffix not in DEFAULT_IMAGES:
        raise ValueError(
            f'no gray copy can be made of "{suffix}" files (but of {", ".join(DEFAULT_IMAGES)})'
        )
    return suffix


def _checked_by(check: Callable[[str], object]) -> Callable[[str], str]:
    def validate(written: str) -> str:
        check(written)
        return written

    return validate


def _at_least_one_aggregate(written: dict[str, str]) -> dict[str, str]:
    if not written:
        raise ValueError("is empty: at least one is needed, such as total: sum(value)")
    return written


def _once_each(items: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return None if items is None else tuple(dict.fromkeys(items))


def _at_least(least: str, parse: Callable[[object], float]) -> AfterValidator:
    def check(value: float) -> float:
        if value < parse(least):
            raise ValueError(f"must be at least {least}")
        return value

    return AfterValidator(check)


Folder = Annotated[Path, PlainValidator(_folder), WithJsonSchema({"type": "string"})]
Duration = Annotated[
    float,
    BeforeValidator(values.duration),
    WithJsonSchema(
        # As a number only 0 is a duration: any other lacks its unit.
        {"type": _TEXT_OR_NUMBER, "pattern": values.DURATION_PATTERN, "minimum": 0, "maximum": 0}
    ),
]
Size = Annotated[
    int,
    BeforeValidator(values.size),
    WithJsonSchema({"type": _TEXT_OR_NUMBER, "pattern": values.SIZE_PATTERN, "minimum": 0}),
]
Count = Annotated[
    int,
    BeforeValidator(values.count),
    WithJsonSchema({"type": _TEXT_OR_NUMBER, "pattern": values.COUNT_PATTERN, "minimum": 0}),
]
Workers = Annotated[
    Literal["auto"] | int,
    PlainValidator(values.workers),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "auto"},
                {"type": "integer", "minimum": 1, "maximum": values.MOST_WORKERS},
            ]
        }
    ),
]
Suffix = Annotated[
    str,
    AfterValidator(values.suffix),
    WithJsonSchema({"type": "string", "pattern": values.SUFFIX_PATTERN}),
]
ImageSuffix = Annotated[
    str,
    AfterValidator(values.suffix),
    AfterValidator(_image),
    WithJsonSchema({"enum": [*DEFAULT_IMAGES]}),
]
Suffixes = Annotated[tuple[ImageSuffix, ...], AfterValidator(_once_each)]
SuffixesOrAuto = Annotated[
    tuple[Suffix, ...] | None,
    BeforeValidator(_auto_or_list),
    AfterValidator(_once_each),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "auto"},
                {"type": "array", "items": {"type": "string", "pattern": values.SUFFIX_PATTERN}},
            ]
        }
    ),
]
Pattern = Annotated[str, AfterValidator(_pattern)]
Keyword = Annotated[str, AfterValidator(values.keyword)]
Keywords = Annotated[tuple[Keyword, ...], AfterValidator(_once_each)]
CopyName = Annotated[str, AfterValidator(values.copy_name)]
FilePattern = Annotated[str, AfterValidator(values.file_pattern)]
RuleName = Annotated[str, AfterValidator(values.rule_name)]
Column = Annotated[str, AfterValidator(values.column)]
Condition = Annotated[str, AfterValidator(_checked_by(expression.condition))]
Aggregate = Annotated[str, AfterValidator(_checked_by(expression.aggregate))]
Aggregates = Annotated[dict[Column, Aggregate], AfterValidator(_at_least_one_aggregate)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Root(_Section):
    """One watched folder."""

    path: Folder = Field(
        description="The folder to watch. Relative to this file; ~ works.",
        examples=["/srv/inbox", "./inbox", "~/Downloads"],
    )
    recursive: StrictBool = Field(
        default=True, description="Whether its subfolders are watched too.", examples=[True, False]
    )
    exclude: tuple[Pattern, ...] = Field(
        default=DEFAULT_EXCLUDE,
        description="What to leave alone: gitignore patterns, relative to this folder. A list"
        " given here replaces the default.",
        examples=[["*.part", ".*", "/drafts/", "!.keep"]],
    )
    settle: Duration = Field(
        default="500ms",
        validate_default=True,
        description="Quiet time before a file written in place is taken.",
        examples=["500ms", "10s"],
    )
    settle_max: Annotated[Duration, _at_least("1ms", values.duration)] = Field(
        default="10s",
        validate_default=True,
        description="A text that is never quiet (a log) is taken as it stands after this long.",
        examples=["10s", "1m"],
    )
    observer: Literal["auto", "native", "polling"] = Field(
        default="auto",
        description="How changes are seen: native asks the kernel, polling looks again and again;"
        " auto polls on NFS, SMB, FUSE and the like.",
        examples=["auto", "polling"],
    )
    poll_every: Annotated[Duration, _at_least("100ms", values.duration)] = Field(
        default="10s",
        validate_default=True,
        description="How often a polled folder is looked at.",
        examples=["10s", "1m"],
    )

    @property
    def name(self) -> str:
        """The folder's own name: what its copies are gathered under."""
        return self.path.name

    @cached_property
    def _excludes(self) -> Excludes:
        return Excludes(self.exclude)

    def excluded(self, relative: str, is_folder: bool) -> str | None:
        """The pattern, as written, that leaves out this path or a folder it lies in."""
        return self._excludes.of_path(relative, is_folder)

    def excludes_name(self, relative: str, is_folder: bool) -> str | None:
        """The same for a caller who knows that the folders above are not left out."""
        return self._excludes.of_name(relative, is_folder)

    @property
    def may_exclude(self) -> Callable[[str], object] | None:
        """A quick look at a name alone: false if no pattern can leave it out, in any folder.

        None: there are no patterns.
        """
        return self._excludes.may_apply if self.exclude else None


def _at_least_one(roots: tuple[Root, ...]) -> tuple[Root, ...]:
    if not roots:
        raise ValueError("is empty: at least one folder to watch is needed")
    return roots


Roots = Annotated[tuple[Root, ...], AfterValidator(_at_least_one)]


class TextSettings(_Section):
    """What is taken in as text, and which words are watched for."""

    suffixes: SuffixesOrAuto = Field(
        default="auto",
        validate_default=True,
        description="Which files are texts. auto: whatever is no image and reads as text"
        " (README, app.log.1, ...). Upper and lower case are the same.",
        examples=["auto", [".txt", ".md", ".log"]],
    )
    keywords: Keywords = Field(
        default=(),
        description="A watch list of search terms: hits are recorded and logged as files arrive.",
        examples=[["invoice", "payment due"]],
    )


class ImageSettings(_Section):
    """Which files get a grayscale copy, and where."""

    suffixes: Suffixes = Field(
        default=DEFAULT_IMAGES,
        description="Which files are images. Upper and lower case are the same; an empty list"
        " makes no copies.",
        examples=[[".jpg", ".png"]],
    )
    output: Folder = Field(
        default=f"{values.DEFAULT_STATE}/grayscale",
        validate_default=True,
        description="Copies go to <output>/<name of the watched folder>/<path below it>. Without"
        " this key: the folder grayscale in the state folder.",
        examples=["/var/lib/dropmill/grayscale", "./grayscale"],
    )
    name: CopyName = Field(
        default="{stem}_grayscale{suffix}",
        description="A copy's name, made of its source's.",
        examples=["{stem}_grayscale{suffix}", "{stem}{suffix}"],
    )


class DatasetRule(_Section):
    """Which tables are filtered and aggregated, and how."""

    name: RuleName | None = Field(
        default=None,
        description="What the rule is called, by `dropmill aggregate`. Without this key: as `match`"
        " is written.",
        examples=["sales"],
    )
    match: FilePattern = Field(
        description="The names of the files: *, ? and [...] stand for any characters, upper and"
        " lower case are the same. Their suffix tells the format: .csv, .tsv, .ndjson; any other"
        " is a list of numbers, one a line, as the column `value`.",
        examples=["sales-*.csv", "*.ndjson"],
    )
    where: Condition | None = Field(
        default=None,
        description="Which records count, as a condition in SQL. Without this key: all.",
        examples=["value % 2 = 0", "region = 'north' AND value > 100"],
    )
    group_by: tuple[Column, ...] = Field(
        default=(),
        description="Columns: each combination of what stands in them has results of its own.",
        examples=[["region"], ["region", "year"]],
    )
    aggregate: Aggregates = Field(
        description="What is computed, by name: sum, count, mean, min or max of an expression in"
        " SQL. Without records count and sum are 0, the others are nothing.",
        examples=[{"total": "sum(value)", "orders": "count()", "mean": "mean(price * quantity)"}],
        json_schema_extra={"minProperties": 1},
    )
    on_bad_cell: Literal["quarantine", "skip"] = Field(
        default="quarantine",
        description="What becomes of a file with a cell that is no number where one is needed:"
        " skip counts such cells and takes them for empty ones.",
        examples=["quarantine", "skip"],
    )
    output: Folder | None = Field(
        default=None,
        description="The results of each file go to a CSV file in"
        " <output>/<name of the watched folder>/<path below it>, too.",
        examples=["./aggregates"],
    )

    @cached_property
    def rule(self) -> Rule:
        """The rule as workers use it."""
        return Rule(
            self.name or self.match,
            self.match,
            expression.condition(self.where) if self.where is not None else None,
            self.group_by,
            tuple((name, expression.aggregate(of)) for name, of in self.aggregate.items()),
            self.on_bad_cell == "skip",
            os.fsencode(self.output) if self.output is not None else None,
        )


class Limits(_Section):
    """What a file, a job and a worker may cost."""

    attempts: StrictInt = Field(
        default=3,
        ge=1,
        le=100,
        description="Attempts at a file whose faults may pass; one that kills its worker gets 2.",
        examples=[3],
    )
    timeout: Annotated[Duration, _at_least("100ms", values.duration)] = Field(
        default="2m", validate_default=True, description="For one job.", examples=["2m", "30s"]
    )
    memory: Annotated[Size, _at_least("64MiB", values.size)] = Field(
        default="1GiB",
        validate_default=True,
        description="Resident memory of one worker. K, M and G are KiB, MiB and GiB; kB, MB and GB"
        " are powers of 1000; a plain number is bytes.",
        examples=["1GiB", "512MiB"],
    )
    pixels: Annotated[Count, _at_least("1", values.count)] = Field(
        default="100M",
        validate_default=True,
        description="The largest image: width times height. k, M and G are powers of 1000.",
        examples=["100M", "25000000"],
    )
    free: Size = Field(
        default="1GiB",
        validate_default=True,
        description="Pause rather than leave less than this free on a disk that is written to.",
        examples=["1GiB", "500MB", 0],
    )


class LogSettings(_Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least weighty message to log.", examples=["info", "debug"]
    )
    format: Literal["auto", "plain", "json"] = Field(
        default="auto",
        description="auto: plain on a terminal, with levels for the journal.",
        examples=["auto", "json"],
    )


class Config(_Section):
    """The configuration of dropmill. Only `watch` is required."""

    state: Folder = Field(
        default=values.DEFAULT_STATE,
        validate_default=True,
        description="The folder for results.db, index/ and the lock. Relative to this file;"
        " ~ works.",
        examples=["/var/lib/dropmill", "./.dropmill"],
    )
    workers: Workers = Field(
        default="auto",
        description="How many worker processes; auto: the processors this process may use.",
        examples=["auto", 4],
    )
    watch: Roots = Field(
        description="The folders to watch. They must not overlap.",
        json_schema_extra={"minItems": 1},
    )
    reconcile_every: Annotated[Duration, _at_least("1s", values.duration)] = Field(
        default="15m",
        validate_default=True,
        description="How often disk and ledger are compared and differences repaired.",
        examples=["15m", "1h"],
    )
    text: TextSettings = Field(default_factory=lambda: TextSettings(), description="Texts.")
    images: ImageSettings = Field(default_factory=lambda: ImageSettings(), description="Images.")
    datasets: tuple[DatasetRule, ...] = Field(
        default=(),
        description="Tables that are filtered and aggregated: a list of rules. A file may fall"
        " under several; it is indexed as text as well, where text.suffixes says so.",
    )
    limits: Limits = Field(default_factory=lambda: Limits(), description="Limits.")
    log: LogSettings = Field(default_factory=lambda: LogSettings(), description="Logging.")

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any, info: ValidationInfo) -> Any:
        """Empty sections are absent ones; the copies' folder follows the state folder."""
        if not isinstance(data, dict):
            return data
        may_be_empty = (*SECTIONS, "datasets")
        data = {k: v for k, v in data.items() if v is not None or k not in may_be_empty}
        images = data.get("images", {})
        if isinstance(images, dict) and "output" not in images:
            # Where the state folder is wrong, that is told once, under its own key.
            with contextlib.suppress(ValueError):
                state = _folder(data.get("state", values.DEFAULT_STATE), info)
                data["images"] = {**images, "output": state / "grayscale"}
        return data

    @property
    def worker_count(self) -> int:
        """How many workers: `workers`, or the processors that this process may use."""
        return len(os.sched_getaffinity(0)) if self.workers == "auto" else self.workers


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the file: for editors, which complete and check by it."""
    schema = _without_titles(Config.model_json_schema())
    for name in SECTIONS:
        section = schema["properties"][name]
        section["anyOf"] = [{"$ref": section.pop("$ref")}, {"type": "null"}]
    schema["properties"]["datasets"]["type"] = ["array", "null"]
    del schema["$defs"]["ImageSettings"]["properties"]["output"]["default"]  # follows `state`
    return {"$schema": _SCHEMA_DIALECT, "title": "dropmill.yaml", **schema}


def _without_titles(schema: Any) -> Any:
    """pydantic's titles only repeat the keys."""
    if isinstance(schema, dict):
        titled = isinstance(schema.get("title"), str)
        return {k: _without_titles(v) for k, v in schema.items() if not (titled and k == "title")}
    return [_without_titles(item) for item in schema] if isinstance(schema, list) else schema


def json_schema_text() -> str:
    """The schema as `dropmill schema` prints it."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
