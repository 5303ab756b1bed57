"""Regions: boxes, polygons, caps, sets of cells and countries, and the cells whose centre lies in them.

A region is parsed from what a user writes, or built from GeoJSON.
"""
