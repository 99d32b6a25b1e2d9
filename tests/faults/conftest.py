"""What the suite counts: the table that docs/reliability.md shows, printed behind the tests' results."""

from collections.abc import Callable, Iterator

import pytest

ROWS: dict[str, list] = {}  # fault -> [times tried, what happened -> times]


@pytest.fixture
def tried() -> Iterator[Callable[[str, str], None]]:
    """tried(fault, outcome): counts one try."""

    def count(fault: str, outcome: str) -> None:
        row = ROWS.setdefault(fault, [0, {}])
        row[0] += 1
        row[1][outcome] = row[1].get(outcome, 0) + 1

    yield count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if ROWS:
        terminalreporter.write_line("\n| fault | tried | what happened |\n|---|---|---|")
    for fault, (times, outcomes) in ROWS.items():
        said = ", ".join(f"{outcome} {count}" for outcome, count in sorted(outcomes.items()))
        terminalreporter.write_line(f"| {fault} | {times} | {said} |")
