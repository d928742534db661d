"""Predictions as DICOM objects beside the frame they were made on: a structured report (TID 1500) and secondary captures.

Of the frame's header `KEPT` alone is read and copied: what files an object with its study. Name, birth date and sex stay
empty. Every UID is a function of the frame, the classifier and the view, and dates are the study's, so that predicting a
frame again writes the same objects. They are marked as research: description, algorithm, an evaluation of its own, and
in the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import atomic_path

if TYPE_CHECKING:
    import numpy as np
    from highdicom.sr import MeasurementsAndQualitativeEvaluations
    from pydicom.dataset import Dataset

# Without these no object can be filed; the others may be empty or absent.
NEEDED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
FILED_BY = ("PatientID", "AccessionNumber", "StudyID", "StudyDate", "StudyTime")
KEPT = (*NEEDED, *FILED_BY, "NumberOfFrames")
# Elements that a study must have and that are not copied.
EMPTY = ("PatientName", "PatientBirthDate", "PatientSex", "ReferringPhysicianName")
SCHEME = "99TUSFLOW"
MAKER = "tusflow"
DESCRIPTION = "RESEARCH ONLY, not a medical device"
# Beside any series of the scanner's own.
REPORT_SERIES, CAPTURE_SERIES = 9101, 9102


def read_header(path: Path, name: str) -> Dataset | None:
    """What `KEPT` names of a DICOM file's header; None where the file, called `name`, is none."""
    import pydicom

    with path.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            return None
    found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(KEPT))
    missing = [key for key in NEEDED if not found.get(key)]
    if missing:
        raise UserError(f"{name}: no DICOM objects are written for it, since its header lacks {', '.join(missing)}")
    header = pydicom.Dataset()
    for key in (*NEEDED, *FILED_BY):
        setattr(header, key, found.get(key) or "")
    for key in EMPTY:
        setattr(header, key, "")
    header.NumberOfFrames = int(found.get("NumberOfFrames") or 1)
    return header


def measurement_report(header: Dataset, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> Dataset:
    """A structured report on the views of one frame: an Enhanced SR after template TID 1500, a group per view.

    `rows` are those of `predict`, `facts` the classifier's description.
    """
    from highdicom import sr
    from pydicom.sr.coding import Code

    device = sr.ObserverContext(
        observer_type=sr.CodedConcept("121007", "DCM", "Device"),
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=_uid(_model(facts)), name=algorithm_name(facts), manufacturer_name=MAKER, model_name=_model(facts)[:16]
        ),
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=device),
        procedure_reported=Code("16310003", "SCT", "Ultrasonography"),
        imaging_measurements=[_group(header, row, facts) for row in rows],
    )
    report = sr.EnhancedSR(
        evidence=[header],
        content=content[0],
        series_instance_uid=_uid(header.SOPInstanceUID, _model(facts), "report series"),
        series_number=REPORT_SERIES,
        sop_instance_uid=_uid(header.SOPInstanceUID, _model(facts), "report"),
        instance_number=1,
        manufacturer=MAKER,
        is_complete=True,
        series_description=description(facts),
    )
    return _dated(report, header)


