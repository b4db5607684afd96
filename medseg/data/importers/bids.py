"""A BIDS tree -> cases: images of chosen suffixes, masks from its derivatives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from medseg.data.importers.bids_labels import label_names
from medseg.data.importers.bids_names import BidsFile, bids_file, read_tsv
from medseg.data.importers.file_names import list_files
from medseg.data.importers.records import ImportOptions, Listing, counted, shown
from medseg.data.manifest import Case
from medseg.errors import ConfigError, ManifestError

_LABEL_SUFFIXES = ("dseg", "mask")
_MANIFEST_COLUMNS = frozenset(
    {"case_id", "patient_id", "image", "label", "label_scheme", "split", "fold", "sha256"}
)
Entities = frozenset[tuple[str, str]]


def list_bids(folder: Path, options: ImportOptions) -> Listing:
    """The cases of a BIDS tree.

    Parameters
    ----------
    folder : Path
        Holds sub-*/[ses-*/]<datatype>/ and, for masks, derivatives/.
    options : ImportOptions
        `suffixes` chooses the images; several become channels of one case, which must agree in all
        other entities. `label_pattern` chooses the masks; without it, every `_dseg` and `_mask` that
        lies in the space of the image does.

    Returns
    -------
    Listing
        case id: the image's name without suffix; patient id: sub-<label>. The columns of
        participants.tsv follow each case.

    Raises
    ------
    ConfigError
        No suffix is chosen.

    Notes
    -----
    A mask belongs to the image with the same entities, those of `bids_names.DERIVED` aside. Where
    none has the same, it belongs to the one image whose entities include all of its own. Masks in
    another space (`space-MNI152...`) lie on another grid and are left out.

    References
    ----------
    Brain Imaging Data Structure 1.10, common principles; derivatives, imaging derivatives.
    """
    if not options.suffixes:
        raise ConfigError("a BIDS tree needs --suffix: which images are wanted, such as T1w or T1w,FLAIR")
    listing = Listing(kind="bids", title=folder.name)
    listing.channels = options.suffixes
    groups = _images(folder, options.suffixes)
    if not groups:
        listing.add(f"there is no image *_{options.suffixes[0]}.nii.gz in {folder}/sub-*", fatal=True)
        return listing
    masks = _assigned(listing, groups, _masks(listing, folder, options))
    people = _participants(listing, folder)
    for group in groups.values():
        _case(listing, group, masks.get(group.case_id, []), people, options)
    listing.cases = _same_columns(listing.cases)
    strangers = {case.patient_id for case in listing.cases} - set(people)
    if people and strangers:
        listing.notes.append(
            f"participants.tsv does not name {counted(len(strangers), 'subject')} of the cases"
        )
    listing.names = label_names(listing, folder, options)
    return listing


@dataclass(slots=True, kw_only=True)
class _Group:
    """The images of one case: all that have the same entities, by suffix."""

    case_id: str
    entities: Entities
    files: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))

    @property
    def subject(self) -> str:
        return "sub-" + dict(self.entities)["sub"]


def _images(folder: Path, suffixes: Sequence[str]) -> dict[Entities, _Group]:
    groups: dict[Entities, _Group] = {}
    for subject in sorted(folder.glob("sub-*")):
        if not subject.is_dir():
            continue
        for path in list_files(subject, below=True):
            named = bids_file(path)
            if named is None or named.suffix not in suffixes or "sub" not in named.entities:
                continue
            key = frozenset(named.entities.items())
            case_id = "_".join(f"{k}-{v}" for k, v in named.entities.items())
            group = groups.setdefault(key, _Group(case_id=case_id, entities=key))
            group.files[named.suffix].append(path)
    return groups


def _masks(listing: Listing, folder: Path, options: ImportOptions) -> list[BidsFile]:
    """The files of derivatives that may be masks of the chosen images."""
    home = folder / "derivatives"
    found, elsewhere = [], 0
    for path in list_files(home, below=True) if home.is_dir() else []:
        named = bids_file(path)
        if named is None:
            continue
        if options.label_pattern is not None:
            wanted = fnmatchcase(path.relative_to(home).as_posix(), options.label_pattern)
        else:
            wanted = named.suffix in _LABEL_SUFFIXES
        if not wanted or not set(_contrasts(named)) <= set(options.suffixes):
            continue
        if named.entities.get("space", "orig") not in {"orig", *options.suffixes}:
            elsewhere += 1
            continue
        found.append(named)
    if elsewhere:
        listing.notes.append(f"{counted(elsewhere, 'mask')} in another space than the images left out")
    return found


def _contrasts(mask: BidsFile) -> tuple[str, ...]:
    """The suffix of the source image where the mask's name still has it: sub-1_T2w_label-sc_mask."""
    # Suffixes of contrasts are written T1w, FLAIR; what people write for masks begins small: seg.
    return (*mask.words[:-1], *(word for word in mask.words[-1:] if word[:1].isupper()))


