"""Documents lead somewhere: links resolve, the index is whole, what is generated is fresh."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from scripts.generate_docs import stale_documents

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *#*$", re.MULTILINE)


def prose(text: str) -> str:
    return CODE.sub("", FENCE.sub("", text))


def links(text: str) -> Iterator[tuple[str, str]]:
    """Yield the relative links as (path, anchor)."""
    for target in LINK.findall(prose(text)):
        if "://" not in target and not target.startswith("mailto:"):
            path, _, anchor = target.partition("#")
            yield path, anchor


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings, as Git hosts make them."""
    found = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        plain = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(plain.strip().replace(" ", "-"))
    return found


def broken_links(documents: dict[Path, str]) -> list[str]:
    broken = []
    for source, text in documents.items():
        for path, anchor in links(text):
            target = (source.parent / path).resolve() if path else source
            known = target in documents
            if not target.exists() or (
                anchor and known and anchor not in anchors(documents[target])
            ):
                broken.append(f"{source.name}: {path}#{anchor}")
    return broken


def test_every_relative_link_leads_to_a_file_and_a_heading(documents: dict[Path, str]) -> None:
    assert broken_links(documents) == []


def test_a_broken_link_and_a_broken_anchor_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A heading: `x` & more\n", "utf-8")
    text = "[a](page.md#a-heading-x--more) [b](gone.md) [c](page.md#gone) `[d](gone.md)`"

    found = broken_links({tmp_path / "index.md": text, page: page.read_text("utf-8")})

    assert found == ["index.md: gone.md#", "index.md: page.md#gone"]


def test_every_document_is_reached_from_the_index(documents: dict[Path, str]) -> None:
    start = ROOT / "docs" / "README.md"
    reached, waiting = {start}, [start]
    while waiting:
        page = waiting.pop()
        for path, _ in links(documents[page]):
            target = (page.parent / path).resolve()
            if target in documents and target not in reached:
                reached.add(target)
                waiting.append(target)

    wanted = {page for page in documents if page.is_relative_to(ROOT / "docs")}
    assert sorted(page.name for page in wanted - reached) == []


def test_the_first_screen_of_the_readme_leads_to_the_two_commands() -> None:
    first_screen = (ROOT / "README.md").read_text("utf-8").splitlines()[:24]

    assert any(line.startswith("make demo ") for line in first_screen)
    assert any(line.startswith("make test ") for line in first_screen)


def test_the_readme_names_no_make_target_that_does_not_exist(documents: dict[Path, str]) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = {
        target
        for text in documents.values()
        for target in re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)
    }

    assert named
    assert named - targets == set()


def test_generated_parts_are_what_the_code_says() -> None:
    assert sorted(path.name for path in stale_documents()) == []
