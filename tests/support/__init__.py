"""Things that several test suites need."""
