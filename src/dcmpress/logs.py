"""Structured logs on standard error: one line per event, with the association it belongs to.

Nothing above DEBUG names a patient: SOP Instance UIDs identify instances; pydicom and pynetdicom, which print data
sets, say nothing; and of an exception that is not ours the log has the kind and the place, as its text may quote a
value. `log.patient_data` lifts the last two.
"""

import logging
import sys
import threading
import traceback
from types import TracebackType
from typing import Any

import structlog
from structlog.typing import ExceptionTransformer

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_PATIENT_KEYS = frozenset({"patient_name", "patient_id", "patient"})


def _without_patients(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in _PATIENT_KEYS}


def _printable(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """Escape what a terminal would obey, or what would look like another line: peers choose some texts."""
    return {
        key: "".join(c if c.isprintable() else repr(c)[1:-1] for c in value)
        if isinstance(value, str) and not value.isprintable()
        else value
        for key, value in event.items()
    }


class _Forward(logging.Handler):
    """What libraries log, as events like all others."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger(record.name).log(record.levelno, record.getMessage())


ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def _traceback(patient_data: bool) -> ExceptionTransformer:
    """Return what writes down an exception with those behind it."""

    def text_of(error: BaseException) -> str:
        kind = type(error).__qualname__
        if patient_data or isinstance(error, OSError) or type(error).__module__.startswith("dcmpress."):
            return f"{kind}: {error}"
        return kind

    def write(exc_info: ExceptionInfo) -> str:
        error: BaseException | None = exc_info[1]
        parts: list[str] = []
        while error is not None and len(parts) < 10:
            parts.append("".join(traceback.format_tb(error.__traceback__)) + text_of(error))
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\nfrom this came:\n".join(reversed(parts))

    return write


def _thread_ended(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        thread = args.thread.name if args.thread else ""
        exc_info = (args.exc_type, args.exc_value, args.exc_traceback)
        structlog.get_logger("dcmpress").error("thread ended by an error", thread=thread, exc_info=exc_info)


def configure(level: str, form: str, *, patient_data: bool) -> None:
    """Set up the log; can be called again to change it.

    Parameters
    ----------
    level : "debug" | "info" | "warning" | "error"
    form : "text" | "json"
    patient_data : bool
        Whether events may carry patient names and ids, and the texts of other libraries' exceptions.
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
            *(() if form == "json" else (_printable,)),
            structlog.processors.ExceptionRenderer(_traceback(patient_data)),
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Forward()])
    logging.captureWarnings(True)
    for library in ("pydicom", "pynetdicom", "py.warnings"):
        logging.getLogger(library).setLevel(logging.WARNING if patient_data else logging.CRITICAL)
    threading.excepthook = _thread_ended
