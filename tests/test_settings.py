"""The model: defaults, what keys must agree on, the schema, and the files in config/."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from dropmill import config
from dropmill.config import settings
from dropmill.config.examine import examine
from dropmill.config.validation import validate
from dropmill.processors import image

PROJECT = Path(__file__).parent.parent
PACKAGE = Path(settings.__file__).parent.parent


def problems(data: dict[str, Any], folder: str = "/nonexistent") -> list[tuple[str, str]]:
    found = validate(data, folder)[1]
    return [(".".join(map(str, problem.where)), problem.text) for problem in found]


def build(data: dict[str, Any], folder: str = "/nonexistent") -> settings.Config:
    made, wrong = validate(data, folder)
    assert made is not None, wrong
    return made


def watch(*roots: str | dict[str, Any], **others: Any) -> dict[str, Any]:
    """A configuration of these roots, each a path or all of its keys."""
    listed = [{"path": root} if isinstance(root, str) else root for root in roots]
    return {"state": "/nonexistent/state", "watch": listed, **others}


def test_the_default_file_holds_every_key_with_its_default() -> None:
    path = PROJECT / "config/dropmill.yaml"
    bare = build({"watch": [{"path": "/srv/inbox"}]})
    assert config.load(path) == bare
    written = yaml.safe_load(path.read_text())
    keys = {(name, key) for name in settings.SECTIONS for key in written[name]}
    keys |= {("watch", key) for key in written["watch"][0]}
    assert list(written) == list(settings.Config.model_fields)
    assert keys == {
        (name, key)
        for name in settings.Config.model_fields
        for key in getattr(type(_first(getattr(bare, name))), "model_fields", ())
    }


def _first(value: object) -> object:
    return value[0] if isinstance(value, tuple) and value else value


def test_the_quick_start_file_is_the_one_in_the_package() -> None:
    packaged = PACKAGE / "quickstart.yaml"
    assert packaged.read_bytes() == (PROJECT / "config/quickstart.yaml").read_bytes()


def test_the_quick_start_file_works_as_it_is_wherever_it_is_put(tmp_path: Path) -> None:
    path = tmp_path / "dropmill.yaml"
    path.write_bytes((PACKAGE / "quickstart.yaml").read_bytes())
    loaded, here = config.load(path), tmp_path.resolve()
    assert loaded.watch[0].path == here / "inbox"
    assert loaded.watch[0].settle == 0.5
    assert loaded.state == config.state_folder(path) == here / ".dropmill"
    assert loaded.images.output == here / "grayscale"


def test_the_schema_in_the_repository_is_up_to_date() -> None:
    kept = (PROJECT / "config/dropmill.schema.json").read_text()
    assert kept == settings.json_schema_text(), "run: dropmill schema > config/dropmill.schema.json"


def validator() -> jsonschema.Draft202012Validator:
    schema = settings.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", ["dropmill.yaml", "quickstart.yaml"])
def test_the_schema_accepts_the_files_in_config(name: str) -> None:
    validator().validate(yaml.safe_load((PROJECT / "config" / name).read_text()))


@pytest.mark.parametrize(
    ("addition", "right"),
    [
        ({}, True),
        ({"text": None, "log": None}, True),
        ({"workers": 4, "reconcile_every": "1h 30m"}, True),
        ({"limits": {"memory": 2**30, "pixels": "300k", "free": 0}}, True),
        ({"text": {"suffixes": [".txt"], "keywords": ["a b"]}}, True),
        ({"wokers": 4}, False),
        ({"limits": {"atempts": 4}}, False),
        ({"workers": 0}, False),
        ({"workers": "many"}, False),
        ({"reconcile_every": 15}, False),
        ({"reconcile_every": "15 parsecs"}, False),
        ({"limits": {"memory": "lots"}}, False),
        ({"text": {"suffixes": "txt"}}, False),
        ({"images": {"suffixes": ["jpg"]}}, False),
        ({"log": {"level": "warn"}}, False),
        ({"watch": []}, False),
        ({"watch": [{"path": "/x", "setle": "1s"}]}, False),
        ({"watch": [{"settle": "1s"}]}, False),
    ],
)
def test_the_schema_and_the_model_agree(addition: dict[str, Any], right: bool) -> None:
    data = {"watch": [{"path": "/nonexistent/in"}], **addition}
    assert validator().is_valid(data) == right
    assert (problems(data) == []) == right


def test_every_key_of_the_schema_is_described_with_examples() -> None:
    schema = settings.json_schema()
    for part in (schema, *schema["$defs"].values()):
        for key, described in part["properties"].items():
            assert described["description"], key
            assert (
                "examples" in described or "anyOf" in described or key in ("watch", "datasets")
            ), key


def test_a_number_of_workers_is_that_and_auto_the_processors_we_may_use() -> None:
    assert build(watch("/nonexistent/in", workers=3)).worker_count == 3
    assert build(watch("/nonexistent/in")).worker_count == len(os.sched_getaffinity(0))


def test_suffixes_are_compared_in_lower_case_and_once() -> None:
    made = build(watch("/n/in", text={"suffixes": [".TXT", ".txt"]}, images={"suffixes": [".Jpg"]}))
    assert made.text.suffixes == (".txt",)
    assert made.images.suffixes == (".jpg",)


def test_a_configuration_is_frozen_equal_to_its_like_and_goes_to_a_worker() -> None:
    made = build(watch({"path": "/nonexistent/in", "exclude": ["*.bak"]}))
    assert made.watch[0].excluded("a/x.bak", False) == "*.bak"
    assert made.watch[0].excludes_name("a.bak/x", False) is None
    copied = pickle.loads(pickle.dumps(made))
    assert copied == made == build(watch({"path": "/nonexistent/in", "exclude": ["*.bak"]}))
    with pytest.raises(ValueError, match="frozen"):
        made.workers = 2


CONFLICTS: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
    (watch("/n/in", state="/n/in/s"), [("state", 'lies in "/n/in" (watch[0])')]),
    (watch("/n/in", state="/n/in"), [("state", 'is "/n/in" (watch[0])')]),
    (watch("/n/in", state="/n/in/.s"), []),
    (watch({"path": "/n/in", "exclude": ["/s/"]}, state="/n/in/s/t"), []),
    (watch({"path": "/n/in", "exclude": ["s", "!s"]}, state="/n/in/s"), [("state", "lies in")]),
    (watch({"path": "/n/in", "recursive": False}, state="/n/in/s"), []),
    (watch({"path": "/n/in", "recursive": False}, state="/n/in"), [("state", "is")]),
    (watch("/n/s/in", state="/n/s"), [("watch.0.path", 'lies in the state folder "/n/s"')]),
    (watch("/n/in", images={"output": "/n/in/g"}), [("images.output", "exclude it there (/g/)")]),
    (watch("/n/in", images={"output": "/n"}), [("watch.0.path", 'in the output folder "/n"')]),
    (watch("/n/in", images={"output": "/n/in/g", "suffixes": []}), []),
    (watch("/n/inbox", images={"output": "/n/in"}, state="/n/inbox2"), []),
    (watch("/n/in", "/n/in"), [("watch.1.path", 'is "/n/in" (watch[0]): remove one')]),
    (watch("/n/in", "/n/in/b"), [("watch.1.path", 'lies in "/n/in" (watch[0])')]),
    (watch("/n/in/b", "/n/in"), [("watch.1.path", 'contains "/n/in/b" (watch[0])')]),
    (watch({"path": "/n/in", "recursive": False}, "/n/in/b"), [("watch.1.path", "lies in")]),
    (watch("/n/a", "/n/b", "/n/ab"), []),
    (watch("/n/a/in", "/n/b/in"), [("watch.1.path", 'same copies as "/n/a/in" (watch[0])')]),
    (watch("/n/a/in", "/n/b/in", images={"suffixes": []}), []),
    (watch("/"), [("watch.0.path", "/ cannot be watched whole")]),
    (watch({"path": "/n/a", "settle": "20s"}), [("watch.0.settle", "longer than settle_max")]),
    (
        watch({"path": "/n/a", "settle": "20s", "settle_max": "5s"}),
        [("watch.0.settle_max", "must not be shorter than settle")],
    ),
    (
        watch("/n/a", text={"suffixes": [".txt", ".JPG"]}),
        [("text.suffixes.1", ".jpg is in images.suffixes too")],
    ),
]


@pytest.mark.parametrize(("data", "expected"), CONFLICTS)
def test_what_does_not_go_together_is_refused_where_it_is_written(
    data: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    found = problems(data)
    for where, text in expected:
        assert any(place == where and text in said for place, said in found), found
    if not expected:
        assert found == []


def test_roots_that_are_one_folder_through_a_link_overlap(tmp_path: Path) -> None:
    (tmp_path / "real/sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    ((where, text),) = problems(watch("real", "link/sub"), str(tmp_path))
    assert where == "watch.1.path"
    assert f'lies in "{tmp_path.resolve()}/real"' in text


def test_what_rests_on_a_wrong_value_is_not_reported_besides() -> None:
    data = watch({"path": "/n/in", "exclude": [5]}, state="/n/in/s")
    assert [where for where, _ in problems(data)] == ["watch.0.exclude.0"]


def test_examine_finds_all_well_where_all_is_well(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    made = build({"state": "s", "watch": [{"path": "inbox"}]}, str(tmp_path))
    findings = examine(made)
    assert [finding.ok for finding in findings] == [True, True, True]
    assert findings[0].text == "would be watched, with its subfolders"
    assert findings[1].text.endswith("; it will be made")


def test_examine_says_what_is_wrong_with_a_root_and_how_to_mend_it(tmp_path: Path) -> None:
    for name in ("file", "other"):
        (tmp_path / name).touch()
    made = build({"state": "other/s", "watch": [{"path": "gone"}, {"path": "file"}]}, str(tmp_path))
    gone, file, state, output = examine(made)
    assert not (gone.ok or file.ok or state.ok or output.ok)
    assert gone.text == "does not exist"
    assert "mkdir -p" in gone.mend
    assert file.text == "is not a folder"
    assert state.text == f"{tmp_path.resolve()}/other is not a folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_examine_says_who_may_not_read_or_write(tmp_path: Path) -> None:
    for name in ("closed", "fixed"):
        (tmp_path / name).mkdir()
    made = build({"state": "fixed/s", "watch": [{"path": "closed"}]}, str(tmp_path))
    (tmp_path / "closed").chmod(0o000)
    (tmp_path / "fixed").chmod(0o500)
    root, state, _ = examine(made)
    assert "cannot be read by" in root.text
    assert "cannot be made" in state.text


def test_the_keys_of_the_schema_keep_the_order_of_the_file() -> None:
    kept = json.loads(settings.json_schema_text())
    assert list(kept["properties"]) == list(settings.Config.model_fields)


def test_every_image_suffix_is_one_that_a_copy_can_be_made_of() -> None:
    assert set(settings.DEFAULT_IMAGES) == set(image.SUFFIXES)
