"""What is measured, on which candidates, and how per-user values become a report; arrays only, no models or engines."""
