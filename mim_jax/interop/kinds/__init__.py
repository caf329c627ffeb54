"""What is run for each kind of reference case; nothing here knows a method."""
