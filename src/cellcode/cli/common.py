"""Words that several commands use."""

REGION_FORMS = (
    "west,south,east,north in degrees, a GeoJSON file, cap:LAT,LON,RADIUS_M, cells:TOKEN,... or cells:FILE; not: before "
    "any of them takes the rest of the Earth."
)
