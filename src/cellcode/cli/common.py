"""Words that several commands use."""

REGION_FORMS = (
    "west,south,east,north in degrees, a GeoJSON file, cap:LAT,LON,RADIUS_M, cells:TOKEN,... or cells:FILE, or codes of "
    "countries joined by + (BE+DE+NL; BEDENL and EuropeWest are such unions); not: before any of them takes the rest of the "
    "Earth."
)
DATABASE = "A cell-code database, or a folder of its shards as `cellcode split` writes it."
CLUSTER = (
    "Search a folder of shards on a Ray cluster: its address, auto for the one of this machine, local for one that ends with "
    "the command. Paths are the same on every node. Needs the extra ray."
)
