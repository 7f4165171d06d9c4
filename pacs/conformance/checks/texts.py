"""What a key matches that is written in other character sets, or in several groups (PS3.4 C.2.2.2, PS3.5 6.2.1)."""

from pacs.conformance.checks.bench import Bench, Found, Key, Match
from pacs.conformance.checks.verdicts import Checks, Verdict, conforms, deviates, free, judge

CHECKS = Checks("matching")
check = CHECKS.check

UTF8, LATIN1, KANJI = "ISO_IR 192", "ISO_IR 100", "\\ISO 2022 IR 87"


def _by_name(bench: Bench, label: str, name: str, codec: str, charset: str) -> Found:
    bench.need(label)
    keys: dict[str, Key] = {"PatientName": name.encode(codec), "SpecificCharacterSet": charset}
    return bench.find("STUDY", keys)


@check("M14", "PS3.4 C.2.2.2")
def same_charset(bench: Bench) -> Verdict:
    """Does a name in ISO_IR 100 match a key in the same character set?"""
    return _by_name(bench, "6", "Pacsrun-Müller^Jürgen", "latin-1", LATIN1).judge("6")


@check("M14b", "PS3.4 C.2.2.2")
def other_charset(bench: Bench) -> Verdict:
    """Does a name in ISO_IR 100 match a key in ISO_IR 192?"""
    return _by_name(bench, "6", "Pacsrun-Müller^Jürgen", "utf-8", UTF8).judge("6")


@check("M14c", "PS3.4 C.4.1.1.3.2")
def named_charset(bench: Bench) -> Verdict:
    """Does a match state the character set of its values?"""
    bench.need("6")
    found = bench.find("STUDY", {"StudyInstanceUID": bench.specimens.uid("6"), "PatientName": ""})
    if len(found.ours) != 1:
        return deviates(f"{len(found.ours)} responses, {found.ending}")
    match: Match = found.ours[0]
    if match.text("PatientName").isascii():
        return deviates(f"the name comes as {match.text('PatientName')}")
    name, charset = str(match.dataset.PatientName), match.text("SpecificCharacterSet")
    return judge(charset and name == "Pacsrun-Müller^Jürgen", f"{charset or 'no character set'}: {name}")


@check("M14d", "PS3.4 C.2.2.2")
def unknown_charset(bench: Bench) -> Verdict:
    """How does the server treat an unknown character set in a query?"""
    found = bench.of_patient(SpecificCharacterSet="ISO_IR 999", AccessionNumber="ACC-a1")
    return free(f"refused, with {found.ending}" if found.status else "it is passed over")


@check("M14e", "PS3.4 C.2.2.2")
def greek(bench: Bench) -> Verdict:
    """Does a name in ISO_IR 192 match a key in the same character set?"""
    return _by_name(bench, "7", "Pacsrun-Ωmega^Σofia", "utf-8", UTF8).judge("7")


@check("M14f", "PS3.4 C.2.2.2.4")
def long_character(bench: Bench) -> Verdict:
    """Does ? match one multi-byte character?"""
    return _by_name(bench, "6", "Pacsrun-M?ller*", "utf-8", UTF8).judge("6")


@check("M15", "PS3.5 6.2.1")
def groups_of_names(bench: Bench) -> Verdict:
    """Does one component group of a name match any stored group?"""
    names = {"alphabetic": "Pacsrun-Yamada^Tarou", "ideographic": "山田^太郎", "phonetic": "やまだ^たろう"}
    found = [kind for kind, name in names.items() if _by_name(bench, "5", name, "utf-8", UTF8).studies == {"5"}]
    return free(f"found by {', '.join(found)}" if found else "found by no single group")


@check("M15b", "PS3.4 C.2.2.2.1")
def whole_name(bench: Bench) -> Verdict:
    """Does a key with three component groups match the stored name?"""
    name = "Pacsrun-Yamada^Tarou=山田^太郎=やまだ^たろう"
    return _by_name(bench, "5", name, "iso2022_jp", KANJI).judge("5")


@check("M15c", "PS3.5 6.2.1")
def delimiters(bench: Bench) -> Verdict:
    """Are delimiters at the end of a name ignored?"""
    found = bench.of_patient(PatientName="Pacsrun^Alpha^Middle^^")
    return (
        conforms("they are")
        if len(found.studies) == 4
        else free(f"with them {len(found.studies)} of 4 studies are found")
    )
