"""Structured logs on standard error: one line per event, with the association it belongs to.

Nothing above DEBUG names a patient: SOP Instance UIDs identify instances, and the standard library's
loggers of pydicom and pynetdicom, which print data sets, are kept at WARNING.
"""

import logging
import sys
from typing import Any

import structlog

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_PATIENT_KEYS = frozenset({"patient_name", "patient_id", "patient"})


def _without_patients(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in _PATIENT_KEYS}


def configure(level: str, form: str, *, patient_data: bool) -> None:
    """Set up the log; can be called again to change it.

    Parameters
    ----------
    level : "debug" | "info" | "warning" | "error"
    form : "text" | "json"
    patient_data : bool
        Whether events may carry patient names and ids.
    """
    last: Any
    if form == "json":
        last = structlog.processors.JSONRenderer()
    else:
        last = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(() if patient_data else (_without_patients,)),
            structlog.processors.format_exc_info,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    for library in ("pydicom", "pynetdicom"):
        logging.getLogger(library).setLevel(logging.ERROR)
