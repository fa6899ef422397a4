"""Where blocks lie while a repo is read: in memory, or in a log with places."""
