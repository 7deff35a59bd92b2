"""Random cases as a feature repository on disk: definitions, files, and an entity frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from featurestore.testing.data import KEY_VALUES, Case, Choose, to_array, write_case, write_parquet
from featurestore.testing.oracle import Row, Use, Value

TIME = "event_timestamp"
SETTINGS = '[project]\nname = "{name}"\n[online]\n{online}\n'
LMDB = "map_size_mb = 16"
HEADER = """\
from datetime import timedelta

from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource

"""
Frame = list[dict[str, Value]]


def write_definitions(
    folder: Path,
    cases: Sequence[Case],
    *,
    lateness_us: int = 0,
    name: str = "cases",
    online: str = LMDB,
) -> None:
    """View `v0` for the first case, and so on; a service `everything` of all of them. `name` is the
    project's, `online` the settings of its online store."""
    entities = {entity_name(case): keys_of(case) for case in cases if case.shape.keys}
    lines = [
        f"{name} = Entity({name!r}, join_keys={ {k: str(d) for k, d in keys.items()}!r})"
        for name, keys in entities.items()
    ]
    for number, case in enumerate(cases):
        lines += _source_and_view(number, case, lateness_us)
    views = ", ".join(f"v{number}" for number in range(len(cases)))
    lines.append(f"everything = FeatureService('everything', features=[{views}])")
    (folder / "definitions.py").write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    (folder / "featurestore.toml").write_text(SETTINGS.format(name=name, online=online))


def _source_and_view(number: int, case: Case, lateness_us: int) -> list[str]:
    shape, ttl, grace = case.shape, _duration(case.ttl_us), _duration(case.grace_us)
    source = [f"'s{number}'", f"'data/s{number}/*.parquet'", repr(shape.event_time)]
    source += [repr(shape.created_time)] if shape.created_time else []
    source += [f"op={shape.op!r}", f"tiebreak={shape.tiebreak[:1]!r}"]
    source.append(f"lateness={_duration(lateness_us)}")
    features = ", ".join(f"Feature({name!r})" for name in case.features)
    entities = entity_name(case) if shape.keys else ""
    view = [f"'v{number}'", f"entities=[{entities}]", f"source=s{number}"]
    view += [f"features=[{features}]", f"ttl={ttl}", f"grace={grace}"]
    return [
        f"s{number} = FileSource({', '.join(source)})",
        f"v{number} = FeatureView({', '.join(view)})",
    ]


def _duration(duration_us: int | None) -> str:
    return "None" if duration_us is None else f"timedelta(microseconds={duration_us})"


def entity_name(case: Case) -> str:
    """The entity of the case's view."""
    return "by_" + "_and_".join(case.shape.keys)


def keys_of(case: Case) -> dict[str, Any]:
    """The types of the case's join keys."""
    return {key: case.dtypes[key] for key in case.shape.keys}


def as_defined(case: Case) -> Case:
    """The case with the tiebreak that its source has: what is declared (the first column), then
    all columns in name order."""
    first = case.shape.tiebreak[0]
    rest = tuple(name for name in sorted(case.dtypes) if name != first)
    return replace(case, shape=replace(case.shape, tiebreak=(first, *rest)))


def write_data(folder: Path, number: int, case: Case) -> None:
    """All rows of the case, as its source's files."""
    (folder / "data" / f"s{number}").mkdir(parents=True)
    write_case(case, folder / "data" / f"s{number}")


def land(folder: Path, number: int, case: Case, name: str, rows: Sequence[int]) -> None:
    """Some rows of the case as one more file of its source."""
    path = folder / "data" / f"s{number}"
    path.mkdir(parents=True, exist_ok=True)
    columns = {
        column: to_array(
            [case.rows[row][column] for row in rows], dtype, unit=case.unit, zone=case.zone
        )
        for column, dtype in case.dtypes.items()
    }
    write_parquet(path / f"{name}.parquet", columns)


def uses_of(cases: Sequence[Case], rows: Sequence[Sequence[Row]]) -> list[Use]:
    """The views as the oracle reads them, with full feature names and statuses."""
    return [
        Use(
            rows=rows[number],
            key_columns=case.shape.keys,
            features={f"v{number}__{name}": name for name in case.features},
            ttl_us=case.ttl_us,
            grace_us=case.grace_us,
            status=f"v{number}__status",
        )
        for number, case in enumerate(cases)
    ]


def entity_rows(choose: Choose, cases: Sequence[Case], count: int) -> Frame:
    """Rows that ask each case's own questions; the other views' keys are any."""
    dtypes = frame_dtypes(cases)
    rows: Frame = []
    for _ in range(count):
        case = choose(cases)
        request = choose(case.requests)
        keys = {key: choose(KEY_VALUES[dtype]) for key, dtype in dtypes.items()}
        keys |= dict(zip(case.shape.keys, request.key, strict=True))
        rows.append(keys | {TIME: request.at_us})
    return rows


def frame_dtypes(cases: Sequence[Case]) -> dict[str, Any]:
    """The join keys of all cases."""
    return {key: dtype for case in cases for key, dtype in keys_of(case).items()}


def arrow_frame(rows: Frame, dtypes: Mapping[str, Any]) -> pa.Table:
    """The entity rows as Arrow."""
    columns = {key: to_array([row[key] for row in rows], dtype) for key, dtype in dtypes.items()}
    times = pa.array([row[TIME] for row in rows], pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    return pa.table(columns | {TIME: times})
