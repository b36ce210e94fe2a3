"""The configuration file: which one is used, and what is said about a wrong one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropmill import config
from dropmill.errors import UsageError

MINIMAL = "watch:\n  - path: /nonexistent/inbox\n"


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "dropmill.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def errors(folder: Path, text: str | bytes) -> list[str]:
    """What `load` says, without the file's name."""
    path = write(folder, text)
    with pytest.raises(UsageError) as raised:
        config.load(path)
    assert raised.value.exit_code == 2
    return [line.removeprefix(f"{path}:") for line in str(raised.value).splitlines()]


def test_only_watch_is_required(tmp_path: Path) -> None:
    loaded = config.load(write(tmp_path, MINIMAL))
    assert [root.path for root in loaded.watch] == [Path("/nonexistent/inbox")]
    assert loaded.state == Path("/var/lib/dropmill")


def test_an_error_names_the_file_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "workers: 2\nstate: /s\n\nwatch:\n\n  - path: /in\n    settle:  5 parsecs\n"
    write(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as raised:
        config.load(Path("dropmill.yaml"))
    assert str(raised.value) == (
        'dropmill.yaml:7:14: watch[0].settle: "5 parsecs" is not a duration'
        " (examples: 500ms, 10s, 2m)"
    )


def test_every_error_is_listed_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
state: /nonexistent/a/state
workers: many
watch:
  - path: /nonexistent/a
    setle: 1s
    exclude: [ok]
  - path: /nonexistent/a/b
    recursive: 3
    settle: 20s
  - {path: /other/a, observer: ploling, poll_every: 1ms}
  - recursive: off
  - 7
reconcile_every: 15
reconcile_every: 16m
keywords: [a]
text:
  suffixes: [txt]
  keywords: [2024, no, "--"]
images: {output: /other/a/out, name: "x{stem}{foo}"}
limits: {attempts: 0, memory: 1MB, pixels: lots, timeout: }
log: [x]
"""
    expected = """\
1:8: state: the state folder lies in "/nonexistent/a" (watch[0]), which is watched: move it out, \
or exclude it there (/state/)
2:10: workers: auto or a whole number was expected, not "many"
5:5: watch[0].setle: unknown key (did you mean settle?)
7:11: watch[1].path: "/nonexistent/a/b" lies in "/nonexistent/a" (watch[0]): watch the outer one \
alone
8:16: watch[1].recursive: true or false was expected, not 3
9:13: watch[1].settle: must not be longer than settle_max (10s unless given: give a longer one)
10:12: watch[2].path: would write the same copies as "/nonexistent/a" (watch[0]), both to \
"/other/a/out/a": rename one of the two folders, or watch the folder above it
10:32: watch[2].observer: "ploling" is not one of auto, native, polling (did you mean polling?)
10:53: watch[2].poll_every: must be at least 100ms, not "1ms"
11:5: watch[3].path: is missing, and required
12:5: watch[4]: a section ("key: value" lines) was expected, not 7
13:18: reconcile_every: 15 has no unit: is it 15ms, 15s or 15m?
14:1: reconcile_every: a second time (first at 13:1): remove one of the two
15:1: keywords: unknown key here (did you mean text.keywords?)
17:14: text.suffixes[0]: "txt" has no dot: a suffix is written ".txt"
18:14: text.keywords[0]: a text was expected, not 2024 (put it in quotes)
18:20: text.keywords[1]: a text was expected, not false (put it in quotes)
18:24: text.keywords[2]: "--" holds no letter or digit: no text can be found by it
19:18: images.output: the output folder lies in "/other/a" (watch[2]), which is watched: move it \
out, or exclude it there (/out/)
19:38: images.name: "x{stem}{foo}": only {stem} and {suffix} can stand in braces
20:20: limits.attempts: must be at least 1, not 0
20:31: limits.memory: must be at least 64MiB, not "1MB"
20:44: limits.pixels: "lots" is not a number (examples: 300k, 100M, 50000000)
20:59: limits.timeout: has no value: give one, or remove the key
21:6: log: a section ("key: value" lines) was expected, not a list
"""
    assert errors(tmp_path, text) == expected.splitlines()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1: the file is empty: at least `watch` is needed"),
        ("# nothing but this\n", "1:1: the file is empty: at least `watch` is needed"),
        ("{}", "1:1: watch: is missing, and required"),
        ("watch:", "1:7: watch: has no value: give one, or remove the key"),
        ("watch: []", "1:8: watch: is empty: at least one folder to watch is needed"),
        ("watch: /srv", '1:8: watch: a list was expected, not "/srv"'),
        ("[a]", '1:1: sections ("key: value" lines) were expected, not a list'),
        ("inbox", '1:1: sections ("key: value" lines) were expected, not "inbox"'),
        (b"# caf\xe9\n", "1:6: not UTF-8: save the file in that encoding"),
        (b"a: \xc3\xa9 \xff", "1:6: not UTF-8: save the file in that encoding"),
        ("state: x\n\twatch: 1", "2:1: not YAML: a tab: YAML is indented with spaces"),
        ("state: @x", '1:8: not YAML: "@" cannot begin a value: put the value in quotes'),
        ("a: b: c", "1:5: not YAML: a colon where none can be: check the indentation, or put"),
        ("a: [1, 2", "2:1: not YAML: did not find expected ',' or ']' (while parsing a flow"),
        ("a: \x01", "1:4: not YAML: control characters are not allowed"),
        ("a: *b", "1:4: not YAML: found undefined alias"),
        ("a: 1\n---\nb: 2", "2:1: not YAML: a second document (---): a configuration is one"),
        ("a: " + "[" * 30, "1:23: nested more than 20 deep"),
        ("- " * 200_000, "1:41: nested more than 20 deep"),
        ("a: &a [*a]", "1:4: nested more than 20 deep"),
    ],
)
def test_what_is_no_configuration_at_all_is_said_in_one_line(
    tmp_path: Path, text: str | bytes, expected: str
) -> None:
    (line,) = errors(tmp_path, text)
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        ("1: x", "3:1: 1: unknown key"),
        ("[a, b]: x", "3:1: a key must be a single word"),
        ("state: !!python/object/new:os.system x", "3:8: state: the tag tag:yaml.org,2002:pyth"),
        ("state: ~", '3:8: state: has no value (the home folder is written "~", in quotes, or ~/)'),
        (
            "state: ~no-such-user",
            '3:8: state: "~no-such-user": there is no user "no-such-user" (a folder: "./~no-such',
        ),
        ('state: "a\\0b"', '3:8: state: "a\\u0000b" cannot be the name of a folder'),
        ("<<: 5", "3:5: << takes a section, or a list of sections"),
        ("reconcile_every: 1:30", '3:18: reconcile_every: "1:30" is not a duration'),
        ("workers: 010", '3:10: workers: auto or a whole number was expected, not "010"'),
        ("workers: 0", "3:10: workers: must be from 1 to 256, not 0"),
        ("workers: yes", "3:10: workers: auto or a whole number was expected, not true"),
        ("Workers: 2", "3:1: Workers: unknown key (did you mean workers?)"),
        ("colour: 2", "3:1: colour: unknown key (known here: state, workers, watch, reconcile_ev"),
        ("settle: 2s", "3:1: settle: unknown key here (did you mean watch[].settle?)"),
        ("log: {level: warn}", '3:14: log.level: "warn" is not one of debug, info, warning, error'),
        ("text: {suffixes: .txt}", "3:18: text.suffixes: auto or a list (such as [.txt, .log])"),
        ("text: {suffixes: [.tar.gz]}", '3:19: text.suffixes[0]: ".tar.gz" is not a suffix: a n'),
        ("limits: {attempts: 2.5}", "3:20: limits.attempts: a whole number was expected, not 2.5"),
        ("limits: {pixels: 0}", "3:18: limits.pixels: must be at least 1, not 0"),
        ("limits: {timeout: 0}", "3:19: limits.timeout: must be at least 100ms, not 0"),
    ],
)
def test_a_wrong_key_or_value_is_shown_where_it_stands(
    tmp_path: Path, addition: str, expected: str
) -> None:
    lines = errors(tmp_path, f"{MINIMAL}{addition}\n")
    assert lines[0].startswith(expected)
    assert len(lines) == 1, lines


def test_aliases_of_aliases_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 10):
        bomb += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n"
    (line,) = errors(tmp_path, bomb)
    assert "more than 1,000,000 values" in line
    merges = "a0: &a0 {k: 1}\n"
    for level in range(1, 19):
        merges += f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 10)}]}}\n"
    (line,) = errors(tmp_path, merges)
    assert "merges (<<) nested too deep" in line


def test_anchors_aliases_and_merge_keys_work(tmp_path: Path) -> None:
    text = """\
watch:
  - &base {path: /nonexistent/a, settle: 2s, exclude: &no [x, y]}
  - <<: *base
    path: /nonexistent/b
  - {path: /nonexistent/c, exclude: *no}
"""
    loaded = config.load(write(tmp_path, text))
    assert [(root.name, root.settle) for root in loaded.watch] == [("a", 2), ("b", 2), ("c", 0.5)]
    assert {root.exclude for root in loaded.watch} == {("x", "y")}


def test_an_error_in_a_merged_value_is_shown_where_it_is_written(tmp_path: Path) -> None:
    text = "watch:\n- &a {path: /n/a, settle: 2}\n- {<<: *a, path: /n/b}\n"
    lines = errors(tmp_path, text)
    assert [line.split(": ")[:2] for line in lines] == [
        ["2:27", "watch[0].settle"],
        ["2:27", "watch[1].settle"],
    ]


def test_empty_sections_are_their_defaults(tmp_path: Path) -> None:
    whole = config.load(write(tmp_path, MINIMAL))
    assert config.load(write(tmp_path, f"{MINIMAL}text:\nimages:\nlimits:\nlog:\n")) == whole


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbfstate: /x/y\r\nwatch:\r\n  - path: /n\r\n"
    path = write(tmp_path, text)
    assert config.load(path).state == config.state_folder(path) == Path("/x/y")
    (line,) = errors(tmp_path, text + b"workers: 0\r\n")
    assert line.startswith("4:10: workers")


def test_folders_are_relative_to_the_folder_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "real", "state: ./s\nwatch: [{path: in}]\nimages: {output: ../out}\n")
    monkeypatch.chdir("/")
    loaded = config.load(tmp_path / "link" / "dropmill.yaml")
    home = tmp_path.resolve()
    assert loaded.state == home / "real/s"
    assert loaded.watch[0].path == home / "real/in"
    assert loaded.images.output == home / "out"


def test_copies_go_below_the_state_folder_unless_told_otherwise(tmp_path: Path) -> None:
    loaded = config.load(
        write(tmp_path, f"state: ./s\n{MINIMAL}images: {{name: '{{stem}}{{suffix}}'}}")
    )
    assert loaded.images.output == tmp_path.resolve() / "s/grayscale"


def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        config.load(tmp_path)
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        config.state_folder(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="larger than 16 MiB"):
        config.load(Path("/dev/zero"))


STATES = [
    "",
    "state: /a/b\n",
    "state: ./rel/x\n",
    "state: rel\n",
    "state: ../x/ # why\n",
    "state:   ~/x\n",
    "# first\n\n  # indented\nstate: /a # c\n# then\n\n",
    "---\nstate: /a/b\n",
    "state: /a\n  b\n",
    "state: /a\n\n  b\n",
    "state: /a#b\n",
    "state: 'a/b c'\n",
    '"st\\x61te": /q\n',
    "? state\n: /a/b\n",
    "state: |\n  /a/b\n",
    "state: >-\n  /a\n",
    "state: !!str 5\n",
    "state: 2001-01-01\n",
    "state: 1:30\n",
    "workers: 1\nstate: /late\n",
    "state: &s /a/b\n",
    'text: {keywords: ["\nstate: /fake\n"]}\n',
    "text: {keywords: [x,\nstate]}\n",
    "# a\x85state: /nel\n",
    "# a\u2028state: /ls\n",
    "state: /a/\u00e9\n",
]


@pytest.mark.parametrize("head", STATES)
def test_the_state_folder_read_quickly_is_the_one_that_load_gives(
    tmp_path: Path, head: str
) -> None:
    path = write(tmp_path, head + "watch: [{path: /nonexistent/in}]\n")
    assert config.state_folder(path) == config.load(path).state


_STARTS = [
    "state:",
    " ",
    "\n",
    "/a",
    "~/b",
    "./c",
    "#",
    "# x\n",
    "  ",
    "'",
    '"',
    "x: ",
    "|",
    "text: {",
]
_OTHERS = ["}", "---\n", "\r\n", "\t", "\\", "log: {}\n", "<<: {state: /m}\n", "- ", ",", "\u2028"]
_PIECES = st.sampled_from([*_STARTS, *_OTHERS, "workers: 1\n"])


@given(st.lists(_PIECES, max_size=12), st.lists(_PIECES, max_size=6))
def test_the_two_agree_for_every_file_that_is_valid(
    tmp_path_factory: pytest.TempPathFactory, before: list[str], after: list[str]
) -> None:
    text = "".join(before) + "\nwatch: [{path: /nonexistent/in}]\n" + "".join(after)
    path = write(tmp_path_factory.getbasetemp(), text)
    try:
        loaded = config.load(path)
    except UsageError:
        return
    assert config.state_folder(path) == loaded.state


def test_reading_the_state_folder_loads_neither_pydantic_nor_yaml(tmp_path: Path) -> None:
    path = write(tmp_path, f"# mine\nstate: ./s\n{MINIMAL}")
    program = (
        "import sys, pathlib; from dropmill import config;"
        f"print(config.state_folder(pathlib.Path({str(path)!r})));"
        "assert not {'pydantic', 'yaml', 'pathspec'} & set(sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ran.stderr, ran.stdout) == ("", f"{tmp_path.resolve()}/s\n")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place to stand in, and no configuration of this machine in sight."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("DROPMILL_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    return tmp_path


def test_the_first_file_of_the_search_order_is_used(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (places / "xdg/dropmill").mkdir(parents=True)
    user = write(places / "xdg/dropmill", MINIMAL)
    assert config.find(None) == user
    write(places / "here", MINIMAL)
    assert config.find(None) == Path("dropmill.yaml")
    monkeypatch.setenv("DROPMILL_CONFIG", str(user))
    assert config.find(None) == user
    assert config.find("./dropmill.yaml") == Path("dropmill.yaml")


def test_a_file_asked_for_by_name_is_not_looked_for_elsewhere(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(places / "here", MINIMAL)
    with pytest.raises(UsageError, match=r"other.yaml: no such file \(given by --config\)"):
        config.find("other.yaml")
    monkeypatch.setenv("DROPMILL_CONFIG", "gone.yaml")
    with pytest.raises(UsageError, match=r"gone.yaml: no such file \(given by \$DROPMILL_CONFIG\)"):
        config.find(None)


@pytest.mark.skipif(Path("/etc/dropmill/dropmill.yaml").exists(), reason="dropmill is installed")
def test_when_there_is_none_every_place_looked_at_is_named(places: Path) -> None:
    with pytest.raises(UsageError) as raised:
        config.find(None)
    text = str(raised.value)
    assert "  dropmill.yaml: not there" in text
    assert f"  {places}/xdg/dropmill/dropmill.yaml: not there" in text
    assert "  /etc/dropmill/dropmill.yaml: not there" in text
    assert "dropmill init" in text
