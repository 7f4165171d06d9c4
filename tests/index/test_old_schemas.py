"""Archives of earlier schemas are upgraded, and queries have the same results as before."""

import pytest
from alembic.script import ScriptDirectory

from pacs.dicom.query import Names, Single
from pacs.index import commitments, schema, search, writer
from pacs.support.cancellation import Cancellation
from tests.databases import opened
from tests.index.archives import DATASETS, load
from tests.index.instances import IMAGE, STUDY, new_instance
from tests.index.test_search import query, unique_keys

REVISIONS = [script.revision for script in ScriptDirectory(str(schema.migrations())).walk_revisions()]


@pytest.mark.parametrize("revision", REVISIONS)
def test_an_archive_of_every_revision_is_upgraded_and_serves(empty_database_url: str, revision: str):
    """Names in every script, irregular rows and a patient without an ID are kept, and new instances can be added."""
    with opened(empty_database_url) as index:
        schema.upgrade(index, revision)
        with index.write() as connection:
            load(connection, revision)
        schema.upgrade(index)
        schema.check(index)
        assert unique_keys(index, STUDY, {"PatientName": Names((("*太*",),))}) == ["1.2.1", "1.2.2"]
        assert unique_keys(index, STUDY, {"PatientName": Names((("*obod*",),))}) == ["1.2.3"]
        assert unique_keys(index, STUDY, {"StudyDescription": Single(("HIP",))}) == ["1.2.2"]
        assert unique_keys(index, STUDY, {"OtherPatientIDs": Single(("X2",))}) == ["1.2.1", "1.2.2"]
        stored = search.instances(index, query(IMAGE), Cancellation())
        assert {each.sop_instance_uid for each in stored} == {each.SOPInstanceUID for each in DATASETS}
        claimed = commitments.claim(index, 60)
        assert (claimed.transaction_uid if claimed else None) == ("1.2.9" if revision >= "20261124" else None)
        assert commitments.add(index, "MODALITY", "1.2.10", b"", seconds=9, check_limits=lambda _open: None).number == 1
        assert writer.add(index, new_instance(9)) == ()
        writer.remove(index, [each.sop_instance_uid for each in stored])
        assert unique_keys(index, STUDY, {"PatientName": Names((("*obod*",),))}) == []
