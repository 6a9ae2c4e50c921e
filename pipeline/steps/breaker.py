"""Tell faults of single videos from a fault of the whole job."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import ActionlakeError

_FIRST = 20
_MANY = 200


class SystematicError(ActionlakeError):
    """So much fails with unexpected errors that the videos can't be the reason."""


class Breaker:
    """Ends the job if the first 20 all fail with unexpected errors, or more than half once there are 200."""

    def __init__(self, what: str) -> None:
        """Take the name of what is counted, in the plural, such as `chunks`."""
        self._what = what
        self._n = 0
        self._n_failed = 0

    def count_all(self, n: int, failures: Sequence[str]) -> None:
        """Count n finished items together, with the messages of those that failed; see `count`."""
        for number in range(n):
            self.count(failures[number] if number < len(failures) else "")

    def count(self, failure: str = "") -> None:
        """Count a finished item, with the message of its unexpected error, if it had one.

        Raises:
            SystematicError: The videos can't be the reason.
        """
        self._n += 1
        self._n_failed += bool(failure)
        all_of_the_first = self._n == self._n_failed >= _FIRST
        more_than_half = self._n >= _MANY and self._n_failed > self._n / 2
        if failure and (all_of_the_first or more_than_half):
            raise SystematicError(
                f"{self._n_failed} of {self._n} {self._what} failed with unexpected errors, so the videos are not "
                f"the cause; the last: {failure}. What failed like that does not count as done: mend the cause, and "
                "the same command goes on"
            )
