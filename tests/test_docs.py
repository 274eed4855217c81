"""What is written down is true: examples run, files and verbs exist, links lead somewhere."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

import thc_dask
from thc_dask import cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "thc_dask"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("benchmarks/*.md"))]
PAGES += sorted(ROOT.glob("deploy/*.md"))
RUN = [ROOT / "README.md", *sorted((DOCS / "how-to").glob("*.md"))]
BLOCK = re.compile(r"(^<!-- not run: [^\n]+ -->\n)?^```(sh|python)\n(.*?)^```$", re.M | re.S)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.mark.parametrize("page", RUN, ids=[str(page.relative_to(ROOT)) for page in RUN])
def test_examples_run(page, tmp_path, monkeypatch):
    """Every block of shell or Python, one after the other, in one folder."""
    blocks = [(kind, text) for skip, kind, text in BLOCK.findall(page.read_text()) if not skip]
    assert blocks
    monkeypatch.chdir(tmp_path)
    for kind, text in blocks:
        if kind == "python":
            exec(compile(text, str(page), "exec"), {"__name__": "__main__"})
        elif "<<" in text:
            subprocess.run(["bash", "-euc", text], check=True)
        else:
            for line in text.replace("\\\n", " ").splitlines():
                thc(line)


def thc(line):
    """Run a line as a shell would; in this process, as twenty starts would take a minute."""
    words = shlex.split(line, comments=True)
    if words:
        assert words[0] == "thc", f"{line}: give this line a block with a note that it is not run"
        assert cli.run(words[1:]) == 0, line


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    for link in links:
        target, _, anchor = link.partition("#")
        if "://" in link:
            continue
        found = page.parent / target if target else page
        assert found.exists(), link
        assert not anchor or anchor in anchors(found), link


def anchors(page):
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_that_are_named_exist(page):
    for name in re.findall(r"`([\w/.-]+\.(?:py|toml|txt|md|yml))`", page.read_text()):
        places = (ROOT, PACKAGE, DOCS, page.parent, PACKAGE / "store", PACKAGE / "sources")
        assert any((place / name).exists() for place in places), name


def test_code_names_pages_that_exist():
    for path in PACKAGE.rglob("*.py"):
        for name in re.findall(r"docs/[\w/-]+\w", path.read_text()):
            assert list(ROOT.glob(f"{name}*.md")), f"{path}: {name}"


def test_architecture_names_every_module():
    text = (DOCS / "architecture.md").read_text()
    tree = text.partition("## The tree")[2].split("```")[1]
    named = re.findall(r"^  (\S+\.py)  +\S", tree, re.M)
    there = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")]
    empty = {name for name in there if not is_module(PACKAGE / name)}
    assert sorted(named) == sorted(set(there) - empty)


def is_module(path):
    """Whether there is more in a file than the line that says what the folder is."""
    return path.name != "__init__.py" or path.read_text().count("\n") > 1


def test_architecture_names_every_verb(capsys):
    text = (DOCS / "architecture.md").read_text().partition("## Verbs")[2]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|(?: `thc (\w+)`)? \|", text, re.M)
    functions = {name for row, _ in rows for name in re.findall(r"\w+", row)}
    with pytest.raises(SystemExit):
        cli.run(["--help"])
    commands = re.findall(r"^    (\w+)(?:  |$)", capsys.readouterr().out, re.M)
    assert sorted(command for _, command in rows if command) == sorted(commands)
    verbs = {name for name in thc_dask.__all__ if name.islower()}
    assert functions == verbs


def test_decisions_are_numbered():
    found = sorted(path.name for path in (DOCS / "decisions").iterdir())
    assert [int(name[:4]) for name in found] == list(range(1, len(found) + 1))
    for name in found:
        text = (DOCS / "decisions" / name).read_text()
        assert text.startswith(f"# {name[:4]}: ")
        for part in ("**Context.**", "**Choice.**", "**What it costs.**"):
            assert part in text, name
