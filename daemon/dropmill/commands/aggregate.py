"""`dropmill aggregate`: what all files that a rule has taken in come to together."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .. import config
from ..datasets.partial import BeyondFloat, TooManyGroups, combine
from ..datasets.rule import Rule
from ..errors import DropmillError, UsageError
from ..rules import rule_set
from ..store.reading import Reader
from .printing import amount, printable, write_json
from .tables import as_object, lines, summary


def aggregate(config_path: Path, name: str, *, under: bytes | None, as_json: bool) -> int:
    """Prints it; gives the exit code: 1 when the rule has taken in nothing."""
    loaded = config.load(config_path)
    rules = rule_set(loaded)
    rule = _rule(rules.rules, name)
    with Reader(os.fsencode(loaded.state)) as reader:
        found = reader.aggregated(rule.name, under)
        current = [
            partial
            for path, digest, partial in found
            if digest == rules.digest(os.fsdecode(os.path.basename(path)))
        ]
        to_come = reader.datasets_to_come(under)
    try:
        total = combine(rule.shape, current)
    except (TooManyGroups, BeyondFloat) as fault:
        raise DropmillError(f"{rule.name}: {fault}") from None
    outdated = len(found) - len(current)
    if as_json:
        write_json({"rule": rule.name, "files": len(current)} | as_object(total))
    else:
        print(f"{printable(rule.name)}: {amount(len(current), 'file')}, {summary(total)}")
        print("\n".join(lines(total)))
    sys.stdout.flush()
    if outdated or to_come:
        waiting = amount(outdated + to_come, "file")
        print(f"{waiting} not counted yet: still to be taken in by the rules", file=sys.stderr)
    return 0 if current else 1


def _rule(rules: tuple[Rule, ...], name: str) -> Rule:
    for rule in rules:
        if rule.name == name:
            return rule
    known = ", ".join(rule.name for rule in rules) or "none: `datasets:` is empty"
    raise UsageError(f"no rule is called {name} (there are: {known})")
