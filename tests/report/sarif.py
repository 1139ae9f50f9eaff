"""What SARIF 2.1.0 asks of the parts that are written here, as a JSON schema of our own; nothing else passes."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
STRING: Schema = {"type": "string", "minLength": 1}
TEXT: Schema = {"type": "object", "required": ["text"], "properties": {"text": STRING}, "additionalProperties": False}


def thing(required: str = "", **properties: Schema) -> Schema:
    """An object with these members only."""
    return {"type": "object", "required": required.split(), "properties": properties, "additionalProperties": False}


def some(item: Schema, least: int = 0) -> Schema:
    """An array."""
    return {"type": "array", "items": item, "minItems": least}


COUNT: Schema = {"type": "integer", "minimum": 0}
LEVEL: Schema = {"enum": ["none", "note", "warning", "error"]}
LOCATION = thing(
    physicalLocation=thing(
        "artifactLocation",
        artifactLocation=thing(
            "uri",
            uri={"type": "string", "pattern": r"^[\w.-]+(/[\w.-]+)*$", "format": "uri-reference"},
            uriBaseId={"enum": ["%SRCROOT%", "%PROOFS%"]},
        ),
        region=thing("startLine", startLine={"type": "integer", "minimum": 1}),
    ),
    logicalLocations=some(thing("name", name=STRING, kind=STRING)),
    message=TEXT,
)
STEP = thing("location", location=LOCATION, executionOrder=COUNT,
             importance={"enum": ["important", "essential", "unimportant"]})  # fmt: skip
RESULT: Schema = thing(
    "ruleId ruleIndex kind level message",
    ruleId=STRING, ruleIndex=COUNT, level=LEVEL, message=TEXT,
    kind={"enum": ["pass", "open", "informational", "notApplicable", "review", "fail"]},
    locations=some(LOCATION), relatedLocations=some(LOCATION),
    codeFlows=some(thing("threadFlows", threadFlows=some(thing("locations", locations=some(STEP, 1)), 1))),
    partialFingerprints={"type": "object", "additionalProperties": STRING},
    suppressions=some(thing("kind", kind={"enum": ["inSource", "external"]}, justification=STRING,
                            status={"enum": ["accepted", "underReview", "rejected"]})),
    properties={"type": "object"},
) | {  # 3.27.10: a result that is no failure has level none
    "if": {"properties": {"kind": {"not": {"const": "fail"}}}}, "then": {"properties": {"level": {"const": "none"}}},
}  # fmt: skip
NOTIFICATION = thing("message", level=LEVEL, message=TEXT, locations=some(LOCATION))
URI: Schema = {"type": "string", "pattern": "^(https|file)://[^ ]+$", "format": "uri"}
RULE = thing(
    "id helpUri", id=STRING, shortDescription=TEXT, help=TEXT, helpUri=URI, defaultConfiguration=thing(level=LEVEL)
)
RUN = thing(
    "tool results",
    tool=thing("driver", driver=thing("name informationUri", name=STRING, version=STRING, informationUri=URI,
                                      rules=some(RULE) | {"uniqueItems": True})),
    automationDetails=thing("id", id=STRING),
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
    originalUriBaseIds={"type": "object", "additionalProperties": thing(description=TEXT)},
    invocations=some(thing("executionSuccessful", executionSuccessful={"type": "boolean"},
                           exitCode={"type": "integer"}, toolExecutionNotifications=some(NOTIFICATION))),
    results=some(RESULT),
)  # fmt: skip
SCHEMA = thing("$schema version runs", version={"const": "2.1.0"}, runs=some(RUN, 1), **{"$schema": STRING})
