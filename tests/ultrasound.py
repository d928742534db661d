"""DICOM ultrasound images with what a scanner writes about a patient, drawn for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage, UltrasoundMultiFrameImageStorage, generate_uid

# What must not reach anything that is made from the image.
SECRETS = ("Doe", "Secret Hospital", "19700102", "Referrer", "hidden note", "Operator")


def write_ultrasound(path: Path, pixels: np.ndarray, number: int = 0, frames: int = 1, **changes: str | None) -> Path:
    """Write grey `pixels`, uint8 (H, W), as an ultrasound image; None in `changes` takes an element out of the header."""
    header = Dataset()
    header.SOPClassUID = UltrasoundMultiFrameImageStorage if frames > 1 else UltrasoundImageStorage
    header.SOPInstanceUID, header.SeriesInstanceUID, header.StudyInstanceUID = (
        generate_uid(entropy_srcs=[level, str(number)]) for level in ("instance", "series", "study")
    )
    header.PatientID, header.AccessionNumber, header.StudyID = f"P{number}", f"A{number}", f"S{number}"
    header.StudyDate, header.StudyTime, header.Modality = "20250102", "101112", "US"
    header.PatientName, header.InstitutionName, header.PatientBirthDate = "Doe^Jane", "Secret Hospital", "19700102"
    header.PatientSex, header.ReferringPhysicianName, header.OperatorsName = "F", "Referrer", "Operator"
    header.ImageComments = "hidden note"
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel, header.PhotometricInterpretation, header.PixelRepresentation = 1, "MONOCHROME2", 0
    header.BitsAllocated, header.BitsStored, header.HighBit = 8, 8, 7
    if frames > 1:
        header.NumberOfFrames = frames
    header.PixelData = pixels.tobytes() * frames
    for key, value in changes.items():
        if value is None:
            delattr(header, key)
        else:
            setattr(header, key, value)
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.get("SOPInstanceUID", "1.2.3")
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True)
    return path
