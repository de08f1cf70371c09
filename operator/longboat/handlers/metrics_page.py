"""The page of metrics: what has not changed since the last scrape is not written again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from longboat import __version__
from longboat.plan.metrics import METRICS, Metric
from longboat.reconcile.figures import Figures, Samples


def _sample_names(metric: Metric) -> tuple[str, ...]:
    return (f"{metric.name}_count", f"{metric.name}_sum") if metric.type == "summary" else (metric.name,)


_BY_SAMPLE = {name: metric for metric in METRICS for name in _sample_names(metric)}


class Page:
    """Writes the text format; used by one thread at a time."""

    def __init__(self, figures: Figures) -> None:
        self._figures, self._process = figures, CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._process)
        self._written: dict[int, tuple[Samples, dict[str, bytes]]] = {}
        self._heads = {metric.name: generate_latest(_Families([_family(metric)])) for metric in METRICS}

    def text(self) -> bytes:
        """Return all that is known, family by family, and what the process itself takes."""
        withheld, parts = self._figures.withheld, [*self._figures.parts()]
        own: Samples = (("longboat_build_info", (__version__,), 1.0),)
        lines = [self._lines(part) for part in [own, *parts]]
        pieces = list[bytes]()
        for metric in METRICS:
            if metric.name not in withheld and (its := [each[metric.name] for each in lines if metric.name in each]):
                pieces += [self._heads[metric.name], *its]
        # Only what was part of this page is kept: of objects that are gone nothing is.
        self._written = {id(part): (part, its) for part, its in zip(parts, lines[1:], strict=True)}
        return b"".join([*pieces, generate_latest(self._process)])

    def _lines(self, part: Samples) -> dict[str, bytes]:
        # An id is that of the same object for as long as the object is held here.
        known = self._written.get(id(part))
        return known[1] if known else self._write(part)

    def _write(self, part: Samples) -> dict[str, bytes]:
        families: dict[str, Family] = {}
        for name, values, value in part:
            metric = _BY_SAMPLE[name]
            family = families.setdefault(metric.name, _family(metric))
            family.add_sample(name, dict(zip(metric.labels, values, strict=True)), value)
        return {
            name: generate_latest(_Families([family])).removeprefix(self._heads[name])
            for name, family in families.items()
        }


@dataclass(frozen=True)
class _Families(Collector):
    families: Iterable[Family]

    def collect(self) -> Iterator[Family]:
        yield from self.families


def _family(metric: Metric) -> Family:
    # The library adds the ending of counters itself.
    name = metric.name.removesuffix("_total") if metric.type == "counter" else metric.name
    return Family(name, metric.help, metric.type)
