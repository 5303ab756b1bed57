"""Rasters as aerial sources: GeoTIFF, COG, VRT, folders of them, and files in S3; GDAL reads them through rasterio."""
