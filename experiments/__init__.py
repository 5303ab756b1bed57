"""The experiments behind docs/results.md: worlds, trainings, measurements and the page. The other rooms know nothing of it."""
