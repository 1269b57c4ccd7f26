"""From single mattes to a steady sequence."""
