"""Load one series of a patient as a SimpleITK image and write it, for example as NIfTI.

python examples/load_a_series.py PACS@127.0.0.1:11112 P1 "Thorax*" thorax.nii.gz
"""

import sys

import SimpleITK

from pacs import client


def main(peer: str, patient_id: str, description: str, file: str) -> None:
    """Find and retrieve the one matching series, and write its image with its position in space."""
    try:
        image = client.load_series(peer, patient_id=patient_id, series_description=description)
    except client.AmbiguousSeries as several:
        sys.exit(str(several))  # lists the series; add a key, as in load_series(..., SeriesNumber=2)
    SimpleITK.WriteImage(image, file)
    size, spacing = image.GetSize(), image.GetSpacing()
    print(f"{size[0]} x {size[1]} x {size[2]} voxels of {spacing[0]:g} x {spacing[1]:g} x {spacing[2]:g} mm in {file}")


if __name__ == "__main__":
    main(*sys.argv[1:])
