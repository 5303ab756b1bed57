"""cellcode presets."""


def command() -> None:
    """List the imagery that --aerial takes by name, with licences and the providers' conditions."""
    from cellcode.aerial.tiles.presets import presets

    for preset in presets():
        west, south, east, north = preset.bounds
        print(f"{preset.name}: {preset.title}")
        print(f"  licence      {preset.licence}; {preset.attribution}")
        print(f"  bounds       {south:g} to {north:g} N, {west:g} to {east:g} E, up to zoom {preset.max_zoom}")
        print(f"  bulk use     {preset.bulk}; at most {preset.requests_per_s:g} requests per second")
        if not preset.met:
            print("  untested against the live service: compare a first crop with a map")
