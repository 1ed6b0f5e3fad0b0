"""How queries and receipt slow down, or do not, as the catalog grows.

    python bench/catalog_growth.py [--instances 1000 100000 1000000] [--url URL] [--cpu] [--json FILE] [--plot FILE]

Fills a catalog with generated rows (30 instances a series, 4 series a study, 3 studies a patient, ten
years), then times the queries that workstations send, receipt into a known and into a new series, and
opening. Every query has the same number of matches at every size, so that only the search can grow.
"""

import argparse
import hashlib
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from dcmpress.storage.catalog.attributes import Level
from dcmpress.storage.catalog.catalog import Catalog
from dcmpress.storage.catalog.database import Database
from dcmpress.storage.catalog.models import Blob, Instance, Patient, Series, Study
from dcmpress.storage.catalog.person_name import folded_groups
from dcmpress.storage.catalog.query import Query
from dcmpress.storage.received import Received

INSTANCES_PER_SERIES, SERIES_PER_STUDY, STUDIES_PER_PATIENT = 30, 4, 3
_CT = "1.2.840.10008.5.1.4.1.1.2"
_EXPLICIT = "1.2.840.10008.1.2.1"
_DAY_ZERO = date(2015, 1, 1)
_CHUNK = 200
"""Studies entered in one transaction."""


