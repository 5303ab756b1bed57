"""Tile pyramids as aerial sources: templates, WMTS, WMS, ArcGIS and MBTiles, with a cache and presets.

One crop routine serves all of them.
"""
