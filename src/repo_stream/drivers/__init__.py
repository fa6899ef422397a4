"""What walks a repo: where its blocks come from, and how its records are handed out."""