def study_date(study: int, n_studies: int) -> str:
    """Return the date of generated study number `study`: two a day, however many there are."""
    return (_DAY_ZERO + timedelta(days=study // 2)).strftime("%Y%m%d")


def patient_name(patient: int) -> str:
    """Return a name that no other patient has; its beginning is spread over the alphabet."""
    digest = hashlib.sha256(str(patient).encode()).hexdigest()
    letters = "".join(chr(ord("A") + int(c, 16)) for c in digest[:8])
    return f"{letters}^PATIENT^{patient}"


def fill(url: str, n_instances: int) -> int:
    """Enter about `n_instances` generated instances into the new catalog at `url`; return the studies."""
    Catalog.open(url).close()
    database = Database(url)
    n_studies = max(1, n_instances // (INSTANCES_PER_SERIES * SERIES_PER_STUDY))
    with database.writing() as connection:
        blob = connection.execute(insert(Blob).returning(Blob.pk), [_blob()]).scalar_one()
    for start in range(0, n_studies, _CHUNK):
        chunk = range(start, min(start + _CHUNK, n_studies))
        with database.writing() as connection:
            patients = [_patient(p) for p in {s // STUDIES_PER_PATIENT for s in chunk}]
            known = [p for p in patients if (p["pk"] - 1) * STUDIES_PER_PATIENT >= start]
            if known:
                connection.execute(insert(Patient), known)
            connection.execute(insert(Study), [_study(s, n_studies) for s in chunk])
            connection.execute(insert(Series), [row for s in chunk for row in _series(s)])
            connection.execute(insert(Instance), [row for s in chunk for row in _instances(s, blob)])
    if not database.is_sqlite:
        _set_sequences(database)
    database.close()
    return n_studies


def _blob() -> dict[str, Any]:
    return {
        "name": "generated",
        "state": "stored",
        "created_at": datetime.now(UTC),
        "size": 0,
        "raw_size": 0,
        "n_instances": 0,
        "codec": "store",
        "parameters": "{}",
        "format_version": 1,
        "requested": "",
        "fallback": None,
    }


def _patient(patient: int) -> dict[str, Any]:
    name = patient_name(patient)
    return {
        "pk": patient + 1,
        "identity": f"ID{patient:08d}\x1f",
        "patient_name": name,
        "patient_name_alphabetic": folded_groups(name)[0],
        "patient_id": f"ID{patient:08d}",
        "patient_birth_date": f"19{patient % 100:02d}0101",
        "patient_sex": "MF"[patient % 2],
    }


def _study(study: int, n_studies: int) -> dict[str, Any]:
    return {
        "pk": study + 1,
        "patient_pk": study // STUDIES_PER_PATIENT + 1,
        "study_instance_uid": f"1.2.826.0.1.{study}",
        "study_date": study_date(study, n_studies),
        "study_time": f"{study % 24:02d}0000",
        "accession_number": f"A{study:08d}",
        "study_id": str(study),
        "study_description": "CT THORAX",
        "referring_physician_name": "HOUSE^GREGORY",
        "referring_physician_name_folded": "house^gregory",
    }


def _series(study: int) -> Iterator[dict[str, Any]]:
    for number in range(SERIES_PER_STUDY):
        yield {
            "pk": study * SERIES_PER_STUDY + number + 1,
            "study_pk": study + 1,
            "series_instance_uid": f"1.2.826.0.1.{study}.{number}",
            "modality": ("CT", "CT", "SR", "MR")[number],
            "series_number": number,
            "series_description": "AXIAL",
        }


def _instances(study: int, blob: int) -> Iterator[dict[str, Any]]:
    received_at = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(SERIES_PER_STUDY):
        for instance in range(INSTANCES_PER_SERIES):
            yield {
                "series_pk": study * SERIES_PER_STUDY + number + 1,
                "sop_instance_uid": f"1.2.826.0.1.{study}.{number}.{instance}",
                "sop_class_uid": _CT,
                "available_transfer_syntax_uid": _EXPLICIT,
                "size": 526000,
                "sha256": bytes(32),
                "received_at": received_at,
                "calling_ae": "SCANNER",
                "called_ae": "DCMPRESS",
                "remote_host": "10.0.0.1",
                "current": True,
                "replaced": False,
                "damaged": False,
                "blob_pk": blob,
                "blob_index": instance,
                "instance_number": instance + 1,
                "rows": 512,
                "columns": 512,
                "bits_allocated": 16,
                "image_type": "ORIGINAL\\PRIMARY\\AXIAL",
                "image_position_patient": f"-250\\-250\\{instance}",
                "image_orientation_patient": "1\\0\\0\\0\\1\\0",
            }


def _set_sequences(database: Database) -> None:
    with database.writing() as connection:
        for table in ("patient", "study", "series"):
            connection.exec_driver_sql(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'pk'), (SELECT max(pk) FROM {table}))"
            )
        connection.exec_driver_sql("ANALYZE")


_STUDY_KEYS = (
    "PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "StudyTime",
    "AccessionNumber", "StudyDescription", "ModalitiesInStudy", "NumberOfStudyRelatedSeries",
    "NumberOfStudyRelatedInstances",
)  # fmt: skip
_SERIES_KEYS = ("SeriesInstanceUID", "Modality", "SeriesNumber", "NumberOfSeriesRelatedInstances")
_IMAGE_KEYS = ("SOPInstanceUID", "SOPClassUID", "InstanceNumber", "Rows", "Columns")


def queries(n_studies: int) -> dict[str, Callable[[random.Random], Query]]:
    """Return the queries by name; each asks for another patient or study every time."""

    def study(rng: random.Random) -> int:
        return rng.randrange(n_studies)

    def by_patient_id(rng: random.Random) -> Query:
        return Query.of(Level.STUDY, {"PatientID": f"ID{study(rng) // 3:08d}"}, _STUDY_KEYS)

    def by_name(rng: random.Random) -> Query:
        family = patient_name(study(rng) // 3).split("^")[0]
        return Query.of(Level.STUDY, {"PatientName": f"{family.lower()}*"}, _STUDY_KEYS)

    def by_name_at_patient_level(rng: random.Random) -> Query:
        family = patient_name(study(rng) // 3).split("^")[0]
        return Query.of(Level.PATIENT, {"PatientName": f"{family}^*"}, ("PatientID",))

    def by_accession(rng: random.Random) -> Query:
        return Query.of(Level.STUDY, {"AccessionNumber": f"A{study(rng):08d}"}, _STUDY_KEYS)

    def by_day_and_modality(rng: random.Random) -> Query:
        day = study_date(study(rng), n_studies)
        return Query.of(Level.STUDY, {"StudyDate": day, "ModalitiesInStudy": "CT\\MR"}, _STUDY_KEYS)

    def by_week_and_name(rng: random.Random) -> Query:
        number = study(rng)
        first = _DAY_ZERO + timedelta(days=number // 2)
        days = f"{first:%Y%m%d}-{first + timedelta(days=6):%Y%m%d}"
        initial = patient_name(number // 3)[0]
        return Query.of(Level.STUDY, {"StudyDate": days, "PatientName": f"{initial}*"}, _STUDY_KEYS)

    def series_of_study(rng: random.Random) -> Query:
        return Query.of(Level.SERIES, {"StudyInstanceUID": f"1.2.826.0.1.{study(rng)}"}, _SERIES_KEYS)

    def images_of_series(rng: random.Random) -> Query:
        uid = f"1.2.826.0.1.{study(rng)}"
        keys = {"StudyInstanceUID": uid, "SeriesInstanceUID": f"{uid}.1"}
        return Query.of(Level.IMAGE, keys, _IMAGE_KEYS)

    def newest_eight(_rng: random.Random) -> Query:
        return Query(Level.STUDY, (), _STUDY_KEYS, limit=8)

    return {
        function.__name__.replace("_", " "): function
        for function in (
            by_patient_id,
            by_name,
            by_name_at_patient_level,
            by_accession,
            by_day_and_modality,
            by_week_and_name,
            series_of_study,
            images_of_series,
            newest_eight,
        )
    }


_SHOWN = ("by patient id", "by name", "by day and modality", "by week and name", "series of study")


@dataclass
class Timing:
    """Milliseconds."""

    p50: float
    p99: float


def timed(work: Callable[[], Any], repeats: int, clock: Callable[[], float]) -> Timing:
    """Run `work` `repeats` times by `clock`, a tenth more to warm up."""
    times = []
    for number in range(repeats + repeats // 10):
        start = clock()
        work()
        if number >= repeats // 10:
            times.append((clock() - start) * 1e3)
    times.sort()
    return Timing(round(statistics.median(times), 3), round(times[int(len(times) * 0.99)], 3))


def measure(url: str, n_studies: int, repeats: int, clock: Callable[[], float]) -> dict[str, Timing]:
    """Time queries, receipt and opening on a filled catalog."""
    rng = random.Random(1)
    timings = {"open": timed(lambda: Catalog.open(url).close(), 20, clock)}
    catalog = Catalog.open(url)
    for name, make in queries(n_studies).items():
        timings[name] = timed(lambda make=make: list(catalog.find(make(rng))), repeats, clock)  # type: ignore[misc]
    serial = iter(range(1 << 30))
    for name, n_series in (("receipt, known series", 1), ("receipt, new series", 1 << 30)):
        timings[name] = timed(lambda n=n_series: _receive(catalog, next(serial), n), repeats, clock)  # type: ignore[misc]
    catalog.close()
    return timings


def _receive(catalog: Catalog, number: int, n_series: int) -> None:
    uid = f"1.2.826.0.2.{n_series}.{number}"
    received = Received(
        _CT, uid, _EXPLICIT, 526000, hashlib.sha256(uid.encode()).digest(), uid, datetime.now(UTC)
    )
    attributes = {
        "PatientName": "NEW^PATIENT",
        "PatientID": "NEW",
        "StudyInstanceUID": "1.2.826.0.2",
        "SeriesInstanceUID": f"1.2.826.0.2.{n_series}.{number % n_series}",
        "Modality": "CT",
        "InstanceNumber": str(number),
        "Rows": "512",
        "Columns": "512",
        "ImagePositionPatient": "1\\2\\3",
    }
    catalog.record(received, attributes)


def main() -> None:
    """Fill, measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--instances", type=int, nargs="+", default=[1000, 100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--url", help="an empty database to use instead of SQLite; one size only")
    parser.add_argument("--cpu", action="store_true", help="CPU time: right on a busy machine, and SQLite")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="draw the figures, as PNG")
    arguments = parser.parse_args()
    clock = time.thread_time if arguments.cpu else time.perf_counter
    results: dict[int, dict[str, Timing]] = {}
    for n_instances in arguments.instances:
        with tempfile.TemporaryDirectory() as folder:
            url = arguments.url or f"sqlite:///{folder}/catalog.db"
            start = time.perf_counter()
            n_studies = fill(url, n_instances)
            print(f"{n_instances} instances entered in {time.perf_counter() - start:.1f} s", flush=True)
            results[n_instances] = measure(url, n_studies, arguments.repeats, clock)
    names = next(iter(results.values()))
    print(f"{'p50 / p99 in ms':28}" + "".join(f"{n:>20,}" for n in results))
    for name in names:
        cells = (f"{r[name].p50:.2f} / {r[name].p99:.2f}" for r in results.values())
        print(f"{name:28}" + "".join(f"{cell:>20}" for cell in cells))
    if arguments.json:
        report = {n: {name: asdict(t) for name, t in r.items()} for n, r in results.items()}
        arguments.json.write_text(json.dumps(report, indent=1))
    if arguments.plot:
        plot(results, arguments.plot, "CPU time" if arguments.cpu else "time")


def plot(results: dict[int, dict[str, Timing]], path: Path, what: str) -> None:
    """Draw p50 (lines) and p99 (dotted) of each kind of work against the size of the catalog."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = sorted(results)
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 4.8), sharey=True, layout="constrained")
    names = list(results[sizes[0]])
    halves = [name for name in names if name in _SHOWN], [name for name in names if name not in _SHOWN]
    for axis, shown, title in zip(axes, halves, ("queries", "receipt, opening, other queries"), strict=True):
        for name in shown:
            (line,) = axis.plot(sizes, [results[n][name].p50 for n in sizes], marker="o", label=name)
            p99 = [results[n][name].p99 for n in sizes]
            axis.plot(sizes, p99, linestyle=":", color=line.get_color())
        axis.set(xscale="log", yscale="log", xlabel="instances in the catalog", title=title)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    axes[0].set_ylabel(f"milliseconds of {what}; dotted: p99")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
