"""Event files of TensorBoard, written without TensorFlow and without torch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.labels import shown
from ..base.plugins import library


class EventFile:
    """A new event file in a folder; TensorBoard reads all files of a folder as one run.

    Args:
        folder: Created if missing.
        step: Where a continued run goes on: what older files hold of later steps is not shown any more.

    Raises:
        UsageError: If tensorboard is not installed.
    """

    def __init__(self, folder: Path, step: int | None = None) -> None:
        library("tensorboard", "tensorboard")
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event: Any = event_pb2
        self._summary: Any = summary_pb2
        self._writer: Any = EventFileWriter(str(folder))
        if step is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._writer.add_event(event_pb2.Event(step=step, wall_time=time.time(), session_log=start))

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Add numbers by tag; None and what is not finite is left out."""
        known = {k: v for k, v in values.items() if v is not None and math.isfinite(v)}
        if known:
            self._add(step, [self._summary.Summary.Value(tag=shown(k), simple_value=v) for k, v in known.items()])

    def picture(self, step: int, tag: str, png: bytes, size: tuple[int, int]) -> None:
        """Add a PNG of ``(width, height)`` pixels."""
        picture = self._summary.Summary.Image(encoded_image_string=png, width=size[0], height=size[1], colorspace=3)
        self._add(step, [self._summary.Summary.Value(tag=shown(tag), image=picture)])

    def _add(self, step: int, values: list[Any]) -> None:
        summary = self._summary.Summary(value=values)
        self._writer.add_event(self._event.Event(step=step, wall_time=time.time(), summary=summary))

    def flush(self) -> None:
        """Make everything readable."""
        self._writer.flush()

    def close(self) -> None:
        """Write the rest."""
        self._writer.close()
