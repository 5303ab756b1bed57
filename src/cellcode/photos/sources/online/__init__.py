"""Photos from online services: what they have in a region, what of it would be fetched, and fetching it."""
