"""Pages of reference are what the code says, and every page is in the site's navigation."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import fedrec
from fedrec.models.registry import MODELS

TOP = Path(__file__).parent.parent
DOCS = TOP / "docs"


@pytest.fixture(scope="module")
def reference() -> Any:
    """`deploy/reference.py` as a module."""
    spec = importlib.util.spec_from_file_location("reference", TOP / "deploy/reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(reference: Any) -> dict[str, str]:
    pages: dict[str, str] = reference.pages()
    return pages


def test_the_pages_are_those_that_the_code_makes(made: dict[str, str]) -> None:
    there = {path.name: path.read_text(encoding="utf-8") for path in (DOCS / "reference").iterdir()}
    assert sorted(there) == sorted(made)
    for name, text in made.items():
        assert there[name] == text, f"docs/reference/{name}: run 'python deploy/reference.py'"


def test_every_model_command_and_public_name_is_there(made: dict[str, str]) -> None:
    assert re.findall(r"^## (\S+)$", made["models.md"], re.MULTILINE) == list(MODELS)
    names = set(re.findall(r"^(?:## fr\.|\| `fr\.)(\w+)", made["python.md"], re.MULTILINE))
    assert names == set(fedrec.__all__) - {"__version__"}
    assert {"fedrec train", "fedrec node check", "fedrec federation invite"} <= set(
        re.findall(r"^## (.+)$", made["commands.md"], re.MULTILINE)
    )


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("models.md", ["| `reg` | number or auto | `auto` | > 0 |"]),
        ("plan.md", ["| `on_error` | raise \\| skip | `raise` |  |", "| [`privacy`](#privacy) | mapping or null |"]),
        ("node.md", ["| `min_clients` | whole number | `32` | ≥ 2 |", "| `home` | text | required |"]),
        ("commands.md", ["| `--nodes` | whole number, ≥ 1 | `1` |", "| `--set` | text, again for more |  |"]),
        ("python.md", ["    unknown: Unknown = 'raise',", "- `n`: "]),
    ],
)
def test_a_row_says_type_default_bounds_and_meaning(name: str, rows: list[str], made: dict[str, str]) -> None:
    assert [row for row in rows if row not in made[name]] == []


def test_marks_of_markdown_in_text_are_text(reference: Any) -> None:
    assert reference.escaped("a * b <c> [d] `e * f|g` h|i") == "a \\* b \\<c> \\[d\\] `e * f\\|g` h\\|i"


def leaves(nav: Any) -> list[str]:
    """Pages of a navigation, in order."""
    if isinstance(nav, str):
        return [nav]
    inner = nav.values() if isinstance(nav, dict) else nav
    return [page for part in inner for page in leaves(part)]


def test_the_navigation_has_every_page_once() -> None:
    nav = leaves(yaml.safe_load((TOP / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    pages = [str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")]
    assert sorted(nav) == sorted([*pages, "index.md", "contributing.md", "changelog.md"])


PAGES = [TOP / "README.md", TOP / "CONTRIBUTING.md", TOP / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_links_lead_to_pages_and_headings_that_are_there(page: Path, reference: Any) -> None:
    text = re.sub(r"(?ms)^```.*?^```$|`[^`\n]*`(?!\])", "", page.read_text(encoding="utf-8"))
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(reference.slug, headings), link


def test_every_page_is_linked_from_readme() -> None:
    linked = set(re.findall(r"\]\(docs/([\w/-]+\.md)", (TOP / "README.md").read_text(encoding="utf-8")))
    assert {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} - linked == set()
