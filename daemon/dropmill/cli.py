"""The command line: what can be asked, with which options. What a command does is in `commands`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from . import __version__, config
from .commands.search import OPTIONS, search
from .config.values import MOST_WORKERS
from .job import Kind, State

_EXAMPLES = """
\b
Examples:
  dropmill init && dropmill run           a folder to drop into, and the service
  dropmill search disk failure            files that hold both words, and the lines
  dropmill search "disk failure" -C 2     a phrase, with two lines around it
  dropmill status                         what it does, and what is wrong
  dropmill results --state quarantined    what could not be taken, and why
  dropmill explain inbox/a.jpg            all about one file

Exit codes: 0 yes, 1 no (nothing found, something is wrong), 2 wrong use or configuration.
"""


class _Command(click.Command):
    """A command that takes --config too, and whose help says so."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not any(parameter.name == "config_file" for parameter in self.params):
            self.params.append(_config_option())


class _Group(click.Group):
    command_class = _Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of their use, not of the alphabet."""
        return list(self.commands)


def _config_option() -> click.Option:
    return click.Option(
        ["--config", "config_file"],
        metavar="FILE",
        help="The configuration to use.",
        type=click.Path(),
        expose_value=False,
        callback=_note_config,
    )


def _note_config(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """The one given last, before or after the command's name, counts."""
    if value is not None:
        context.find_root().obj = value


def _config_path() -> Path:
    return config.find(click.get_current_context().find_root().obj)


def _state_folder() -> bytes:
    return os.fsencode(config.state_folder(_config_path()))