def _assigned(
    listing: Listing, groups: Mapping[Entities, _Group], masks: Sequence[BidsFile]
) -> dict[str, list[BidsFile]]:
    """case id -> its masks; a mask of no image or of several is a problem."""
    by_subject: dict[str, list[_Group]] = defaultdict(list)
    for group in groups.values():
        by_subject[dict(group.entities)["sub"]].append(group)
    found: dict[str, list[BidsFile]] = defaultdict(list)
    for mask in masks:
        own = frozenset(mask.source.items())
        if own in groups:
            found[groups[own].case_id].append(mask)
            continue
        homes = [g for g in by_subject[mask.entities.get("sub", "")] if own <= g.entities]
        if len(homes) == 1:
            found[homes[0].case_id].append(mask)
        elif not homes:
            listing.add(f"the mask {mask.path} has no image with its entities")
        else:
            several = shown(g.case_id for g in homes)
            for group in homes:
                listing.add(f"the mask {mask.path} may belong to {several}", case_id=group.case_id)
    return found


def _case(
    listing: Listing,
    group: _Group,
    masks: Sequence[BidsFile],
    people: Mapping[str, Mapping[str, str]],
    options: ImportOptions,
) -> None:
    _case_problems(listing, group, masks, options)
    images = tuple(path for suffix in options.suffixes for path in group.files[suffix][:1])
    if images:
        listing.cases.append(
            Case(
                case_id=group.case_id,
                patient_id=group.subject,
                images=images,
                label=masks[0].path if masks else None,
                columns=dict(people.get(group.subject, {})),
            )
        )


def _case_problems(
    listing: Listing, group: _Group, masks: Sequence[BidsFile], options: ImportOptions
) -> None:
    """Note images that are missing or doubled, and a mask that is missing or not the only one."""
    case_id = group.case_id
    for suffix in options.suffixes:
        if len(group.files[suffix]) != 1:
            found = shown(group.files[suffix]) or "none"
            listing.add(f"expected one image {case_id}_{suffix}, found {found}", case_id=case_id)
    if len(masks) > 1:
        text = (
            f"several masks: {shown(mask.path for mask in masks)}; choose with --label-pattern, "
            "one file holds all labels of a case"
        )
        listing.add(text, case_id=case_id)
    if not masks and not options.keep_unlabelled:
        listing.add("the image has no mask *_dseg or *_mask in derivatives", case_id=case_id)


def _participants(listing: Listing, folder: Path) -> dict[str, dict[str, str]]:
    """participant id -> columns for the manifest; one that the manifest has itself gets a prefix."""
    path = folder / "participants.tsv"
    if not path.is_file():
        return {}
    try:
        rows = read_tsv(path)
    except ManifestError as err:
        listing.add(str(err), fatal=True)
        return {}
    if rows and "participant_id" not in rows[0]:
        text = f"{path}: expected a column participant_id, found {', '.join(rows[0])[:200]}"
        listing.add(text, fatal=True)
        return {}
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        subject = row["participant_id"]
        subject = subject if subject.startswith("sub-") else f"sub-{subject}"
        if subject in found:
            listing.add("participants.tsv names a subject twice")
        found[subject] = {_column(name): cell for name, cell in row.items() if name != "participant_id"}
    return found


def _column(name: str) -> str:
    taken = name in _MANIFEST_COLUMNS or name.startswith("image_")
    return f"participant_{name}" if taken else name


def _same_columns(cases: Sequence[Case]) -> list[Case]:
    """The cases, each with every column that one of them has; an absent value is empty."""
    names = list(dict.fromkeys(name for case in cases for name in case.columns))
    return [replace(case, columns={name: case.columns.get(name, "") for name in names}) for case in cases]
