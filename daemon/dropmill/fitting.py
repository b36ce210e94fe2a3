"""From the configuration to what each part of the mill is told of it."""

from __future__ import annotations

import os
from typing import Any

from . import watch
from .config.settings import Config
from .rules import rule_set
from .store.ledger import Ledger
from .worker import WorkerSettings


def what_is_noticed(config: Config) -> object:
    """All of a configuration that says what is noticed, and what is a file of ours."""
    roots = [(r.path, r.recursive, r.exclude, r.observer, r.poll_every) for r in config.watch]
    suffixes = config.text.suffixes, config.images.suffixes
    return roots, suffixes, config.datasets, config.reconcile_every


def worker_settings(config: Config) -> WorkerSettings:
    """What a worker needs to know of a configuration."""
    return WorkerSettings(
        state_folder=os.fsencode(config.state),
        workers=config.worker_count,
        output=os.fsencode(config.images.output),
        name=config.images.name,
        root_names={os.fsencode(root.path): os.fsencode(root.name) for root in config.watch},
        keywords=config.text.keywords,
        attempts=config.limits.attempts,
        memory=config.limits.memory,
        pixels=config.limits.pixels,
        log_level=config.log.level,
        log_format=config.log.format,
        rules=rule_set(config),
    )


def outputs(config: Config) -> list[bytes]:
    """The folders that copies and results go to."""
    of_rules = [each.output for each in config.datasets if each.output is not None]
    return [os.fsencode(folder) for folder in (config.images.output, *of_rules)]


def watched(root: Any, ledger: Ledger) -> watch.WatchedRoot:
    """A root as the watch takes it, with what the ledger knows of who it was."""
    path = os.fsencode(root.path)

    def excludes(relative: bytes, is_folder: bool) -> bool:
        return root.excludes_name(os.fsdecode(relative), is_folder) is not None

    return watch.WatchedRoot(
        path,
        root.recursive,
        excludes if root.exclude else _excludes_nothing,
        root.observer,
        root.poll_every,
        ledger.root_identity(path),
        root.may_exclude,
    )


def _excludes_nothing(relative: bytes, is_folder: bool) -> bool:
    return False
