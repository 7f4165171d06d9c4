"""How much the index has, for monitoring."""

from dataclasses import dataclass

from sqlalchemy import func, select

from pacs.index.database import Index
from pacs.index.tables import image, study


@dataclass(frozen=True, slots=True)
class Holdings:
    """The numbers of studies and instances of an index, and the bytes of their files."""

    studies: int = 0
    instances: int = 0
    size: int = 0
    last_study: int = 0
    """The id of the last study that is counted."""
    last_image: int = 0


def count(index: Index, since: Holdings | None = None) -> Holdings:
    """Count all rows, or add to `since` those that came after it, which costs little on a large index.

    With `since`, deleted and replaced instances, and rows of a transaction that was committed late, are not noticed.
    Raises IndexUnavailable.
    """
    counted = since or Holdings()
    studies = select(func.count(), func.max(study.c.id)).where(study.c.id > counted.last_study)
    images = select(func.count(), func.sum(image.c.size), func.max(image.c.id)).where(image.c.id > counted.last_image)
    with index.read() as connection:
        more_studies, last_study = connection.execute(studies).one()
        more_images, size, last_image = connection.execute(images).one()
    return Holdings(
        counted.studies + more_studies,
        counted.instances + more_images,
        counted.size + int(size or 0),
        last_study or counted.last_study,
        last_image or counted.last_image,
    )
