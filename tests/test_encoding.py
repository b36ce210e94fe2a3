"""Encodings: a mark decides, else UTF-8, else what is likely; binary content is none of ours."""

from __future__ import annotations

import codecs

import pytest
from charset_normalizer.constant import IANA_SUPPORTED
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dropmill.errors import NotOurs
from dropmill.processors import encoding
from dropmill.processors.encoding import detect, line_break

FRENCH = """Les élèves étaient très étonnés de voir le château illuminé à minuit.
On leur avait promis un dîner près de la forêt, mais la fenêtre était fermée.
Ça m'est égal, répondit le garçon ; je préfère rester à l'hôtel jusqu'à Noël.
"""
GERMAN = """Zwölf Brüder hörten die Vögel früh am Morgen, während es draußen kühl war.
Für meine Großmutter wäre das schön gewesen, sagte er und ließ die Tür offen.
"""
DANISH = "Blåbærgrød på åen, sagde kjørmanden og gik hjem til sin kone i Århus.\n"
POLISH = "Zażółć gęślą jaźń. Wszyscy ludzie rodzą się wolni i równi pod względem praw.\n"
RUSSIAN = "Широкая электрификация южных губерний даст мощный толчок подъёму.\n" * 5
JAPANESE = """東京は日本の首都であり、世界最大の都市の一つです。
私たちは昨日、新しい図書館で面白い本を読みました。
"""


@pytest.mark.parametrize(
    ("mark", "name"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_a_byte_order_mark_decides(mark: bytes, name: str) -> None:
    assert detect(mark + FRENCH.encode(name), whole=True) == name


@pytest.mark.parametrize("text", ["", "plain\n", FRENCH, RUSSIAN, JAPANESE, "\U0001f600"])
def test_what_is_utf_8_is_read_as_utf_8(text: str) -> None:
    assert detect(text.encode(), whole=True) == "utf-8"


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_sample_that_ends_within_a_character_is_still_utf_8(cut: int) -> None:
    assert detect(("abc" + "字😀é" * 50).encode()[:-cut], whole=False) == "utf-8"


@pytest.mark.parametrize("name", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_known_without_a_mark(name: str) -> None:
    assert detect(GERMAN.encode(name), whole=True) == name


@pytest.mark.parametrize(
    ("text", "written"),
    [(FRENCH, "cp1252"), (GERMAN, "iso-8859-1"), (DANISH, "iso-8859-1"), (POLISH, "cp1250"),
     (RUSSIAN, "cp1251"), (RUSSIAN, "koi8-r"), (JAPANESE, "shift-jis"), (JAPANESE, "euc-jp")],
)  # fmt: skip
def test_the_words_of_an_old_encoding_are_read_right(text: str, written: str) -> None:
    found = detect(text.encode(written), whole=True)
    assert text.encode(written).decode(found) == text


def test_a_few_strange_bytes_do_not_change_what_is_utf_8() -> None:
    assert detect((RUSSIAN.encode() + b"\xff\xfe\n") * 3, whole=True) == "utf-8"


@pytest.mark.parametrize(
    "content",
    [
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0>\0",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10",
        b"PK\x03\x04\x14\0\x08\0\x08\0\xcb\x8d|V\x85\x11J\r\x0b\0\0\0\t\0\0\0\x05\0\0\0a.txt",
        b"\0",
        b"\0" * 5000,
        b"text with a NUL\0 in it\n" * 3,
        bytes(range(1, 256)) * 20,
    ],
)
def test_binary_content_is_none_of_ours_and_says_why(content: bytes) -> None:
    with pytest.raises(NotOurs, match=r"^binary content"):
        detect(content, whole=True)


@settings(max_examples=300)
@given(st.binary(max_size=600), st.booleans())
@example(b"\xff\xfe", True)
@example(b"a\0", True)
@example(b"\xe9", True)
def test_whatever_the_bytes_an_encoding_is_usable_or_there_is_a_reason(
    content: bytes, whole: bool
) -> None:
    try:
        found = detect(content, whole=whole)
    except NotOurs as reason:
        assert str(reason).startswith("binary content")
        return
    content.decode(found, "replace")
    assert codecs.lookup(found)
    assert "\n".encode(found) == line_break(found)


def test_in_every_encoding_that_is_tried_a_line_ends_with_a_line_feed() -> None:
    """Blocks are cut at that byte, and lines counted by it."""
    tried = [name for name in IANA_SUPPORTED if name not in encoding._NOT_TRIED]
    assert len(tried) > 50
    for name in tried:
        codec = name.replace("_", "-")
        assert b"a\nb\n".decode(codec) == "a\nb\n", name
