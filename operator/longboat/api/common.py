"""What the kinds share: the group, names, durations, conditions and the base of every model."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel

GROUP = "longboat.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
DURATION_PATTERN = r"^[1-9][0-9]{0,4}[mhdw]$"
NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
TIME_PATTERN = (
    r"^2[01][0-9]{2}-[01][0-9]-[0-3][0-9]T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?"
    r"(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])$"
)
SUBDOMAIN_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"

Dedupe = Literal["Disk", "Namespace"]
"""With what a disk is compared: its own earlier backups, or, at first, those of the namespace's other disks, too."""
DiskContent = Literal["Disk", "Archive"]
"""What a disk of a backup is: blocks, or the few small files of a machine's TPM and EFI state."""
Duration = Annotated[str, Field(pattern=DURATION_PATTERN, max_length=6)]
"""A whole number and a unit: m (minutes), h (hours), d (days of 24 hours) or w (weeks), such as 30d."""
Name = Annotated[str, Field(min_length=1, max_length=63, pattern=NAME_PATTERN)]
"""A DNS label: the name of a disk inside a virtual machine."""
ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=SUBDOMAIN_PATTERN)]
"""The name of a Kubernetes object."""
Quantity = Annotated[str, Field(max_length=32, pattern=r"^[1-9][0-9]*(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$")]
"""A size in bytes as Kubernetes writes it, such as 10Gi."""


def format_time(moment: datetime) -> str:
    """Return an aware datetime as Kubernetes writes it (RFC 3339, UTC); microseconds only where there are some."""
    text = moment.astimezone(UTC).isoformat()
    return text.replace("+00:00", "Z")


Time = Annotated[datetime, PlainSerializer(format_time, when_used="json")]
"""An aware datetime that is written as RFC 3339 in UTC."""
AskedTime = Annotated[Time, WithJsonSchema({"type": "string", "format": "date-time", "pattern": TIME_PATTERN})]
"""A Time that users write, from the year 2000 to 2199: the API server's date-time takes offsets and years that are none
for us, and calculations with those at the ends of the calendar would fail."""


def parse_duration(text: str) -> timedelta:
    """Return the length of a Duration; raise ValueError naming the text if it is none."""
    if not re.match(DURATION_PATTERN, text):
        raise ValueError(f"{text!r} is not a duration: write a whole number and m, h, d or w, such as 30d")
    return int(text[:-1]) * _UNITS[text[-1]]


def rule(expression: str, message: str, **more: str) -> dict[str, str]:
    """Return one CEL validation rule (x-kubernetes-validations) of a schema node."""
    return {"rule": expression, "message": message, **more}


def rules(*each: dict[str, str], **more: Any) -> ConfigDict:
    """Return a model configuration whose schema node carries these CEL rules."""
    validations: list[Any] = [*each]
    return ConfigDict(json_schema_extra={"x-kubernetes-validations": validations, **more})


class Model(BaseModel):
    """Base of every schema node: snake_case here, camelCase on the wire.

    Unknown fields are ignored on reading: a newer version of the schema must not break an older operator.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    def wire(self) -> dict[str, Any]:
        """Return the node as JSON-ready data, leaving out what is not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class NamedRef(Model):
    """A reference to an object by name."""

    name: ObjectName = Field(description="Name of the object.")


class DiskRef(Model):
    """One disk: a volume of a virtual machine, or a PersistentVolumeClaim."""

    model_config = rules(
        rule(
            "has(self.persistentVolumeClaim) != (has(self.virtualMachine) || has(self.name))",
            "name the disk either by virtualMachine and name, or by persistentVolumeClaim",
        ),
        rule(
            "has(self.virtualMachine) == has(self.name)",
            "virtualMachine and name belong together: name is the volume's name in the virtual machine",
        ),
    )
    virtual_machine: ObjectName | None = Field(None, description="The virtual machine the disk belongs to.")
    name: Name | None = Field(
        None, description="Name of the volume in the virtual machine (spec.template.spec.volumes[].name)."
    )
    persistent_volume_claim: ObjectName | None = Field(
        None, description="The disk's PersistentVolumeClaim, for disks that belong to no virtual machine."
    )


class LabelSelector(Model):
    """Selects objects that carry all of the given labels."""

    match_labels: dict[str, str] = Field(min_length=1, description="Labels that an object must carry, all of them.")


class Condition(Model):
    """One observation about an object, in the form of Kubernetes' metav1.Condition."""

    type: str = Field(max_length=316, description="What is observed.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(max_length=1024, description="A constant, machine-readable cause of the status.")
    message: str = Field(max_length=32768, description="What it means and what to do, for people.")
    last_transition_time: Time = Field(description="When the status last changed.")
    observed_generation: int | None = Field(None, description="The metadata.generation this was observed for.")


class Status(Model):
    """What every status has."""

    observed_generation: int | None = Field(None, description="The metadata.generation that the operator has acted on.")
    conditions: list[Condition] | None = Field(
        None,
        description="Observations; Ready and Stalled follow the kstatus convention.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )


class ObjectMeta(Model):
    """The parts of metadata that the operator reads."""

    name: str = ""
    namespace: str | None = None
    uid: str = ""
    generation: int = 0
    resource_version: str | None = None
    creation_timestamp: Time = datetime(1970, 1, 1, tzinfo=UTC)
    deletion_timestamp: Time | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: list[str] = Field(default_factory=list)


class PrinterColumn(Model):
    """One column of `kubectl get`."""

    name: str
    type: str
    json_path: str
    description: str
    priority: int = 0


class Resource(Model):
    """Base of the five kinds; the class variables say what the CRD generator needs beside the schema."""

    plural: ClassVar[str]
    short_names: ClassVar[tuple[str, ...]]
    scope: ClassVar[str] = "Namespaced"
    columns: ClassVar[tuple[PrinterColumn, ...]]
    selectable: ClassVar[tuple[str, ...]] = ()
    """JSON paths that lists can be filtered by on the API server, with field selectors."""

    api_version: str = API_VERSION
    kind: str = ""
    metadata: ObjectMeta = Field(default_factory=ObjectMeta)

    @property
    def name(self) -> str:
        """The object's name."""
        return self.metadata.name

    @property
    def namespace(self) -> str:
        """The object's namespace; empty for cluster-scoped objects."""
        return self.metadata.namespace or ""

    @property
    def uid(self) -> str:
        """The object's UID."""
        return self.metadata.uid


def column(name: str, path: str, description: str, type_: str = "string", priority: int = 0) -> PrinterColumn:
    """Return one printer column."""
    return PrinterColumn(name=name, type=type_, json_path=path, description=description, priority=priority)


AGE = column("Age", ".metadata.creationTimestamp", "Time since creation.", "date")
