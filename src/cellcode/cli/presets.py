"""cellcode presets."""


def command() -> None:
    """List imagery that --aerial knows by name, with licences and what the providers ask for."""
    from cellcode.aerial.tiles.presets import presets

    for preset in presets():
        west, south, east, north = preset.bounds
        print(f"{preset.name}: {preset.title}")
        print(f"  licence      {preset.licence}; {preset.attribution}")
        print(f"  bounds       {south:g} to {north:g} N, {west:g} to {east:g} E, up to zoom {preset.max_zoom}")
        print(f"  bulk use     {preset.bulk}; at most {preset.requests_per_s:g} requests a second")
        if not preset.met:
            print("  live service not yet met by this program: compare a first crop with a map")
