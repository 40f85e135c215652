"""Labels of other people's pipelines, and the types of a scheme that they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from groundling.errors import InputError
from groundling.records import EntityType, Scheme

USUAL: Mapping[str, EntityType] = {
    "PERSON": "PER",
    "GPE": "LOC",
    "LOC": "LOC",
    "FAC": "LOC",
    "ORG": "ORG",
    "NORP": "MISC",
    "EVENT": "MISC",
    "PRODUCT": "MISC",
    "WORK_OF_ART": "MISC",
    "LAW": "MISC",
    "LANGUAGE": "MISC",
}
"""OntoNotes 5 in the four types of Twitter-GMNER (ours). What is missing, numbers and dates, is no
entity there."""


def types_of_labels(
    labels: Iterable[str], scheme: Scheme, changes: Mapping[str, str | None]
) -> dict[str, EntityType]:
    """The type of each label that stands for one.

    What `changes` says of a label counts first (None drops it), then whether the label is itself
    a type of the scheme, then USUAL. Raises InputError where `changes` names what is not there, and
    where no label is left.
    """
    known = sorted(labels)
    for label, kind in changes.items():
        if label not in known:
            raise InputError(
                f"tagger.labels: the pipeline has no label {label}; it has {', '.join(known)}"
            )
        if kind is not None and kind not in scheme.types:
            raise InputError(
                f"tagger.labels.{label}: got {kind}; scheme {scheme.name} has "
                f"{', '.join(scheme.types)}"
            )
    own = {
        spelling.casefold(): kind
        for kind in scheme.types
        for spelling in (kind, scheme.on_disk(kind))
    }
    found = {
        label: changes.get(label, own.get(label.casefold(), USUAL.get(label))) for label in known
    }
    kept = {label: kind for label, kind in found.items() if kind in scheme.types}
    if not kept:
        raise InputError(
            f"no label of the pipeline ({', '.join(known) or 'it has none'}) stands for a type of "
            f"scheme {scheme.name} ({', '.join(scheme.types)}); say which in tagger.labels"
        )
    return {label: kind for label, kind in kept.items() if kind is not None}