@click.group(
    cls=_Group,
    params=[_config_option()],
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="dropmill", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Drop files into folders: text becomes searchable, images get a grayscale copy."""
    if os.environ.get("NO_COLOR"):
        context.color = False


# ---- the service ---------------------------------------------------------------------------------


@cli.command()
@click.option("--once", is_flag=True, help="Take in all that is there, and exit.")
def run(once: bool) -> int:
    """Run the service in the foreground.

    On SIGTERM or Ctrl-C, what finishes within 8 seconds is finished; the rest goes back. With
    --once: exits with 0 if all is well, with 1 if anything was quarantined.
    """
    from .commands.run import run

    return run(_config_path(), once=once)


@cli.command()
def check() -> int:
    """Validate the configuration, and say what would be watched.

    Exits with 1 when something could not be watched, with 2 when the configuration is wrong.
    """
    from .commands.setup import check

    return check(_config_path())


@cli.command()
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path())
def init(folder: str) -> int:
    """Write a dropmill.yaml that works as it is.

    Also makes the folder that it watches. Never overwrites a file.
    """
    from .commands.setup import init

    return init(folder)


@cli.command()
@click.argument("folder", metavar="FOLDER", type=click.Path(readable=False))
@click.option(
    "--workers",
    type=click.IntRange(1, MOST_WORKERS),
    metavar="N",
    help="The most workers to try; else as many as there are processors for them.",
)
@click.option("--keyword", metavar="WORD", help="Look for it too: a word, `word*` or a phrase.")
@click.option(
    "--seconds",
    type=click.FloatRange(0),
    default=10.0,
    show_default=True,
    metavar="S",
    help="Take only so many files, at random, as one process takes in in about so long; 0: all.",
)
@click.option(
    "--scratch",
    metavar="DIR",
    type=click.Path(readable=False),
    help="Where state and copies are, meanwhile; else $TMPDIR or /var/tmp.",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def bench(
    folder: str,
    workers: int | None,
    keyword: str | None,
    seconds: float,
    scratch: str | None,
    as_json: bool,
) -> int:
    """Time what `workers:` is worth, on your own files.

    Takes in FOLDER one file after another in one process, then by the pool with 1, 2, ... workers,
    and compares what came out. FOLDER is only read, nothing is left behind, and no configuration is
    needed; the rules and limits of one that is given by --config apply. Exits with 1 when two runs
    did not give the same.
    """
    from .commands.bench import Options, bench

    given = click.get_current_context().find_root().obj or os.environ.get("DROPMILL_CONFIG")
    config_path = config.find(given) if given else None
    return bench(config_path, Options(folder, workers, keyword, seconds, scratch, as_json))


# ---- questions -----------------------------------------------------------------------------------


def _search(**arguments: Any) -> int:
    given = click.get_current_context().find_root().obj
    return search({**arguments, "config_file": arguments["config_file"] or given})


def _search_options() -> list[click.Parameter]:
    terms = click.Argument(["terms"], nargs=-1, required=True, metavar="QUERY...")
    return [
        terms,
        *(
            click.Option(
                [*option.spellings, option.name],
                is_flag=option.default is False,
                multiple=option.default == (),
                default=option.default,
                type=click.IntRange(min=0) if option.is_number else None,
                show_default=bool(option.is_number and option.default),
                metavar=option.metavar,
                help=option.help,
            )
            for option in OPTIONS
        ),
    ]


cli.add_command(
    _Command(
        "search",
        params=_search_options(),
        callback=_search,
        short_help="Find the files and lines that hold some words.",
        help="""Find the files and lines that hold some words; best files first.

Words are ANDed over a file; an argument with a space in it is a phrase; fail* is a prefix. Case and
accents do not matter. Exits with 0 when something was found, with 1 when nothing was.

\b
Examples:
  dropmill search disk failure
  dropmill search "disk failure" --not test
  dropmill search 'fail*' --under inbox/logs -l
""",
    )
)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.option("--watch", is_flag=True, help="Again every second, until Ctrl-C.")
def status(as_json: bool, watch: bool) -> int:
    """What runs, how far it is, what is wrong and how to mend it.

    Exits with 0 when the daemon runs, with 1 when it does not.
    """
    from .commands.status import status

    return status(_config_path(), as_json=as_json, watch=watch)


@cli.command()
@click.option("--state", type=click.Choice([state.label for state in State]), help="Only these.")
@click.option("--under", metavar="DIR", type=click.Path(), help="Only files below DIR.")
@click.option("--kind", type=click.Choice([kind.label for kind in Kind]), help="Only this kind.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--follow", "-f", is_flag=True, help="The last ten, then new ones as they come.")
def results(
    state: str | None, under: str | None, kind: str | None, as_json: bool, follow: bool
) -> int:
    """What came of the files, newest last.

    Files that went away are listed with --state gone, waiting ones with --state queued. Exits with
    1 when there are none.
    """
    from .commands.results import results

    return results(
        _state_folder(),
        state=State[state.upper()] if state else None,
        under=os.path.realpath(os.fsencode(under)) if under else None,
        kind=Kind[kind.upper()] if kind else None,
        as_json=as_json,
        follow=follow,
    )


@cli.command()
@click.argument("rule", metavar="RULE")
@click.option("--under", metavar="DIR", type=click.Path(), help="Only files below DIR.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def aggregate(rule: str, under: str | None, as_json: bool) -> int:
    """What all files that a rule has taken in come to.

    RULE is a rule's `name` in `datasets:`, or its `match` where it has none. Adds up what is known
    of each file that is there, and reads none of them again. Exits with 1 when there are none.
    """
    from .commands.aggregate import aggregate

    folder = os.path.realpath(os.fsencode(under)) if under else None
    return aggregate(_config_path(), rule, under=folder, as_json=as_json)


@cli.command()
@click.argument("path", type=click.Path())
def explain(path: str) -> int:
    """All that is known of one file.

    What was done, when, by which rule, or why not, and what can be done next. Exits with 1 when the
    file is unknown.
    """
    from .commands.explain import explain

    return explain(_config_path(), path)


# ---- what is asked of the daemon -----------------------------------------------------------------


@cli.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...", type=click.Path())
@click.option("--all", "everything", is_flag=True, help="All files in quarantine.")
def retry(paths: tuple[str, ...], everything: bool) -> int:
    """Put quarantined files back into the queue.

    A folder stands for all that is below it. Works with and without a running daemon. Exits with 1
    when one of the files is not in quarantine.
    """
    from .commands.steer import retry

    return retry(_state_folder(), paths, everything=everything)


@cli.command()
@click.argument("path", required=False, type=click.Path())
def scan(path: str | None) -> int:
    """Compare disk and ledger now, and wait for it.

    Below PATH, or everywhere. Needs a running daemon.
    """
    from .commands.steer import scan

    return scan(_state_folder(), path)


@cli.command()
def pause() -> int:
    """Finish the files in hand and take no new ones."""
    from .commands.steer import pause

    return pause(_state_folder())


@cli.command()
def resume() -> int:
    """Go on after a pause."""
    from .commands.steer import resume

    return resume(_state_folder())


@cli.group(cls=_Group, params=[_config_option()])
def service() -> None:
    """Have systemd run it: install, uninstall."""


_OF_SERVICE = (
    click.option("--user", is_flag=True, help="A service of your own, not the system's."),
    click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
    click.option("--force", is_flag=True, help="Even where somebody changed the files."),
)


def _with_service_options(command: Callable[..., int]) -> Callable[..., int]:
    for option in reversed(_OF_SERVICE):
        command = option(command)
    return command


@service.command("install")
@_with_service_options
def install_service(user: bool, dry_run: bool, force: bool) -> int:
    """Write the systemd unit for this interpreter and configuration.

    Says each step before anything is done; a file that somebody changed is not replaced without
    --force. Does not start it: it says how to.
    """
    from .commands.service import install

    return install(_config_path(), user=user, dry_run=dry_run, force=force)


@service.command("uninstall")
@_with_service_options
def uninstall_service(user: bool, dry_run: bool, force: bool) -> int:
    """Stop the service and take the unit away.

    Says what it leaves, and where: the state folder, the copies, the configuration, the user.
    """
    from .commands.service import uninstall

    return uninstall(user=user, dry_run=dry_run, force=force)


@cli.command()
def schema() -> int:
    """Print the JSON Schema of the configuration, for editors."""
    from .config.settings import json_schema_text

    click.echo(json_schema_text(), nl=False)
    return 0


def answer(arguments: list[str]) -> int:
    """Runs a command; gives its exit code. Raises what `__main__` turns into a sentence."""
    if "_DROPMILL_COMPLETE" in os.environ:
        cli.main(arguments, prog_name="dropmill")  # click's own: completes, and exits
    try:
        with cli.make_context("dropmill", arguments) as context:
            return int(cli.invoke(context) or 0)
    except click.exceptions.Exit as ended:
        return int(ended.exit_code)
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        error.show()
        return int(error.exit_code)
