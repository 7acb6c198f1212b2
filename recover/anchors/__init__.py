"""The mechanism that heals: one anchor for each generation, and what is mounted on it."""
