"""Turns a model into a CustomResourceDefinition: pydantic's JSON schema made structural.

A structural schema (Kubernetes documentation, "Specifying a structural schema") has a type on every node, no $ref, no
title, and no anyOf with null: an absent field is simply not required.
"""

from __future__ import annotations

from typing import Any

from longboat.api.common import GROUP, VERSION, PrinterColumn, Resource

Schema = dict[str, Any]

_DROPPED = {"title", "$defs"}


def structural(node: Schema, defs: dict[str, Schema]) -> Schema:
    """Return the node with references resolved, nulls removed and titles dropped; ``defs`` are the model's $defs."""
    # An optional reference is an anyOf of the reference and null: what is left of it is resolved in its turn.
    node = _resolved(_without_null(_resolved(node, defs)), defs)
    result: Schema = {key: value for key, value in node.items() if key not in _DROPPED and value is not None}
    if "const" in result:
        result["enum"] = [result.pop("const")]
    if "properties" in result:
        result["properties"] = {name: structural(child, defs) for name, child in result["properties"].items()}
    if isinstance(result.get("items"), dict):
        result["items"] = structural(result["items"], defs)
    if isinstance(result.get("additionalProperties"), dict):
        result["additionalProperties"] = structural(result["additionalProperties"], defs)
    return _typed(result)


def _resolved(node: Schema, defs: dict[str, Schema]) -> Schema:
    if "$ref" not in node:
        return node
    target = defs[node["$ref"].rsplit("/", 1)[-1]]
    # What is said beside a reference (description, default) wins over what the referred node says of itself.
    return _resolved(target, defs) | {key: value for key, value in node.items() if key != "$ref"}


def _without_null(node: Schema) -> Schema:
    if "anyOf" not in node:
        return node
    (only,) = [each for each in node["anyOf"] if each.get("type") != "null"]
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    return {**only, **rest}


def _typed(node: Schema) -> Schema:
    if node.get("type") == "integer":
        node.setdefault("format", "int64")
    return node


def _schema(model: type[Resource]) -> Schema:
    raw = model.model_json_schema(by_alias=True, mode="validation")
    defs = raw.get("$defs", {})
    spec = structural(raw["properties"]["spec"], defs)
    status = structural(raw["properties"]["status"], defs)
    return {
        "type": "object",
        "description": (model.__doc__ or "").strip(),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of the schema."},
            "kind": {"type": "string", "description": "Kind of the object."},
            "metadata": {"type": "object"},
            "spec": spec | {"description": "What is asked for."},
            "status": status | {"description": "What the operator sees."},
        },
    }


def _column(each: PrinterColumn) -> Schema:
    column: Schema = {"name": each.name, "type": each.type, "jsonPath": each.json_path, "description": each.description}
    return column | ({"priority": each.priority} if each.priority else {})


def definition(model: type[Resource]) -> Schema:
    """Return the CustomResourceDefinition of a kind, as JSON-ready data."""
    kind = model.model_fields["kind"].default
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{model.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": model.scope,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": model.plural,
                "singular": kind.lower(),
                "shortNames": list(model.short_names),
                "categories": ["longboat"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(each) for each in model.columns],
                    "schema": {"openAPIV3Schema": _schema(model)},
                    **(
                        {"selectableFields": [{"jsonPath": each} for each in model.selectable]}
                        if model.selectable
                        else {}
                    ),
                }
            ],
        },
    }
