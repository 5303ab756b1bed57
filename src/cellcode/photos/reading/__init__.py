"""Reading one photo: pixels, EXIF and XMP, capture time, GPX tracks, panoramas and the views cut out of them.

Every file is bounded before it is decoded.
"""
