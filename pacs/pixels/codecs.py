"""Decode and encode single frames. Runs in the decoder processes only: it imports NumPy and the codecs."""

from pacs.pixels.frame_job import FrameJob


def run(job: FrameJob) -> bytes:
    """Return the frame of a job in its target transfer syntax: `job.result.frame_size` bytes if that is native.

    Raises UndecodablePixelData when the codestream is damaged or contradicts `job.stored`; NotSupported when the
    target cannot represent the frame.
    """
    raise NotImplementedError(job)
