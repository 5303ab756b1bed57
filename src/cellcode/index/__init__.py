"""Search over codes as arrays: exact scan, quantised first stage, and the choice of its settings. Knows no database."""
