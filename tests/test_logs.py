"""The log: one line per event, whichever threads write at once, and no patients."""

import json
import subprocess
import sys
from pathlib import Path

WRITE_FROM_THREADS = """
import threading
import structlog
from dcmpress import logs

logs.configure("info", "json", patient_data=False)
logger = structlog.get_logger()
threads = [
    threading.Thread(target=lambda: [logger.info("store", n=n, patient_name="Doe^Jane") for n in range(500)])
    for _ in range(8)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_events_of_many_threads_stay_apart_and_name_no_patient() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITE_FROM_THREADS], capture_output=True, text=True, timeout=120, check=True
    )
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(events) == 8 * 500
    assert "Doe" not in done.stderr


FAIL_WITH_A_NAME = """
import logging, sys, threading, warnings
import structlog
from sqlalchemy import create_engine, text
from dcmpress import logs
from dcmpress.storage.catalog.database import Database
from dcmpress.storage.errors import MalformedError

logs.configure("info", "json", patient_data=sys.argv[1] == "true")
logger = structlog.get_logger()


def fail(task):
    try:
        task()
    except Exception:
        logger.exception("failed")


def ours():
    try:
        int("Doe^Jane")
    except ValueError as error:
        raise MalformedError("the reason that we give") from error


def sql():
    with Database(f"sqlite:///{sys.argv[2]}").engine.connect() as connection:
        connection.execute(text("SELECT * FROM nowhere WHERE name = :name"), {"name": "Doe^Jane"})


fail(ours)
fail(sql)
thread = threading.Thread(target=lambda: int("Doe^Jane"), name="worker-7")
thread.start()
thread.join()
warnings.warn("a value of Doe^Jane")
logging.getLogger("pydicom.somewhere").error("Doe^Jane")
logging.getLogger("other").warning("a library's 100% line")
"""


def failing(patient_data: str, catalog: Path) -> tuple[str, list[dict[str, str]]]:
    done = subprocess.run(
        [sys.executable, "-c", FAIL_WITH_A_NAME, patient_data, str(catalog)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stderr, [json.loads(line) for line in done.stderr.splitlines()]


def test_texts_of_other_libraries_exceptions_are_not_logged(tmp_path: Path) -> None:
    written, events = failing("false", tmp_path / "catalog")
    assert "Doe" not in written
    first, second, third, last = events
    assert first["exception"].endswith("MalformedError: the reason that we give")
    assert "ValueError" in first["exception"]
    assert "line " in first["exception"]
    assert "OperationalError" in second["exception"]
    assert (third["event"], third["thread"]) == ("thread ended by an error", "worker-7")
    assert last["event"] == "a library's 100% line"


def test_they_are_if_patients_may_be_named(tmp_path: Path) -> None:
    written, _ = failing("true", tmp_path / "catalog")
    assert "Doe^Jane" in written


def test_a_text_that_a_peer_has_chosen_is_one_line_and_moves_no_cursor() -> None:
    program = (
        "import structlog; from dcmpress import logs; logs.configure('info', 'text', patient_data=False)\n"
        "structlog.get_logger().info('association accepted', implementation='A\\x1b[2J\\nready', kept='Größe')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    (line,) = done.stderr.splitlines()
    assert line.isprintable()
    assert "\\x1b[2J" in line
    assert "Größe" in line
