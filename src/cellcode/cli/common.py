"""Words that several commands use."""

REGION_FORMS = (
    "west,south,east,north in degrees, a GeoJSON file, cap:LAT,LON,RADIUS_M, cells:TOKEN,... or cells:FILE, or codes of "
    "countries joined by + (BE+DE+NL; BEDENL and EuropeWest are such unions); not: before any of them takes the rest of the "
    "Earth."
)
