"""The description of the requests, docs/serve-openapi.yaml, is that of the server."""

import re
from pathlib import Path
from typing import Any

import yaml
from served import PNG, Client, Levels, app_of, picture

from cnnforge.serving.limits import Limits
from cnnforge.serving.pictures import _FORMATS
from cnnforge.tasks.classification import Classification
from cnnforge.tasks.detection import Detection
from cnnforge.tasks.detection.rows import DetectedObject, Detections

DOCS = Path(__file__).parents[3] / "docs"
KNOWN = yaml.safe_load((DOCS / "serve-openapi.yaml").read_text(encoding="utf-8"))
PAGE = (DOCS / "serve.md").read_text(encoding="utf-8")
SCHEMAS = KNOWN["components"]["schemas"]


def fits(value: Any, schema: Any) -> None:
    """Compare names and types of a value with a schema of the document."""
    if "const" in schema:
        assert value == schema["const"]
        return
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "null": type(None),
    }
    assert any(isinstance(value, kinds[each]) for each in types), (value, schema)
    if isinstance(value, dict) and "properties" in schema:
        assert set(value) == set(schema["properties"]) == set(schema["required"])
        for name, each in value.items():
            fits(each, schema["properties"][name])
    if isinstance(value, list):
        for each in value:
            fits(each, schema["items"])


def test_the_routes_are_described() -> None:
    app: Any = app_of(Levels())._app
    routes = {route.path: set(route.methods) - {"HEAD"} for route in app.routes}
    described = {
        path: {method.upper() for method in methods} for path, methods in KNOWN["paths"].items()
    }
    assert routes == described
    listed = re.findall(r"^\| `(GET|POST) (/\S*)` \|", PAGE, re.MULTILINE)
    assert {(path.replace("NAME", "{page}"), method) for method, path in listed} == {
        (path, method) for path, methods in routes.items() for method in methods
    }


def test_the_answers_have_the_described_form() -> None:
    client = Client(app_of(Levels()))
    fits(client.get("/health").json(), SCHEMAS["Health"])
    row = client.post("/predict", content=picture(), headers=PNG).json()
    fits(row, SCHEMAS["Classification"])
    found = Detections("picture", (3, 4), (DetectedObject("cat", 0.5, (0.0, 1.0, 2.0, 3.0)),))
    fits(found.as_dict(), SCHEMAS["Detection"])
    refused = KNOWN["components"]["responses"]["Refused"]["content"]["application/json"]["schema"]
    fits(client.get("/nothing").json(), refused)


def test_options_formats_and_limits_are_described() -> None:
    tasks = (Classification(["a", "b"]), Detection.example())
    options = {name for task in tasks for name in task.prediction_options}
    parameters = KNOWN["paths"]["/predict"]["post"]["parameters"]
    assert {each["name"] for each in parameters} == options
    for name in options:
        assert f"`{name}`" in PAGE
    bodies = KNOWN["components"]["requestBodies"]["Picture"]
    assert set(bodies["content"]) == {f"image/{each.lower()}" for each in _FORMATS}
    limits = Limits()
    assert limits.bytes == 10 * 2**20
    assert f"{limits.pixels:,} pixels" in bodies["description"]
    for text in (
        f"{limits.pixels:,} pixels",
        f"more than {limits.seconds:g} seconds",
        f"{limits.waiting} are read",
        f"may take {limits.explain_seconds:g} seconds",
        "more than 10 MiB",
    ):
        assert text in PAGE
