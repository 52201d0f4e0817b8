"""Bad samples are passed over, counted and told, until there are too many of them."""

import logging
import threading

from loomvideo.data.samples import DataError

log = logging.getLogger(__name__)

FEWEST = 100  # samples that a share is taken of: one bad among the first three is no third


class BadSamples:
    """Counts what was read, in any thread; raises DataError once more than ``share`` of it was bad."""

    def __init__(self, share: float = 0.05) -> None:
        if not 0 <= share <= 1:
            raise DataError(f"share={share}: the share of samples that may be bad is in 0..1")
        self.share = share
        self.read = self.bad = 0
        self.lock = threading.Lock()

    def good(self, count: int = 1) -> None:
        with self.lock:
            self.read += count

    def add(self, error: Exception) -> None:
        """One more that could not be read."""
        with self.lock:
            self.read += 1
            self.bad += 1
        log.warning("a sample is passed over (%d of %d so far): %s", self.bad, self.read, error)
        if self.bad > self.share * max(self.read, FEWEST):
            raise DataError(
                f"{self.bad} of the first {self.read} samples are bad, more than {self.share:.0%}, the last one: {error}; "
                "loomvideo data check lists them all"
            ) from error
