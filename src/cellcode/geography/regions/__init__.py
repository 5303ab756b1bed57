"""Regions: boxes, polygons, caps, sets of cells and countries, and the cells whose centre lies in them."""
