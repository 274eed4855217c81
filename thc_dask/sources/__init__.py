"""Outside formats as readers; one file a format."""
