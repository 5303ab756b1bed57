"""Where was this photo taken? `python examples/locate.py town.cells photo.jpg`, with a database of `cellcode build`."""

import sys

from cellcode import locate

answer = locate(sys.argv[1], sys.argv[2])
print(f"{answer.lat:.5f}, {answer.lon:.5f}: half of such photos are within {answer.radius_50_m:.0f} m")
