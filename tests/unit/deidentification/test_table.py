"""Table E.1-1: what stands in it, and how it is made of the published standard."""

from __future__ import annotations

import json
from html import escape
from importlib import resources
from itertools import combinations

import pytest
from pydicom import datadict

from medseg.deidentification.options import ProfileOptions
from medseg.deidentification.profile import Profile, rows
from medseg.deidentification.table_from_standard import main, table_of, table_text
from medseg.errors import ConfigError, InputError

HEADER = (
    "Attribute Name",
    "Tag",
    "Retd. (from PS3.6)",
    "In Std. Comp. IOD (from PS3.3)",
    "Basic Prof.",
    "Rtn. Safe Priv. Opt.",
    "Rtn. UIDs Opt.",
    "Rtn. Dev. Id. Opt.",
    "Rtn. Inst. Id. Opt.",
    "Rtn. Pat. Chars. Opt.",
    "Rtn. Long. Full Dates Opt.",
    "Rtn. Long. Modif. Dates Opt.",
    "Clean Desc. Opt.",
    "Clean Struct. Cont. Opt.",
    "Clean Graph. Opt.",
)
COLUMNS = ("basic", "safe_private", "uids", "device", "institution", "patient_characteristics", "dates_full")
COLUMNS += ("dates_modified", "descriptors", "structured_content", "graphics")
RETAIN = (
    "uids",
    "device",
    "institution",
    "patient_characteristics",
    "dates_full",
    "dates_modified",
    "safe_private",
)
CLEAN = ("descriptors", "structured_content", "graphics")

# Copied one by one from another transcription of the published table: tag, basic profile, options that it names.
READ_BY_HAND = """
00080050 Z
00184000 X descriptors=C
00400555 X/Z structured_content=C
00080022 X/Z dates_full=K dates_modified=C
0008002a X/Z/D dates_full=K dates_modified=C
00181400 X/D descriptors=C
001811bb D descriptors=C
00189424 X descriptors=C
00080032 X/Z dates_full=K dates_modified=C
00404035 X
001021b0 X descriptors=C
0040a353 X
00380010 X
00380020 X dates_full=K dates_modified=C
00081084 X descriptors=C
00081080 X descriptors=C
00001000 X uids=K
00102110 X patient_characteristics=C descriptors=C
40000010 X
0040a078 X
22000005 X/Z
300a00c3 X descriptors=C
00101081 X
0016004d X
00181007 X device=K
00120060 Z institution=K
00120082 X
00120081 D institution=K
00120020 D
00120021 Z
00120072 X descriptors=C
00120030 Z institution=K
00120040 D
00120050 Z
00209161 U uids=K
3010000f Z descriptors=C
30100006 U uids=K
0008009c Z
0008009d X
00400512 D
00700086 X
00700084 Z/D
00080023 Z/D dates_full=K dates_modified=C
0040a730 D structured_content=C
00080033 Z/D dates_full=K dates_modified=C
00180010 Z/D descriptors=C
50xxxxxx X graphics=C
00080025 X dates_full=K dates_modified=C
fffcfffc X
0018700a X/D device=K
3010001b Z
00500020 X device=K
3010002d D device=K
00181000 X/Z/D device=K
00181002 U uids=K device=K
fffafffa X
04000100 U
00209164 U uids=K
"""


def docbook(table: dict[str, dict[str, str]], cell: str = "<td><para>{}</para></td>") -> str:
    """Table E.1-1 as the standard is published: DocBook, with hints where lines may break, after another table."""

    def line(cells, form):
        return "<tr>" + "".join(form.format(escape(text)) if text else "<td/>" for text in cells) + "</tr>"

    lines = []
    for tag, codes in table.items():
        shown = f"({tag[:4].upper().replace('XX', 'xx')},\N{ZERO WIDTH SPACE}{tag[4:].upper().replace('XXXX', 'xxxx')})"
        lines.append(line(["Name & more", shown, "N", "Y", *(codes.get(name, "") for name in COLUMNS)], cell))
    private = line(
        ["Private Attributes", "(gggg,eeee) where gggg is odd", "N", "N", "X", "C", *[""] * 9], cell
    )
    return (
        '<?xml version="1.0"?><book xmlns="http://docbook.org/ns/docbook"><subtitle>DICOM PS3.15 2026c - Security'
        "</subtitle><table><tbody><tr><td><para>Tag</para></td></tr></tbody></table>"
        f'<table xml:id="table_E.1-1"><caption>Attributes</caption><thead>{line(HEADER, "<th><para>{}</para></th>")}'
        f"</thead><tbody>{private}{''.join(lines)}</tbody></table></book>"
    )


@pytest.mark.parametrize("line", READ_BY_HAND.split("\n")[1:-1])
def test_rows_are_those_of_the_standard(line):
    tag, basic, *options = line.split()
    assert dict(rows()[tag]) == {"basic": basic, **dict(option.split("=") for option in options)}


