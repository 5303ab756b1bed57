"""Tile pyramids as aerial sources: templates, WMTS, WMS, ArcGIS and MBTiles, with a cache, presets and one crop routine."""
