"""The log: one line per event, whichever threads write at once, and no patients."""

import json
import subprocess
import sys

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
