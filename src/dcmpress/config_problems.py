"""What is wrong with a configuration, in an admin's words: where it stands, and what was probably meant."""

import difflib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from ruamel.yaml.comments import CommentedMap

ENVIRONMENT_PREFIX = "DCMPRESS_"


_WANTED = {
    "missing": "is missing",
    "dict_type": "a map is wanted",
    "mapping_type": "a map is wanted",
    "model_type": "a map is wanted",
    "string_type": "text is wanted; put a number in quotes",
    "tuple_type": "a list is wanted",
}
"""pydantic's types of errors in an admin's words."""


def explain(problem: Any, tree: CommentedMap, path: Path | None, model: type[BaseModel]) -> str:
    """Say in one line what pydantic finds wrong, and where."""
    location = [
        part for part in problem["loc"] if not (isinstance(part, str) and part.startswith("function-"))
    ]
    key = ".".join(str(part) for part in location)
    where = _where(location, tree, path)
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _valid_keys(location[:-1], model), 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{where}: unknown key {key}{hint}"
    message = _WANTED.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
    given = problem["input"]
    shown = (
        "" if isinstance(given, Mapping | BaseModel) or problem["type"] == "missing" else f" (not {given!r})"
    )
    return f"{where}: {key}: {message}{shown}"


def _where(location: list[Any], tree: CommentedMap, path: Path | None) -> str:
    variable = ENVIRONMENT_PREFIX + "__".join(str(part) for part in location).upper()
    set_variables = [
        name for name in os.environ if name.upper() == variable or variable.startswith(name + "__")
    ]
    if set_variables:
        return f"environment variable {set_variables[0]}"
    node: Any = tree
    line = None
    for part in location:
        try:
            marks = node.lc.data[part]
            line = marks[0] + 1
            node = node[part]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    if path is None:
        return "configuration"
    return f"{path}, line {line}" if line else str(path)


def _valid_keys(location: list[Any], model: Any) -> list[str]:
    """Return the keys that are valid at a place in the configuration."""
    for part in location:
        if isinstance(part, int):
            continue
        fields = getattr(model, "model_fields", {})
        model = _model_in(fields[part].annotation) if part in fields else model
        if model is None:
            return []
    return list(getattr(model, "model_fields", {}))


def _model_in(annotation: Any) -> Any:
    """Return the model inside an annotation like `tuple[Model, ...]` or `Mapping[str, Model]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg)) is not None), None)


def useless_variables(model: type[BaseModel]) -> Iterator[str]:
    """Name the variables that look like ours and would change nothing."""
    for name in os.environ:
        if not name.upper().startswith(ENVIRONMENT_PREFIX):
            continue
        key = name[len(ENVIRONMENT_PREFIX) :].lower()
        section = key.partition("__")[0]
        if section in model.model_fields or ("__" not in key and key.split("_")[0] not in model.model_fields):
            continue  # what has no section at all belongs to the tests, or to somebody else
        if "__" in key:
            near = difflib.get_close_matches(section, model.model_fields, 1, 0.5)
            what = f"unknown section {section}" + (f"; did you mean {near[0]}?" if near else "")
        else:
            what = "two underscores are wanted after the section, as in DCMPRESS_DICOM__PORT"
        yield f"environment variable {name}: {what}"


def variables_not_json(model: type[BaseModel]) -> Iterator[str]:
    """Name the variables for maps and lists that cannot be read."""
    for name, value in os.environ.items():
        if not name.upper().startswith(ENVIRONMENT_PREFIX):
            continue
        annotation: Any = model
        for part in name[len(ENVIRONMENT_PREFIX) :].lower().split("__"):
            field = getattr(annotation, "model_fields", {}).get(part)
            annotation = field.annotation if field is not None else None
        if get_origin(annotation) is None and not hasattr(annotation, "model_fields"):
            continue
        try:
            json.loads(value)
        except ValueError as error:
            yield f"environment variable {name}: maps and lists are written as JSON: {error}"
