"""What is generated around the chart: its copies of the CRDs, and manifests/ as what it renders to."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from scripts.generated_yaml import HEADER, dump
from tests.cluster import binaries

Object = dict[str, Any]

RELEASE, NAMESPACE = "longboat", "longboat-system"
MANIFESTS_HEADER = "# Generated from charts/longboat by `make generate`; edits are lost.\n"
_HELM_LABELS = ("helm.sh/chart", "app.kubernetes.io/managed-by")
_KEEP = "helm.sh/resource-policy"
# Files of manifests/ by the kinds that go into them; the rest goes into operator.yaml.
_FILES = {
    "crds.yaml": {"CustomResourceDefinition"},
    "rbac.yaml": {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"},
    "admission-policies.yaml": {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"},
}


def chart_crd(crd: Object) -> str:
    """Return a CRD as a template of the chart: with its labels, and kept on uninstallation if so wished."""
    head = f"  name: {crd['metadata']['name']}\n"
    before, after = dump(crd).split(head, 1)
    for part in (before, after):
        if "{{" in part:
            raise ValueError(f"{crd['metadata']['name']}: a description with {{{{ in it would be a template to helm")
    extra = (
        "  {{- if .Values.crds.keep }}\n  annotations:\n    helm.sh/resource-policy: keep\n  {{- end }}\n"
        '  labels:\n    {{- include "longboat.labels" . | nindent 4 }}\n'
    )
    return f"{{{{- if .Values.crds.enabled }}}}\n{HEADER}{before}{head}{extra}{after}{{{{- end }}}}\n"


def render(chart: Path, *arguments: str) -> list[Object]:
    """Return the objects of the chart as `helm template` renders them; raises CalledProcessError with its stderr."""
    helm = str(binaries.program("helm"))
    command = [helm, "template", RELEASE, str(chart), "--namespace", NAMESPACE, *arguments]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [each for each in yaml.safe_load_all(text) if each]


def manifests(chart: Path) -> dict[str, str]:
    """Return the generated files of manifests/ by name: the chart without hooks and without helm's own labels."""
    objects = [_without_helm(each) for each in render(chart, "--no-hooks")]
    taken = set().union(*_FILES.values())
    files = {name: [each for each in objects if each["kind"] in kinds] for name, kinds in _FILES.items()}
    files["operator.yaml"] = [each for each in objects if each["kind"] not in taken]
    return {name: MANIFESTS_HEADER + "---\n".join(map(dump, parts)) for name, parts in files.items()}


def _without_helm(obj: Object) -> Object:
    _drop(obj["metadata"])
    if "template" in (spec := obj.get("spec") or {}):
        _drop(spec["template"]["metadata"])
    return obj


def _drop(metadata: Object) -> None:
    for label in _HELM_LABELS:
        (metadata.get("labels") or {}).pop(label, None)
    annotations = metadata.get("annotations") or {}
    annotations.pop(_KEEP, None)
    if not annotations:
        metadata.pop("annotations", None)
