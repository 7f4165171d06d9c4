"""The unwritten remainder of buffers after a partial write."""


def remainder(buffers: list[memoryview], written: int) -> list[memoryview]:
    """Return what follows the first `written` bytes of `buffers`."""
    for index, each in enumerate(buffers):
        if written < len(each):
            return [each[written:], *buffers[index + 1 :]] if written else buffers[index:]
        written -= len(each)
    return []
