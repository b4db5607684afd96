"""Which objects of the validator battery are judged on which source, where not all are."""

from __future__ import annotations

from pydicom import uid
from validator_battery import OBJECTS, SOURCES, ObjectSpec, SourceSpec

_COMPRESSED = (uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless)


def traits(source: SourceSpec) -> set[tuple[str, object]]:
    """What a writer may treat differently about a source."""
    if source.is_projection:
        return {("modality", "CR or DX")}
    syntax = source.transfer_syntax
    return {
        ("modality", source.modality),
        ("turned", any(source.turn)),
        ("tilted", bool(source.lean)),
        ("mirrored", source.mirrored),
        ("frames", source.multiframe),
        ("slices", "few" if source.shape[2] < 3 else "many"),
        ("pixels", "compressed" if syntax in _COMPRESSED else syntax),
    }


def features(obj: ObjectSpec) -> set[tuple[str, object]]:
    """What an object may be written differently for."""
    size = next(
        name for least, name in ((20, "many"), (7, "some"), (2, "few"), (1, "one")) if obj.segments >= least
    )
    return {
        ("kind", obj.kind),
        ("segments", size),
        ("graded", obj.graded),
        ("compression", obj.compression),
        ("report", obj.report),
    }


def wanted(source: SourceSpec, obj: ObjectSpec) -> set[object]:
    """What this object on this source shows."""
    here = traits(source)
    met = {(trait, feature) for trait in here for feature in features(obj)}
    return met | {(source.name, obj.kind)} | {(trait, obj.name) for trait in here if trait[0] == "modality"}


def covering_pairs() -> dict[SourceSpec, list[ObjectSpec]]:
    """Objects by source: each trait meets each feature, each source each kind, each modality each object.

    Chosen greedily: each next pair is the first of those that show most of what is not shown yet.
    """
    pairs = [(source, obj) for source in SOURCES for obj in OBJECTS]
    missing = set().union(*(wanted(*pair) for pair in pairs))
    chosen: dict[SourceSpec, list[ObjectSpec]] = {source: [] for source in SOURCES}
    while missing:
        source, obj = max(pairs, key=lambda pair: len(wanted(*pair) & missing))
        chosen[source].append(obj)
        missing -= wanted(source, obj)
    return chosen