@pytest.mark.parametrize(
    "cell", ["<td><para>{}</para></td>", '<td align="left"><p><a id="x"></a>{}</p></td>']
)
def test_the_shipped_table_is_made_from_the_published_form(cell, tmp_path, capsys):
    shipped = resources.files("medseg.deidentification").joinpath("profile_table.json").read_text("utf-8")
    path = tmp_path / "part15.xml"
    path.write_text(docbook(json.loads(shipped)["rows"], cell), encoding="utf-8")
    main([str(path)])
    made = capsys.readouterr().out
    assert made.split("\n")[2:] == shipped.split("\n")[2:]
    assert "edition 2026c" in made.split("\n")[1]
    assert table_text(rows(), json.loads(shipped)["source"]) == shipped


def test_a_table_that_is_not_understood_is_refused(tmp_path):
    table = {tag: dict(codes) for tag, codes in rows().items()}
    with pytest.raises(InputError, match="no table with the columns"):
        table_of(docbook(table).replace("Clean Desc. Opt.", "Clean Descriptors"))
    with pytest.raises(InputError, match="unknown one, for"):
        table_of(docbook(table | {"00080050": {"basic": "Q"}}))
    with pytest.raises(InputError, match="has no action code"):
        table_of(docbook(table | {"00080050": {"uids": "K"}}))
    with pytest.raises(InputError, match="a tag that is not understood"):
        table_of(docbook(table).replace("(0008,\N{ZERO WIDTH SPACE}0050)", "0008.0050"))
    with pytest.raises(InputError, match=r"stands in Table E\.1-1 twice"):
        table_of(docbook(table).replace("(0008,\N{ZERO WIDTH SPACE}0050)", "(0008,0080)"))
    with pytest.raises(InputError, match="has 3 rows, expected 200"):
        table_of(docbook(dict(list(table.items())[:3])))
    with pytest.raises(ConfigError, match="one argument"):
        main([])


def every_choice():
    """All combinations of options: 96 of what is retained by 8 of what is cleaned."""
    for count in range(len(RETAIN) + 1):
        for retain in combinations(RETAIN, count):
            if not {"dates_full", "dates_modified"} <= set(retain):
                for number in range(len(CLEAN) + 1):
                    for clean in combinations(CLEAN, number):
                        yield retain, clean


def test_every_row_in_every_combination_of_options():
    choices = list(every_choice())
    assert len(choices) == 96 * 8
    for retain, clean in choices:
        profile = Profile(ProfileOptions(retain=retain, clean=clean))
        for text, row in rows().items():
            # A group of the repeating ones stands for all.
            tag = int(text.replace("50xxxxxx", "50020010").replace("60xx", "6002"), 16)
            kept = {row.get(name) for name in retain} - {None}
            cleaned = [name for name in clean if name in row]
            expected = row["basic"]
            if "dates_modified" in retain and "dates_modified" in row:
                expected = "S"
            elif "K" in kept:
                expected = "K"
            elif kept:
                expected = "C descriptors"
            elif cleaned:
                expected = f"C {cleaned[0]}"
            assert profile.action(tag) == expected, (text, retain, clean)


def test_the_order_of_options_does_not_count():
    for text in rows():
        if "x" not in text:
            one = Profile(ProfileOptions(retain=("device", "dates_modified")))
            other = Profile(ProfileOptions(retain=("dates_modified", "device")))
            assert one.action(int(text, 16)) == other.action(int(text, 16))


def test_methods_name_exactly_the_options():
    assert [code for code, _ in Profile(ProfileOptions()).methods] == ["113100"]
    both = Profile(
        ProfileOptions(retain=("safe_private", "dates_modified"), clean=("graphics", "descriptors"))
    )
    assert [code for code, _ in both.methods] == ["113100", "113103", "113105", "113107", "113111"]
    assert all(len(meaning) <= 64 for _, meaning in both.methods)


def test_what_the_table_does_not_name():
    profile = Profile(ProfileOptions())
    # The concatenation's source is an instance, a class is none; an unknown attribute is nobody's.
    assert profile.action(0x00200242) == "U"
    assert profile.action(0x00080016) == ""
    assert profile.action(0x00280010) == ""
    assert profile.action(0x00089999) == "X"
    assert profile.action(0x60000010) == profile.action(0x60FE1500) == "X"
    assert profile.action(0x0040A160) == "D"
    assert profile.action(0x00141020) == "D"
    assert Profile(ProfileOptions(retain=("dates_modified",))).action(0x00141020) == "S"
    assert Profile(ProfileOptions(retain=("uids",))).action(0x00200242) == "K"
    for entry in datadict.DicomDictionary:
        if datadict.dictionary_VR(entry) in ("PN",):
            assert profile.action(entry) not in ("", "K"), f"{entry:08x}"
