"""Explanations of queries and retrieves: their content, printable and of limited length."""

import json

import pytest

from pacs.dicom.levels import MODELS
from pacs.dicom.matching_mode import STRICT, TOLERANT, Negotiated
from pacs.dimse.scp.explain_hook import statuses
from pacs.services.explaining import Explainer, ExplainRequest
from tests.dicom.build import dataset

FIND, MOVE = MODELS["1.2.840.10008.5.1.4.1.2.2.1"], MODELS["1.2.840.10008.5.1.4.1.2.2.2"]


@pytest.fixture
def explain(index):
    """Function that explains an Identifier with an empty index, on each database."""

    def explained(level="STUDY", model=FIND, manner=TOLERANT, negotiated=Negotiated(), **keys):  # noqa: B008
        asked = ExplainRequest(dataset("", QueryRetrieveLevel=level, **keys), model, manner, negotiated)
        return Explainer(index, statuses).explain(asked)

    return explained


def key(explanation, path):
    """Return the explanation of one key."""
    return next(each for each in explanation.keys if each.key == path)


def test_a_query_is_explained_from_its_keys_to_its_sql(explain):
    """Each key has its value, meaning, matching and column; the SQL has parameters and plan."""
    found = explain(PatientName="Doe^J*", StudyDate="", SeriesInstanceUID="")
    assert (found.operation, found.model, found.level, found.manner) == ("C-FIND", "Study Root", "STUDY", "tolerant")
    name = key(found, "PatientName")
    assert (name.tag, name.vr, name.asked, name.use) == ("0010,0010", "PN", "Doe^J*", "matched")
    assert (name.matching, name.meaning) == ("wild card", "doe^j*")
    assert name.where.startswith("column patient.patient_name")
    assert (key(found, "StudyDate").use, key(found, "StudyDate").matching) == ("returned only", "universal")
    assert "belongs to level SERIES" in key(found, "SeriesInstanceUID").reason
    assert found.statements
    assert all(each.sql.startswith("SELECT ") and each.plan for each in found.statements)
    assert any("doe^j*" in map(str, each.parameters) or "doe^j%" in each.parameters for each in found.statements)


def test_the_answer_of_the_strict_mode_is_stated(explain):
    """The answer has status, Error Comment and the different keys."""
    found = explain("SERIES", Modality="CT", SeriesInstanceUID="")
    assert found.answer.statuses == ("FF00", "0000")
    assert (found.other.manner, found.other.statuses) == ("strict", ("A900",))
    assert found.other.comment == "A single value is needed: StudyInstanceUID"
    assert str(found.other) == "A900, A single value is needed: StudyInstanceUID"


def test_the_tolerant_answer_is_stated_where_strict_is_in_force(explain):
    """It is FF01, because it ignores unsupported keys."""
    found = explain(manner=STRICT, StudyInstanceUID="", SeriesInstanceUID="")
    assert found.answer.statuses == ("A900",)
    assert (found.other.manner, found.other.statuses) == ("tolerant", ("FF01", "0000"))
    assert found.statements == ()
    assert "SeriesInstanceUID is ignored (belongs to level SERIES, below the query level)" in found.other.differences


def test_the_effect_of_extended_negotiation_is_stated(explain):
    """The answer without it, and the different keys, are stated."""
    found = explain(negotiated=Negotiated(fuzzy_names=True), PatientName="DOE")
    assert found.negotiated == ("fuzzy_names",)
    assert key(found, "PatientName").where == "column patient.patient_name_sounds"
    without = found.without_negotiation
    assert any(each.startswith("PatientName is matched (single value doe)") for each in without.differences)
    assert explain(PatientName="DOE").without_negotiation is None


def test_negotiated_relational_queries_are_allowed_in_the_strict_mode(explain):
    """Without relational queries the same Identifier is refused."""
    found = explain("SERIES", manner=STRICT, negotiated=Negotiated(relational=True), SeriesInstanceUID="")
    assert found.answer.statuses == ("FF00", "0000")
    assert found.without_negotiation.statuses == ("A900",)


def test_a_retrieve_is_explained_too(explain):
    """The statement that selects instances, or the reason for none, is stated."""
    found = explain(model=MOVE, StudyInstanceUID="1.2")
    assert found.operation == "C-MOVE"
    assert [each.purpose for each in found.statements] == ["the instances"]
    refused = explain(model=MOVE, PatientName="DOE*")
    assert refused.answer.statuses == ("A900",)


@pytest.mark.parametrize(
    ("keys", "note"),
    [
        ({"StudyDate": "20260131-20260101"}, "nothing matches: a range ends before it begins"),
        ({"StudyInstanceUID": ""}, "no key restricts the matches: everything at level STUDY matches"),
    ],
)
def test_the_reason_why_nothing_or_everything_matches_is_noted(explain, keys, note):
    """Each key may be valid."""
    assert note in explain(**keys).notes


def test_f3_a_strict_query_without_any_key_matches_nothing(explain):
    """The response is Success without matches."""
    assert explain(manner=STRICT).notes == ("nothing matches: the Identifier has no key (F3)",)


def test_every_text_of_an_explanation_is_printable(explain):
    """Control characters of a peer are escaped."""
    evil = "A\x1b[31m\u202e\nB"
    found = explain("IMAGE", PatientID=evil, PatientComments=f"{evil}*", StudyInstanceUID=evil, KVP=evil)
    assert all(line.isprintable() for line in found.lines())
    texts = [text for each in found.keys for text in (each.asked, each.meaning, each.reason, each.key)]
    texts += [line for each in found.statements for line in (*each.sql.split("\n"), *each.plan)]
    texts += [each for statement in found.statements for each in statement.parameters if isinstance(each, str)]
    assert [text for text in texts if not text.isprintable()] == []


def test_a_long_value_is_cut(explain):
    """A list of a thousand UIDs is shortened to the first."""
    found = explain(StudyInstanceUID="\\".join(f"1.2.{number}" for number in range(1000)))
    told = key(found, "StudyInstanceUID")
    assert told.meaning.endswith("or 1.2.9 or 990 more")
    assert len(told.asked) == 201


def test_without_an_index_the_rest_is_explained(index, tmp_path):
    """Keys and answers need no index."""
    asked = ExplainRequest(
        dataset("", QueryRetrieveLevel="STUDY", StudyInstanceUID="1.2"), FIND, TOLERANT, Negotiated()
    )
    with index.write() as connection:
        connection.exec_driver_sql("DROP TABLE image")
        connection.exec_driver_sql("DROP TABLE series")
        connection.exec_driver_sql("DROP TABLE study")
    found = Explainer(index, statuses).explain(asked)
    assert found.statements == ()
    assert found.trouble in (
        "the index does not respond: try again later",
        "the database has no tables of an index: run `pacs db upgrade`",
    )
    assert key(found, "StudyInstanceUID").use == "matched"
    assert any("the statements are not shown" in line for line in found.lines())


def test_an_explanation_can_be_encoded_as_json(explain):
    """Every value can be encoded."""
    described = explain(PatientName="DOE*").described()
    assert json.loads(json.dumps(described))["keys"] == json.loads(json.dumps(described["keys"]))
    assert {each["indexed"] for each in described["statements"]} <= {True, False}
