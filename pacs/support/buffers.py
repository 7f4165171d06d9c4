"""What is left of some buffers when a part of them has been written: a write may take less than it is given."""


def after(buffers: list[memoryview], written: int) -> list[memoryview]:
    """What is left of `buffers` when `written` bytes of them are gone."""
    for index, each in enumerate(buffers):
        if written < len(each):
            return [each[written:], *buffers[index + 1 :]] if written else buffers[index:]
        written -= len(each)
    return []
