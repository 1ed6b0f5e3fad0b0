"""Structured log events of the DICOM side, each with the association it belongs to."""

from typing import Any

import structlog

logger: Any = structlog.get_logger("dcmpress.scp")
