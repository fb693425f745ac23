"""The Chinese pages say what the English ones say: the same headings, code, figures, tables and links."""

import os
import re
from collections import Counter
from itertools import zip_longest
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAIRS = [("README.md", "README.zh-CN.md"), ("docs/ascend.md", "docs/ascend.zh-CN.md")]
PAGES = {ROOT / name for pair in PAIRS for name in pair}
BLOCK = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"(?:^|(?<=\s))#.*$", re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
SWITCH = re.compile(r"^(?:(?:English|\[English\]\(\S+\)) \| )?(?:简体中文|\[简体中文\]\(\S+\))$", re.MULTILINE)

both = pytest.mark.parametrize(
    ("english", "chinese"), [(ROOT / one, ROOT / two) for one, two in PAIRS], ids=lambda path: path.name
)


def prose(page: Path) -> str:
    """Everything but code blocks and the line that switches the language."""
    return SWITCH.sub("", BLOCK.sub("", page.read_text(encoding="utf-8")))


def headings(page: Path) -> list[tuple[int, str]]:
    return [(len(marks), text) for marks, text in re.findall(r"^(#+) (.+)$", prose(page), re.MULTILINE)]


def blocks(page: Path) -> list[list[str]]:
    """Code line by line; a comment counts by being there."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [[line.rstrip() for line in COMMENT.sub("#", block).splitlines()] for block in found]


def figures(page: Path) -> Counter:
    """Numbers of prose, tables and comments, as they are typed."""
    words = LINK.sub("]", SPAN.sub("", prose(page)))
    comments = (found for block in BLOCK.findall(page.read_text(encoding="utf-8")) for found in COMMENT.findall(block))
    return Counter(re.findall(r"[0-9]+(?:\.[0-9]+)*", "\n".join([words, *comments])))


def tables(page: Path) -> list[list[int]]:
    """The number of cells of each row of each table."""
    found = re.findall(r"(?:^\|.*\n?)+", SPAN.sub("", prose(page)), re.MULTILINE)
    return [[row.count("|") - 1 for row in table.splitlines()] for table in found]


def links(page: Path) -> Counter:
    """Where links lead, in words that do not depend on the language of the page."""
    return Counter(destination(page, target) for target in LINK.findall(prose(page)))


def destination(page: Path, target: str) -> str:
    if re.match(r"[a-z]+:", target):
        return target
    name, _, anchor = target.partition("#")
    file = (page.parent / name).resolve() if name else page
    found = os.path.relpath(file, ROOT)
    if file in PAGES:
        same = ("zh-CN" in file.name) == ("zh-CN" in page.name)
        found = f"{found.replace('.zh-CN', '')} in the {'same' if same else 'other'} language"
    if anchor:
        slugs = [slug(text) for _, text in headings(file)]
        assert anchor in slugs, f"{page.name}: no heading for #{anchor} among {slugs}"
        found += f", heading {slugs.index(anchor) + 1}"
    return found


def slug(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def assert_same(what: str, english: Counter, chinese: Counter):
    missing, more = dict(english - chinese), dict(chinese - english)
    assert english == chinese, f"{what} that only the English page has: {missing}; only the Chinese: {more}"


@both
def test_headings_have_the_same_levels(english, chinese):
    one, two = headings(english), headings(chinese)
    assert [level for level, _ in one] == [level for level, _ in two], f"\nEnglish: {one}\nChinese: {two}"


@both
def test_code_blocks_differ_in_comments_only(english, chinese):
    for one, two in zip_longest(blocks(english), blocks(chinese), fillvalue=["no block"]):
        for ours, theirs in zip_longest(one, two, fillvalue="no line"):
            assert ours == theirs, f"\nEnglish: {ours}\nChinese: {theirs}"


@both
def test_code_in_sentences_is_the_same(english, chinese):
    assert_same("code", Counter(SPAN.findall(prose(english))), Counter(SPAN.findall(prose(chinese))))


@both
def test_figures_are_the_same(english, chinese):
    assert_same("figures", figures(english), figures(chinese))


@both
def test_tables_have_the_same_cells(english, chinese):
    for number, (one, two) in enumerate(zip_longest(tables(english), tables(chinese), fillvalue=[]), 1):
        assert one == two, f"cells in the rows of table {number}: {one} in English, {two} in Chinese"


@both
def test_links_lead_to_the_same_places(english, chinese):
    assert_same("links", links(english), links(chinese))


@both
def test_chinese_page_leads_to_the_english_one(english, chinese):
    lines = chinese.read_text(encoding="utf-8").splitlines()
    assert f"[English]({english.name}) | 简体中文" in lines[:5], f"{chinese.name} begins with {lines[:5]}"
