"""docs/performance.md is what the results say."""

from benchmarks.measure import RESULTS
from benchmarks.report import PAGE, TESTS, page
from tests.shared import REPOSITORY


def test_the_page_is_written_from_the_results():
    assert PAGE.read_text(encoding="utf-8") == page(RESULTS)


def test_the_tests_it_names_exist():
    assert all((REPOSITORY / "tests" / "unit" / file).is_file() for file in TESTS.values())
