"""No planted identifier is left in what is stored, and what belongs together still does."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs medseg[pacs]")
from pydicom import datadict, dcmread
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from sqlalchemy import select

from medseg.deidentification.deidentifier import IdentifiersLeftError, deidentifier
from medseg.deidentification.profile import Profile, rows
from medseg.errors import ConfigError
from medseg.node.arrival import Arrival, Peer
from medseg.node.audit import Audit
from medseg.node.clock import Clock
from medseg.node.intake import Intake
from medseg.node.options import StorageOptions
from medseg.node.privacy_options import AuditOptions, DeidentifyOptions
from medseg.node.tables import instances, metadata
from medseg.node.vault import Vault
from tests.unit.node.listening import Database, ct_slice, encoded

KEY = b"0123456789abcdef0123456789abcdef"
TOKEN = "PLANTEDTOKEN"
VALUES = {
    "PN": f"{TOKEN}^X",
    "DA": "20190203",
    "DT": "20190203112233",
    "TM": "112233",
    "AS": "042Y",
    "UI": "1.2.840.99999.1",
    "DS": "1.5",
    "IS": "7",
    "AT": 0x00100010,
}


def options(**changed) -> DeidentifyOptions:
    return DeidentifyOptions(key={"env": "KEY"}, **changed)


def planted() -> Dataset:
    """A slice with a token in everything that the table names, in private elements, overlays and items."""
    data_set = ct_slice(1)
    for text in rows():
        if "x" in text:
            continue
        tag = Tag(int(text, 16))
        # An encapsulated document is refused.
        if tag.group in (0x0000, 0x0002, 0x0004) or tag == 0x00420011 or not datadict.dictionary_has_tag(tag):
            continue
        kind = datadict.dictionary_VR(tag).split(" or ")[0]
        if kind == "SQ":
            item = Dataset()
            item.PatientName, item.PatientComments = f"{TOKEN}^Y", TOKEN
            data_set.add_new(tag, kind, [item])
        elif kind in ("OB", "OW", "UN"):
            data_set.add_new(tag, kind, TOKEN.encode())
        elif kind in ("FL", "FD", "SL", "SS", "UL", "US"):
            data_set.add_new(tag, kind, 3)
        elif tag not in (0x00080018, 0x0020000D, 0x0020000E):
            data_set.add_new(tag, kind, VALUES.get(kind, TOKEN))
    block = data_set.private_block(0x0099, "SOMEBODY", create=True)
    block.add_new(1, "LO", TOKEN)
    data_set.add_new(0x60003000, "OW", TOKEN.encode())
    data_set.add_new(0x60024000, "LT", TOKEN)
    data_set.add_new(0x50003000, "OW", TOKEN.encode())
    item = Dataset()
    item.PatientID, item.ReferencedSOPInstanceUID = TOKEN, "1.2.840.99999.7"
    data_set.AnatomicRegionSequence = [item]
    return data_set


@pytest.mark.parametrize("retain", [(), ("uids", "device"), ("dates_modified", "patient_characteristics")])
def test_nothing_planted_is_left(retain):
    cleaned = deidentifier(options(retain=retain), KEY)(planted())
    allowed = {"DeviceSerialNumber"} if "device" in retain else set()
    left = [
        element.keyword
        for element in cleaned.iterall()
        if TOKEN in str(element.value) and element.keyword not in allowed
    ]
    profile = Profile(options(retain=retain))
    assert [word for word in left if profile.action(datadict.tag_for_keyword(word)) != "K"] == []
    assert not any(element.tag.is_private for element in cleaned.iterall())
    assert cleaned.PatientIdentityRemoved == "YES"
    codes = [item.CodeValue for item in cleaned.DeidentificationMethodCodeSequence]
    assert codes[0] == "113100"
    assert len(codes) == 1 + len(retain)


def test_every_row_of_the_basic_profile_is_obeyed():
    cleaned = deidentifier(options(), KEY)(planted())
    for text, row in rows().items():
        action = row["basic"]
        tag = None if "x" in text else Tag(int(text, 16))
        if tag is None or tag.group in (0, 2, 4) or tag in (0x00100010, 0x00100020):
            continue
        if action == "X":
            assert tag not in cleaned, text
        elif action in ("Z", "X/Z") and tag in cleaned:
            assert not cleaned[tag].value, text


def test_the_same_study_maps_the_same_way_and_another_key_another():
    first, again, other = (deidentifier(options(), key) for key in (KEY, KEY, KEY[::-1]))
    one, two, three = (change(ct_slice(1)) for change in (first, again, other))
    assert one.SOPInstanceUID == two.SOPInstanceUID != three.SOPInstanceUID
    assert one.StudyInstanceUID == first(ct_slice(2)).StudyInstanceUID
    assert one.PatientID == first(ct_slice(2)).PatientID != first(ct_slice(2, patient="P2")).PatientID
    assert one.StudyInstanceUID.startswith("2.25.")
    assert one.StudyInstanceUID.is_valid
    assert one.SOPClassUID == ct_slice(1).SOPClassUID
    assert one.PixelData == ct_slice(1).PixelData


def test_patients_without_a_number_are_told_apart():
    change = deidentifier(options(), KEY)

    def stand_in(name: str, study: str) -> str:
        one = ct_slice(1, study=study)
        one.PatientID, one.PatientName = "", name
        return str(change(one).PatientID)

    assert stand_in("Doe^Jane", "1.2") == stand_in("Doe^Jane", "1.3") != stand_in("Roe^Jane", "1.2")
    assert stand_in("", "1.2") != stand_in("", "1.3")


def test_shifted_dates_keep_their_distance():
    change = deidentifier(options(retain=("dates_modified",)), KEY)
    dates = []
    for number, day in ((1, "20240228"), (2, "20240302")):
        one = ct_slice(number)
        one.StudyDate, one.StudyTime = day, "101112"
        cleaned = change(one)
        dates.append(cleaned.StudyDate)
        assert cleaned.StudyTime == "101112"
        assert cleaned.LongitudinalTemporalInformationModified == "MODIFIED"
    from datetime import datetime

    first, second = (datetime.strptime(day, "%Y%m%d") for day in dates)
    assert (second - first).days == 3
    assert dates[0] < "20240228"


def test_descriptions_and_annotations_are_cleaned_where_asked():
    one = ct_slice(1)
    one.SeriesDescription = f"T1 AX {TOKEN} 5mm"
    text, annotation = Dataset(), Dataset()
    text.UnformattedTextValue = TOKEN
    annotation.TextObjectSequence = [text]
    one.GraphicAnnotationSequence = [annotation]
    cleaned = deidentifier(options(clean=("descriptors", "graphics")), KEY)(one)
    assert cleaned.SeriesDescription == "T1 AX 5mm"
    assert cleaned.GraphicAnnotationSequence[0].TextObjectSequence[0].UnformattedTextValue == "REMOVED"


def test_burned_in_identifiers_and_short_keys_are_refused():
    one = ct_slice(1)
    one.BurnedInAnnotation = "YES"
    with pytest.raises(IdentifiersLeftError, match="burned into its pixels"):
        deidentifier(options(), KEY)(one)
    assert deidentifier(options(burned_in="accept"), KEY)(one).PatientID.startswith("P-")
    with pytest.raises(ConfigError, match=r"deidentify\.key: 5 characters"):
        deidentifier(options(), b"short")
    with pytest.raises(ValueError, match="not both"):
        options(retain=("dates_full", "dates_modified"))


def test_no_byte_on_disk_tells_who_it_was(tmp_path: Path):
    database = Database.in_file(tmp_path / "node.db", metadata)
    intake = Intake(
        StorageOptions(reserve=1),
        database=database,
        vault=Vault(tmp_path),
        audit=Audit(tmp_path, AuditOptions(), Clock()),
        clock=Clock(),
        secret=b"s",
        deidentify=deidentifier(options(), KEY),
    )
    intake.start()
    given = planted()
    arrival = Arrival(
        data_set=encoded(given),
        transfer_syntax_uid=given.file_meta.TransferSyntaxUID,
        sop_instance_uid=given.SOPInstanceUID,
        peer=Peer(route="dimse", name="CT1"),
    )
    assert intake.accept(arrival).verdict == "stored"
    assert intake.accept(arrival).verdict == "duplicate"
    given.BurnedInAnnotation = "YES"
    given.SOPInstanceUID = "1.2.3.4"
    again = Arrival(
        data_set=encoded(given), transfer_syntax_uid=arrival.transfer_syntax_uid, peer=arrival.peer
    )
    assert intake.accept(again).verdict == "refused"
    with database.read() as connection:
        (row,) = connection.execute(select(instances)).mappings()
    intake.stop()
    database.close()
    stored = dcmread(io.BytesIO(Vault(tmp_path).read(row["path"])))
    assert stored.SOPInstanceUID == row["sop_instance_uid"] != ct_slice(1).SOPInstanceUID
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for trace in (TOKEN, "Doe^Jane", str(ct_slice(1).SOPInstanceUID), str(ct_slice(1).StudyInstanceUID)):
        assert trace.encode() not in everything
