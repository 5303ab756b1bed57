"""Photo sources: one file each for folders, lists, WebDataset and OSV-5M; services are in `online`.

Each yields rows of the photo table and rejects with a reason.
"""
