"""Croissant metadata (MLCommons, version 1.0) of a released set, with relative paths: it describes the unpacked folder."""

from __future__ import annotations

import json

from workflow_scripts.privacy.readings import NOBODY, Reading

CONTEXT = {
    "@language": "en", "@vocab": "https://schema.org/", "column": "cr:column", "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"}, "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/", "examples": {"@id": "cr:examples", "@type": "@json"}, "extract": "cr:extract",
    "field": "cr:field", "fileProperty": "cr:fileProperty", "fileObject": "cr:fileObject", "fileSet": "cr:fileSet",
    "format": "cr:format", "includes": "cr:includes", "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath",
    "key": "cr:key", "md5": "cr:md5", "parentField": "cr:parentField", "path": "cr:path", "recordSet": "cr:recordSet",
    "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated", "replace": "cr:replace",
    "sc": "https://schema.org/", "separator": "cr:separator", "source": "cr:source", "subField": "cr:subField",
    "transform": "cr:transform",
}  # fmt: skip
COLUMNS = {"file_name": "sc:Text", "organ": "sc:Text", "index": "sc:Integer", "origin": "sc:Text"}


def croissant(
    title: str, licence: str, organ: str, origin: str, released: int, table_sha256: str, audited: bool,
    reading: Reading | None = None,
) -> str:  # fmt: skip
    """The JSON-LD text; `table_sha256` is the checksum of train/metadata.csv, `audited`: the copy audit was possible.

    `reading` is a clinician's, if there is one; the field of the RAI vocabulary for it says so, or that there is none.
    """
    made = "made and audited" if audited else "made, NOT audited for copies of training views"
    stamp = f"{origin}: made from drawn phantoms, not from patients. " if origin else ""
    fields = [
        {
            "@type": "cr:Field", "@id": f"views/{name}", "name": name, "dataType": kind,
            "source": {"fileObject": {"@id": "metadata"}, "extract": {"column": name}},
        }
        for name, kind in COLUMNS.items()
    ]  # fmt: skip
    pictures = [
        {
            "@type": "cr:Field", "@id": f"images/{name}", "name": name, "dataType": kind,
            "source": {"fileSet": {"@id": "pictures"}, "extract": {"fileProperty": part}},
        }
        for name, kind, part in (("file_name", "sc:Text", "filename"), ("image", "sc:ImageObject", "content"))
    ]  # fmt: skip
    document = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": " ".join(title.split()),
        "description": f"{stamp}{released} synthetic {organ} ultrasound views drawn by a diffusion model; README.md says"
        f" how they were {made}, and what they must not be used for.",
        "rai:dataAnnotationAnalysis": reading.text if reading else NOBODY,
        "license": " ".join(licence.split()) or "not chosen",
        "distribution": [
            {
                "@type": "cr:FileObject", "@id": "metadata", "name": "metadata.csv", "contentUrl": "train/metadata.csv",
                "encodingFormat": "text/csv", "sha256": table_sha256,
            },
            {
                "@type": "cr:FileSet", "@id": "pictures", "name": "pictures", "includes": "train/*.png",
                "encodingFormat": "image/png",
            },
        ],
        "recordSet": [
            {"@type": "cr:RecordSet", "@id": "views", "name": "views", "field": fields},
            {"@type": "cr:RecordSet", "@id": "images", "name": "images", "field": pictures},
        ],
    }  # fmt: skip
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
