"""Rows of the quarantine: what failed, where, and what a new try needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vidcurate.clip import short_hash


def quarantine_row(
    *,
    stage: str,
    error: str,
    message: str,
    transient: bool,
    attempts: int,
    payload: Mapping[str, Any],
    video: str | None = None,
    clip: str | None = None,
    operator: str | None = None,
    location: str | None = None,
) -> dict[str, Any]:
    """A row of the quarantine table; its id is of what failed, not of how."""
    place = (
        stage,
        video or location,
        clip or payload.get("interval"),
        operator,
        payload.get("where"),
    )
    return {
        "id": short_hash(json.dumps(place)),
        "stage": stage,
        "operator": operator,
        "video_id": video,
        "clip_id": clip,
        "location": location,
        "error": error,
        "message": message,
        "attempts": attempts,
        "transient": transient,
        "payload": json.dumps(payload, default=str, sort_keys=True),
    }
