"""A clock that only a test turns."""

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass
class HandClock:
    """Stands still until `at` is changed or somebody sleeps."""

    at: float = 1_800_000_000.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.at, UTC)

    async def sleep(self, seconds: float) -> None:
        self.at += seconds
