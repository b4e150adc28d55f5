"""The matrix of results/README.md against the csv it is made of, and the pages that it points to."""

import json
import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from statistics import mean

import pytest

from benchmarks import matrix
from benchmarks.plot import PUBLISHED, Result, Results, read_rows

ROOT = Path(__file__).resolve().parents[1]
LINES = read_rows(PUBLISHED / "matrix.csv")
LINE = dict.fromkeys(LINES[0], "") | {
    "row": "a/b", "column": "charts/episodic_return_100", "published": "100", "better": "higher", "scale": "1",
    "missed": "too short",
}  # fmt: skip


def seeds(*finals: float) -> list[Result]:
    final = "charts/episodic_return_100"
    summary = {"cpu_seconds": 3.0, "commit": "abc", "facts": {"bar": {"seconds": 7.0}, "steps": 5.0}}
    return [Result("b", i, summary | {"final": {final: str(x)}}, {}) for i, x in enumerate(finals)]


@pytest.mark.parametrize(
    "finals, state",
    [
        ([101.0], "met"),
        ([99.0], "missed: too short"),
        ([95.0, 99.0, 103.0], "within two errors"),  # 1 below, the standard error is 2.3
        ([97.9, 98.0, 98.1], "missed: too short"),
        ([], "not run"),
    ],
)
def test_a_state_knows_two_standard_errors(finals, state):
    assert matrix.cells(LINE, seeds(*finals), [])[-1] == state


def test_a_fact_goes_before_a_column_and_may_lie_deeper():
    assert matrix.value(seeds(1.0)[0], "bar.seconds") == 7
    assert matrix.value(seeds(1.0)[0], "steps") == 5
    assert matrix.value(seeds(1.0)[0], "charts/episodic_return_100") == 1


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line['row']}-{line['column']}")
def test_every_line_has_a_page_and_every_miss_a_reason(line):
    section, name = line["row"].split("/")
    assert (ROOT / "results" / section / "README.md").exists()
    row = matrix.cells(line, Results(ROOT / "results" / section)[name], [])
    assert row[-1] != "missed: "
    assert len(row) == len(matrix.HEADER)


def test_the_page_is_what_the_csv_give(tmp_path):
    for path in (ROOT / "results").iterdir():
        (tmp_path / path.name).symlink_to(path) if path.is_dir() else None
    matrix.write(tmp_path)
    assert (tmp_path / "README.md").read_text() == (ROOT / "results" / "README.md").read_text()


def test_every_page_and_picture_is_linked():
    """Each picture in results/ stands on a page, each page has one, each script's page is linked from README.md."""
    readme = (ROOT / "README.md").read_text()
    for page in sorted((ROOT / "results").glob("*/README.md")):
        shown = set(re.findall(r"\]\(([\w./-]+\.png)\)", page.read_text() + readme))
        names = {Path(name).name for name in shown}
        pictures = {path.name for path in page.parent.glob("*.png")}
        assert pictures, f"{page} has no picture"
        assert pictures <= names, f"{page} does not show {sorted(pictures - names)}"
        assert f"results/{page.parent.name}/README.md" in readme or page.parent.name == "tradeoffs"


def numbers(text: str) -> set[str]:
    """Without their signs and commas; not those within links and names."""
    found = re.findall(r"(?<![\w.,/-])-?\d[\d,]*(?:\.\d+)?(?![\w/])", re.sub(r"\]\([^)]*\)", "]", text))
    return {number.replace(",", "").lstrip("-") for number in found}


@cache
def measured(page: Path) -> list[float]:
    """The last values of each run of a page, their means over seeds, and those of two seeds in a cell of its tables."""
    last = defaultdict(list)
    for path in page.glob("*/seed*.json"):
        for name, value in json.loads(path.read_text())["final"].items():
            if re.fullmatch(r"-?[\d.e+-]+", value):
                last[path.parent.name, name].append(float(value))
    cells = re.findall(r"\| (-?[\d.,]+) / (-?[\d.,]+) ", (page / "README.md").read_text())
    pairs = [[float(x.replace(",", "")) for x in cell] for cell in cells]
    return [abs(x) for values in last.values() for x in values] + [abs(mean(v)) for v in [*last.values(), *pairs]]


ELSEWHERE = {"1.85", "40.6"}  # tic-tac-toe with 1,000 simulations: not the last row of its csv
POSTS = (ROOT / "results" / "posts.md").read_text()
SECTIONS = {section.split("\n")[0]: section for section in POSTS.split("\n## ")[1:]}


def supported(number: str, percent: bool, pages: list[Path]) -> bool:
    """Whether a number stands on one of the pages or is, rounded, a measured value; a percentage may be of a share."""
    if number in ELSEWHERE or any(number in numbers((page / "README.md").read_text()) for page in pages):
        return True
    factors, half = (1, 100) if percent else (1,), 0.5001 * 10 ** -len(number.partition(".")[2])
    return any(abs(float(number) - x * f) <= half for page in pages for x in measured(page) for f in factors)


def checked(title: str):
    """The numbers of a section's last cells, whether they are percentages, and the pages that they must stand on."""
    anchors = {re.sub(r"[^\w-]", "", name.lower().replace(" ", "-")): name for name in SECTIONS}
    linked = title
    for line in re.findall(r"^\| (?!---).*", SECTIONS[title], re.MULTILINE):
        linked = anchors[found[1]] if (found := re.search(r"\]\(#([\w-]+)\)", line)) else linked
        names = re.findall(r"\]\((\w+)/README\.md", SECTIONS[linked])
        cell = line.strip("| ").split(" | ")[-1]
        for number in numbers(cell):
            if "." in number or (len(number) > 2 and not number.endswith("000")):  # else a count, or a rounded number
                yield number, "%" in cell, [ROOT / "results" / name for name in sorted(set(names))]


@pytest.mark.parametrize("title", SECTIONS)
def test_the_numbers_of_the_posts_are_those_of_pages_and_runs(title):
    for number, percent, pages in checked(title):
        assert supported(number, percent, pages), f"{number}: on none of {[page.name for page in pages]}"
