"""Reading one photo, bounded before it is decoded: pixels, EXIF and XMP, capture time, GPX tracks, panoramas and views."""