def _group(header: Dataset, row: Mapping[str, Any], facts: Mapping[str, Any]) -> MeasurementsAndQualitativeEvaluations:
    from highdicom import sr
    from pydicom.sr.coding import Code

    positive = facts["classes"][1]
    one, percent = Code("1", "UCUM", "no units"), Code("%", "UCUM", "percent")
    familiar = (
        Code("UNLIKE", SCHEME, "View unlike the training views: do not rely on the probability")
        if row["unlike_training"]
        else Code("LIKE", SCHEME, "View like the training views")
    )
    measured = (
        ("P-POSITIVE", f"Probability of {positive}", row["probability"], one),
        ("P-LOWEST", "Lowest probability of a network", row["lowest"], one),
        ("P-HIGHEST", "Highest probability of a network", row["highest"], one),
        ("AGREEMENT", "Share of networks that agree", 100 * row["agreement"], percent),
        ("DISTANCE", "Percentile of the distance to training views", row["distance_percentile"], percent),
    )
    predicted = Code(f"CLASS-{facts['classes'].index(row['prediction'])}", SCHEME, row["prediction"][:64])
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=_uid(header.SOPInstanceUID, _model(facts), "view", row["view"]), identifier=f"view {row['view']}"
        ),
        finding_type=familiar,  # the first that a reader meets
        algorithm_id=sr.AlgorithmIdentification(name=algorithm_name(facts), version=_model(facts)[:16]),
        measurements=[
            sr.Measurement(name=Code(value, SCHEME, meaning[:64]), value=float(f"{number:.6g}"), unit=unit)
            for value, meaning, number, unit in measured
        ],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(Code("CLASS", SCHEME, "Predicted class"), predicted),
            sr.QualitativeEvaluation(Code("USE", SCHEME, "Permitted use"), Code("RESEARCH", SCHEME, DESCRIPTION)),
        ],
        source_images=[
            sr.SourceImageForMeasurementGroup(
                header.SOPClassUID, header.SOPInstanceUID, [1] if header.NumberOfFrames > 1 else None
            )
        ],
    )


def heat_capture(header: Dataset, view: str, number: int, picture: np.ndarray, facts: Mapping[str, Any]) -> Dataset:
    """The heat map of a view as a secondary capture: `picture` is RGB, uint8 (H, W, 3); `number` counts its frame's views."""
    from highdicom.sc import SCImage
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence as Items

    capture = SCImage(
        pixel_array=picture,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        study_instance_uid=header.StudyInstanceUID,
        series_instance_uid=_uid(header.SOPInstanceUID, _model(facts), "capture series"),
        series_number=CAPTURE_SERIES,
        sop_instance_uid=_uid(header.SOPInstanceUID, _model(facts), "capture", view),
        instance_number=number,
        manufacturer=MAKER,
        patient_id=header.PatientID,
        accession_number=header.AccessionNumber,
        study_id=header.StudyID,
        study_date=header.StudyDate or None,
        study_time=header.StudyTime or None,
        patient_orientation=("L", "F"),
        series_description=description(facts),
    )
    capture.PatientOrientation = []  # a picture of a view has none, but highdicom asks for one
    capture.Laterality = ""  # unknown here; a paired organ must say so
    capture.BurnedInAnnotation = "YES"
    capture.DerivationDescription = f"Grad-CAM++ heat map of {algorithm_name(facts)}, view {view}"
    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    capture.SourceImageSequence = Items([source])
    return _dated(capture, header)


def write_dicom(dataset: Dataset, path: Path) -> None:
    """Write an object whole or not at all."""
    with atomic_path(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)


def algorithm_name(facts: Mapping[str, Any]) -> str:
    """The ensemble's name; that it is for research, and of what origin, belongs to it."""
    return f"tusflow {facts['experiment']}, research only{', ' + facts['origin'] if facts['origin'] else ''}"


def description(facts: Mapping[str, Any]) -> str:
    """Description of both series, at most 64 characters."""
    return f"{facts['origin'] + ': ' if facts['origin'] else ''}{DESCRIPTION}"[:64]


def _model(facts: Mapping[str, Any]) -> str:
    return facts["files"]["ensemble.safetensors"]


def _uid(*parts: str) -> str:
    from pydicom.uid import generate_uid

    return str(generate_uid(entropy_srcs=["tusflow", *map(str, parts)]))


def _dated(dataset: Dataset, header: Dataset) -> Dataset:
    """`dataset` with the study's date in place of the time of writing; a study without date gets today's."""
    date, time = header.StudyDate or datetime.now().strftime("%Y%m%d"), header.StudyTime or "000000"
    for key, value in (("StudyDate", header.StudyDate), ("StudyTime", header.StudyTime)):
        setattr(dataset, key, value)
    for key in ("InstanceCreationDate", "InstanceCreationTime", "ContributingEquipmentSequence", "DateOfSecondaryCapture",
                "TimeOfSecondaryCapture", "SeriesDate", "SeriesTime"):  # fmt: skip
        if key in dataset:
            delattr(dataset, key)
    dataset.ContentDate, dataset.ContentTime = date, time
    return dataset
