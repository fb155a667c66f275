"""What looks wrong in a durable function, found by reading its source: nothing is run."""

from __future__ import annotations

from perdure.testing.review.review import Finding, review_body, review_whole_step

__all__ = ["Finding", "review_body", "review_whole_step"]
