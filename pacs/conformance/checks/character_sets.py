"""Checks of matching across character sets and component groups (PS3.4 C.2.2.2, PS3.5 6.2.1)."""

from pacs.conformance.checks.results import CheckResult, Checks, conforms, deviates, free, judge
from pacs.conformance.checks.toolkit import FindResult, Key, ResponseIdentifier, Toolkit

CHECKS = Checks("matching")
check = CHECKS.check

UTF8, LATIN1, KANJI = "ISO_IR 192", "ISO_IR 100", "\\ISO 2022 IR 87"


def _by_name(tools: Toolkit, label: str, name: str, codec: str, charset: str) -> FindResult:
    tools.need(label)
    keys: dict[str, Key] = {"PatientName": name.encode(codec), "SpecificCharacterSet": charset}
    return tools.find("STUDY", keys)


@check("M14", "PS3.4 C.2.2.2")
def same_charset(tools: Toolkit) -> CheckResult:
    """Does a name in ISO_IR 100 match a key in the same character set?"""
    return _by_name(tools, "6", "Pacsrun-Müller^Jürgen", "latin-1", LATIN1).judge("6")


@check("M14b", "PS3.4 C.2.2.2")
def other_charset(tools: Toolkit) -> CheckResult:
    """Does a name in ISO_IR 100 match a key in ISO_IR 192?"""
    return _by_name(tools, "6", "Pacsrun-Müller^Jürgen", "utf-8", UTF8).judge("6")


@check("M14c", "PS3.4 C.4.1.1.3.2")
def named_charset(tools: Toolkit) -> CheckResult:
    """Does a match state the character set of its values?"""
    tools.need("6")
    found = tools.find("STUDY", {"StudyInstanceUID": tools.samples.uid("6"), "PatientName": ""})
    if len(found.matches) != 1:
        return deviates(f"{len(found.matches)} responses, {found.status_text}")
    match: ResponseIdentifier = found.matches[0]
    if match.text("PatientName").isascii():
        return deviates(f"the name is returned as {match.text('PatientName')}")
    name, charset = str(match.dataset.PatientName), match.text("SpecificCharacterSet")
    return judge(charset and name == "Pacsrun-Müller^Jürgen", f"{charset or 'no character set'}: {name}")


@check("M14d", "PS3.4 C.2.2.2")
def unknown_charset(tools: Toolkit) -> CheckResult:
    """How does the server treat an unknown character set in a query?"""
    found = tools.find_studies(SpecificCharacterSet="ISO_IR 999", AccessionNumber="ACC-a1")
    return free(f"refused, with {found.status_text}" if found.status else "it is ignored")


@check("M14e", "PS3.4 C.2.2.2")
def greek(tools: Toolkit) -> CheckResult:
    """Does a name in ISO_IR 192 match a key in the same character set?"""
    return _by_name(tools, "7", "Pacsrun-Ωmega^Σofia", "utf-8", UTF8).judge("7")


@check("M14f", "PS3.4 C.2.2.2.4")
def long_character(tools: Toolkit) -> CheckResult:
    """Does ? match one multi-byte character?"""
    return _by_name(tools, "6", "Pacsrun-M?ller*", "utf-8", UTF8).judge("6")


@check("M15", "PS3.5 6.2.1")
def groups_of_names(tools: Toolkit) -> CheckResult:
    """Does one component group of a name match any stored group?"""
    names = {"alphabetic": "Pacsrun-Yamada^Tarou", "ideographic": "山田^太郎", "phonetic": "やまだ^たろう"}
    found = [kind for kind, name in names.items() if _by_name(tools, "5", name, "utf-8", UTF8).studies == {"5"}]
    return free(f"matched by {', '.join(found)}" if found else "no single group matches")


@check("M15b", "PS3.4 C.2.2.2.1")
def whole_name(tools: Toolkit) -> CheckResult:
    """Does a key with three component groups match the stored name?"""
    name = "Pacsrun-Yamada^Tarou=山田^太郎=やまだ^たろう"
    return _by_name(tools, "5", name, "iso2022_jp", KANJI).judge("5")


@check("M15c", "PS3.5 6.2.1")
def delimiters(tools: Toolkit) -> CheckResult:
    """Are delimiters at the end of a name ignored?"""
    found = tools.find_studies(PatientName="Pacsrun^Alpha^Middle^^")
    return (
        conforms("they are ignored")
        if len(found.studies) == 4
        else free(f"with them {len(found.studies)} of 4 studies are found")
    )
