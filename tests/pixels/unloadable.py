"""A decoder process without codecs."""

from pacs.pixels import decoder_process
from pacs.pixels.decoder_process import Run


def _load() -> Run:
    raise ModuleNotFoundError("No module named 'imagecodecs'")


if __name__ == "__main__":
    decoder_process.main(_load)
