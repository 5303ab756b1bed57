"""The experiments behind docs/results.md: worlds, trainings, measurements and the page. `cellcode` imports nothing of it."""
