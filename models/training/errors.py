"""What ends a training with a sentence instead of a traceback."""

from __future__ import annotations


class TrainingError(Exception):
    """Data, settings or a place that can't be used; the message says what to change."""


class Interrupted(TrainingError):
    """Stopped by hand; the message says how to go on."""
